"""What is predicted, as tables and curves: of records that are made up."""

import dataclasses

import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

from segattn_triton.perf.account import assumptions as assumed
from segattn_triton.perf.compiler import problems
from segattn_triton.perf.compiler.sides import OURS, Side, Time
from segattn_triton.perf.compiler.verdicts import SMALL_MAP
from segattn_triton.perf.report.render import predicted


def side(us, provider: str = OURS, size: str = problems.REFERENCE, op: str = "scse", mode: str = "fwd") -> Side:
    times = tuple(t - assumed.LAUNCH for t in (us if isinstance(us, tuple) else (us,) * 3))
    return Side(op, size, "contiguous", mode, provider, (Time("k", times, 91.0, "issue"),))


def cells(part: str, row: str) -> list[str]:
    line = next(line for line in part.splitlines() if line.startswith(f"| `{row}` |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_rival_that_is_faster_is_in_bold():
    found = [side(100), side((40, 50, 60), "compile"), side(101, op="eca"), side(300, "compile", op="eca")]
    part = predicted.against_part(found, problems.REFERENCE)
    assert cells(part, "scse")[-3:] == ["", "", "**torch.compile**"] and "0.40-0.60" in cells(part, "scse")
    assert cells(part, "eca")[-1] == "ours"
    assert predicted.against_part(found, SMALL_MAP) == predicted.NO_RECORDS


def test_a_bar_that_is_missed_is_in_bold_and_one_that_flips_has_a_mark():
    """Each size by itself; what is not computed is empty."""
    found = [side((100, 100, 120)), side((100, 125, 150), "compile"), side(200, size="8x64x256x256")]
    shares, times = predicted.bars_part(found).split("Times faster")
    assert cells(shares, "scse")[3:5] == ["0.9", "0.76-0.91 ?"] and cells(shares, "scse")[7] == "**0.46**"
    assert cells(times, "scse")[3:6] == ["1.3", "**1.00-1.25**", ""]


def test_of_the_small_map_launches_are_counted():
    """Its bar is 1.2 times the best."""
    three = side(10, size=SMALL_MAP)
    three = dataclasses.replace(three, launches=three.launches * 3)
    part = predicted.small_part([three, side(35, "compile", size=SMALL_MAP), side(36, "compile-best", size=SMALL_MAP)])
    assert cells(part, "scse")[3:] == ["30", "3", "35", "1", "36", "1", "**1.17**"]


def test_the_curves_say_what_limits_each_point():
    found = [side(100), side(300, "compile"), side(5, size="8x64x32x32"), side(3, size="8x64x64x64", mode="bwd")]
    part = predicted.curves_part(found)
    row = cells(part, "scse")
    assert row[3] == "5 i" and row[4] == "" and row[7] == "100 i / 300 i"
    assert "| 3 n |" in part and predicted.LEGEND in part
    figure = predicted.curves(found, "fwd")
    (ax,) = [ax for ax in figure.axes if ax.get_title(loc="left") == "scse"]
    assert [list(line.get_xdata()) for line in ax.get_lines()] == [[32, 512], [512]]
    assert predicted.curves(found[:2], "fwd") is None and "not measured" in figure.texts[0].get_text()


def test_every_limit_has_a_letter():
    assert len(set(predicted.LIMITS.values())) == len(predicted.LIMITS)
    assert all(f"{letter} " in predicted.LEGEND for letter in predicted.LIMITS.values())
