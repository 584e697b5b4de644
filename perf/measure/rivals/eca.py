"""A gate a channel, of its neighbours among the channels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared import Rivals


def eca_listing(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The means as a signal of C samples, convolved; sigmoid, product with its expansion."""
    z = F.conv1d(x.mean((2, 3))[:, None], weight, bias, padding=weight.shape[2] // 2)
    return x * torch.sigmoid(z)[:, 0, :, None, None].expand_as(x)


def eca_best(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution as shifted products, which Inductor fuses with the rest."""
    k, C = weight.shape[2], x.shape[1]
    v, z = F.pad(x.mean((2, 3)), (k // 2, k // 2)), bias
    for j in range(k):
        z = z + weight[0, 0, j] * v[:, j : j + C]
    return x * torch.sigmoid(z)[:, :, None, None]


RIVALS = {
    "eca": Rivals(eca_listing, eca_best),
}
