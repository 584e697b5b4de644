"""Attention of every pixel over the window around it. What all functions share is in `__init__`."""

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
    kernel_size: int = 3,
    dilation: int = 1,
    border: str = "shift",
    scale: float | None = None,
    backend: str | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y_i = sum_j p_ij v_j, p_i = softmax_j(scale <q_i, k_j> + rel_bias[j - i]), over the k x k pixels j around i.

    q, y (N, H, W, heads, D); k, v (N, H, W, heads_kv, D), where heads_kv divides heads and query head h reads head
    h // (heads / heads_kv). Any strides: a projection of an NCHW or channels_last map is used as a view, without a
    copy; y lies in memory as q. D is at most 256 in 16 bits, else 128; kernel_size is odd. rel_bias
    (heads, 2k-1, 2k-1) is indexed by key minus query in units of the dilation, plus k-1. scale None is D^-0.5.

    border: "shift" moves the window inside, so that every query has k*k keys (NATTEN's rule; needs H, W >=
    kernel_size * dilation); "mask": keys outside do not exist; "zero": keys and values outside are zero vectors,
    whose score is 0 plus the bias. With return_lse: (y, lse), lse (N, H, W, heads) the natural logarithm of the sum
    of exp(scores), in float32 (float64 of float64), differentiable; NaN, as y is, where a score is +Inf.

    Numerics: scores, softmax and sums in float32 (float64). In 16 bits, P and dS are rounded to q's dtype where tensor
    cores multiply by them (from sm_80 on; D from 16 to 128, to 64 in the gradient and where W is contiguous), and dS
    carries the rounding of y, from which <y_i, dy_i> is taken. The gradient repeats bit for bit: no atomics.
    NaN and Inf in a pixel reach only the queries whose window contains it, and in the gradient the pixels in the
    windows of those: tiles of tensor cores that meet one are computed again key by key. y is kept for the backward:
    changing it in place before that raises.
    Source: Hassani et al. 2023, arXiv:2204.07143; "zero" is that of Ramachandran et al. 2019, arXiv:1906.05909.
    """
    check.heads_last("q", q)
    check.head_dim("q", q)
    for name, t in (("k", k), ("v", v)):
        check.heads_last(name, t, q)
        check.head_groups(name, t, q)
        check.head_dim(name, t, q.shape[4])
    if k.shape != v.shape:
        raise ValueError(f"v: got shape {check.shape(v)}, expected k's {check.shape(k)}")
    dilation = check.neighborhood(kernel_size, dilation, border, q)
    check.score_options(rel_bias, scale, q, kernel_size)
    run = implementation("neighborhood_attention", backend, q)
    window = dict(kernel_size=kernel_size, dilation=dilation, border=border)
    return run(q, k, v, rel_bias, **window, scale=scale, return_lse=return_lse)


@recalled
def neighborhood_qk(
    q: Tensor,
    k: Tensor,
    rel_bias: Tensor | None = None,
    *,
    kernel_size: int = 3,
    dilation: int = 1,
    border: str = "shift",
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """s_ij = scale <q_i, k_j> + rel_bias[j - i]: the scores of `neighborhood_attention`, before the softmax.

    q (N, H, W, heads, D), k (N, H, W, heads_kv, D), s (N, H, W, heads, k*k) with the keys in row-major order, -inf
    for those that do not exist (border "mask"). Everything else as in `neighborhood_attention`.
    """
    check.heads_last("q", q)
    check.head_dim("q", q)
    check.heads_last("k", k, q)
    check.head_groups("k", k, q)
    check.head_dim("k", k, q.shape[4])
    dilation = check.neighborhood(kernel_size, dilation, border, q)
    check.score_options(rel_bias, scale, q, kernel_size)
    run = implementation("neighborhood_qk", backend, q)
    return run(q, k, rel_bias, kernel_size=kernel_size, dilation=dilation, border=border, scale=scale)


@recalled
def neighborhood_av(
    attn: Tensor,
    v: Tensor,
    *,
    kernel_size: int = 3,
    dilation: int = 1,
    border: str = "shift",
    backend: str | None = None,
) -> Tensor:
    """y_i = sum_j attn_ij v_j: the values around every pixel, weighted; what `neighborhood_attention` does with P.

    attn (N, H, W, heads, k*k), the keys in row-major order; v (N, H, W, heads_kv, D), y (N, H, W, heads, D). Weights
    of keys outside the image count for nothing. Everything else as in `neighborhood_attention`.
    """
    check.heads_last("attn", attn)
    check.heads_last("v", v, attn, "attn")
    check.head_groups("v", v, attn, "attn")
    check.head_dim("v", v)
    dilation = check.neighborhood(kernel_size, dilation, border, v)
    if attn.shape[4] != kernel_size * kernel_size:
        expected = f"(N, H, W, heads, {kernel_size * kernel_size}) for kernel_size {kernel_size}"
        raise ValueError(f"attn: got shape {check.shape(attn)}, expected {expected}")
    run = implementation("neighborhood_av", backend, attn)
    return run(attn, v, kernel_size=kernel_size, dilation=dilation, border=border)
