"""segattn spaces: the choice without a table against the best of its space, by the account of time."""

import zlib
from dataclasses import replace
from statistics import median

import pytest
import spaces_worker
import static_ledger
from typer.testing import CliRunner

from segattn_triton.perf.account import assumptions as assumed
from segattn_triton.perf.commands import main
from segattn_triton.perf.compiler import spaces
from segattn_triton.perf.compiler.spaces import COMMITTED_CHOICES, MEDIAN, WORST, ChoiceRecord

# kernel -> why its choice may be further than `WORST` from the best of its space
FURTHER = {
    "band_fwd": "a microsecond in all: what differs is whether the partial sums count as in the L2 cache",
    "band_bwd": "a microsecond in all: what differs is whether the partial sums count as in the L2 cache",
}


def choice(**us: float | tuple[float, ...]) -> ChoiceRecord:
    """Of configs "c0", "c1"...; the first is chosen."""
    times = {name.removeprefix("c"): t if isinstance(t, tuple) else (t,) * 3 for name, t in us.items()}
    words = {"chosen": "P1 w4 s1", "best": "P2 w4 s1"}
    return ChoiceRecord("scse", "case", "contiguous", "k", "k bfloat16", 9, 36, 30, times, 0, words, "0")


def test_the_launch_is_in_both_times():
    assert choice(c0=10 - assumed.LAUNCH, c1=5 - assumed.LAUNCH).times == pytest.approx(2.0)
    assert choice(c1=5.0).times is None and choice(c0=5.0).times == 1.0


def test_the_worst_round_trip_decides():
    """Another config may be the best for each."""
    launch = assumed.LAUNCH
    found = choice(c0=tuple(t - launch for t in (10, 12, 20)), c1=(9.0,) * 3, c2=(12.0, 12.0, 10 - launch))
    assert found.times == pytest.approx(2.0) and found.best == "1"


def test_the_summary_says_what_is_above_the_bar():
    far, near = choice(c0=100, c1=50), choice(c0=10, c1=10)
    assert ", 1 above 1.25 (predicted from machine code, not measured)" in spaces.summary([far, near, near])
    assert "3 choices: 1.00 times the least time at the median, 1.97 at worst" in spaces.summary([far, near, near])
    text = spaces.write([far, replace(near, bucket=8)])
    assert [c.bucket for c in spaces.read(text)] == [8, 9] and spaces.write(spaces.read(text)) == text


def test_committed_choices_are_near_the_best():
    """At the median, and each but those that have a reason."""
    found = spaces.read(COMMITTED_CHOICES.read_text()) if COMMITTED_CHOICES.exists() else []
    if not found:
        pytest.skip("no choice is committed")
    assert not [c.key for c in found if c.times is None]
    assert median(c.times for c in found) <= MEDIAN
    assert not [(c.key, c.bucket, c.times) for c in found if c.times > WORST and c.kernel not in FURTHER]


@pytest.mark.static
def test_drawn_choices_are_near_the_best():
    """A few that what is committed draws, compiled anew; of the same text they have the same times."""
    text = COMMITTED_CHOICES.read_text() if COMMITTED_CHOICES.exists() else ""
    known = {(c.place, c.made): c for c in spaces.read(text)}
    with static_ledger.pool(1) as pool:
        found = [ChoiceRecord(**c) for c in pool.submit(spaces_worker.drawn, zlib.crc32(text.encode()), 3).result()]
    assert len(found) == 3
    for c in found:
        assert c.times <= WORST or c.kernel in FURTHER, c
        before = known.get((c.place, c.made))
        if before is not None:
            assert all(before.us[i] == us for i, us in c.us.items() if i in before.us)


@pytest.mark.parametrize(
    "arguments, message",
    [(["--most", "0"], "--most: got 0"), (["--drawn", "-1"], "--drawn: got -1"), (["--op", "x"], "--op: got 'x'")],
)
def test_wrong_usage(arguments, message):
    done = CliRunner().invoke(main, ["spaces", *arguments])
    assert done.exit_code == 2 and done.stderr.startswith("segattn: " + message)
