"""What the tuner found, from OUT/autotune.json: a line per kernel and key, and the spread of every space."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from . import words
from .frame import ceiling
from .style import MUTED, figure, look, styled

AUTOTUNE_FILE = "autotune.json"
AUTOTUNE_HEAD = (
    *("op", "kernel and key", "log2 pixels", "chosen", "timed", "excluded"),
    *("µs", "best found, µs", "slowest, times the best", "share of floor"),
)


def load(out: Path) -> list[Mapping[str, Any]]:
    """The tuner's results that OUT holds; what cannot be read is none."""
    try:
        found = json.loads((out / AUTOTUNE_FILE).read_text(encoding="utf-8"))
        return [r for r in found if r["ms"] and str(r["best"]) in r["ms"] and str(r["before"]) in r["ms"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def lines(found: Sequence[Mapping[str, Any]], df: pd.DataFrame) -> list[list[str]]:
    copy = ceiling(df, "events")
    body = []
    for r in found:
        ms, best = r["ms"][str(r["best"])], min(r["ms"].values())
        share = float(copy.ms([r["floor_bytes"]])[0]) / ms
        change = "" if r["best"] == r["before"] else f", was {1e3 * r['ms'][str(r['before'])]:.1f} µs"
        times = [words.significant(1e3 * ms), words.significant(1e3 * best)]
        spread = words.times(max(r["ms"].values()) / best)
        what = [r["op"], r["key"], str(r["bucket"]), r["config"] + change, str(len(r["ms"])), str(len(r["excluded"]))]
        body.append([*what, *times, spread, words.percent(share)])
    return body


@styled
def spread(found: Sequence[Mapping[str, Any]]) -> Figure | None:
    """A dot per config: its time over the best of its key, against the pixels; a ring around the one that is chosen."""
    kernels: dict[str, list] = {}
    for r in found:
        kernels.setdefault(r["key"].partition(" ")[0], []).append(r)
    if not kernels:
        return None
    fig, axes = figure("autotuning: every config that was timed", len(kernels), 2.3, margins=(0.7, 0.3))
    for ax, (kernel, results) in zip(axes, kernels.items(), strict=True):
        for r in results:
            ms = np.array(list(r["ms"].values()))
            at, best = np.full(len(ms), float(r["bucket"])), ms.min()
            ax.plot(at, ms / best, ".", color=look("segattn")["color"], alpha=0.35, markersize=4)
            chosen = r["ms"][str(r["best"])] / best
            ax.plot(r["bucket"], chosen, "o", markersize=7, markerfacecolor="none", markeredgecolor=MUTED)
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.set_title(kernel)
        ax.set_xlabel("log2 of the pixels, all images")
        ax.set_ylabel("times the best config's time")
    return fig
