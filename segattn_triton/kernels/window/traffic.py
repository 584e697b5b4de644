"""Attention over windows: how often its kernels load what, exactly, for the traffic of their plans."""

import math

from torch import Tensor

from .layout import Reach, pixels


def _along(length: int, kernel: int, dilation: int, causal: bool, border: str) -> float:
    """The mean number of keys of a query along an axis, and of queries of a key."""
    if border == "shift" and not causal:
        return kernel
    taps = min(kernel - 1 if causal else kernel // 2, (length - 1) // dilation)  # to one side, that reach a pixel
    one_side = taps * length - dilation * taps * (taps + 1) // 2
    return 1 + one_side * (1 if causal else 2) / length


def keys_per_query(t: Tensor, axes: Reach) -> float:
    """The mean number of keys inside the image of t (N, *S, heads, D), and of queries per key."""
    of_axes = zip(pixels(t), axes.kernel, axes.dilation, axes.causal, strict=True)
    return math.prod(_along(*of_axis, axes.border) for of_axis in of_axes)


def bias_loads(t: Tensor, axes: Reach, pairs: float) -> float:
    """Of an entry of the relative bias, where every query of t (N, *S, heads, D) loads one for each of so many keys."""
    return math.prod(t.shape[:-2]) * pairs / axes.entries
