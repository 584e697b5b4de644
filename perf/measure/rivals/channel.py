"""A gate a channel: squeeze and excitation, with one layer or two, with or without a norm over the batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared import Rivals, _normed


def channel_listing(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Global pooling, two linear layers with ReLU, sigmoid, product; the pooled map flattened, so that it runs."""
    v = F.adaptive_avg_pool2d(x, 1).flatten(1)
    g = torch.sigmoid(F.linear(F.relu(F.linear(v, w1, b1)), w2, b2))
    return x * g[:, :, None, None]


def channel_best(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    v = x.mean((2, 3))
    g = torch.sigmoid(torch.addmm(b2, torch.relu(torch.addmm(b1, v, w1.T)), w2.T))
    return x * g[:, :, None, None]


def squeeze_listing(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, source: Tensor, shortcut: Tensor):
    """PAN's attention: another map pooled, convolved on one pixel, the product added to a third map."""
    v = F.adaptive_avg_pool2d(source, 1)
    g = torch.sigmoid(F.conv2d(F.relu(F.conv2d(v, w1[:, :, None, None], b1)), w2[:, :, None, None], b2))
    return shortcut + x * g


def squeeze_best(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, source: Tensor, shortcut: Tensor):
    g = torch.sigmoid(torch.addmm(b2, torch.relu(torch.addmm(b1, source.mean((2, 3)), w1.T)), w2.T))
    return shortcut + x * g[:, :, None, None]


def effective_listing(x: Tensor, w1: Tensor, b1: Tensor) -> Tensor:
    """Global pooling, a 1x1 convolution on one pixel, sigmoid, product."""
    return x * torch.sigmoid(F.conv2d(x.mean((2, 3), keepdim=True), w1[:, :, None, None], b1))


def effective_best(x: Tensor, w1: Tensor, b1: Tensor) -> Tensor:
    return x * torch.sigmoid(torch.addmm(b1, x.mean((2, 3)), w1.T))[:, :, None, None]


def squeeze_norm_listing(x, w1, b1, norm_weight, norm_bias, w2, b2, source, shortcut) -> Tensor:
    """timm's, with the norm of ReXNet between its layers, in training; added to a third map as above."""
    h = F.conv2d(F.adaptive_avg_pool2d(source, 1), w1[:, :, None, None], b1)
    h = F.relu(F.batch_norm(h, None, None, norm_weight, norm_bias, training=True))
    return shortcut + x * torch.sigmoid(F.conv2d(h, w2[:, :, None, None], b2))


def squeeze_norm_best(x, w1, b1, norm_weight, norm_bias, w2, b2, source, shortcut) -> Tensor:
    h = torch.relu(_normed(torch.addmm(b1, source.mean((2, 3)), w1.T), 0, norm_weight, norm_bias))
    return shortcut + x * torch.sigmoid(torch.addmm(b2, h, w2.T))[:, :, None, None]


def squeeze_norms_listing(
    x, w1, b1, norm_weight1, norm_bias1, w2, b2, norm_weight2, norm_bias2, source, shortcut
) -> Tensor:
    """The same with a norm behind each layer, in training."""
    h = F.conv2d(F.adaptive_avg_pool2d(source, 1), w1[:, :, None, None], b1)
    h = F.relu(F.batch_norm(h, None, None, norm_weight1, norm_bias1, training=True))
    z = F.batch_norm(F.conv2d(h, w2[:, :, None, None], b2), None, None, norm_weight2, norm_bias2, training=True)
    return shortcut + x * torch.sigmoid(z)


def squeeze_norms_best(
    x, w1, b1, norm_weight1, norm_bias1, w2, b2, norm_weight2, norm_bias2, source, shortcut
) -> Tensor:
    h = torch.relu(_normed(torch.addmm(b1, source.mean((2, 3)), w1.T), 0, norm_weight1, norm_bias1))
    z = _normed(torch.addmm(b2, h, w2.T), 0, norm_weight2, norm_bias2)
    return shortcut + x * torch.sigmoid(z)[:, :, None, None]


def effective_norm_listing(x: Tensor, w1: Tensor, b1: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
    """BiSeNet's: the mean, a 1x1 convolution on one pixel, its norm in training, sigmoid, product."""
    h = F.conv2d(x.mean((2, 3), keepdim=True), w1[:, :, None, None], b1)
    return x * torch.sigmoid(F.batch_norm(h, None, None, norm_weight, norm_bias, training=True))


def effective_norm_best(x: Tensor, w1: Tensor, b1: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
    h = _normed(torch.addmm(b1, x.mean((2, 3)), w1.T), 0, norm_weight, norm_bias)
    return x * torch.sigmoid(h)[:, :, None, None]


RIVALS = {
    "channel_gate": Rivals(channel_listing, channel_best),
    "squeeze_excite": Rivals(squeeze_listing, squeeze_best),
    "effective_se": Rivals(effective_listing, effective_best),
    "squeeze_excite_norm": Rivals(squeeze_norm_listing, squeeze_norm_best),
    "squeeze_excite_norms": Rivals(squeeze_norms_listing, squeeze_norms_best),
    "effective_se_norm": Rivals(effective_norm_listing, effective_norm_best),
}
