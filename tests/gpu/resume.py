"""A pytest plugin: every outcome is written as it comes, and a run that was interrupted goes on where it stopped.

    PYTHONPATH=tests/gpu python -m pytest -p resume --results FILE [--until SECONDS]

FILE gets one JSON line per test: {"id", "outcome", "seconds", "code"}. A test that passed, or was skipped, on the
same code is not run again; `code` is a digest of the sources of the package and of the tests. After the time `--until`,
in seconds since 1970, no test is started: its outcome is "late", and the next run goes on with it.
"""

import hashlib
import json
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LATE = "out of time: run again to go on"
SOURCES = ("segattn_triton", "reference", "tests")


def digest(root: Path = ROOT) -> str:
    content = hashlib.sha256()
    for path in sorted(p for folder in SOURCES for p in (root / folder).rglob("*.py")):
        content.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return content.hexdigest()[:12]


def done(results: Path, code: str) -> set[str]:
    """The tests whose last outcome on this code needs no other run. A line that was cut off counts for nothing."""
    last = {}
    for line in results.read_text().splitlines() if results.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["code"] == code:
            last[record["id"]] = record["outcome"]
    return {test for test, outcome in last.items() if outcome in ("passed", "skipped")}


class Resume:
    def __init__(self, results: Path, writes: bool, until: float):
        self.results, self.writes, self.code, self.until, self.late = results, writes, digest(), until, 0
        self.under_way: dict[str, dict] = {}

    def pytest_collection_modifyitems(self, config, items):
        skip = done(self.results, self.code)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in skip])
        items[:] = [item for item in items if item.nodeid not in skip]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        if time.time() > self.until:
            pytest.skip(LATE)

    def pytest_runtest_logreport(self, report):
        record = self.under_way.setdefault(report.nodeid, {"id": report.nodeid, "outcome": "passed", "seconds": 0.0})
        record["seconds"] = round(record["seconds"] + report.duration, 3)
        if report.outcome != "passed" and record["outcome"] != "failed":
            record["outcome"] = "late" if LATE in str(report.longrepr) else report.outcome
            self.late += record["outcome"] == "late"
        if report.when == "teardown" and self.writes:
            with self.results.open("a") as file:
                file.write(json.dumps({**self.under_way.pop(report.nodeid), "code": self.code}) + "\n")

    def pytest_terminal_summary(self, terminalreporter):
        if self.late:
            terminalreporter.write_line(f"{self.late} tests {LATE}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        if session.testscollected == 0 and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # all have passed before


def pytest_addoption(parser):
    parser.addoption("--results", type=Path, help="write outcomes to this file as they come, and skip what passed")
    parser.addoption(
        "--until", type=float, default=float("inf"), help="start no test after this time, as of `date +%%s`"
    )


def pytest_configure(config):
    if results := config.getoption("--results"):
        controls = not hasattr(config, "workerinput")  # a worker of pytest-xdist leaves the file to its controller
        results.parent.mkdir(parents=True, exist_ok=True)
        config.pluginmanager.register(Resume(results.absolute(), controls, config.getoption("until")))
