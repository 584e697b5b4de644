"""Peak memory and error per provider, and the gate maps over the photograph they were computed from."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from . import words
from .style import INK, MUTED, figure, in_order, look, styled

PHOTO = "photo"  # its name among the maps
NOTE_WIDTH = 52  # characters of a note that fit above a panel


@dataclass(frozen=True)
class Legend:
    """What a gate map's panel says: what the gate attends to, and what its values are."""

    note: str = ""
    unit: str = "gate"


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    modes = sorted(rows["mode"].unique(), key=lambda mode: (mode != "fwd", mode))
    return [(mode, rows[rows["mode"] == mode]) for mode in modes]


def _rows_of(ax, providers: list[str]) -> None:
    ax.set_yticks(range(len(providers)), [words.provider(p) for p in providers])
    ax.set_ylim(len(providers) - 0.4, -0.6)
    ax.grid(False, axis="y")


@styled
def memory(what: str, rows: pd.DataFrame) -> Figure | None:
    """Bars of the peak beyond what was allocated before the call, at the largest problem that most providers did."""
    rows = rows[rows.peak_memory >= 0]
    if rows.empty:
        return None
    panels = _panels(rows)
    height = 1.0 + 0.24 * rows.provider.nunique()
    fig, axes = figure(f"peak memory: {what}", len(panels), height, columns=2, margins=(1.2, 0.7))
    for ax, (mode, part) in zip(axes, panels, strict=True):
        problem = part.groupby(["N", "C", "H", "W"]).agg(n=("provider", "nunique"), moved=("floor_bytes", "max"))
        at = problem.sort_values(["n", "moved"]).index[-1]
        part = part.set_index(["N", "C", "H", "W"]).loc[[at]].drop_duplicates("provider").set_index("provider")
        providers = in_order(part.index)
        unit, name = (2**30, "GiB") if part.peak_memory.max() >= 2**32 else (2**20, "MiB")
        for i, provider in enumerate(providers):
            peak = part.peak_memory[provider]
            ax.barh(i, peak / unit, height=0.62, color=look(provider)["color"])
            ax.annotate(
                words.amount(peak), (peak / unit, i), xytext=(3, 0), textcoords="offset points", va="center",
                fontsize=7.5, annotation_clip=False,
            )  # fmt: skip
        _rows_of(ax, providers)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_title(f"{words.mode(mode)}, {'×'.join(f'{n:.0f}' for n in at)}")
        ax.set_xlabel(f"{name} beyond the inputs")
    return fig


@styled
def error(what: str, rows: pd.DataFrame) -> Figure | None:
    """A dot per problem, a bar at the median: the largest error against fp64, over the largest value."""
    rows = rows[np.isfinite(rows.error)]
    if rows.empty:
        return None
    panels = _panels(rows)
    height = 1.0 + 0.24 * rows.provider.nunique()
    fig, axes = figure(f"error against fp64: {what}", len(panels), height, columns=2, margins=(1.2, 0.7))
    smallest = rows.error[rows.error > 0].min()
    for ax, (mode, part) in zip(axes, panels, strict=True):
        providers = in_order(part.provider)
        for i, provider in enumerate(providers):
            errors = part.error[part.provider == provider].to_numpy()
            shown = np.maximum(errors, smallest / 4) if np.isfinite(smallest) else errors
            ax.plot(shown, np.full(len(shown), i), ".", color=look(provider)["color"], alpha=0.5)
            ax.plot([np.median(shown)] * 2, [i - 0.3, i + 0.3], color=look(provider)["color"])
            ax.annotate(
                words.scientific(np.median(errors)), (1, i), xycoords=("axes fraction", "data"), xytext=(4, 0),
                textcoords="offset points", va="center", fontsize=7.5,
            )  # fmt: skip
        if np.isfinite(smallest):
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0e}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
        _rows_of(ax, providers)
        ax.set_title(words.mode(mode))
        ax.set_xlabel("largest |y - y64| over largest |y64|; median at the right")
    return fig


@styled
def gate_maps(maps: Mapping[str, np.ndarray], legends: Mapping[str, Legend]) -> Figure | None:
    """The photograph, then each op's gate upon it: a map per pixel as a veil, a map per channel as sorted bars."""
    image = maps.get(PHOTO)
    names = [name for name in maps if name != PHOTO]
    if not names:
        return None
    fig, axes = figure("gate maps of a photograph", len(names) + (image is not None), 3.5, margins=(0.5, 0.75))
    for ax in axes:  # room for two lines of a note
        box = ax.get_position()
        ax.set_position((box.x0, box.y0, box.width, box.height - 0.3 / fig.get_figheight()))
    axes = iter(axes)
    if image is not None:
        ax = next(axes)
        ax.imshow(_picture(image))
        ax.set_title("photograph")
        ax.set_axis_off()
    for ax, name in zip(axes, names, strict=True):
        gate, legend = np.asarray(maps[name], np.float32), legends.get(name, Legend())
        plane = _plane(gate)
        if plane is None:
            values = np.sort(gate.ravel())[::-1]
            ax.set_ylabel(legend.unit)
            ax.set_xlabel("channels, strongest first")
            ax.bar(np.arange(len(values)), values, width=1.0, color=look("segattn")["color"])
        else:
            _veil(fig, ax, image, plane, legend.unit)
        note = textwrap.wrap(legend.note, NOTE_WIDTH)
        ax.set_title(name, pad=6 + 9 * len(note))
        ax.annotate(
            "\n".join(note), (0, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points",
            va="bottom", fontsize=7, color=MUTED,
        )  # fmt: skip
    return fig


def _veil(fig: Figure, ax, image: np.ndarray | None, plane: np.ndarray, unit: str) -> None:
    height, width = image.shape[:2] if image is not None else plane.shape
    if image is not None:
        ax.imshow(_picture(image).mean(axis=-1), cmap="gray", extent=(0, width, height, 0))
    drawn = ax.imshow(
        plane, cmap="viridis", alpha=0.6 if image is not None else 1, extent=(0, width, height, 0),
        interpolation="bilinear",
    )  # fmt: skip
    ax.set_axis_off()
    bar = fig.colorbar(drawn, cax=ax.inset_axes((1.03, 0, 0.04, 1)))
    bar.outline.set_visible(False)
    bar.set_label(unit, fontsize=6.5)
    bar.ax.tick_params(labelsize=6.5, labelcolor=INK)


def _picture(image: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, 3 or 4) of bytes or 0..1 -> (H, W, 3) of 0..1"""
    image = np.asarray(image)
    image = image[:: max(1, image.shape[0] // 480), :: max(1, image.shape[0] // 480)]
    image = image / 255 if image.dtype == np.uint8 else np.clip(image.astype(float), 0, 1)
    return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image[..., :3]


def _plane(gate: np.ndarray) -> np.ndarray | None:
    """(N, C, H, W), (C, H, W) or (H, W) -> (H, W), the mean over channels of the first image; None for (N, C)."""
    while gate.ndim > 3:
        gate = gate[0]
    if gate.ndim == 3:
        gate = gate.mean(axis=0)
    return gate if gate.ndim == 2 and min(gate.shape) > 1 else None
