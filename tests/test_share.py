"""What the default run leaves out: cases, never a test, and of a test with variants, no variant."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import conftest

HERE = Path(__file__).parent
ABSENT = {  # what a test may skip for by itself
    "the models extra is not installed",
    "no README in this tree",
    "no record of ours is committed",
    "no record of today's code is committed: make predicted",
    "no choice is committed",
}


def test_no_test_is_left_out(request):
    """Of what this run collects: neither a function nor a variant of a kernel, such as the one that reads by
    descriptors."""
    every, default = request.config.stash[conftest.COLLECTED]
    assert len(default) < len(every) / 3 or len(every) < 1000
    assert {case.partition("[")[0] for case in every} == {case.partition("[")[0] for case in default}
    variants = [
        {v for c in cases for v in re.findall(r"test_numerics.py::test_variants_of_the_dense_local_gate\[(\w+)", c)}
        for cases in (every, default)
    ]
    assert variants[0] == variants[1] and variants[0] in (set(), {"pointers", "descriptors", "library"})


def test_shares_are_spread_over_rows():
    """Of a test of several cases a row, no row gets more than its share; and more rows make no longer run."""

    def item(test: str, row: str, i: int):
        callspec = SimpleNamespace(params={"row": SimpleNamespace(name=row)})
        return Item(f"tests/a.py::{test}[{row}-{i}]", callspec)

    items = [item(t, r, i) for t in ("one", "two", "six") for r in ("a", "b", "c", "d") for i in range(16)]
    kept = conftest._share_of(items, 8)
    counts = Counter((i.nodeid.partition("[")[0], i.callspec.params["row"].name) for i in kept)
    assert len(counts) == 12 and set(counts.values()) == {2}
    assert len(conftest._share_of([item("few", "a", i) for i in range(3)], 8)) == 1
    cheap = [Item(f"tests/a.py::cheap[{i}]", SimpleNamespace(params={}), ("cheap",)) for i in range(16)]
    assert conftest._share_of(cheap, 8) == set(cheap)


@dataclass(eq=False)
class Item:
    nodeid: str
    callspec: SimpleNamespace
    markers: tuple[str, ...] = ()

    def get_closest_marker(self, name):
        return name if name in self.markers else None


def test_no_case_skips_for_what_it_is():
    """A case that cannot run is no case: a test's own skip says only that something is not there."""
    for path in (p for p in HERE.rglob("test_*.py") if p.parent.name != "gpu"):
        for reason in re.findall(r"pytest\.skip\((.*)\)", path.read_text()):
            assert reason.strip("f\"'") in ABSENT or path == Path(__file__), f"{path.name}: {reason}"
