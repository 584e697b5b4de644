"""Values scaled by how strong their channel is beside the others, or by how far they lie from its mean."""

import torch
from torch import Tensor

from ._pixels import pixels
from ._precision import in_full_precision
from .channel import per_channel


@in_full_precision
def global_response_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, eps: float = 1e-6, return_map: bool = False
):
    """y = x + weight * (x * r) + bias, r = norm / (mean of norm over the channels + eps), norm over the pixels.

    map (N, C): r. The gradient of a norm of 0 is 0.
    """
    norm = pixels().norm(x)
    r = norm / (norm.mean(1, keepdim=True) + eps)
    scale = per_channel(weight.reshape(1, -1) * r, x)
    y = x + x * scale
    y = y if bias is None else y + bias.reshape(1, -1, *[1] * (x.dim() - 2))
    return (y, r) if return_map else y


@in_full_precision
def simam(x: Tensor, *, eps: float = 1e-4, return_map: bool = False):
    """y = x * g, g = sigmoid(d^2 / (4 (var + eps)) + 1/2), d = x - mean, var = sum of d^2 / (P - 1), over P pixels.

    map (N, C, *S): g. Of one pixel var is 0 / 0, and all is NaN.
    """
    mean, var = pixels().spread(x)
    d = x - per_channel(mean, x)
    g = torch.sigmoid(d * d / (4 * (per_channel(var, x) + eps)) + 0.5)
    y = x * g
    return (y, g) if return_map else y
