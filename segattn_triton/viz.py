"""Pictures of what gates look at, in matplotlib: a map as a veil over the image, a gate of channels as bars.

Maps are those of `capture_attention`, or of `return_map=True`. Images are (H, W), (H, W, 3) or (3, H, W), arrays or
tensors, in bytes or from 0 to 1. Of a batch the first is shown. matplotlib is imported when something is drawn.
"""

import importlib.util
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F


def _need(package: str) -> None:
    """Say which extra brings what is absent."""
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f'{package} is not installed: pip install "segattn_triton[perf]"', name=package)


_need("numpy")
import numpy as np  # noqa: E402

COLOURS = "viridis"
COLUMNS = 3
GREY = "#5b6470"
KINDS = {  # kind of a map -> what its panel says
    "pixel": "one gate a pixel",
    "value": "one gate a value, mean of {} channels",
    "channel": "one gate a channel, strongest first",
    "neighborhood": "focus of a pixel on some of its {} neighbours",
}


def overlay(image: Any, map: Any, alpha: float = 0.55, limits: tuple[float, float] | None = None) -> np.ndarray:
    """The map as a veil of colours over the greyed image: RGB bytes (H, W, 3) of the image's size.

    map: (H', W'), or as of a gate: (N, 1, H', W'), (N, C, H', W') as its mean over the channels, or
    (N, heads, k*k, H', W') as `focus`; scaled bilinearly. alpha: 0 is the image alone, 1 the map alone. limits: the
    values of the first and the last colour, by default the least and the largest of the map.
    Errors: ValueError for another shape, or an image beyond 0 to 1.
    """
    _need("matplotlib")
    from matplotlib import colormaps

    picture = _picture(image)
    plane = _resized(_plane(map), picture.shape[:2])
    low, high = limits or (plane.min(), plane.max())
    colours = colormaps[COLOURS](np.clip((plane - low) / max(high - low, 1e-12), 0, 1))[..., :3]
    grey = picture @ [0.299, 0.587, 0.114]
    return np.uint8(np.rint(255 * (alpha * colours + (1 - alpha) * grey[..., None])))


def plot_gates(maps: Mapping[str, Any], image: Any, title: str = "", caption: str = ""):
    """The image, then a panel for each map by its name: a matplotlib `Figure`, with a title above and a caption below.

    maps: {name: map} of `capture_attention`. A gate by pixel or value is a veil over the image with its scale, one by
    channel sorted bars, neighbourhood attention its `focus`. Errors: ValueError without maps, or as of `overlay`.
    """
    _need("matplotlib")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    if not maps:
        raise ValueError("maps: got none, expected {name: map}: did the model run inside capture_attention?")
    picture = _picture(image)
    height, width = picture.shape[:2]
    shape = min(max(height / width, 0.2), 5)  # of a panel: a line of pixels is no line of inches
    columns = min(COLUMNS, 1 + len(maps))
    rows = math.ceil((1 + len(maps)) / columns)
    cell, lines = 3.1, 0.35 * bool(title) + 0.25 * bool(caption)
    size = cell * columns, (cell * 0.75 * shape + 0.45) * rows + lines
    fig = Figure(figsize=size, layout="constrained", dpi=96)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, parse_math=False)
    if caption:
        fig.supxlabel(caption, x=0.01, ha="left", fontsize=7.5, color=GREY, parse_math=False)
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[1 + len(maps) :]:
        ax.set_axis_off()
    axes[0].imshow(picture)
    _title(axes[0], "image", f"{width} x {height}")
    axes[0].set_axis_off()
    for ax, (name, values) in zip(axes[1:], maps.items(), strict=False):
        values = _array(values)
        kind = _kind(values)
        if kind == "channel":
            strongest = np.sort(values[0])[::-1]
            ax.bar(np.arange(len(strongest)), strongest, width=1.0, color="#0072b2")
            ax.spines[["top", "right"]].set_visible(False)
            ax.tick_params(labelsize=7)
            ax.set_xlabel("channels", fontsize=7)
            ax.set_ylabel("gate", fontsize=7)
            ax.set_box_aspect(shape)
            _title(ax, name, KINDS[kind])
            continue
        plane = _plane(values)
        low, high = np.percentile(plane, [1, 99])
        ax.imshow(overlay(picture, plane, limits=(low, high)))
        ax.set_axis_off()
        scale = ScalarMappable(Normalize(low, high if high > low else low + 1e-6), COLOURS)
        bar = fig.colorbar(scale, ax=ax, fraction=0.045, pad=0.02, extend="both")
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7, length=2)
        bar.set_label("focus" if kind == "neighborhood" else "gate", fontsize=7)
        _title(ax, name, KINDS[kind].format(values.shape[2 if kind == "neighborhood" else 1]))
    return fig


def focus(map: Any) -> np.ndarray:
    """(H, W) of neighbourhood attention (N, heads, k*k, H, W): 0 where a pixel looks at all its neighbours alike, 1
    where at a single one. It is 1 - entropy / log(k*k), the mean over the heads of the first image."""
    p = _array(map)[0]
    entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(1)
    return 1 - entropy.mean(0) / math.log(p.shape[1])


def _title(ax, name: str, note: str) -> None:
    ax.set_title(f"{name or '(the model)'}\n", fontsize=9, fontweight="bold", loc="left", parse_math=False)
    ax.annotate(
        note, (0, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points", fontsize=7.5, color=GREY
    )


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, np.float64)


def _kind(values: np.ndarray) -> str:
    if values.ndim == 2:
        return "channel"
    if values.ndim == 4:
        return "pixel" if values.shape[1] == 1 else "value"
    if values.ndim == 5 and np.allclose(values.sum(2), 1, atol=0.02):
        return "neighborhood"
    expected = "(N, C), (N, 1, H, W), (N, C, H, W) or (N, heads, k*k, H, W) of sum 1 over k*k"
    raise ValueError(f"map: got shape {values.shape}, expected {expected}")


def _plane(map: Any) -> np.ndarray:
    """(H, W) of any map that has pixels."""
    values = _array(map)
    if values.ndim == 2:
        return values
    return focus(values) if _kind(values) == "neighborhood" else values[0].mean(0)


def _resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    scaled = F.interpolate(torch.from_numpy(plane)[None, None], size=size, mode="bilinear", align_corners=False)
    return scaled[0, 0].numpy()


def _picture(image: Any) -> np.ndarray:
    """(H, W, 3) from 0 to 1."""
    values = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    given = values.shape
    values = values / 255 if values.dtype == np.uint8 else values.astype(np.float64)
    values = values[0] if values.ndim == 4 and len(values) == 1 else values
    if values.ndim == 3 and values.shape[-1] not in (1, 3, 4):
        values = np.moveaxis(values, 0, -1)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] not in (1, 3, 4):
        raise ValueError(f"image: got shape {given}, expected (H, W), (H, W, 3) or (3, H, W)")
    if not (values.min() >= -1e-6 and values.max() <= 1 + 1e-6):
        raise ValueError(f"image: got values from {values.min():.3g} to {values.max():.3g}, expected bytes or 0 to 1")
    return np.clip(np.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else values[..., :3], 0, 1)
