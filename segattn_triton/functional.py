"""The operations. Each returns x times a gate, in x's shape, dtype and memory order.

Shared by all of them:

- x is (N, C, *spatial) in float16, bfloat16, float32 or float64, on one device with its parameters, which come in
  x's dtype or float32. Contiguous and channels_last maps, and channel slices of them, are read as they lie;
  anything else is copied once.
- `gate` is a name (sigmoid, hard_sigmoid, tanh, relu, relu_sigmoid, identity), or (name, a, b) with its constants: see
  `segattn_triton.reference.activations` for the equations. Units: z is a plain number, the gate a factor.
- `ties`: where a maximum is reached more than once, its gradient goes to the "first" or is "split" evenly.
- `backend`: None runs Triton on a GPU and the reference elsewhere; "triton" and "reference" run that or raise.
- `return_map=True` returns (y, map): the gate's values, differentiable. Without it the map is not written.
- Errors: TypeError for a wrong type or dtype, ValueError for a wrong shape, device or option, naming the argument;
  RuntimeError where backend="triton" cannot run. A second derivative raises: use backend="reference".
"""

from torch import Tensor

from .reference.activations import OUT_ACTS, Spec
from .runtime import checks as check
from .runtime.dispatch import implementation, recalled

TIES = ("first", "split")
POOLS = ("avg", "max", "avgmax", "avg+max")
SPATIAL_POOLS = ("max,mean", "mean,max")


@recalled
def spatial_gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gate: str | Spec = "sigmoid",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(<weight, x_p> + bias) at every pixel p.

    x (N, C, *spatial); weight (1, C), any trailing ones; bias (1,); map (N, 1, *spatial).
    Source: sSE of Roy et al. 2018, arXiv:1803.02579.
    """
    check.feature_map(x)
    check.parameter("weight", weight, x, (1, x.shape[1]), trailing_ones=True)
    if bias is not None:
        check.parameter("bias", bias, x, (1,))
    run = implementation("spatial_gate", backend, x)
    return run(x, weight, bias, gate=check.gate(gate), return_map=return_map)


@recalled
def spatial_pool_gate(
    x: Tensor,
    *,
    pool: str = "mean",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(pool of x_p over the channels) at every pixel p; no parameters.

    x (N, C, *spatial); pool "mean", "max", or "meanmax", half the sum of both; map (N, 1, *spatial).
    Source: the pooling of CBAM's spatial attention, Woo et al. 2018, arXiv:1807.06521, without its convolution.
    """
    check.feature_map(x)
    check.choice("pool", pool, ("mean", "max", "meanmax"))
    check.choice("ties", ties, TIES)
    run = implementation("spatial_pool_gate", backend, x)
    return run(x, pool=pool, gate=check.gate(gate), ties=ties, return_map=return_map)


def channel_gate(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None = None,
    w2: Tensor | None = None,
    b2: Tensor | None = None,
    *,
    pool: str = "avg",
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(w2 act(w1 pool(x) + b1) + b2) for every channel; with w2=None, y = x * gate(w1 pool(x) + b1).

    x (N, C, *spatial); w1 (Cr, C), b1 (Cr,), w2 (C, Cr), b2 (C,), the weights with any trailing ones; without w2,
    w1 (C, C) and b1 (C,). pool over the pixels: "avg", "max", or "avgmax", half the sum of both; "avg+max" adds what
    the layers make of the mean to what they make of the maximum: see `cbam_channel_gate`. act: relu, silu, hardswish,
    leaky_relu, gelu, identity. map (N, C).
    Source: Hu et al. 2018, arXiv:1709.01507.
    """
    options = dict(pool=pool, act=act, gate=gate, ties=ties, backend=backend, return_map=return_map)
    return squeeze_excite(x, w1, b1, w2, b2, **options)


@recalled
def squeeze_excite(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None = None,
    w2: Tensor | None = None,
    b2: Tensor | None = None,
    source: Tensor | None = None,
    shortcut: Tensor | None = None,
    *,
    pool: str = "avg",
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    out_act: str = "identity",
    ties: str = "first",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = out_act(x * gate(w2 act(w1 pool(source) + b1) + b2) + shortcut); with w2=None, gate(w1 pool(source) + b1).

    x (N, C, *spatial); source (N, Cs, *any), x itself without it; shortcut as x, in any memory order: copied once if
    it is not x's. w1 (Cr, Cs), b1 (Cr,), w2 (C, Cr), b2 (C,), the weights with any trailing ones; without w2, w1
    (C, Cs) and b1 (C,). pool and act as in `channel_gate`; out_act: identity, relu. map (N, C).
    With a shortcut and relu this is the end of an SE-ResNet block; with a source and a shortcut, PAN's attention.
    Source: Hu et al. 2018, arXiv:1709.01507; Li et al. 2018, arXiv:1805.10180.
    """
    check.feature_map(x)
    if source is not None:
        check.second_map("source", source, x)
    if shortcut is not None:
        check.second_map("shortcut", shortcut, x, tuple(x.shape))
    check.perceptron(x, w1, b1, w2, b2, x if source is None else source)
    check.choice("pool", pool, POOLS)
    check.choice("out_act", out_act, OUT_ACTS)
    check.choice("ties", ties, TIES)
    run = implementation("squeeze_excite", backend, x)
    acts = dict(act=check.act(act), gate=check.gate(gate), out_act=out_act)
    return run(x, w1, b1, w2, b2, source, shortcut, pool=pool, **acts, ties=ties, return_map=return_map)


@recalled
def squeeze_excite_norm(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor | None = None,
    w2: Tensor | None = None,
    b2: Tensor | None = None,
    source: Tensor | None = None,
    shortcut: Tensor | None = None,
    *,
    pool: str = "avg",
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    out_act: str = "identity",
    ties: str = "first",
    eps: float = 1e-5,
    backend: str | None = None,
    return_map: bool = False,
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """y = out_act(x * gate(w2 act(norm(w1 pool(source) + b1)) + b2) + shortcut); with w2=None, gate(norm(...)).

    x (N, C, *spatial), and the rest as of `squeeze_excite`, with a batch norm in training behind the first layer:
    every row of w1 pool(source) + b1 less its mean over the images of the batch, over sqrt(variance + eps), times
    norm_weight plus norm_bias, all (Cr,); without w2, (C,). More than one image; pool: "avg", "max" or "avgmax".
    return_stats=True returns the means and the biased variances last, (2 Cr,), in float32 or wider, without a gradient:
    what running statistics are made of. b1 moves the means alone, and its gradient is zero. With running statistics the
    norm folds into w1 and b1 of `squeeze_excite`: see `EffectiveSE` and `SqueezeExcite`.
    Source: Yu et al. 2018, arXiv:1808.00897 (BiSeNet's ARM; with x as the shortcut its FFM); Han et al. 2021,
    arXiv:2007.00992 (ReXNet).
    """
    check.feature_map(x)
    if source is not None:
        check.second_map("source", source, x)
    if shortcut is not None:
        check.second_map("shortcut", shortcut, x, tuple(x.shape))
    check.perceptron(x, w1, b1, w2, b2, x if source is None else source)
    check.batch_norm(norm_weight, norm_bias, eps, x, (x.shape[0], w1.shape[0], 1, 1))
    check.choice("pool", pool, POOLS[:3])
    check.choice("out_act", out_act, OUT_ACTS)
    check.choice("ties", ties, TIES)
    run = implementation("squeeze_excite_norm", backend, x)
    how = dict(pool=pool, act=check.act(act), gate=check.gate(gate), out_act=out_act, ties=ties, eps=eps)
    tensors = x, w1, b1, norm_weight, norm_bias, w2, b2, source, shortcut
    return run(*tensors, **how, return_map=return_map, return_stats=return_stats)


def cbam_channel_gate(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None = None,
    w2: Tensor | None = None,
    b2: Tensor | None = None,
    *,
    pool: str = "avg+max",
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(mlp(mean of x) + mlp(maximum of x)) for every channel, mlp(v) = w2 act(w1 v + b1) + b2.

    The channel half of CBAM, for any x (N, C, *spatial); parameters, options and map (N, C) as in `channel_gate`, of
    which this is pool="avg+max". Other pools are those of its kin: "avgmax" applies the layers once, to half the sum of
    both (timm's LightCbam), "avg" with w2=None is ultralytics'. ties: "first" as of max pools, "split" as of amax
    (timm). 3 passes over the map forward, 4 backward, 5 with ties="split".
    Source: Woo et al. 2018, arXiv:1807.06521.
    """
    options = dict(pool=pool, act=act, gate=gate, ties=ties, backend=backend, return_map=return_map)
    return squeeze_excite(x, w1, b1, w2, b2, **options)


@recalled
def eca(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    circular: bool = False,
    gate: str | Spec = "sigmoid",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(sum_j weight_j v_{c + j - k // 2} + bias) for every channel c, v the means over the pixels.

    x (N, C, *spatial); weight (1, 1, k), k odd; bias (1,); map (N, C). Past the first and the last channel v is zero,
    or circular: the channels of the other end, for k // 2 up to C.
    Source: Wang et al. 2020, arXiv:1910.03151.
    """
    check.feature_map(x)
    check.tensor("weight", weight)
    k = weight.shape[2] if weight.dim() == 3 and weight.shape[2] else 3
    check.parameter("weight", weight, x, (1, 1, k))
    if k % 2 == 0 or (circular and k // 2 > x.shape[1]):
        most = f" of at most {2 * x.shape[1] + 1}, for {x.shape[1]} channels in a circle" if circular else ""
        raise ValueError(f"weight: got shape {check.shape(weight)}, expected (1, 1, k) with an odd k{most}")
    if bias is not None:
        check.parameter("bias", bias, x, (1,))
    check.choice("circular", circular, (False, True))
    run = implementation("eca", backend, x)
    return run(x, weight, bias, circular=circular, gate=check.gate(gate), return_map=return_map)


@recalled
def cbam_spatial_gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    pool: str = "max,mean",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    eps: float = 1e-5,
    backend: str | None = None,
    return_map: bool = False,
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """y = x * gate(conv_kxk of (max_c x, mean_c x) + bias) at every pixel: the spatial half of CBAM.

    x (N, C, H, W); weight (1, 2, k, k), k odd, on the two maps in the order of `pool`: "max,mean" (the authors', torch
    forks) or "mean,max" (timm, ultralytics); weight (1, 1, k, k) on half their sum (timm's LightCbam); bias (1,), into
    which a batch norm of the convolution can be folded; map (N, 1, H, W). Zeros outside the image. With norm_weight
    (1,), the convolution is normalised by its mean and variance over the batch, times norm_weight plus norm_bias (1,),
    as a BatchNorm2d in training; return_stats=True returns these last, (2,), the biased variance, in float32 or wider,
    without a gradient. ties: "first" as of torch.max, "split" as of amax (timm). 3 passes over the map forward, 4
    backward, 5 with ties="split"; the convolution reads its two maps k*k times from the cache: fast up to k = 13, and
    slow for k = 49.
    Source: Woo et al. 2018, arXiv:1807.06521.
    """
    check.feature_map(x, (2,))
    check.window(weight, bias, x)
    check.window_norm(norm_weight, norm_bias, eps, return_stats, x)
    check.choice("pool", pool, SPATIAL_POOLS)
    check.choice("ties", ties, TIES)
    run = implementation("cbam_spatial_gate", backend, x)
    how = dict(pool=pool, gate=check.gate(gate), ties=ties, eps=eps)
    return run(x, weight, bias, norm_weight, norm_bias, **how, return_map=return_map, return_stats=return_stats)


@recalled
def cbam(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    pool: str = "avg+max",
    spatial_pool: str = "max,mean",
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    residual: bool = False,
    eps: float = 1e-5,
    backend: str | None = None,
    return_map: bool = False,
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """y = x' * gp, plus x if residual: x' = x * gc of `cbam_channel_gate`, gp the gate of `cbam_spatial_gate` on x'.

    x (N, C, H, W); w1, b1, w2, b2, pool and act as in `cbam_channel_gate`, weight, bias, the norm and spatial_pool as
    in `cbam_spatial_gate`; gate and ties are those of both. map (N, 1, H, W): the gate of the pixels. x' is never
    written: 4 passes over the map forward, 5 backward, 6 with ties="split".
    The authors' block and most forks: the defaults. timm: spatial_pool="mean,max", ties="split"; its LightCbam: pool
    "avgmax", weight (1, 1, k, k), ties="split". ultralytics: pool="avg", w2=None, spatial_pool="mean,max".
    External-Attention: residual=True.
    Source: Woo et al. 2018, arXiv:1807.06521.
    """
    check.feature_map(x, (2,))
    check.perceptron(x, w1, b1, w2, b2, x)
    check.window(weight, bias, x)
    check.window_norm(norm_weight, norm_bias, eps, return_stats, x)
    check.choice("pool", pool, POOLS)
    check.choice("spatial_pool", spatial_pool, SPATIAL_POOLS)
    check.choice("ties", ties, TIES)
    check.choice("residual", residual, (False, True))
    run = implementation("cbam", backend, x)
    how = dict(pool=pool, spatial_pool=spatial_pool, act=check.act(act), gate=check.gate(gate), ties=ties)
    how |= dict(residual=residual, eps=eps, return_map=return_map, return_stats=return_stats)
    return run(x, w1, b1, w2, b2, weight, bias, norm_weight, norm_bias, **how)


@recalled
def attention_gate(
    x: Tensor,
    g: Tensor,
    wx: Tensor,
    wg: Tensor,
    b: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gate: str | Spec = "sigmoid",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(<weight, relu(wx x_p + wg g_p + b)> + bias) at every pixel p.

    x (N, C, *spatial) and g (N, G, *spatial), of the same pixels, each in its own memory order; wx (F, C), wg (F, G),
    b (F,), weight (1, F), the weights with any trailing ones; bias (1,). F from 1, larger than C and G, too.
    map (N, 1, *spatial). Batch norms of running statistics fold into wx, wg and b, that of the logits into weight and
    bias: see `AttentionGate`. wx and wg multiply in x's dtype, their products are summed in float32 and never written:
    3 passes over the map forward. Backward 5, where C and G as powers of 2 are at most 128 together, and that times F
    at most 4096 in 16 bits, 2048 in float32, 1024 in float64; beyond, with F channels of gradients in memory, 10.5 for
    F = C / 2.
    Source: Oktay et al. 2018, arXiv:1804.03999, in the form without grid of the implementations in PyTorch.
    """
    check.feature_map(x)
    check.beside("g", g, x)
    check.tensor("wx", wx)
    F = max(wx.shape[0], 1) if wx.dim() else 1
    check.parameter("wx", wx, x, (F, x.shape[1]), trailing_ones=True)
    check.parameter("wg", wg, g, (F, g.shape[1]), trailing_ones=True, map_name="g")
    if b is not None:
        check.parameter("b", b, x, (F,))
    check.parameter("weight", weight, x, (1, F), trailing_ones=True)
    if bias is not None:
        check.parameter("bias", bias, x, (1,))
    run = implementation("attention_gate", backend, x)
    return run(x, g, wx, wg, b, weight, bias, gate=check.gate(gate), return_map=return_map)


@recalled
def scse(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    reduce: str = "sum",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(w2 act(w1 mean(x) + b1) + b2) + x * gate(<weight, x_p> + bias); with reduce="max", the larger.

    x (N, C, *spatial); w1 (Cr, C), b1 (Cr,), w2 (C, Cr), b2 (C,) of the gate of the channels, weight (1, C), bias (1,)
    of that of the pixels, the weights with any trailing ones. map (N, 1, *spatial): the gate of the pixels.
    Of two that are equal the gradient is halved, as by torch.maximum.
    Source: Roy et al. 2018, arXiv:1803.02579, with the maximum; the sum is that of segmentation_models_pytorch.
    """
    check.feature_map(x)
    check.tensor("w2", w2)
    check.perceptron(x, w1, b1, w2, b2, x)
    check.parameter("weight", weight, x, (1, x.shape[1]), trailing_ones=True)
    if bias is not None:
        check.parameter("bias", bias, x, (1,))
    check.choice("reduce", reduce, ("sum", "max"))
    run = implementation("scse", backend, x)
    acts = dict(act=check.act(act), gate=check.gate(gate))
    return run(x, w1, b1, w2, b2, weight, bias, **acts, reduce=reduce, return_map=return_map)


@recalled
def local_gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gate: str | Spec = "sigmoid",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(conv3x3(x, padding 1) + bias) for every value.

    x (N, C, H, W); weight (C, C, 3, 3), or (C, 1, 3, 3) for a depthwise convolution; bias (C,); map (N, C, H, W).
    With C = 1 both are the same. Source: the convolution gate that segmentation tutorials call local attention.
    """
    check.feature_map(x, (2,))
    C = x.shape[1]
    check.tensor("weight", weight)
    inputs = 1 if weight.dim() == 4 and weight.shape[1] == 1 else C
    check.parameter("weight", weight, x, (C, inputs, 3, 3))
    if bias is not None:
        check.parameter("bias", bias, x, (C,))
    run = implementation("local_gate", backend, x)
    return run(x, weight, bias, gate=check.gate(gate), return_map=return_map)


@recalled
def local_pool_gate(
    x: Tensor,
    *,
    pool: str = "avg",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(pool of the 3x3 neighbours that lie inside the image) for every value; no parameters.

    x (N, C, H, W); pool "avg" (torch's count_include_pad=False) or "max"; map (N, C, H, W).
    """
    check.feature_map(x, (2,))
    check.choice("pool", pool, ("avg", "max"))
    check.choice("ties", ties, TIES)
    run = implementation("local_pool_gate", backend, x)
    return run(x, pool=pool, gate=check.gate(gate), ties=ties, return_map=return_map)


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
    of exp(scores), in float32 (float64 of float64), differentiable.

    Numerics: scores, softmax and sums in float32 (float64). In 16 bits, P and dS are rounded to q's dtype where tensor
    cores multiply by them (from sm_80 on; D from 16 to 128, in the gradient to 64, half of that where W is contiguous),
    and dS carries the rounding of y, from which <y_i, dy_i> is taken. The gradient repeats bit for bit: no atomics.
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
