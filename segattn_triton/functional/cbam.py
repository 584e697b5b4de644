"""CBAM: a gate of every channel, then one of every pixel. What all functions share is in `__init__`."""

from torch import Tensor

from ..reference.activations import Spec
from ..runtime import checks as check
from ..runtime import gate_checks
from ..runtime.dispatch import implementation, recalled
from .channel import squeeze_excite
from .values import POOLS, SPATIAL_POOLS, TIES


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
    without a gradient; bias moves the mean alone, and its gradient is zero. ties: "first" as of torch.max, "split" as
    of amax (timm). 3 passes over the map forward, 4 backward, 5 with ties="split"; the convolution reads its two maps
    k*k times from the cache: fast up to k = 13, and slow for k = 49.
    Source: Woo et al. 2018, arXiv:1807.06521.
    """
    check.feature_map(x, (2,))
    gate_checks.window(weight, bias, x)
    gate_checks.window_norm(norm_weight, norm_bias, eps, return_stats, x)
    check.choice("pool", pool, SPATIAL_POOLS)
    check.choice("ties", ties, TIES)
    run = implementation("cbam_spatial_gate", backend, x)
    how = dict(pool=pool, gate=check.gate(gate), ties=ties, eps=float(eps))
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
    gate_checks.perceptron(x, w1, b1, w2, b2, x)
    gate_checks.window(weight, bias, x)
    gate_checks.window_norm(norm_weight, norm_bias, eps, return_stats, x)
    check.choice("pool", pool, POOLS)
    check.choice("spatial_pool", spatial_pool, SPATIAL_POOLS)
    check.choice("ties", ties, TIES)
    run = implementation("cbam", backend, x)
    how = dict(pool=pool, spatial_pool=spatial_pool, act=check.act(act), gate=check.gate(gate), ties=ties)
    how |= dict(residual=residual, eps=float(eps), return_map=return_map, return_stats=return_stats)
    return run(x, w1, b1, w2, b2, weight, bias, norm_weight, norm_bias, **how)
