"""Which tests a mutant meets: those of the default run that have to do with it, the likeliest first, and no more than
its time allows. A pytest plugin.

First those that run its function, the quickest of each test file in turn, where `touched` has noted that. Then those
that call the function by its name. Then, of a file of kernels or operations, the cases of rows that run it (`rows_of`
finds them by running every row) and the tests without a row of files that name it or its module, one of each file in
turn; of any other file the tests of the files that name it most often, then the others of its part.
"""

import inspect
import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

import pytest

LATE = "out of time"
FOLDERS = {
    "kernels": ("tests/kernels", "tests/runtime"),
    "ops": ("tests/kernels", "tests/runtime", "tests/modules"),
    "runtime": ("tests/runtime", "tests/kernels", "tests/modules"),
    "tuning": ("tests/tuning", "tests/runtime", "tests/perf"),
    "acceleration": ("tests/acceleration",),
}
OF_ROWS = ("kernels", "ops")  # parts whose files rows tell apart: all rows run the others
OWN = {"neighborhood": "neighborhood", "activations": "activations"}  # kernels with a test file of their own
ELSEWHERE = ("test_static.py", "test_interpreter_bf16.py", "test_budget.py", "test_driver.py")  # look at no result


def part_of(path: str) -> str:
    return Path(path).parts[1]


class Choice:
    """rows: those that run the file, None of all; seconds: of processors, after which no test is started; running:
    tests that run the function, the quickest first."""

    def __init__(self, path: str, function: str, rows: set[str] | None, seconds: float, running: Sequence[str] = ()):
        self.path, self.rows, self.seconds = Path(path), rows, seconds
        self.name = function.rpartition(".")[2].strip("_")
        self.running = {test: place for place, test in enumerate(running)}
        self.failed, self.count, self.late = [], 0, False

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        turns: dict[str, int] = defaultdict(int)
        ranked = []
        for item in sorted(items, key=lambda item: self.running.get(item.nodeid, len(self.running))):
            file = item.nodeid.partition("::")[0]
            if item.nodeid in self.running:
                ranked.append((False, turns[file], self.running[item.nodeid], file, item))
            elif self.has_to_do_with(item, file):
                ranked.append((True, *self.rank(item, file, turns[file]), file, item))
            turns[file] += 1
        ranked.sort(key=lambda found: found[:-1])
        items[:] = [found[-1] for found in ranked]

    def has_to_do_with(self, item, file: str) -> bool:
        if file.endswith(ELSEWHERE):
            return False
        row = item.callspec.params.get("row") if hasattr(item, "callspec") else None
        if self.rows is None:
            return True
        if row is not None:
            return getattr(row, "name", row) in self.rows
        return bool(self.named(file)) or any(word in file for word in OWN if word in str(self.path))

    def rank(self, item, file: str, turn: int) -> tuple:
        if hasattr(item, "function") and re.search(rf"\b_?{self.name}\(", inspect.getsource(item.function)):
            return (-1, turn)
        if self.rows is not None:
            return ("tests/kernels" not in file, turn)
        named = self.named(file)
        return (not named, turn // 4, -named)

    @cache  # noqa: B019, of one mutant
    def named(self, file: str) -> int:
        """How often a test file names the function, three times as much, or its module."""
        text = (Path.cwd() / file).read_text()
        return 3 * len(re.findall(rf"\b_?{self.name}\b", text)) + len(re.findall(rf"\b{self.path.stem}\b", text))

    def pytest_runtest_setup(self, item):
        if sum(os.times()[:4]) > self.seconds:
            self.late = True
            pytest.exit(LATE, 0)

    def pytest_runtest_logreport(self, report):
        self.count += report.when == "call"
        if report.failed:
            self.failed.append(report.nodeid)


class Named:
    """The tests of these names: that each of them can pass is what it says."""

    def __init__(self, names: Collection[str]):
        self.names, self.failed, self.count, self.late = names, [], 0, False

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if item.nodeid in self.names]

    def pytest_runtest_logreport(self, report):
        self.count += report.when == "call"
        if report.failed:
            self.failed.append(report.nodeid)


def rows_of(folder: str) -> dict[str, list[str]]:
    """file of kernels or operations -> names of the rows that it takes part in: what runs while each row is planned, in
    both layouts, forward and backward, and what kernels import."""
    import sys

    from segattn_triton import compiled
    from segattn_triton.catalog import ROWS

    found: dict[str, set[str]] = defaultdict(set)
    for row in ROWS:
        seen: set[str] = set()
        sys.setprofile(lambda frame, event, _, seen=seen: seen.add(frame.f_code.co_filename))
        try:
            for layout in ("contiguous", "channels_last"):
                compiled.plans(row, row.cases[0].sizes, layout=layout)
        finally:
            sys.setprofile(None)
        for path in _with_imports({Path(name) for name in seen if name.startswith(folder)}):
            found[path.relative_to(folder).as_posix()].add(row.name)
    return {path: sorted(names) for path, names in found.items()}


def _with_imports(paths: set[Path]) -> set[Path]:
    """Those of kernels that they import, and that these do."""
    todo, found = [p for p in paths if "kernels" in p.parts], set(paths)
    while todo:
        path = todo.pop()
        for dots, name in re.findall(r"^from (\.+)([\w.]*) import", path.read_text(), re.MULTILINE):
            other = path.parents[len(dots) - 1].joinpath(*name.split(".")).with_suffix(".py")
            if "kernels" in other.parts and other.exists() and other not in found:
                found.add(other)
                todo.append(other)
    return found
