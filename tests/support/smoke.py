"""`pytest --smoke SECONDS`: in this time, a share of every property: one test of each file.

Of a file the test comes first that smoke.txt names: the one that takes most of those within a second. After the time no
test is started, and what was not reached is counted. `python tests/support/smoke.py RESULTS`, the file of `-p resume
--results`, writes the list.
"""

import json
import sys
import time
import zlib
from collections import defaultdict
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("smoke.txt")
LATE = "out of time"
WORTH = 1.0  # seconds: a test that takes less and is the longest says most


class Smoke:
    """The plugin. With pytest-xdist in each of its processes, whose clocks begin together."""

    def __init__(self, seconds: float, now=time.time):
        self.now, self.end, self.late = now, now() + seconds, set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        chosen = in_turn(items, listed())
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        if self.now() > self.end:
            pytest.skip(LATE)

    def pytest_runtest_logreport(self, report):
        if report.skipped and LATE in str(report.longrepr):
            self.late.add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter):
        if self.late:
            files = len({test.partition("::")[0] for test in self.late})
            terminalreporter.write_line(f"out of time for {len(self.late)} tests, of {files} files: make test has them")


def listed() -> list[str]:
    """The tests of smoke.txt, cheapest first."""
    return [line.split(maxsplit=1)[1] for line in LIST.read_text().splitlines() if line[:1].isdigit()]


def in_turn(items: list, first: list[str]) -> list:
    """A test of each file: what `first` names of it, else any; what skips here is no share."""
    rank = {name: i for i, name in enumerate(first)}
    files = defaultdict(list)
    for item in items:
        if not item.get_closest_marker("skip"):
            files[item.nodeid.partition("::")[0]].append(item)
    chosen = [min(own, key=lambda item: (rank.get(item.nodeid, len(rank)), _checksum(item))) for own in files.values()]
    return sorted(chosen, key=lambda item: (rank.get(item.nodeid, len(rank)), _checksum(item)))


def _checksum(item) -> int:
    return zlib.crc32(item.nodeid.encode())


def best(results: Path) -> dict[str, tuple[float, str]]:
    """Of each file (seconds, test), of those that passed."""
    files = defaultdict(list)
    for line in results.read_text().splitlines():
        record = json.loads(line)
        if record["outcome"] == "passed":
            files[record["id"].partition("::")[0]].append((record["seconds"], record["id"]))
    return {file: max((t for t in found if t[0] <= WORTH), default=min(found)) for file, found in files.items()}


if __name__ == "__main__":
    lines = [f"{seconds:.2f} {test}\n" for seconds, test in sorted(best(Path(sys.argv[1])).values())]
    LIST.write_text("# seconds and test, one of each file: python tests/support/smoke.py RESULTS\n" + "".join(lines))
