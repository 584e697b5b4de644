"""Every pixel attends to the k x k pixels around it.

Along one axis of length L, with r = k // 2 and dilation d, the query at i sees the keys at first(i) + t d, t = 0..k-1:

    shift   first(i) = i - r d moved by whole steps of d to where all k keys lie in the image; needs L >= k d
    mask    first(i) = i - r d; keys outside the image do not exist
    zero    first(i) = i - r d; keys and values outside are zero vectors, with a score of 0 plus their bias
"""

import functools
from collections.abc import Callable

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


def _axis(length: int, kernel_size: int, dilation: int, border: str, device) -> tuple[Tensor, Tensor, Tensor]:
    """The key of every query and tap, whether it lies inside, and its index in the relative bias; each [L, k]."""
    i = torch.arange(length, device=device)
    first = i - kernel_size // 2 * dilation
    if border == "shift":
        last_of_class = length - 1 - (length - 1 - i) % dilation
        first = torch.minimum(torch.maximum(first, i % dilation), last_of_class - (kernel_size - 1) * dilation)
    j = first[:, None] + dilation * torch.arange(kernel_size, device=device)
    relative = (j - i[:, None]) // dilation + kernel_size - 1
    return j.clamp(0, length - 1), (j >= 0) & (j < length), relative


def _axes(t: Tensor, kernel_size: int, dilation: int, border: str):
    """The keys (rows, columns), whether they lie inside [H, W, k*k], and the bias index (rows, columns)."""
    (jy, in_y, rel_y), (jx, in_x, rel_x) = (
        _axis(t.shape[axis], kernel_size, dilation, border, t.device) for axis in (1, 2)
    )
    inside = in_y[:, None, :, None] & in_x[None, :, None, :]
    return (jy, jx), inside.flatten(2), (rel_y[:, None, :, None], rel_x[None, :, None, :])


def _around(t: Tensor, heads: int, kernel_size: int, dilation: int, border: str) -> Tensor:
    """The k*k vectors around every pixel, zero outside the image; [N, H, W, heads, k*k, D]."""
    (jy, jx), inside, _ = _axes(t, kernel_size, dilation, border)
    around = t[:, jy][:, :, :, jx]  # [N, H, k, W, k, heads_kv, D]
    around = around.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5)
    around = around.masked_fill(~inside[:, :, None, :, None], 0.0)
    return around.repeat_interleave(heads // t.shape[3], dim=3)


def _scores(
    q: Tensor, k: Tensor, rel_bias, kernel_size: int, dilation: int, border: str, scale: float | None
) -> Tensor:
    keys = _around(k, q.shape[3], kernel_size, dilation, border)
    s = torch.einsum("nhwcd,nhwckd->nhwck", q, keys) * (q.shape[4] ** -0.5 if scale is None else scale)
    s = rounding_point("s", s)
    _, inside, (rel_y, rel_x) = _axes(k, kernel_size, dilation, border)
    inside = inside[:, :, None]  # [H, W, 1, k*k]
    s = s.masked_fill(~inside, 0.0)
    if rel_bias is not None:
        s = s + rel_bias[:, rel_y, rel_x].flatten(3).permute(1, 2, 0, 3)
    if border == "mask":
        s = s.masked_fill(~inside, float("-inf"))
    return s


def _weighted(p: Tensor, v: Tensor, kernel_size: int, dilation: int, border: str) -> Tensor:
    values = _around(v, p.shape[3], kernel_size, dilation, border)
    if border == "mask":
        (_, _), inside, _ = _axes(v, kernel_size, dilation, border)
        p = p.masked_fill(~inside[:, :, None], 0.0)
    return torch.einsum("nhwck,nhwckd->nhwcd", p, values)


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_bias: Tensor | None = None,
    *,
    kernel_size: int = 3,
    dilation: int = 1,
    border: str = "shift",
    scale: float | None = None,
    return_lse: bool = False,
):
    """y_i = sum_j p_ij v_j, p_i = softmax_j(scale <q_i, k_j> + bias). y (N, H, W, heads, D), lse (N, H, W, heads)."""

    @_in_full_precision
    def attend(q, k, v, rel_bias):
        s = _scores(q, k, rel_bias, kernel_size, dilation, border, scale)
        p, lse = s.softmax(-1), s.logsumexp(-1)
        lse = lse.masked_fill((s == float("inf")).any(-1), float("nan"))  # as y: such scores have no softmax
        y = _weighted(p, v, kernel_size, dilation, border)
        error = rounding_error("p", p)  # in P V and dv: the other gradients have p from s and lse
        error = error if error is None else _weighted(error, v, kernel_size, dilation, border)
        return _as_stored(y, error, lse), lse

    y, lse = attend(q, k, v, rel_bias=rel_bias)
    return (y.to(q.dtype), lse) if return_lse else y.to(q.dtype)


def _as_stored(y: Tensor, error: Tensor | None, lse: Tensor) -> Tensor:
    """y + error, whose gradient takes <y, dy>, the one of -lse, of y as it is stored; y itself where nothing rounds."""
    if error is None:
        return y
    stored = (y + error).detach()
    stored = stored + rounding_error("y", stored)
    return y + error - (stored - y).detach() * (lse - lse.detach())[..., None]


def neighborhood_qk(
    q: Tensor,
    k: Tensor,
    rel_bias: Tensor | None = None,
    *,
    kernel_size: int = 3,
    dilation: int = 1,
    border: str = "shift",
    scale: float | None = None,
) -> Tensor:
    """s_ij = scale <q_i, k_j> + bias. s (N, H, W, heads, k*k); -inf for keys that do not exist."""

    @_in_full_precision
    def score(q, k, rel_bias):
        return _scores(q, k, rel_bias, kernel_size, dilation, border, scale)

    return score(q, k, rel_bias=rel_bias).to(q.dtype)


def neighborhood_av(
    attn: Tensor, v: Tensor, *, kernel_size: int = 3, dilation: int = 1, border: str = "shift"
) -> Tensor:
    """y_i = sum_j attn_ij v_j. attn (N, H, W, heads, k*k), y (N, H, W, heads, D)."""

    @_in_full_precision
    def weigh(attn, v, rel_bias):
        return _weighted(attn, v, kernel_size, dilation, border)

    return weigh(attn, v).to(v.dtype)
