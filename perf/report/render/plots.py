"""Throughput against resolution, and the speed-up over C and resolution: one figure per op, mode, dtype and layout."""

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from ...records import SEGATTN
from . import words
from .frame import LAUNCH_MS, RIVAL_PROVIDERS, Ceiling
from .style import INK, MUTED, RULE, SHADE, figure, in_order, look, styled

METRICS = {"gbps": "effective GB/s", "mpixels": "Mpixel/s"}
NOTE = "band: 20-80 %   solid: copy at its best   dotted: copy of the same bytes"


def title(group: dict) -> str:
    what = f"{group['op']}, {words.mode(group['mode'])}, {words.dtype(group['dtype'])}, {words.layout(group['layout'])}"
    return f"{what} ({words.timer(group['timer'])})"


def sweep(rows: pd.DataFrame) -> pd.DataFrame:
    """The points that make lines: the C's of more than one resolution, the largest N of each."""
    rows = rows[(rows.side > 0) & (rows.C > 0)]
    rows = rows.sort_values("N").groupby(["provider", "timer", "C", "side"], as_index=False).last()
    several = rows.groupby("C").side.nunique()
    return rows[rows.C.isin(several[several > 1].index)] if (several > 1).any() else rows


@styled
def throughput(group: dict, rows: pd.DataFrame, roof: Ceiling, metric: str) -> Figure | None:
    """A panel per C, a line per provider. Predictions in `rows`, and a predicted roof, are dashed and say so."""
    rows = sweep(rows[rows[metric].notna()])
    if rows.empty:
        return None
    panels = [panel.sort_values("side") for _, panel in rows.groupby("C")]
    note = NOTE if len(roof.gbps) and not roof.predicted and len(panels) > 1 else ""
    fig, axes = figure(f"{METRICS[metric]}: {title(group)}", len(panels), 2.75, note=note)
    tops = [_top(panel, roof, metric) for panel in panels]
    common = max((top for top, own in tops if not own), default=0)
    for ax, panel, (top, own) in zip(axes, panels, tops, strict=True):
        ax.set_ylim(0, 1.12 * (top if own else common))
        resolution_axis(ax, rows.side)
        if group["timer"] == "events":
            _shade_launch_bound(ax, panel)
        _rooflines(ax, panel, roof, metric)
        _label_lines(ax, [_line(ax, part, metric) for part in _lines(panel)])
        batch = sorted({int(panel.N.min()), int(panel.N.max())})
        ax.set_title(f"C = {panel.C.iloc[0]:.0f}, N = {' to '.join(map(str, batch))}")
        ax.set_ylabel(METRICS[metric])
        ax.set_xlabel("pixels a side, H = W")
    return fig


def _lines(panel: pd.DataFrame):
    for predicted in (False, True):
        part = panel[panel.predicted == predicted]
        for provider in in_order(part.provider):
            yield part[part.provider == provider]


def _line(ax: Axes, part: pd.DataFrame, metric: str) -> tuple[float, str, str]:
    """Draw one provider with its 20-80 % band; the height, text and colour of its label."""
    provider, predicted = part.provider.iloc[0], bool(part.predicted.iloc[0])
    style = look(provider)
    ax.plot(
        part.side, part[metric], linestyle="--" if predicted else "-", zorder=4 if provider == SEGATTN else 3, **style
    )
    if not predicted:
        ax.fill_between(
            part.side, part[f"{metric}_20"], part[f"{metric}_80"], color=style["color"], alpha=0.2, linewidth=0
        )
    name = words.provider(provider) + (",\npredicted" if predicted else "")
    return part[metric].iloc[-1], name, style["color"]


def _amount(panel: pd.DataFrame, metric: str) -> pd.Series:
    """What the metric counts, per call, in units that make amount / ms the metric."""
    return panel.floor_bytes / 1e6 if metric == "gbps" else panel.pixels / 1e3


def _peak(panel: pd.DataFrame, roof: Ceiling, metric: str) -> float:
    return (_amount(panel, metric) * roof.peak * 1e6 / panel.floor_bytes.where(panel.floor_bytes > 0)).max()


def _top(panel: pd.DataFrame, roof: Ceiling, metric: str) -> tuple[float, bool]:
    """The highest value to show, and whether the panel needs a scale of its own: far below the copy ceiling."""
    rate = _amount(panel, metric) / panel.matmul_ms
    highest = np.nanmax([panel[metric].max(), panel[f"{metric}_80"].max()])
    peak = _peak(panel, roof, metric)
    bound = (panel.matmul_ms > panel.floor_ms).any() and max(highest, rate.min()) < 0.5 * peak
    if bound:
        return max(highest, rate.min()), True
    return np.nanmax([highest, peak]), False


def _rooflines(ax: Axes, panel: pd.DataFrame, roof: Ceiling, metric: str) -> None:
    """The copy ceiling at its best, dotted what it does at each size, and the matrix rate where that is lower."""
    at = panel.drop_duplicates("side")
    top = ax.get_ylim()[1]
    if len(roof.gbps):
        peak = _peak(panel, roof, metric)
        name = f"copy{', assumed' if roof.predicted else ''} {words.significant(peak)}"
        if peak <= top:
            ax.axhline(peak, color=INK, linewidth=1, linestyle="--" if roof.predicted else "-", zorder=2)
            _note(ax, name, peak)
        else:
            ax.annotate(
                "copy: off the scale", (1, 1), xycoords="axes fraction", xytext=(58, 5), textcoords="offset points",
                fontsize=7, color=MUTED, ha="right",
            )  # fmt: skip
        if not roof.predicted:
            speed = _amount(at, metric) / roof.ms(at.floor_bytes)
            ax.plot(at.side, speed, color=INK, linewidth=0.9, linestyle=":", zorder=2)
    bound = at[at.matmul_ms > at.floor_ms]
    if len(bound):
        speed = _amount(bound, metric) / bound.matmul_ms
        ax.plot(bound.side, speed, color=INK, linewidth=0.9, linestyle="-.", zorder=2)
        _note(ax, "matrix rate", speed.iloc[-1])


def _note(ax: Axes, text: str, height: float) -> None:
    ax.annotate(
        text, (0.985, height), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
        fontsize=7, color=MUTED, ha="right",
    )  # fmt: skip


def resolution_axis(ax: Axes, sides: pd.Series) -> None:
    low, high = np.floor(np.log2(sides.min())), np.ceil(np.log2(sides.max()))
    if low == high:
        low, high = low - 1, high + 1
    ax.set_xscale("log", base=2)
    ax.set_xlim(2 ** (low - 0.12), 2 ** (high + 0.12))
    ax.xaxis.set_major_locator(ticker.FixedLocator(2 ** np.arange(low, high + 1)))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:.0f}"))
    ax.xaxis.set_minor_locator(ticker.NullLocator())


def _shade_launch_bound(ax: Axes, panel: pd.DataFrame) -> None:
    """Up to the resolution whose floor takes 20 µs."""
    floors = panel.dropna(subset="floor_ms").drop_duplicates("side").sort_values("floor_ms")
    if floors.empty or floors.floor_ms.iloc[0] >= LAUNCH_MS:
        return
    left, right = ax.get_xlim()
    edge = np.exp2(np.interp(np.log(LAUNCH_MS), np.log(floors.floor_ms), np.log2(floors.side)))
    edge = right if floors.floor_ms.iloc[-1] < LAUNCH_MS else edge
    ax.axvspan(left, edge, color=SHADE, linewidth=0, zorder=0)
    ax.annotate(
        "launch-bound", (left, 0.98), xycoords=("data", "axes fraction"), xytext=(3, 0), textcoords="offset points",
        fontsize=7, color=MUTED, va="top",
    )  # fmt: skip


def _label_lines(ax: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Names at the right, pushed apart where they would overlap."""
    labels = sorted(labels)
    gap = ax.get_ylim()[1] * 0.085
    y = -gap
    for height, name, colour in labels:
        y = max(height, y + gap * (1 + 0.9 * name.count("\n")))
        ax.annotate(
            name, (1, y), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=7.5, color=colour, annotation_clip=False,
        )  # fmt: skip


@styled
def speedup(group: dict, rows: pd.DataFrame) -> Figure | None:
    """How many times faster than each rival, over C and resolution; None without a comparison."""
    own = sweep(rows[rows.provider == SEGATTN])
    rivals = [rival for rival in RIVAL_PROVIDERS if own[f"times_{rival}"].notna().any()]
    if not rivals:
        return None
    known = own.assign(**{f"times_{r}": own[f"times_{r}"].where(~own[f"tied_{r}"], 1.0) for r in rivals})
    tables = [known.pivot_table(index="C", columns="side", values=f"times_{rival}") for rival in rivals]
    height = 1.1 + 0.27 * max(len(table) for table in tables)
    note = "violet: ours is faster   orange: the rival is   tie: bands overlap" if len(rivals) > 1 else ""
    fig, axes = figure(f"times faster: {title(group)}", len(rivals), height, margins=(0.6, 0.15), note=note)
    for ax, rival, table in zip(axes, rivals, tables, strict=True):
        _heat(ax, table)
        ax.set_title(f"over {words.provider(rival)}")
        ax.set_xlabel("pixels a side, H = W")
        ax.set_ylabel("channels C")
    return fig


def _heat(ax: Axes, table: pd.DataFrame) -> None:
    """Violet where we are faster, orange where the rival is, the number in every cell."""
    scale = np.log2(table.to_numpy())
    limit = max(1.0, np.nanmax(np.abs(scale)))
    ax.pcolormesh(scale, cmap="PuOr", norm=TwoSlopeNorm(0, -limit, limit), edgecolor=RULE, linewidth=0.5)
    for (i, j), value in np.ndenumerate(scale):
        if np.isfinite(value):
            text, colour = f"{2**value:.2f}" if value else words.TIE, "white" if abs(value) > 0.6 * limit else "black"
        else:
            text, colour = words.DASH, MUTED
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=7.5, color=colour)
    ax.set_xticks(np.arange(table.shape[1]) + 0.5, [f"{side:.0f}" for side in table.columns])
    ax.set_yticks(np.arange(table.shape[0]) + 0.5, [f"{C:.0f}" for C in table.index])
    ax.grid(False)
