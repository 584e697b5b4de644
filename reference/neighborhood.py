"""Every pixel attends to the pixels of the window around it, along one, two or three axes.

Along one axis of length L, with k pixels d apart, the query at i sees the keys at first(i) + t d, t = 0..k-1:

    shift   first(i) = i - (k // 2) d moved by whole steps of d to where all k keys lie in the image; needs L >= k d
    mask    first(i) = i - (k // 2) d; keys outside the image do not exist
    zero    first(i) = i - (k // 2) d; keys and values outside are zero vectors, with a score of 0 plus their bias

On a causal axis the window ends at i, first(i) = i - (k - 1) d, with "shift" the larger of that and i mod d; keys
after i do not exist.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._precision import rounding_error, rounding_point


def _in_full_precision(fn: Callable) -> Callable:
    """Run `fn` on tensors of at least fp32, with autocast off. It returns what it computed, not yet rounded."""

    @functools.wraps(fn)
    def wrapped(*tensors: Tensor, rel_bias: Tensor | None = None, **options):
        given = [*tensors, *([] if rel_bias is None else [rel_bias])]
        wide = functools.reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
        with torch.autocast(tensors[0].device.type, enabled=False):
            bias = None if rel_bias is None else rel_bias.to(wide)
            return fn(*(t.to(wide) for t in tensors), rel_bias=bias, **options)

    return wrapped


class _Around(NamedTuple):
    """One value for each axis of a map."""

    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]
    is_causal: tuple[bool, ...]
    border: str

    @property
    def excludes(self) -> bool:
        """Whether a window may have keys that do not exist."""
        return self.border == "mask" or (self.border == "shift" and any(self.is_causal))


def _window(t: Tensor, kernel_size, dilation, border: str, is_causal) -> _Around:
    """Of one value for all axes, or one for each, for maps t (N, *S, heads, ...)."""
    axes = t.dim() - 3
    given = ([*v] if isinstance(v, Sequence) else [v] for v in (kernel_size, dilation, is_causal))
    return _Around(*(tuple(v * axes if len(v) == 1 else v or [False] * axes) for v in given), border)


def _axis(length: int, kernel_size: int, dilation: int, is_causal: bool, border: str, device) -> tuple[Tensor, ...]:
    """The key of every query and tap, whether it exists, and its index in the relative bias; each [L, k]."""
    i = torch.arange(length, device=device)
    first = i - (kernel_size - 1 if is_causal else kernel_size // 2) * dilation
    if border == "shift":
        first = torch.maximum(first, i % dilation)
    if border == "shift" and not is_causal:
        last_of_class = length - 1 - (length - 1 - i) % dilation
        first = torch.minimum(first, last_of_class - (kernel_size - 1) * dilation)
    j = first[:, None] + dilation * torch.arange(kernel_size, device=device)
    relative = (j - i[:, None]) // dilation + kernel_size - 1
    exists = (j >= 0) & (j <= i[:, None] if is_causal else j < length)
    return j.clamp(0, length - 1), exists, relative


def _axes(t: Tensor, window: _Around) -> list[tuple[Tensor, ...]]:
    of_axes = zip(t.shape[1:-2], window.kernel_size, window.dilation, window.is_causal, strict=True)
    return [_axis(*of_axis, window.border, t.device) for of_axis in of_axes]


def _outer(parts: list[Tensor]) -> list[Tensor]:
    """Each [L, k] with axes of length 1 for those of the others, so that they meet as [*S, *K]."""
    ones = [1] * (len(parts) - 1)
    return [part.reshape(*ones[:a], part.shape[0], *ones, -1, *ones[a:]) for a, part in enumerate(parts)]


def _exists(t: Tensor, window: _Around) -> Tensor:
    """Which keys of a query lie in the image, and not after it; [*S, 1, taps]"""
    parts = _outer([exists for _, exists, _ in _axes(t, window)])
    return functools.reduce(torch.logical_and, parts).flatten(len(parts))[..., None, :]


def _around(t: Tensor, heads: int, window: _Around) -> Tensor:
    """The vectors around every pixel, zero where there is no key; [N, *S, heads, taps, D]"""
    axes, around = len(window.kernel_size), t
    for axis, (j, _, _) in enumerate(_axes(t, window)):
        around = around[(slice(None),) * (1 + 2 * axis) + (j,)]  # [.., L, k, ..]
    order = [0, *range(1, 2 * axes, 2), 2 * axes + 1, *range(2, 2 * axes + 1, 2), 2 * axes + 2]
    around = around.permute(order).flatten(axes + 2, -2)
    around = around.masked_fill(~_exists(t, window)[..., None], 0.0)
    return around.repeat_interleave(heads // t.shape[-2], dim=-3)


def _scores(q: Tensor, k: Tensor, rel_bias, window: _Around, scale: float | None) -> Tensor:
    keys = _around(k, q.shape[-2], window)
    s = torch.einsum("...d,...kd->...k", q, keys) * (q.shape[-1] ** -0.5 if scale is None else scale)
    s = rounding_point("s", s)
    exists = _exists(k, window)
    s = s.masked_fill(~exists, 0.0)
    if rel_bias is not None:
        bias = rel_bias[(slice(None), *_outer([relative for _, _, relative in _axes(k, window)]))]
        s = s + bias.flatten(1 + len(window.kernel_size)).movedim(0, -2)
    return s.masked_fill(~exists, float("-inf")) if window.excludes else s


def _weighted(p: Tensor, v: Tensor, window: _Around) -> Tensor:
    values = _around(v, p.shape[-2], window)
    if window.excludes:
        p = p.masked_fill(~_exists(v, window), 0.0)
    return torch.einsum("...k,...kd->...d", p, values)


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_bias: Tensor | None = None,
    *,
    kernel_size: int | Sequence[int] = 3,
    dilation: int | Sequence[int] = 1,
    border: str = "shift",
    scale: float | None = None,
    return_lse: bool = False,
    is_causal: bool | Sequence[bool] = False,
):
    """y_i = sum_j p_ij v_j, p_i = softmax_j(scale <q_i, k_j> + bias). y (N, *S, heads, D), lse (N, *S, heads)."""
    window = _window(q, kernel_size, dilation, border, is_causal)

    @_in_full_precision
    def attend(q, k, v, rel_bias):
        s = _scores(q, k, rel_bias, window, scale)
        p, lse = s.softmax(-1), s.logsumexp(-1)
        lse = lse.masked_fill((s == float("inf")).any(-1), float("nan"))  # as y: such scores have no softmax
        y = _weighted(p, v, window)
        error = rounding_error("p", p)  # in P V and dv: the other gradients have p from s and lse
        error = error if error is None else _weighted(error, v, window)
        return _as_stored(y, error, lse), lse

    y, lse = attend(q, k, v, rel_bias=rel_bias)
    return (y.to(q.dtype), lse) if return_lse else y.to(q.dtype)


def _as_stored(y: Tensor, error: Tensor | None, lse: Tensor) -> Tensor:
    """y + error, whose gradient takes <y, dy>, the one of -lse, of y as it is stored; y itself where nothing rounds."""
    found = y if error is None else y + error
    rounding = rounding_error("y", found.detach())
    if rounding is None:
        return found
    return found - (found.detach() + rounding - y).detach() * (lse - lse.detach())[..., None]


def neighborhood_qk(
    q: Tensor,
    k: Tensor,
    rel_bias: Tensor | None = None,
    *,
    kernel_size: int | Sequence[int] = 3,
    dilation: int | Sequence[int] = 1,
    border: str = "shift",
    scale: float | None = None,
    is_causal: bool | Sequence[bool] = False,
) -> Tensor:
    """s_ij = scale <q_i, k_j> + bias. s (N, *S, heads, taps), row by row; -inf for keys that do not exist."""
    window = _window(q, kernel_size, dilation, border, is_causal)

    @_in_full_precision
    def score(q, k, rel_bias):
        return _scores(q, k, rel_bias, window, scale)

    return score(q, k, rel_bias=rel_bias).to(q.dtype)


def neighborhood_av(
    attn: Tensor,
    v: Tensor,
    *,
    kernel_size: int | Sequence[int] = 3,
    dilation: int | Sequence[int] = 1,
    border: str = "shift",
    is_causal: bool | Sequence[bool] = False,
) -> Tensor:
    """y_i = sum_j attn_ij v_j. attn (N, *S, heads, taps), y (N, *S, heads, D)."""
    window = _window(v, kernel_size, dilation, border, is_causal)

    @_in_full_precision
    def weigh(attn, v, rel_bias):
        return _weighted(attn, v, window)

    return weigh(attn, v).to(v.dtype)
