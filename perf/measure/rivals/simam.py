"""An energy a value, without parameters."""

import torch
from torch import Tensor

from .shared import Rivals


def simam_listing(x: Tensor) -> Tensor:
    """The authors': squares about the mean, their sum, the energy."""
    squares = (x - x.mean((2, 3), keepdim=True)).pow(2)
    var = squares.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1)
    return x * torch.sigmoid(squares / (4 * (var + 1e-4)) + 0.5)


def simam_best(x: Tensor) -> Tensor:
    """Both moments of one read, in float32, and a product by the reciprocal."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    var, mean = torch.var_mean(wide, (2, 3), keepdim=True)
    return (wide * torch.sigmoid((wide - mean).square() * (0.25 / (var + 1e-4)) + 0.5)).to(x.dtype)


RIVALS = {
    "simam": Rivals(simam_listing, simam_best),
}
