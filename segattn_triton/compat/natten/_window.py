"""NATTEN's arguments as one window: one value for all axes or one for each; and what is refused, with what to use."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...runtime import checks as check

AXES = {1: "L", 2: "H, W", 3: "T, H, W"}  # what error messages call the axes


class AxesWindow(NamedTuple):
    """One value an axis."""

    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]
    is_causal: tuple[bool, ...]

    @property
    def needs(self) -> tuple[int, ...]:
        """The smallest map that it fits into."""
        return tuple(k * d for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @property
    def taps(self) -> int:
        return math.prod(self.kernel_size)


def per_axis(name: str, value, axes: int) -> tuple:
    """A value for each axis, of one for all or of as many as there are axes."""
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * axes
    if len(values) != axes:
        raise ValueError(f"{name}: got {value!r}, expected one value, or one for each of {axes} axes")
    return values


def window(axes: int, kernel_size, dilation=1, is_causal=False, stride=1) -> AxesWindow:
    """The window of NATTEN's arguments. A dilation or is_causal of None is the default, as in NATTEN."""
    sizes = per_axis("kernel_size", kernel_size, axes)
    steps = per_axis("dilation", 1 if dilation is None else dilation, axes)
    for name, given, values in (("kernel_size", kernel_size, sizes), ("dilation", dilation, steps)):
        if any(isinstance(v, bool) or not isinstance(v, int | torch.SymInt) or v < 1 for v in values):
            raise ValueError(f"{name}: got {given!r}, expected ints of at least 1")
    if any(k % 2 == 0 for k in sizes):
        odd = tuple(k + 1 - k % 2 for k in sizes)
        raise ValueError(f"kernel_size: got {kernel_size!r}, expected odd sizes, around a pixel: use {odd}")
    if any(s != 1 for s in per_axis("stride", stride, axes)):
        raise ValueError(
            f"stride: got {stride!r}, expected 1, a window for every query: use stride=1, or for queries that share "
            "windows a window attention of blocks"
        )
    causal = per_axis("is_causal", False if is_causal is None else is_causal, axes)
    if not all(isinstance(c, bool) for c in causal):
        raise ValueError(f"is_causal: got {is_causal!r}, expected bools")
    return AxesWindow(sizes, steps, causal)


def no_additional(**tensors) -> None:
    """NATTEN's keys and values beside the window are refused."""
    for name, value in tensors.items():
        if value is not None:
            raise ValueError(
                f"{name}: got {type(value).__name__}, expected None: attend to them in a second call and weigh the two "
                "results by exp(lse), which return_lse=True returns"
            )


def vectors(axes: int, name: str, t, like: Tensor | None = None, like_name: str = "query") -> None:
    """t is (N, *S, heads, D); with `like`, of its dtype, device, batch and map, and a divisor of its heads."""
    check.tensor(name, t)
    form = f"(N, {AXES[axes]}, heads, D)"
    if t.dim() != axes + 3 or 0 in t.shape[1:]:
        raise ValueError(f"{name}: got {t.dim()} axes, shape {check.shape(t)}, expected {form}, none of them empty")
    if like is None:
        return
    if t.device != like.device:
        raise ValueError(f"{name}: is on {t.device}, {like_name} is on {like.device}: expected one device")
    if t.dtype != like.dtype:
        raise TypeError(f"{name}: got dtype {t.dtype}, expected {like_name}'s {like.dtype}")
    if t.shape[:-2] != like.shape[:-2] or like.shape[-2] % t.shape[-2]:
        raise ValueError(
            f"{name}: got shape {check.shape(t)}, expected the map of {like_name} {check.shape(like)}, and its number "
            "of heads or a divisor of it"
        )


def fits(window: AxesWindow, t: Tensor) -> None:
    """The map of t (N, *S, ...) holds the window."""
    if any(length < need for length, need in zip(t.shape[1:], window.needs, strict=False)):
        size = tuple(t.shape[1 : 1 + len(window.needs)])
        raise ValueError(
            f"kernel_size: got {window.kernel_size} with dilation {window.dilation} for a map of {size}, expected at "
            f"least {window.needs}: pad the map, as the modules of this package do, or use "
            'functional.neighborhood_attention with border="mask"'
        )


def table(rpb, query: Tensor, window: AxesWindow) -> Tensor | None:
    """The table of biases in the query's dtype or, of any other, in float32."""
    if rpb is None:
        return None
    if any(window.is_causal):
        raise ValueError(f"rpb: got {type(rpb).__name__} with is_causal={window.is_causal}: use rpb=None")
    floats = isinstance(rpb, Tensor) and rpb.is_floating_point() and rpb.dtype != query.dtype
    rpb = rpb.float() if floats else rpb
    expected = (query.shape[-2], *(2 * k - 1 for k in window.kernel_size))
    check.parameter("rpb", rpb, query, expected, map_name="query")
    return rpb
