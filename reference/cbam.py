"""One weight per channel, then one per pixel: CBAM."""

import torch
from torch import Tensor

from ._pixels import pixels
from ._precision import in_full_precision
from .activations import Spec, activate
from .channel import asked, channel_gate, per_channel, perceptron, pools, with_no_gradient_to


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
    return_map: bool = False,
):
    """y = x * gate(mlp(mean(x)) + mlp(max(x))), mlp(v) = w2 act(w1 v + b1) + b2. map (N, C)."""
    options = dict(pool=pool, act=act, gate=gate, ties=ties, return_map=return_map)
    return channel_gate(x, w1, b1, w2, b2, **options)


@in_full_precision
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
    return_map: bool = False,
    return_stats: bool = False,
):
    """y = x * gate([norm] conv(max_c x, mean_c x) + bias). weight (1, 2 or 1, k, k). map (N, 1, H, W), stats (2,)."""
    z, stats = pixel_logits(x, weight, bias, norm_weight, norm_bias, pool, ties, eps)
    g = activate(gate, z)
    return asked(x * g, g, stats, return_map, return_stats)


@in_full_precision
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
    return_map: bool = False,
    return_stats: bool = False,
):
    """x' = x * gc of `cbam_channel_gate`, y = x' * gp of `cbam_spatial_gate` on x', plus x if residual. map: gp."""
    gc = activate(gate, sum(perceptron(v, w1, b1, w2, b2, act) for v in pools(x, pool, ties)))
    z, stats = pixel_logits(x * per_channel(gc, x), weight, bias, norm_weight, norm_bias, spatial_pool, ties, eps)
    gp = activate(gate, z)
    y = x * (per_channel(gc, x) * gp)
    y = y + x if residual else y
    return asked(y, gp, stats, return_map, return_stats)


def pixel_logits(x: Tensor, weight: Tensor, bias, norm_weight, norm_bias, pool: str, ties: str, eps: float):
    """z (N, 1, H, W), and the mean and the biased variance by which it was normalised, if it was. Then the bias moves
    the mean and nothing else: its gradient is zero."""
    pooled = pools_of_pixels(x, weight.shape[1], pool, ties)
    if norm_weight is None:
        z = pixels().convolve(pooled, weight, bias)
        return z, z.new_empty((0,))
    z = pixels().convolve(pooled, weight, None if bias is None else bias.detach())
    var, mean = pixels().moments(z)
    z = (z - mean) * torch.rsqrt(var + eps) * norm_weight
    z = z if bias is None else with_no_gradient_to(bias, z)
    return z if norm_bias is None else z + norm_bias, torch.stack([mean, var]).detach()


def pools_of_pixels(x: Tensor, maps: int, pool: str, ties: str) -> Tensor:
    """(N, 2, H, W): the maximum and the mean over the channels in the order of `pool`; (N, 1, H, W): half their sum."""
    peak = x.amax(1, keepdim=True) if ties == "split" else x.max(1, keepdim=True).values
    mean = x.mean(1, keepdim=True)
    if maps == 1:
        return 0.5 * (mean + peak)
    return torch.cat([peak, mean] if pool == "max,mean" else [mean, peak], 1)
