"""How far a run of the tests is, and how long the rest will take: a line after every `EVERY` seconds."""

import time

import pytest

from segattn_triton.perf.estimate import left

EVERY = 20.0


class Estimate:
    """The plugin; with pytest-xdist in the process that hears of every test."""

    def __init__(self, config, now=time.monotonic):
        self.config, self.now, self.done, self.tests = config, now, set(), 0
        self.begin = self.said = now()

    def pytest_collection_finish(self, session):
        self.tests, self.begin = len(session.items), self.now()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node, ids):
        self.tests, self.begin = len(ids), self.now()

    def pytest_runtest_logfinish(self, nodeid):
        self.done.add(nodeid)
        if self.now() - self.said >= EVERY:
            self.said = self.now()
            rest = left(self.said - self.begin, len(self.done), self.tests)
            self.config.get_terminal_writer().line(f"\n{len(self.done)} of {self.tests} tests{rest}")
