"""Ours against torch.compile, by the account of both sides: what is generated, how it is judged, what is committed."""

import os
import zlib
from dataclasses import replace
from functools import partial

import against_worker
import pytest
import static_ledger
import torch
from typer.testing import CliRunner

from segattn_triton.catalog import BY_NAME
from segattn_triton.perf.account import assumptions as assumed
from segattn_triton.perf.commands import main
from segattn_triton.perf.compiler import problems, verdicts
from segattn_triton.perf.compiler.against import COMMITTED_TIMES
from segattn_triton.perf.compiler.sides import OURS, RIVAL, Side, Time, launched, library, merged, read, sizes_of, write


def side(*us: float, provider: str = OURS, size: str = "8x64x512x512", floor: float = 1.0, op: str = "scse") -> Side:
    return Side(op, size, "contiguous", "fwd", provider, (Time("k", us, floor, "DRAM"),), "0")


@pytest.mark.parametrize(
    "theirs, wanted",
    [((150, 150, 150), OURS), ((50, 60, 70), RIVAL), ((100, 101, 99), "equal"), ((90, 100, 120), "undecided")],
)
def test_a_verdict_that_flips_is_none(theirs, wanted):
    """The launch is in both times."""
    ours = side(*(100 - assumed.LAUNCH,) * 3)
    (line,) = verdicts.lines([ours, side(*(t - assumed.LAUNCH for t in theirs), provider="compile")])
    assert line.outcome == wanted
    assert verdicts.verdict(ours.us, line.best)[0] == pytest.approx([t / 100 for t in theirs])


def test_the_fastest_of_the_rivals_decides():
    """For each round trip another one may be it."""
    slow, fast = side(200, 200, 200, provider="compile"), side(50, 50, 210, provider="compile-best")
    (line,) = verdicts.lines([side(100, 100, 100), slow, fast])
    assert line.best == tuple(t + assumed.LAUNCH for t in (50, 50, 200)) and line.outcome == verdicts.UNDECIDED
    (line,) = verdicts.lines([side(100, 100, 100), slow, replace(fast, launches=slow.launches)])
    assert line.outcome == OURS and line.ours.limit == "DRAM"


def test_a_bar_that_flips_is_undecided():
    """Of the share of the floor, and of the times; a small map has a bar of its own, and equal is no slower."""
    launch = assumed.LAUNCH
    for us, wanted in (((100, 100, 100), "met"), ((100, 100, 120), "undecided"), ((130, 130, 130), "missed")):
        own = side(*(t - launch for t in us), floor=91.0)
        (line,) = verdicts.lines([own, side(*[130 - launch] * 3, provider="compile")])
        assert line.bars == (wanted, wanted)
    for size, op, wanted in ((verdicts.SMALL_MAP, "eca", "missed"), (problems.REFERENCE, "eca", "met")):
        pair = [side(100, 100, 100, provider=who, size=size, op=op) for who in (OURS, "compile")]
        assert verdicts.lines(pair)[0].bars[1] == wanted


def test_records_come_back_and_new_ones_replace_old():
    old, other, new = side(1, 2, 3), side(4, 5, 6, provider="compile"), side(7, 8, 9)
    assert read(write([old, other])) == [old, other]
    assert set(merged([old, other], [new])) == {new, other}


def test_who_is_asked():
    """Both forms at the reference size and of the small map; elsewhere the one that was faster there; of some sides of
    the curves ours alone."""
    slow, fast = side(200, 200, 200, provider="compile"), side(50, 50, 50, provider="compile-best")
    ask = partial(problems.providers, "scse", layout="contiguous", known=[slow, fast])
    assert ask(size=problems.REFERENCE) == ask(size=problems.SMALL_MAP) == (OURS, "compile", "compile-best")
    assert ask(size="8x128x256x256") == ask(size="8x64x2048x2048") == (OURS, "compile-best")
    assert ask(size="8x64x64x64") == (OURS,)
    assert problems.providers("local_gate", "8x64x32x32", "contiguous", []) == (OURS, "compile")


def test_the_rule_for_libraries():
    """Bytes or products, at the stated share; a convolution in NCHW copies its maps."""
    nbytes, flops = 10**9, 10**12
    by_bytes = library("mm", nbytes, 0, "contiguous").us[0] - assumed.LIBRARY_LEAST
    by_products = library("mm", 0, flops, "contiguous").us[0] - assumed.LIBRARY_LEAST
    assert by_bytes == pytest.approx(nbytes / assumed.DRAM / assumed.LIBRARY, rel=1e-3)
    assert by_products == pytest.approx(flops / assumed.MATRIX_RATE / assumed.LIBRARY, rel=1e-3)
    last, first = (library("convolution", nbytes, 0, order).floor for order in ("channels_last", "contiguous"))
    assert first == pytest.approx(3 * last, rel=1e-3)


@pytest.fixture(scope="module")
def ask():
    with static_ledger.pool(os.cpu_count() or 1) as pool:
        yield lambda function, *arguments: list(pool.map(function, *arguments))


@pytest.mark.static
def test_what_a_library_does_stands_in_its_direction():
    """Products of the forward and of the backward by one name, and a convolution that comes whole."""
    wanted = {
        "coordinate_attention": (["bmm", "baddbmm", "baddbmm"], ["bmm"] * 6),
        "local_gate": (["convolution"], ["convolution_backward"]),
        "gate_mul": ([], []),
    }
    for op, names in wanted.items():
        both = launched(BY_NAME[op], sizes_of(op, "2x64x32x32"), "contiguous", torch.bfloat16)
        assert tuple([call.name for call in calls] for _, calls in both) == names
        assert all(plans for plans, _ in both)
    assert both[0][0][0].args["s_ptr"] is None  # a shortcut, which no rival takes


def test_inductors_kernels_are_generated_without_a_gpu(ask):
    """In channels_last one kernel each way, of 2 and 3 passes; a product of matrices is the library's."""
    ((found),) = ask(against_worker.generated_for, ["channels_last"])
    assert found["forward"] == [pytest.approx(2, rel=0.05)] and found["backward"] == [pytest.approx(3, rel=0.05)]
    assert found["library"] == [("mm", 3 * 2 * 256**2, 2 * 256**3)]


@pytest.mark.static
def test_what_is_committed_is_what_is_computed(ask):
    """Of one problem, drawn by the file: of the same text, by the same versions, the same launches in the same time."""
    text = COMMITTED_TIMES.read_text()
    own = [line.ours for line in verdicts.lines(read(text))]
    if not own:
        pytest.skip("no record of ours is committed")
    chosen = own[zlib.crc32(text.encode()) % len(own)]
    (computed,) = ask(against_worker.ours, [chosen.op], [chosen.layout], [chosen.size])
    (again,) = [s for s in computed if s.mode == chosen.mode]
    assert again.us[0] <= again.us[1] <= again.us[2] and again.share <= 1.0
    if again.made != chosen.made:
        pytest.skip("no record of today's code is committed: make predicted")
    assert again == chosen


@pytest.mark.static
def test_what_is_known_is_not_computed_again(ask):
    """A second run keeps all that has the digest of the first."""
    (first,) = ask(against_worker.ours, ["spatial_pool_gate"], ["contiguous"], ["1x64x64x64"])
    made = [s.made for s in first]
    assert len(set(made)) == 2
    (second,) = ask(against_worker.ours, ["spatial_pool_gate"], ["contiguous"], ["1x64x64x64"], [made])
    assert second == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--op", "x"], "--op: got 'x'"),
        (["--layout", "x"], "--layout: got 'x'"),
        (["--target", "sm_75"], "--target: got 'sm_75', expected one of sm_80, sm_86"),
        (["--target", "sm_80", "--named"], "--out: "),
        (["--named", "--curve"], "--curve: "),
    ],
)
def test_wrong_usage(arguments, message):
    done = CliRunner().invoke(main, ["against", *arguments])
    assert done.exit_code == 2 and done.stderr.startswith("segattn: " + message)
