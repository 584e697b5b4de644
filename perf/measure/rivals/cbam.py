"""CBAM's two halves, and both, one after the other."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared import Rivals, _normed


def cbam_channel_listing(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """The authors': the perceptron on both pools, flattened, one after the other."""
    pools = F.adaptive_avg_pool2d(x, 1).flatten(1), F.adaptive_max_pool2d(x, 1).flatten(1)
    z = sum(F.linear(F.relu(F.linear(v, w1, b1)), w2, b2) for v in pools)
    return x * torch.sigmoid(z)[:, :, None, None].expand_as(x)


def cbam_channel_best(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Reductions that Inductor fuses into one read of x, and both pools through the perceptron together."""
    h = torch.relu(torch.addmm(b1, torch.cat([x.mean((2, 3)), x.amax((2, 3))]), w1.T))
    z = torch.addmm(2 * b2, h[: len(x)] + h[len(x) :], w2.T)
    return x * torch.sigmoid(z)[:, :, None, None]


def cbam_spatial_listing(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The authors': maximum and mean over the channels, concatenated, convolved."""
    maps = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], 1)
    return x * torch.sigmoid(F.conv2d(maps, weight, bias, padding=weight.shape[2] // 2))


def cbam_spatial_best(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """amax has no index to write, and Inductor fuses it with the mean."""
    maps = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
    return x * torch.sigmoid(F.conv2d(maps, weight, bias, padding=weight.shape[2] // 2))


def cbam_spatial_norm_listing(x, weight, bias, norm_weight, norm_bias) -> Tensor:
    """The authors', with the norm of their convolution, in training."""
    maps = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], 1)
    z = F.conv2d(maps, weight, bias, padding=weight.shape[2] // 2)
    return x * torch.sigmoid(F.batch_norm(z, None, None, norm_weight, norm_bias, training=True))


def cbam_spatial_norm_best(x, weight, bias, norm_weight, norm_bias) -> Tensor:
    maps = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
    z = F.conv2d(maps, weight, bias, padding=weight.shape[2] // 2)
    return x * torch.sigmoid(_normed(z, (0, 1, 2, 3), norm_weight, norm_bias))


def cbam_listing(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One half after the other, the map between them in memory."""
    return cbam_spatial_listing(cbam_channel_listing(x, w1, b1, w2, b2), weight, bias)


def cbam_best(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return cbam_spatial_best(cbam_channel_best(x, w1, b1, w2, b2), weight, bias)


def cbam_norm_listing(x, w1, b1, w2, b2, weight, bias, norm_weight, norm_bias) -> Tensor:
    """The authors' block in training."""
    return cbam_spatial_norm_listing(cbam_channel_listing(x, w1, b1, w2, b2), weight, bias, norm_weight, norm_bias)


def cbam_norm_best(x, w1, b1, w2, b2, weight, bias, norm_weight, norm_bias) -> Tensor:
    return cbam_spatial_norm_best(cbam_channel_best(x, w1, b1, w2, b2), weight, bias, norm_weight, norm_bias)


def light_listing(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    x = cbam_channel_listing(x, w1, b1, w2, b2)
    half = 0.5 * x.mean(1, keepdim=True) + 0.5 * x.amax(1, keepdim=True)
    return x * torch.sigmoid(F.conv2d(half, weight, bias, padding=weight.shape[2] // 2))


RIVALS = {
    "cbam_channel_gate": Rivals(cbam_channel_listing, cbam_channel_best),
    "cbam_spatial_gate": Rivals(cbam_spatial_listing, cbam_spatial_best),
    "cbam": Rivals(cbam_listing, cbam_best),
    "cbam_light": Rivals(light_listing),
    "cbam_spatial_gate_norm": Rivals(cbam_spatial_norm_listing, cbam_spatial_norm_best),
    "cbam_norm": Rivals(cbam_norm_listing, cbam_norm_best),
}
