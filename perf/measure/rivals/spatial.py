"""A gate a pixel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared import Rivals


def spatial_listing(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1x1 convolution to one channel, sigmoid, product."""
    return x * torch.sigmoid(F.conv2d(x, weight[:, :, None, None], bias))


def spatial_best(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution as a product and a sum, which Inductor fuses with the rest."""
    return x * torch.sigmoid((x * weight[:, :, None, None]).sum(1, keepdim=True) + bias)


def spatial_pool_listing(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.mean(1, keepdim=True))


RIVALS = {
    "spatial_gate": Rivals(spatial_listing, spatial_best),
    "spatial_pool_gate": Rivals(spatial_pool_listing),
}
