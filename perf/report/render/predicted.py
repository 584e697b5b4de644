"""What is predicted from machine code, as tables and curves: against torch.compile, the bars, and over resolutions.

Every number is of one size, layout and direction; none is an average over them. Not measured, and it says so.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ....catalog import BY_NAME
from ...compiler import problems, verdicts
from ...compiler.against import COMMITTED_TIMES
from ...compiler.sides import FORMS, OURS, RIVAL, Side, read
from ...compiler.verdicts import BothSides, span
from ...options import MODES
from . import words
from .plots import resolution_axis
from .style import MUTED, figure, look, save, styled

TITLE = "predicted from machine code for sm_90, not measured"
LIMITS = {
    **{"DRAM": "D", "L2": "C", "issue": "i", "shared": "s", "special": "f", "matrix": "m", "latency": "t"},
    **{"by the rule for libraries": "b", "launches": "n"},
}
LEGEND = (
    "D DRAM, C L2 cache, i issue, s shared memory, f functions, m matrix products, t latency, b library, n launches"
)
AGAINST = ("op", "layout", "pass", "ours", "limited by", "compiled", "times", "best", "times", "faster")
SMALL_HEAD = ("op", "layout", "pass", "ours", "launches", "compiled", "launches", "best", "launches", "times best")
NO_RECORDS = "Nothing is predicted yet."
PLOTS = COMMITTED_TIMES.with_name("plots")


def load(file: Path = COMMITTED_TIMES) -> list[Side]:
    return read(file.read_text(encoding="utf-8")) if file.exists() else []


def against_lines(found: Sequence[Side], size: str) -> list[tuple[str, ...]]:
    """Ours against torch.compile, a line for each op, layout and direction."""
    lines = sorted(_of_size(found, size), key=lambda line: _in_order(_start(line.ours)))
    return [(*_start(line.ours), *line.cells()) for line in lines]


def against_part(found: Sequence[Side], size: str) -> str:
    """The same as a table; where torch.compile should win, in bold."""
    body = [
        (f"`{op}`", *cells, f"**{faster}**" if faster == RIVAL else faster)
        for op, *cells, faster in against_lines(found, size)
    ]
    return table(AGAINST, body) if body else NO_RECORDS


def small_part(found: Sequence[Side]) -> str:
    """Of the map of a real-time network: microseconds and launches of each, and whether the bar is met."""
    body = []
    for line in sorted(_of_size(found, problems.SMALL_MAP), key=lambda line: _in_order(_start(line.ours))):
        sides = [line.ours, *(line.rivals.get(form) for form in FORMS)]
        counts = [text for s in sides for text in ((f"{s.us[1]:.3g}", str(len(s.launches))) if s else ("", ""))]
        times = _cell(verdicts.verdict(line.ours.us, line.best)[0], line.bars[1]) if line.rivals else ""
        body.append((*_named(_start(line.ours)), *counts, times))
    return table(SMALL_HEAD, body) if body else NO_RECORDS


def bars_part(found: Sequence[Side]) -> str:
    """The bars of both kinds, a column for each size; what misses is bold, what another round trip turns has a "?"."""
    sizes = (*problems.BAR_SIZES, problems.SMALL_MAP)
    by_size = {size: {_start(line.ours): line for line in _of_size(found, size)} for size in sizes}
    rows = sorted({start for lines in by_size.values() for start in lines}, key=_in_order)
    head = ("op", "layout", "pass", "bar", *(size.replace("x", "×") for size in sizes))
    shares, times = [], []
    for start in rows:
        lines = [by_size[size].get(start) for size in sizes]
        known = next(line for line in lines if line)
        bar, backward = verdicts.BARS.get(known.ours.op, verdicts.REST), known.ours.mode == "bwd"
        if bar.share:
            cells = [_cell(line.shares, line.bars[0]) if line and line.bars[0] else "" for line in lines]
            shares.append((*_named(start), f"{bar.share[backward]:g}", *cells))
        if any(line and line.rivals for line in lines):
            ratios = [verdicts.verdict(line.ours.us, line.best)[0] if line and line.rivals else () for line in lines]
            cells = [_cell(r, line.bars[1]) if r else "" for r, line in zip(ratios, lines, strict=True)]
            times.append((*_named(start), f"{bar.times[backward]:g}", *cells))
    if not rows:
        return NO_RECORDS
    small = f"(for {problems.SMALL_MAP.replace('x', '×')}: {verdicts.AT_ONCE:g})"
    return "\n\n".join(
        [
            "Share of the floor, DRAM's time of our own bytes over ours:",
            table(head, shares),
            f"Times faster than the best of torch.compile {small}:",
            table(head, times),
        ]
    )


def curves_part(found: Sequence[Side]) -> str:
    """Microseconds of ours and of the fastest compiled form over the sides, each with what limits it."""
    lines = {(line.ours.size, *_start(line.ours)): line for line in verdicts.lines(found)}
    rows = sorted({key[1:] for key in lines if key[0] in problems.CURVE}, key=_in_order)
    if not rows:
        return NO_RECORDS
    head = ("op", "layout", "pass", *(size.split("x")[-1] + "²" for size in problems.CURVE))
    body = [(*_named(row), *(_point(lines.get((size, *row))) for size in problems.CURVE)) for row in rows]
    return f"{LEGEND}.\n\n{table(head, body)}"


def table(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """Markdown; a cell's bar is escaped."""
    head = list(head)
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _of_size(found: Iterable[Side], size: str) -> list[BothSides]:
    return verdicts.lines(side for side in found if side.size == size)


def _start(own: Side) -> tuple[str, str, str]:
    return own.op, words.layout(own.layout), words.mode(own.mode)


def _named(start: tuple[str, str, str]) -> tuple[str, ...]:
    return (f"`{start[0]}`", *start[1:])


def _in_order(start: tuple[str, str, str]) -> tuple:
    return list(BY_NAME).index(start[0]), start[1], start[2] != "forward"


def _cell(values: Sequence[float], outcome: str) -> str:
    text = span(values)
    return {"missed": f"**{text}**", verdicts.UNDECIDED: f"{text} ?"}.get(outcome, text)


def _point(line: BothSides | None) -> str:
    if line is None:
        return ""
    sides = [line.ours, *([min(line.rivals.values(), key=lambda s: s.us[1])] if line.rivals else [])]
    return " / ".join(f"{side.us[1]:.3g} {LIMITS[side.limit]}" for side in sides)


@styled
def curves(found: Sequence[Side], mode: str) -> Figure | None:
    """A panel for each op: what DRAM alone would take of our bytes over the time, against resolution. Solid is NCHW,
    dashed channels_last; a letter at each point of ours says what limits it."""
    lines = [line for line in verdicts.lines(found) if line.ours.mode == mode and line.ours.size in problems.CURVE]
    ops = [op for op in BY_NAME if len({line.ours.size for line in lines if line.ours.op == op}) > 1]
    if not ops:
        return None
    fig, axes = figure(f"{words.mode(mode)}: {TITLE}", max(2, len(ops)), 2.2, columns=4, margins=(0.45, 0.1))
    for ax, op in zip(axes, ops, strict=False):
        for layout, style in (("contiguous", "-"), ("channels_last", "--")):
            part = [line for line in lines if (line.ours.op, line.ours.layout) == (op, layout)]
            _panel(ax, sorted(part, key=lambda line: _side(line.ours)), style)
        ax.set_title(op)
        ax.set_ylim(0, 1.05)
        ax.set_xlabel("pixels a side, H = W")
    for ax in axes[len(ops) :]:
        ax.set_axis_off()
    names = ((OURS, "segattn"), ("best of torch.compile", "compile-best"))
    handles = [Line2D([], [], **look(provider), label=name) for name, provider in names]
    fig.legend(handles=handles, loc="upper right", ncols=2, frameon=False, fontsize=7.5, borderaxespad=0.3)
    note = f"share of the floor of our bytes; 8×64×S×S, bf16; {LEGEND}"
    fig.text(0.01, 1 - 0.32 / fig.get_figheight(), note, fontsize=7, color=MUTED, va="top")
    return fig


def _panel(ax: Axes, lines: Sequence[BothSides], style: str) -> None:
    if not lines:
        return
    floors = [sum(t.floor for t in line.ours.launches) for line in lines]
    sides = [_side(line.ours) for line in lines]
    resolution_axis(ax, pd.Series(sides))
    ours = [f / line.ours.us[1] for f, line in zip(floors, lines, strict=True)]
    ax.plot(sides, ours, style, **look("segattn"))
    for x, y, line in zip(sides, ours, lines, strict=True):
        ax.annotate(LIMITS[line.ours.limit], (x, y), xytext=(0, 4), textcoords="offset points", fontsize=6, color=MUTED)
    theirs = [f / line.best[1] if line.rivals else np.nan for f, line in zip(floors, lines, strict=True)]
    known = [(x, y) for x, y in zip(sides, theirs, strict=True) if np.isfinite(y)]
    if known:
        ax.plot(*zip(*known, strict=True), style, **look("compile-best"))


def _side(side: Side) -> int:
    return int(side.size.split("x")[-1])


def draw(found: Sequence[Side], folder: Path = PLOTS) -> list[Path]:
    """The curves as pictures, forward and backward."""
    made = [(mode, curves(found, mode)) for mode in MODES]
    return [save(fig, folder, f"curves_{mode}") for mode, fig in made if fig is not None]


def pictures() -> list[Path]:
    """Those that are committed."""
    return [path for mode in MODES if (path := PLOTS / f"curves_{mode}.svg").exists()]
