"""Errors of neighbourhood attention: tensors with heads, and its window. See `checks`."""

import math

import torch
from torch import Tensor

from .checks import choice, parameter, shape, tensor, text

HEAD_DIM = {torch.float16: 256, torch.bfloat16: 256, torch.float32: 128, torch.float64: 128}
BORDERS = ("shift", "mask", "zero")
WIDE = 255  # pixels along an axis of a window that may reach past every pixel of a smaller image


def heads_last(name: str, t, like: Tensor | None = None, like_name: str = "q") -> None:
    """t is (N, H, W, heads, D); with `like`, of its dtype, device, batch and image."""
    tensor(name, t)
    if t.dim() != 5:
        raise ValueError(f"{name}: got {t.dim()} axes, shape {shape(t)}, expected (N, H, W, heads, D)")
    if 0 in t.shape[1:]:
        raise ValueError(f"{name}: got shape {shape(t)}, expected at least one pixel, one head and D of 1")
    if like is None:
        return
    if t.device != like.device:
        raise ValueError(f"{name}: is on {t.device}, {like_name} is on {like.device}: expected one device")
    if t.dtype != like.dtype:
        raise TypeError(f"{name}: got dtype {t.dtype}, expected {like_name}'s {like.dtype}")
    if t.shape[:3] != like.shape[:3]:
        expected = ", ".join(map(str, like.shape[:3]))
        raise ValueError(f"{name}: got shape {shape(t)}, expected ({expected}, heads, D) as {like_name} {shape(like)}")


def head_groups(name: str, t: Tensor, like: Tensor, like_name: str = "q") -> None:
    """The heads of `like` share those of t evenly."""
    if like.shape[3] % t.shape[3]:
        raise ValueError(f"{name}: got {t.shape[3]} heads, expected {like_name}'s {like.shape[3]} or a divisor of it")


def head_dim(name: str, t: Tensor, D: int | None = None) -> None:
    if D is not None and t.shape[4] != D:
        raise ValueError(f"{name}: got D = {t.shape[4]}, shape {shape(t)}, expected D = {D} as of q")
    if t.shape[4] > HEAD_DIM[t.dtype]:
        raise ValueError(f"{name}: got D = {t.shape[4]}, expected at most {HEAD_DIM[t.dtype]} in {t.dtype}")


def neighborhood(kernel_size, dilation, border: str, t: Tensor) -> int:
    """The window exists in the image of t (N, H, W, ...). The dilation, no larger than what leaves each pixel alone."""
    choice("border", border, BORDERS)
    for name, value in (("kernel_size", kernel_size), ("dilation", dilation)):
        if isinstance(value, bool) or not isinstance(value, int | torch.SymInt) or not 1 <= value < 2**31:
            raise ValueError(f"{name}: got {text(value)}, expected an int of at least 1, below 2^31")
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size: got {kernel_size}, expected an odd number")
    H, W = t.shape[1:3]
    if border == "shift" and kernel_size * dilation > min(H, W):
        raise ValueError(
            f"kernel_size: got {kernel_size} with dilation {dilation} for an image of {H} x {W}; the border "
            f'"shift" needs at least {kernel_size * dilation} pixels along both axes: use border="mask" or "zero"'
        )
    if kernel_size > WIDE and kernel_size > (most := 2 * max(H, W) - 1):
        raise ValueError(
            f"kernel_size: got {kernel_size} for an image of {H} x {W}, expected at most {max(WIDE, most)}: a larger "
            "window reaches no pixel more"
        )
    return dilation if dilation == 1 else min(dilation, max(H, W))


def score_options(rel_bias, scale, q: Tensor, kernel_size: int) -> None:
    if rel_bias is not None:
        table = 2 * kernel_size - 1
        parameter("rel_bias", rel_bias, q, (q.shape[3], table, table))
    if scale is not None and (
        isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale)
    ):
        got = type(scale).__name__ if isinstance(scale, Tensor) else repr(scale)
        raise ValueError(f"scale: got {got}, expected a finite number, or None for D^-0.5")
