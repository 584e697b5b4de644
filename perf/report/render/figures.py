"""Every figure of a run: what there is to draw, and drawing it, under OUT/plots, with one process per core."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import autotune, bars, plots, sheet, words
from .frame import GPU_TIMERS, GROUP, by_catalog, catalog, predictions, results, roofline
from .style import file_name, save

DRAWN = (*GPU_TIMERS, "cpu", "predicted")  # the times of moving data; a launch's are not
PER_PROCESS = 16  # figures: fewer are not worth starting one


@dataclass(frozen=True)
class FigureJob:
    """A figure of one op; `draw` returns None where there is nothing to show after all."""

    op: str
    name: str
    caption: str
    draw: Callable[[], Figure | None]
    main: bool = True  # whether the page shows it unfolded

    def svg(self, folder: Path) -> Path:
        return folder / f"{file_name(self.name)}.svg"


def jobs(df: pd.DataFrame) -> list[FigureJob]:
    """The figures of every op, in the order of the catalog."""
    return [*_throughputs(df), *_memory_and_errors(df)]


def _throughputs(df: pd.DataFrame) -> Iterator[FigureJob]:
    found = pd.concat([results(df), predictions(df)])
    found = by_catalog(found[found.timer.isin(DRAWN) & (found.inputs == "normal")])
    for values, rows in found.groupby(GROUP, sort=False):
        group = dict(zip(GROUP, values, strict=True))
        if group["timer"] == "predicted" and _alike(found, group, GPU_TIMERS).any():
            continue
        if group["timer"] in GPU_TIMERS:  # a CPU's figure shows no predictions: they are of another machine
            rows = pd.concat([rows, found[_alike(found, group, ["predicted"])]])
        name, title, roof = "_".join(values), plots.title(group), roofline(df, group["timer"])
        unfolded = group["timer"] != "graph"
        for metric, label in plots.METRICS.items():
            draw = partial(plots.throughput, group, rows, roof, metric)
            yield FigureJob(group["op"], f"{name}_{metric}", f"{label}: {title}", draw, unfolded and metric == "gbps")
        draw = partial(plots.speedup, group, rows[~rows.predicted])
        yield FigureJob(group["op"], f"{name}_speedup", f"times faster: {title}", draw, unfolded)


def _alike(found: pd.DataFrame, group: dict, timers: Iterable[str]) -> pd.Series:
    alike = found.timer.isin(timers)
    for name in ("op", "mode", "dtype", "layout"):
        alike &= found[name] == group[name]
    return alike


def _memory_and_errors(df: pd.DataFrame) -> Iterator[FigureJob]:
    rows = df[(df.status == "ok") & ~df.ceiling & df.timer.isin(("events", "cpu"))]
    rows = by_catalog(rows[np.isfinite(rows.error) | (rows.peak_memory >= 0)])
    for values, part in rows.groupby(["op", "dtype", "layout"], sort=False):
        what = f"{values[0]}, {words.dtype(values[1])}, {words.layout(values[2])}"
        for kind, drawing, label in (
            ("memory", bars.memory, "peak memory"),
            ("error", bars.error, "error against fp64"),
        ):
            name = "_".join((*values, kind))
            yield FigureJob(values[0], name, f"{label}: {what}", partial(drawing, what, part), main=False)


def draw(df: pd.DataFrame, out: Path) -> list[tuple[FigureJob, Path]]:
    """The figures that came of it, with their files. Other processes draw their share of OUT's records."""
    folder, todo = out / "plots", jobs(df)
    for job in todo:
        job.svg(folder).unlink(missing_ok=True)
    count = min(os.cpu_count() or 1, 16, 1 + len(todo) // PER_PROCESS)
    worker = [sys.executable, "-m", "segattn_triton.perf.report.render.worker", str(out)]
    others = [subprocess.Popen([*worker, str(i), str(count)]) for i in range(1, count)]
    draw_share(todo, folder, 0, count)
    for i, process in enumerate(others, 1):
        if process.wait() != 0:
            draw_share(todo, folder, i, count)
    return [(job, job.svg(folder)) for job in todo if job.svg(folder).exists()]


def draw_share(todo: list[FigureJob], folder: Path, share: int, count: int) -> None:
    for job in todo[share::count]:
        fig = job.draw()
        if fig is not None:
            save(fig, folder, job.name)


def draw_sheet(df: pd.DataFrame, conditions: Sequence[str], folder: Path) -> Path | None:
    """Of all ops together."""
    fig = sheet.sheet(df, conditions)
    return save(fig, folder, "sheet") if fig is not None else None


def draw_spread(found: list, folder: Path) -> Path | None:
    """Of the tuner's results."""
    fig = autotune.spread(found)
    return save(fig, folder, "autotune") if fig is not None else None


def draw_maps(path: Path, folder: Path) -> Path | None:
    """The gate maps of OUT/maps.npz; None where there is no file that can be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            maps: Mapping[str, np.ndarray] = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    fig = gate_maps(maps)
    return save(fig, folder, "gate_maps") if fig is not None else None


UNITS = (  # of gate maps; figures have no colour bar without one
    "gate, share that passes",
    "gate, share that passes, mean of channels",
    "log-sum-exp of scores, nats, mean of heads",
    "largest share of a neighbour",
)


def gate_maps(maps: Mapping[str, np.ndarray]) -> Figure | None:
    """Each panel with what the catalog says of its op."""
    return bars.gate_maps(maps, {name: bars.Legend(row.attends_to, _unit(row)) for name, row in catalog().items()})


def _unit(row) -> str:
    """Of the values in the map of a row of the catalog, as `as_image` has them."""
    *_, spec = row.outputs.values()
    words = spec.split()
    if "heads" in words or "K" in words:
        return UNITS[2 + ("K" in words)]
    return UNITS["*S" in words and "C" in words]
