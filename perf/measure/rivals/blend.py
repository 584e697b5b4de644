"""Products and sums of maps with a gate that is given."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared import Rivals


def product_listing(x: Tensor, z: Tensor) -> Tensor:
    """SegNeXt's and BiSeNetV2's tail: the sigmoid of one branch times the other. Inductor makes one kernel of it."""
    return x * torch.sigmoid(z)


def resized_listing(x: Tensor, z: Tensor) -> Tensor:
    """BiSeNetV2's: the logits resized, sigmoid, product. Inductor fuses the three forward."""
    return x * torch.sigmoid(F.interpolate(z, size=x.shape[2:], mode="bilinear", align_corners=False))


def blend_listing(a: Tensor, b: Tensor, z: Tensor) -> Tensor:
    """PIDNet's and PP-LiteSeg's: both products and their sum."""
    g = torch.sigmoid(z)
    return g * a + (1 - g) * b


def blend_best(a: Tensor, b: Tensor, z: Tensor) -> Tensor:
    return torch.lerp(b, a, torch.sigmoid(z))


def branches_listing(x: Tensor, z: Tensor) -> Tensor:
    """timm's SplitAttn: the softmax, a product with its expansion, the sum over the branches."""
    return (x.unflatten(1, z.shape[1:3]) * _shares(x, z)).sum(1)


def branches_best(x: Tensor, z: Tensor) -> Tensor:
    """A product for each branch, added one after the other: no reduction for Inductor to plan."""
    a, parts = _shares(x, z), x.unflatten(1, z.shape[1:3])
    return sum(a[:, r] * parts[:, r] for r in range(z.shape[1]))


def _shares(x: Tensor, z: Tensor) -> Tensor:
    a = F.softmax(z, 1) if z.shape[1] > 1 else torch.sigmoid(z)
    return a.reshape(*z.shape[:3], *[1] * (x.dim() - 2))


RIVALS = {
    "gate_mul": Rivals(product_listing, left_out=("shortcut",)),
    "gate_mul_resized": Rivals(resized_listing, left_out=("shortcut",)),
    "gate_blend": Rivals(blend_listing, blend_best),
    "radix_blend": Rivals(branches_listing, branches_best),
}
