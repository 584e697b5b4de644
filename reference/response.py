"""Channels scaled by how strong they are beside the others."""

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
