"""Gates along the rows and the columns."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared import Rivals, _normed


def strip_listing(x: Tensor, z_h: Tensor, z_w: Tensor) -> Tensor:
    """The last step of the authors': a product of three. Inductor makes one kernel of it forward."""
    return x * torch.sigmoid(z_w) * torch.sigmoid(z_h)


def _coordinates(x, w1, b1, w_h, b_h, w_w, b_w, norm: Callable) -> Tensor:
    """The authors': two pools, both strips through one 1x1 convolution, its norm and hard-swish, split again."""
    H, W = x.shape[2:]
    v = torch.cat([F.adaptive_avg_pool2d(x, (H, 1)), F.adaptive_avg_pool2d(x, (1, W)).permute(0, 1, 3, 2)], 2)
    a_h, a_w = F.hardswish(norm(F.conv2d(v, w1[:, :, None, None], b1))).split([H, W], 2)
    g_w = torch.sigmoid(F.conv2d(a_w.permute(0, 1, 3, 2), w_w[:, :, None, None], b_w))
    return x * g_w * torch.sigmoid(F.conv2d(a_h, w_h[:, :, None, None], b_h))


def coordinate_listing(x, w1, b1, w_h, b_h, w_w, b_w) -> Tensor:
    """In eval, the norm folded into the convolution."""
    return _coordinates(x, w1, b1, w_h, b_h, w_w, b_w, lambda h: h)


def coordinate_norm_listing(x, w1, b1, w_h, b_h, w_w, b_w, norm_weight, norm_bias) -> Tensor:
    norm = partial(F.batch_norm, running_mean=None, running_var=None, weight=norm_weight, bias=norm_bias, training=True)
    return _coordinates(x, w1, b1, w_h, b_h, w_w, b_w, norm)


def _coordinates_best(x, w1, b1, w_h, b_h, w_w, b_w, norm: Callable) -> Tensor:
    """Means that Inductor may take in one read, and layers as products of matrices, never transposed."""
    H, W = x.shape[2:]
    v = torch.cat([x.mean(3), x.mean(2)], 2)
    a_h, a_w = F.hardswish(norm(w1 @ v + b1[:, None])).split([H, W], 2)
    z_h, z_w = w_h @ a_h + b_h[:, None], w_w @ a_w + b_w[:, None]
    return x * (torch.sigmoid(z_h)[:, :, :, None] * torch.sigmoid(z_w)[:, :, None])


def coordinate_best(x, w1, b1, w_h, b_h, w_w, b_w) -> Tensor:
    return _coordinates_best(x, w1, b1, w_h, b_h, w_w, b_w, lambda h: h)


def coordinate_norm_best(x, w1, b1, w_h, b_h, w_w, b_w, norm_weight, norm_bias) -> Tensor:
    norm = partial(_normed, axes=(0, 2), weight=norm_weight[:, None], bias=norm_bias[:, None])
    return _coordinates_best(x, w1, b1, w_h, b_h, w_w, b_w, norm)


RIVALS = {
    "strip_gate": Rivals(strip_listing),
    "coordinate_attention": Rivals(coordinate_listing, coordinate_best),
    "coordinate_attention_norm": Rivals(coordinate_norm_listing, coordinate_norm_best),
}
