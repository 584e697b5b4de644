"""A norm of responses over the channels."""

import torch
from torch import Tensor

from .shared import Rivals


def response_listing(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """timm's: the norm, its share of the mean, addcmul."""
    norm = x.norm(p=2, dim=(2, 3), keepdim=True)
    r = norm / (norm.mean(1, keepdim=True) + 1e-6)
    return x + torch.addcmul(bias[:, None, None], weight[:, None, None], x * r)


def response_best(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The sum of squares in float32, one scale a channel."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    norm = wide.square().sum((2, 3), keepdim=True).sqrt()
    r = norm / (norm.mean(1, keepdim=True) + 1e-6)
    return (x * (1 + weight[:, None, None] * r) + bias[:, None, None]).to(x.dtype)


RIVALS = {
    "global_response_norm": Rivals(response_listing, response_best),
}
