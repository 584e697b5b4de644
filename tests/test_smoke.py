"""`make smoke` is a share of every property, in its time; a long run of tests says how far it is."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import smoke
from estimate import EVERY, Estimate

ROOT = Path(__file__).parents[1]


class Item:
    def __init__(self, nodeid: str, skipped: bool = False):
        self.nodeid, self.skipped = nodeid, skipped

    def get_closest_marker(self, name):
        return self.skipped


def test_a_test_of_each_file_is_chosen_the_listed_first():
    items = [Item(f"tests/{file}.py::{test}") for file in "abc" for test in ("one", "two", "three")]
    items += [Item("tests/d.py::only_elsewhere", skipped=True)]
    chosen = smoke.in_turn(items, ["tests/b.py::two", "tests/a.py::gone"])
    assert sorted(item.nodeid.partition("::")[0] for item in chosen) == ["tests/a.py", "tests/b.py", "tests/c.py"]
    assert chosen[0].nodeid == "tests/b.py::two"


def test_after_the_time_no_test_is_started():
    clock = [0.0]
    plugin = smoke.Smoke(10, now=lambda: clock[0])
    plugin.pytest_runtest_setup(None)
    clock[0] = 11
    with pytest.raises(pytest.skip.Exception, match=smoke.LATE) as late:
        plugin.pytest_runtest_setup(None)
    plugin.pytest_runtest_logreport(SimpleNamespace(skipped=True, longrepr=str(late.value), nodeid="tests/a.py::x"))
    lines = []
    plugin.pytest_terminal_summary(SimpleNamespace(write_line=lines.append))
    assert lines == ["out of time for 1 tests, of 1 files: make test has them"]


def test_the_list_names_one_test_a_file(tmp_path):
    files = [name.partition("::")[0] for name in smoke.listed()]
    assert len(files) == len(set(files)) and {Path(name).parts[0] for name in files} == {"tests"}
    results = tmp_path / "results"
    outcomes = [("a::x", 0.1, "passed"), ("a::y", 0.9, "passed"), ("a::z", 3, "passed"), ("b::x", 5, "passed")]
    outcomes += [("b::y", 0.5, "failed")]
    lines = (json.dumps({"id": name, "seconds": seconds, "outcome": o}) for name, seconds, o in outcomes)
    results.write_text("\n".join(lines))
    assert smoke.best(results) == {"a": (0.9, "a::y"), "b": (5, "b::x")}


def test_a_long_run_says_how_far_it_is():
    clock, written = [0.0], io.StringIO()
    writer = SimpleNamespace(line=lambda text: written.write(f"{text}\n"))
    plugin = Estimate(SimpleNamespace(get_terminal_writer=lambda: writer), now=lambda: clock[0])
    plugin.pytest_collection_finish(SimpleNamespace(items=["test"] * 40))
    for i in range(10):
        clock[0] += EVERY / 4
        plugin.pytest_runtest_logfinish(f"tests/a.py::{i}")
    assert "4 of 40 tests, about 3 min left" in written.getvalue()
    assert written.getvalue().count("tests, about") == 2
