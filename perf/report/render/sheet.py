"""One sheet: of every op, how many times faster than eager and the best compiled code, against resolution.

It carries its own conditions, so that it can be shown by itself. Only what was measured is on it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from . import words
from .frame import by_catalog, is_ours, results, subject
from .plots import resolution_axis, sweep
from .style import INK, MUTED, figure, look, styled
from .tables import bulk_timers

DRAWN_RIVALS = ("eager", "compile-best")
LINE_STYLES = {"fwd": "-", "bwd": "--"}
COLUMNS = 4


@styled
def sheet(df: pd.DataFrame, conditions: Sequence[str]) -> Figure | None:
    """A panel for each op with a curve, all on one scale; None without any. A ring is a tie: bands overlap."""
    curves = {op: found for op, rows in _measured(df) if (found := list(_curves(rows)))}
    if not curves:
        return None
    every = pd.concat([part.assign(rival=rival) for found in curves.values() for rival, _, part in found])
    ratios = np.concatenate([every[f"times_{rival}"].dropna() for rival in every.rival.unique()])
    ours = every.provider.map(is_ours).all()
    whose = "segattn_triton" if ours else "the reference in pure torch, no kernel of ours"
    fig, axes = figure(f"times faster: {whose}", max(2, len(curves)), 2.3, columns=COLUMNS, margins=(0.45, 0.1))
    for ax, (op, found) in zip(axes, curves.items(), strict=False):
        _panel(ax, op, found, every.side, ratios)
    for ax in axes[len(curves) :]:
        ax.set_axis_off()
    _legend(fig, {rival for found in curves.values() for rival, _, _ in found}, set(every["mode"]))
    below_title = 1 - 0.32 / fig.get_figheight()
    fig.text(0.01, below_title, _conditions(every, conditions), fontsize=7, color=MUTED, va="top")
    return fig


def _measured(df: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The points of each op in the dtype and layout that come first: of ours, else of the reference."""
    rows = results(df)
    rows = by_catalog(
        rows[rows.timer.isin(bulk_timers(df)) & (rows.inputs == "normal") & rows["mode"].isin(LINE_STYLES)]
    )
    for op, part in rows.groupby("op", sort=False):
        part = part[part.provider == subject(part)]
        first = part.iloc[0]
        part = part[(part.dtype == first["dtype"]) & (part.layout == first["layout"])]
        sides = part.groupby("C").side.nunique()
        most = sides[sides == sides.max()].index.max()
        yield op, part[part["C"] == most]


def _curves(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(rival, mode, points by side) of everything that has two sides to compare."""
    for rival in DRAWN_RIVALS:
        for mode in LINE_STYLES:
            part = rows[(rows["mode"] == mode) & rows[f"times_{rival}"].notna()]
            part = sweep(part).sort_values("side") if len(part) else part
            if part.side.nunique() > 1:
                yield rival, mode, part


def _panel(ax: Axes, op: str, found: list, sides: pd.Series, ratios: np.ndarray) -> None:
    resolution_axis(ax, sides)
    ax.set_yscale("log", base=2)
    low, high = np.floor(np.log2(min(ratios.min(), 1))), np.ceil(np.log2(max(ratios.max(), 1)))
    ax.set_ylim(2 ** (low - 0.1), 2 ** (max(high, low + 1) + 0.1))
    ax.yaxis.set_major_locator(FixedLocator(2 ** np.arange(low, max(high, low + 1) + 1)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}×"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.axhline(1, color=INK, linewidth=0.9, zorder=1)
    for rival, mode, part in found:
        colour, times = look(rival)["color"], part[f"times_{rival}"]
        ax.plot(part.side, times, LINE_STYLES[mode], color=colour, marker="")
        tied = part[f"tied_{rival}"]
        ax.plot(part.side[~tied], times[~tied], look(rival)["marker"], color=colour)
        ax.plot(part.side[tied], times[tied], "o", markerfacecolor="white", markeredgecolor=colour)
    ax.set_title(op)
    ax.set_xlabel("pixels a side, H = W")


def _legend(fig: Figure, rivals: set[str], modes: set[str]) -> None:
    handles = [
        Line2D([], [], color=look(r)["color"], marker=look(r)["marker"], label=f"over {words.provider(r)}")
        for r in DRAWN_RIVALS
        if r in rivals
    ]
    handles += [
        Line2D([], [], color=MUTED, linestyle=LINE_STYLES[m], label=words.mode(m)) for m in LINE_STYLES if m in modes
    ]
    handles.append(Line2D([], [], color=MUTED, marker="o", linestyle="", markerfacecolor="white", label="a tie"))
    fig.legend(handles=handles, loc="upper right", ncols=len(handles), frameon=False, fontsize=7.5, borderaxespad=0.3)


def _conditions(rows: pd.DataFrame, facts: Sequence[str]) -> str:
    kinds = dict.fromkeys(
        f"{words.dtype(r.dtype)} {words.layout(r.layout)}, N = {r.N:.0f}, C = {r.C:.0f}" for r in rows.itertuples()
    )
    return "; ".join([*facts, " / ".join(kinds)])
