"""segattn spaces: the choice without a table against the best of its space, by the compiler's account."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from segattn_triton.compiled import Access
from segattn_triton.perf.commands import main
from segattn_triton.perf.compiler import spaces
from segattn_triton.tuning.model import BYTES_IN_FLIGHT, SMS


def compiled(**values):
    """64 bytes of x loaded by each of 128 threads; four waves of eight programs per SM."""
    known = dict(
        dram_floor=lambda sizes: 1.0,
        issue_floor=lambda sizes: 0.5,
        programs_per_sm=8,
        threads=128,
        spills=0,
        matrix=[],
        maps=lambda sizes: {"x_ptr": None},
        accesses=[Access("load", 512, frozenset({"x_ptr"})), Access("store", 512, frozenset({"y_ptr"}))],
        plan=SimpleNamespace(grid=32 * SMS),
    )
    return SimpleNamespace(**{**known, **values})


@pytest.mark.parametrize(
    "values, wanted",
    [
        ({}, 1.0),
        ({"issue_floor": lambda sizes: 3.0}, 3.0),
        ({"programs_per_sm": 2}, BYTES_IN_FLIGHT / (2 * 64 * 128)),
        ({"plan": SimpleNamespace(grid=9 * SMS)}, (8 + BYTES_IN_FLIGHT / (64 * 128)) / 9),  # a last wave of one
        ({"programs_per_sm": 2, "issue_floor": lambda sizes: 3.0}, 3.0 * 16 / 8),  # of 4 warps each
        ({"accesses": []}, 1.0),
        ({"spills": 8}, None),
        ({"matrix": ["wgmma"]}, None),
        ({"dram_floor": lambda sizes: None}, None),
    ],
)
def test_the_bound(values, wanted):
    found = spaces.bound(compiled(**values), {1})
    assert found is None if wanted is None else found == pytest.approx(wanted)


@pytest.mark.static
def test_the_choice_beside_the_best(capsys):
    times = spaces.report(("spatial_gate",), "bfloat16", ("channels_last",), 1, 2)
    said = capsys.readouterr().out
    assert len(times) == 2 and all(1.0 <= t < 2.0 for t in times)
    assert "spatial_fwd" in said and "finish" in said and "2 choices: " in said


@pytest.mark.parametrize("arguments, message", [(["--most", "0"], "--most: got 0"), (["--op", "x"], "--op: got 'x'")])
def test_wrong_usage(arguments, message):
    done = CliRunner().invoke(main, ["spaces", *arguments])
    assert done.exit_code == 2 and done.stderr.startswith("segattn: " + message)
