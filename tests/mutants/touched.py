"""Which functions a test runs: a pytest plugin that notes them (`-p touched`, into the folder $TOUCHED), and the map.

Noting costs a test about half of its time. What is cached within a process is seen in the first test that needs it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
from choice import FOLDERS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = str(ROOT / "segattn_triton")
TESTS = {folder for folders in FOLDERS.values() for folder in folders}
Functions = dict[tuple[str, str], list[tuple[float, str]]]  # (file, function) -> seconds and name of its tests

_tests: list[tuple[str, float]] = []
_found: dict[tuple[str, str], list[int]] = defaultdict(list)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    codes, begin = set(), time.perf_counter()
    sys.setprofile(lambda frame, event, _: codes.add(frame.f_code))
    try:
        yield
    finally:
        sys.setprofile(None)
    _tests.append((item.nodeid, round(time.perf_counter() - begin, 2)))
    for function in {_function(code) for code in codes if code.co_filename.startswith(PACKAGE)}:
        _found[function].append(len(_tests) - 1)


def _function(code) -> tuple[str, str]:
    """A name as `faults` has it: a function inside another is one, a comprehension belongs to what is around it."""
    name = re.sub(r"\.<locals>|\.?<(lambda|listcomp|genexpr|dictcomp|setcomp|module)>", "", code.co_qualname)
    return Path(code.co_filename).relative_to(ROOT).as_posix(), name


def pytest_sessionfinish(session):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    if _tests:
        found = [[*function, tests] for function, tests in _found.items()]
        (Path(os.environ["TOUCHED"]) / f"{worker}.json").write_text(json.dumps({"tests": _tests, "found": found}))


def write(folder: Path) -> int:
    """Runs the default tests and notes; tests that fail are noted, too."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = {**os.environ, "TOUCHED": str(folder), "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "pytest", "-q", "-n2", "-p", "touched", "-m", "not static", *sorted(TESTS)]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def read(folder: Path) -> Functions:
    """What all workers noted, of each function the quickest test first; nothing without a map."""
    functions: Functions = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        noted = json.loads(path.read_text())
        for file, function, tests in noted["found"]:
            functions[file, function] += [(noted["tests"][i][1], noted["tests"][i][0]) for i in tests]
    return {function: sorted(tests) for function, tests in functions.items()}
