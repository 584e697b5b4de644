"""Attention of every pixel over the window around it. What all functions share is in `__init__`."""

import math
from collections.abc import Sequence

from torch import Tensor

from ..runtime import attention_checks as check
from ..runtime.dispatch import implementation, recalled


@recalled
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
    backend: str | None = None,
    return_lse: bool = False,
    is_causal: bool | Sequence[bool] = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y_i = sum_j p_ij v_j, p_i = softmax_j(scale <q_i, k_j> + rel_bias[j - i]), over a window of pixels j around i.

    q, y (N, *S, heads, D) over one, two or three axes, as the rank says: (N, L, heads, D), (N, H, W, heads, D),
    (N, T, H, W, heads, D); k, v (N, *S, heads_kv, D), where heads_kv divides heads and query head h reads head
    h // (heads / heads_kv). Any strides: a projection of an NCHW or channels_last map is used as a view, without a
    copy; y lies in memory as q. D is at most 256 in 16 bits, else 128. kernel_size (odd), dilation and is_causal: one
    value, or one for each axis. rel_bias (heads, 2k-1, ...), an axis of it for each, is indexed by key minus query in
    units of the dilation, plus k-1. scale None is D^-0.5.

    border: "shift" moves the window inside, so that every query has all its keys (NATTEN's rule; needs kernel_size *
    dilation pixels along each axis); "mask": keys outside do not exist; "zero": keys and values outside are zero
    vectors, whose score is 0 plus the bias. Along a causal axis the window ends at the query, and with "shift" begins
    with the first pixel: keys after the query do not exist. With return_lse: (y, lse), lse (N, *S, heads) the natural
    logarithm of the sum of exp(scores), in float32 (float64 of float64), differentiable; NaN, as y is, where a score
    is +Inf.

    Numerics: scores, softmax and sums in float32 (float64). In 16 bits, over two axes with square windows that are not
    causal, P and dS are rounded to q's dtype where tensor cores multiply by them (from sm_80 on; D from 16 to 128, to
    64 in the gradient and where W is contiguous). dS carries the rounding of y, from which <y_i, dy_i> is taken. The
    gradient repeats bit for bit: no atomics.
    NaN and Inf in a pixel reach only the queries whose window contains it, and in the gradient the pixels in the
    windows of those: tiles of tensor cores that meet one are computed again key by key. y is kept for the backward:
    changing it in place before that raises.
    Errors: ValueError for an even window, one that the border "shift" cannot move inside, a sequence of another length
    than there are axes, any other shape; TypeError for other dtypes.
    Source: Hassani et al. 2023, arXiv:2204.07143; "zero" is that of Ramachandran et al. 2019, arXiv:1906.05909.
    """
    check.heads_last("q", q)
    check.head_dim("q", q)
    for name, t in (("k", k), ("v", v)):
        check.heads_last(name, t, q)
        check.head_groups(name, t, q)
        check.head_dim(name, t, q.shape[-1])
    if k.shape != v.shape:
        raise ValueError(f"v: got shape {check.shape(v)}, expected k's {check.shape(k)}")
    window = check.neighborhood(kernel_size, dilation, is_causal, border, q)
    check.score_options(rel_bias, scale, q, window["kernel_size"])
    run = implementation("neighborhood_attention", backend, q)
    return run(q, k, v, rel_bias, **window, scale=scale, return_lse=return_lse)


@recalled
def neighborhood_qk(
    q: Tensor,
    k: Tensor,
    rel_bias: Tensor | None = None,
    *,
    kernel_size: int | Sequence[int] = 3,
    dilation: int | Sequence[int] = 1,
    border: str = "shift",
    scale: float | None = None,
    backend: str | None = None,
    is_causal: bool | Sequence[bool] = False,
) -> Tensor:
    """s_ij = scale <q_i, k_j> + rel_bias[j - i]: the scores of `neighborhood_attention`, before the softmax.

    q (N, *S, heads, D), k (N, *S, heads_kv, D), s (N, *S, heads, taps) with the keys of the window in row-major order,
    -inf for those that do not exist (border "mask", causal axes). Everything else as in `neighborhood_attention`.
    """
    check.heads_last("q", q)
    check.head_dim("q", q)
    check.heads_last("k", k, q)
    check.head_groups("k", k, q)
    check.head_dim("k", k, q.shape[-1])
    window = check.neighborhood(kernel_size, dilation, is_causal, border, q)
    check.score_options(rel_bias, scale, q, window["kernel_size"])
    run = implementation("neighborhood_qk", backend, q)
    return run(q, k, rel_bias, **window, scale=scale)


@recalled
def neighborhood_av(
    attn: Tensor,
    v: Tensor,
    *,
    kernel_size: int | Sequence[int] = 3,
    dilation: int | Sequence[int] = 1,
    border: str = "shift",
    backend: str | None = None,
    is_causal: bool | Sequence[bool] = False,
) -> Tensor:
    """y_i = sum_j attn_ij v_j: the values around every pixel, weighted; what `neighborhood_attention` does with P.

    attn (N, *S, heads, taps), the keys in row-major order; v (N, *S, heads_kv, D), y (N, *S, heads, D). Weights of
    keys outside the image, and after the query of a causal axis, count for nothing. Everything else as in
    `neighborhood_attention`.
    """
    check.heads_last("attn", attn)
    check.heads_last("v", v, attn, "attn")
    check.head_groups("v", v, attn, "attn")
    check.head_dim("v", v)
    window = check.neighborhood(kernel_size, dilation, is_causal, border, v)
    taps = math.prod(window["kernel_size"])
    if attn.shape[-1] != taps:
        expected = f"(N, *S, heads, {taps}) for kernel_size {kernel_size}"
        raise ValueError(f"attn: got shape {check.shape(attn)}, expected {expected}")
    run = implementation("neighborhood_av", backend, attn)
    return run(attn, v, **window)
