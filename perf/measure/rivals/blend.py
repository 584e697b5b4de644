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


RIVALS = {
    "gate_mul": Rivals(product_listing, left_out=("shortcut",)),
    "gate_mul_resized": Rivals(resized_listing, left_out=("shortcut",)),
    "gate_blend": Rivals(blend_listing, blend_best),
}
