"""Neighbourhood attention over any number of axes, in plain torch: what windows without a kernel run on.

Each axis has a window k, a dilation d and a border of its own. Along one of length L the query at i sees the keys at
first(i) + t d, t = 0..k-1:

    first(i) = i - (k // 2) d, moved by whole steps of d to where all k keys lie in the map
    causal: first(i) = the larger of i - (k - 1) d and i mod d; keys after i do not exist

Computed in float32 (float64), with one rounding at the end. Source: Hassani et al. 2023, arXiv:2204.07143.
"""

import functools
import math

import torch
from torch import Tensor

from ._window import AxesWindow


def _axis(length: int, kernel_size: int, dilation: int, is_causal: bool, device) -> tuple[Tensor, Tensor, Tensor]:
    """The key of every query and tap, whether it exists, and its index in the table of biases; each [L, k]."""
    i = torch.arange(length, device=device)
    first_of_class = i % dilation
    if is_causal:
        first = torch.maximum(i - (kernel_size - 1) * dilation, first_of_class)
    else:
        last_of_class = length - 1 - (length - 1 - i) % dilation
        first = torch.maximum(i - kernel_size // 2 * dilation, first_of_class)
        first = torch.minimum(first, last_of_class - (kernel_size - 1) * dilation)
    j = first[:, None] + dilation * torch.arange(kernel_size, device=device)
    relative = (j - i[:, None]) // dilation + kernel_size - 1
    exists = j <= i[:, None] if is_causal else torch.ones_like(j, dtype=torch.bool)
    return j.clamp(max=length - 1), exists, relative


def _axes(t: Tensor, window: AxesWindow) -> list[tuple[Tensor, Tensor, Tensor]]:
    return [_axis(length, *of_axis, t.device) for length, *of_axis in zip(t.shape[1:], *window, strict=False)]


def _outer(parts: list[Tensor]) -> list[Tensor]:
    """Each [L, k] with axes of length 1 for those of the others, so that they meet as [*S, *K]."""
    ones = [1] * (len(parts) - 1)
    return [part.reshape(*ones[:a], len(part), *ones, -1, *ones[a:]) for a, part in enumerate(parts)]


def _exists(t: Tensor, window: AxesWindow) -> Tensor:
    """[*S, 1, taps]"""
    parts = _outer([exists for _, exists, _ in _axes(t, window)])
    return functools.reduce(torch.logical_and, parts).flatten(len(parts)).unsqueeze(-2)


def _around(t: Tensor, window: AxesWindow) -> Tensor:
    """The vectors around every pixel, zero where there is no key; [N, *S, heads, taps, D], the taps row by row."""
    n = len(window.kernel_size)
    around = t
    for axis, (j, _, _) in enumerate(_axes(t, window)):
        around = around[(slice(None),) * (1 + 2 * axis) + (j,)]  # [.., L, k, ..]
    places, taps = (list(range(start, 2 * n + 1, 2)) for start in (1, 2))
    around = around.permute(0, *places, -2, *taps, -1).flatten(n + 2, -2)
    if any(window.is_causal):
        around = torch.where(_exists(t, window)[..., None], around, torch.zeros_like(around))
    return around


def _scores(q: Tensor, k: Tensor, rpb: Tensor | None, window: AxesWindow, scale: float) -> Tensor:
    groups = q.unflatten(-2, (k.shape[-2], -1))  # the query heads of each key head
    s = torch.einsum("...gd,...kd->...gk", groups, _around(k, window)).flatten(-3, -2) * scale
    if rpb is not None:
        relative = _outer([relative for _, _, relative in _axes(k, window)])
        bias = rpb[(slice(None), *relative)]  # [heads, *S, *K]
        s = s + bias.flatten(1 + len(relative)).movedim(0, -2)
    return s.masked_fill(~_exists(k, window), -math.inf) if any(window.is_causal) else s


def _weighted(p: Tensor, v: Tensor, window: AxesWindow) -> Tensor:
    if any(window.is_causal):
        p = torch.where(_exists(v, window), p, torch.zeros_like(p))
    groups = p.unflatten(-2, (v.shape[-2], -1))
    return torch.einsum("...gk,...kd->...gd", groups, _around(v, window)).flatten(-3, -2)


def _in_full_precision(fn):
    """Run `fn` on tensors of at least float32, with autocast off. It returns what it computed, not yet rounded."""

    @functools.wraps(fn)
    def wrapped(*given, **options):
        tensors = [t for t in given if t is not None]
        wide = functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
        with torch.autocast(tensors[0].device.type, enabled=False):
            return fn(*(t if t is None else t.to(wide) for t in given), **options)

    return wrapped


@_in_full_precision
def _attend(q, k, v, rpb, window, scale):
    s = _scores(q, k, rpb, window, scale)
    return _weighted(s.softmax(-1), v, window), s.logsumexp(-1)


def attention(q: Tensor, k: Tensor, v: Tensor, rpb: Tensor | None, window: AxesWindow, scale: float):
    """y_i = sum_j p_ij v_j and lse_i. q (N, *S, heads, D), k and v (N, *S, heads_kv, D), lse (N, *S, heads)."""
    y, lse = _attend(q, k, v, rpb, window=window, scale=scale)
    return y.to(q.dtype), lse


def scores(q: Tensor, k: Tensor, rpb: Tensor | None, window: AxesWindow, scale: float) -> Tensor:
    """s_ij = scale <q_i, k_j> + bias, (N, *S, heads, taps); -inf for keys that do not exist."""
    return _in_full_precision(_scores)(q, k, rpb, window=window, scale=scale).to(q.dtype)


def weighted(attn: Tensor, v: Tensor, window: AxesWindow) -> Tensor:
    """y_i = sum_j attn_ij v_j, (N, *S, heads, D)."""
    return _in_full_precision(_weighted)(attn, v, window=window).to(v.dtype)
