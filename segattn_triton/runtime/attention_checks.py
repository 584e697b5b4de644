"""Errors of neighbourhood attention: tensors with heads, and its window. See `checks`."""

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from .checks import choice, parameter, shape, tensor, text

HEAD_DIM = {torch.float16: 256, torch.bfloat16: 256, torch.float32: 128, torch.float64: 128}
BORDERS = ("shift", "mask", "zero")
WIDE = 255  # pixels along an axis of a window that may reach past every pixel of a smaller image
_HEADS_LAST = "(N, L, heads, D), (N, H, W, heads, D) or (N, T, H, W, heads, D)"


def heads_last(name: str, t, like: Tensor | None = None, like_name: str = "q") -> None:
    """t is (N, *S, heads, D) over one, two or three axes; with `like`, of its dtype, device, batch and image."""
    tensor(name, t)
    if not 4 <= t.dim() <= 6 or (like is not None and t.dim() != like.dim()):
        wanted = _HEADS_LAST if like is None else f"{like.dim()} as {like_name}"
        raise ValueError(f"{name}: got {t.dim()} axes, shape {shape(t)}, expected {wanted}")
    if 0 in t.shape[1:]:
        raise ValueError(f"{name}: got shape {shape(t)}, expected at least one pixel, one head and D of 1")
    if like is None:
        return
    if t.device != like.device:
        raise ValueError(f"{name}: is on {t.device}, {like_name} is on {like.device}: expected one device")
    if t.dtype != like.dtype:
        raise TypeError(f"{name}: got dtype {t.dtype}, expected {like_name}'s {like.dtype}")
    if t.shape[:-2] != like.shape[:-2]:
        expected = ", ".join(map(str, like.shape[:-2]))
        raise ValueError(f"{name}: got shape {shape(t)}, expected ({expected}, heads, D) as {like_name} {shape(like)}")


def head_groups(name: str, t: Tensor, like: Tensor, like_name: str = "q") -> None:
    """The heads of `like` share those of t evenly."""
    if like.shape[-2] % t.shape[-2]:
        raise ValueError(f"{name}: got {t.shape[-2]} heads, expected {like_name}'s {like.shape[-2]} or a divisor of it")


def head_dim(name: str, t: Tensor, D: int | None = None) -> None:
    if D is not None and t.shape[-1] != D:
        raise ValueError(f"{name}: got D = {t.shape[-1]}, shape {shape(t)}, expected D = {D} as of q")
    if t.shape[-1] > HEAD_DIM[t.dtype]:
        raise ValueError(f"{name}: got D = {t.shape[-1]}, expected at most {HEAD_DIM[t.dtype]} in {t.dtype}")


def neighborhood(kernel_size, dilation, is_causal, border: str, t: Tensor) -> dict:
    """The window exists in the image of t (N, *S, heads, ...). Its options with a value for each axis: dilations no
    larger than what leaves each pixel alone, is_causal empty where no axis is."""
    choice("border", border, BORDERS)
    S, axes = t.shape[1:-2], t.dim() - 3
    sizes, steps = _whole("kernel_size", kernel_size, axes), _whole("dilation", dilation, axes)
    causal = _causal(is_causal, axes)
    _odd(kernel_size, sizes)
    needs = [1 if c else k * d for k, d, c in zip(sizes, steps, causal or [False] * axes, strict=True)]
    if border == "shift" and any(need > length for need, length in zip(needs, S, strict=True)):
        raise ValueError(
            f"kernel_size: got {text(kernel_size)} with dilation {text(dilation)} for an image of {_by(S)}; the border "
            f'"shift" needs at least {_by(needs)} pixels: use border="mask" or "zero"'
        )
    if max(sizes) > WIDE and max(sizes) > (most := 2 * max(S) - 1):
        raise ValueError(
            f"kernel_size: got {text(kernel_size)} for an image of {_by(S)}, expected at most {max(WIDE, most)}: a "
            "larger window reaches no pixel more"
        )
    steps = [d if d == 1 else min(d, max(S)) for d in steps]
    return dict(kernel_size=sizes, dilation=steps, border=border, is_causal=causal)


def window_options(axes: int, kernel_size, dilation, is_causal) -> tuple[list[int], dict]:
    """The size along each axis, and the options of a module's window as they were given, of numpy's ints plain ones."""
    window = dict(kernel_size=kernel_size, dilation=dilation, is_causal=is_causal)
    for name, value in window.items():
        window[name] = tuple(map(_plain, value)) if isinstance(value, Sequence) else _plain(value)
    sizes, _ = _whole("kernel_size", window["kernel_size"], axes), _whole("dilation", window["dilation"], axes)
    _odd(kernel_size, sizes)
    _causal(window["is_causal"], axes)
    return sizes, window


def _plain(value):
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _causal(value, axes: int) -> list[bool]:
    """For each axis; empty where none is."""
    values = _per_axis("is_causal", value, axes, "True or False")
    if not all(isinstance(v, bool) for v in values):
        raise ValueError(f"is_causal: got {text(value)}, expected True or False, or one of them for each axis")
    return values if any(values) else []


def _odd(kernel_size, sizes: Sequence[int]) -> None:
    if not all(k % 2 for k in sizes):
        raise ValueError(f"kernel_size: got {text(kernel_size)}, expected an odd number")


def _per_axis(name: str, value, axes: int, of: str) -> list:
    """A value for each axis, of one for all or of as many as there are axes."""
    values = [*value] if isinstance(value, Sequence) and not isinstance(value, str) else [value] * axes
    if len(values) != axes:
        many = "one axis" if axes == 1 else f"{axes} axes"
        raise ValueError(f"{name}: got {text(value)}, expected {of}, or one for each of {many}")
    return values


def _whole(name: str, value, axes: int) -> list[int]:
    values = _per_axis(name, value, axes, "an int of at least 1")
    if not all(isinstance(v, int | torch.SymInt) and not isinstance(v, bool) and 1 <= v < 2**31 for v in values):
        raise ValueError(f"{name}: got {text(value)}, expected an int of at least 1, below 2^31, or one for each axis")
    return values


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def score_options(rel_bias, scale, q: Tensor, kernel_size: Sequence[int]) -> None:
    if rel_bias is not None:
        parameter("rel_bias", rel_bias, q, (q.shape[-2], *(2 * k - 1 for k in kernel_size)))
    if scale is not None and (
        isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale)
    ):
        got = type(scale).__name__ if isinstance(scale, Tensor) else repr(scale)
        raise ValueError(f"scale: got {got}, expected a finite number, or None for D^-0.5")
