"""Ours against torch.compile, by the account of both sides: what is generated, how it is judged, what is committed."""

import os
import zlib
from dataclasses import replace
from pathlib import Path

import against_worker
import pytest
import static_ledger
from typer.testing import CliRunner

from segattn_triton.perf.account import assumptions as assumed
from segattn_triton.perf.commands import main
from segattn_triton.perf.compiler import against
from segattn_triton.perf.compiler.against import OURS, RIVAL, Side, Time, library, verdict

COMMITTED = Path(against.__file__).parents[1] / "predicted" / "sm_90.jsonl"


def side(*us: float, provider: str = OURS) -> Side:
    return Side("scse", 64, 512, "contiguous", "fwd", provider, (Time("k", us, 1.0, "DRAM"),))


@pytest.mark.parametrize(
    "theirs, wanted",
    [((150, 150, 150), OURS), ((50, 60, 70), RIVAL), ((100, 101, 99), "equal"), ((90, 100, 120), "undecided")],
)
def test_a_verdict_that_flips_is_none(theirs, wanted):
    """The launch is in both times."""
    ours = side(*(100 - assumed.LAUNCH,) * 3)
    ratios, who = verdict(ours, side(*(t - assumed.LAUNCH for t in theirs), provider="compile"))
    assert who == wanted and ratios == pytest.approx([t / 100 for t in theirs])


def test_the_fastest_of_the_rivals_decides():
    slow, fast = side(200, 200, 200, provider="compile"), side(50, 50, 50, provider="compile-best")
    (line,) = against.lines([side(100, 100, 100), slow, fast])
    assert line.outcome == RIVAL and line.limit == "DRAM"


def test_records_come_back_and_new_ones_replace_old():
    old, other, new = side(1, 2, 3), side(4, 5, 6, provider="compile"), side(7, 8, 9)
    assert against.read(against.write([old, other])) == [old, other]
    assert set(against.merged([old, other], iter([new]))) == {new, other}


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
def test_inductors_kernels_are_generated_without_a_gpu(ask):
    """In channels_last one kernel each way, of 2 and 3 passes; a product of matrices is the library's."""
    ((found),) = ask(against_worker.generated_for, ["channels_last"])
    assert found["forward"] == [pytest.approx(2, rel=0.05)] and found["backward"] == [pytest.approx(3, rel=0.05)]
    assert found["library"] == [("mm", 3 * 2 * 256**2, 2 * 256**3)]


@pytest.mark.static
def test_what_is_committed_is_what_is_computed(ask):
    """Of one op and layout, drawn by the file: a launch of the same machine code has the same time."""
    text = COMMITTED.read_text()
    own = [line.ours for line in against.lines(against.read(text))]
    chosen = own[zlib.crc32(text.encode()) % len(own)]
    (computed,) = ask(against_worker.ours, [chosen.op], [chosen.layout], [chosen.C], [chosen.side])
    (again,) = [s for s in computed if s.mode == chosen.mode]
    known = {t.code: t for t in chosen.launches}
    for launch in again.launches:
        assert known.get(launch.code, launch) == launch
    assert replace(again, launches=()) == replace(chosen, launches=())


@pytest.mark.parametrize(
    "arguments, message", [(["--op", "x"], "--op: got 'x'"), (["--layout", "x"], "--layout: got 'x'")]
)
def test_wrong_usage(arguments, message):
    done = CliRunner().invoke(main, ["against", *arguments])
    assert done.exit_code == 2 and done.stderr.startswith("segattn: " + message)
