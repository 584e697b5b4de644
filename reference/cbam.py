"""One weight per channel, then one per pixel: CBAM."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._precision import in_full_precision
from .activations import Spec, activate
from .channel import channel_gate, per_channel, perceptron, pools


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
    *,
    pool: str = "max,mean",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    return_map: bool = False,
):
    """y = x * gate(conv(max_c x, mean_c x) + bias). weight (1, 2, k, k), or (1, 1, k, k). map (N, 1, H, W)."""
    g = activate(gate, pixel_logits(x, weight, bias, pool, ties))
    return (x * g, g) if return_map else x * g


@in_full_precision
def cbam(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pool: str = "avg+max",
    spatial_pool: str = "max,mean",
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    residual: bool = False,
    return_map: bool = False,
):
    """x' = x * gc of `cbam_channel_gate`, y = x' * gp of `cbam_spatial_gate` on x', plus x if residual. map: gp."""
    gc = activate(gate, sum(perceptron(v, w1, b1, w2, b2, act) for v in pools(x, pool, ties)))
    by_channel = x * per_channel(gc, x)
    gp = activate(gate, pixel_logits(by_channel, weight, bias, spatial_pool, ties))
    y = x * (per_channel(gc, x) * gp)
    y = y + x if residual else y
    return (y, gp) if return_map else y


def pixel_logits(x: Tensor, weight: Tensor, bias: Tensor | None, pool: str, ties: str) -> Tensor:
    """(N, 1, H, W)"""
    return F.conv2d(pools_of_pixels(x, weight.shape[1], pool, ties), weight, bias, padding=weight.shape[2] // 2)


def pools_of_pixels(x: Tensor, maps: int, pool: str, ties: str) -> Tensor:
    """(N, 2, H, W): the maximum and the mean over the channels in the order of `pool`; (N, 1, H, W): half their sum."""
    peak = x.amax(1, keepdim=True) if ties == "split" else x.max(1, keepdim=True).values
    mean = x.mean(1, keepdim=True)
    if maps == 1:
        return 0.5 * (mean + peak)
    return torch.cat([peak, mean] if pool == "max,mean" else [mean, peak], 1)
