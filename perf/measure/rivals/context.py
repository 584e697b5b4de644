"""A context of the whole map, by attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared import Rivals


def _context_logits(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2) -> Tensor:
    """timm's and mmcv's: a 1x1 convolution, softmax, a product of matrices, two layers with a norm between."""
    a = F.conv2d(x, weight[:, :, None, None], bias).flatten(2).softmax(2).unsqueeze(3)
    v = (x.flatten(2).unsqueeze(1) @ a).view(*x.shape[:2], 1, 1)
    h = F.conv2d(v, w1[:, :, None, None], b1).permute(0, 2, 3, 1)
    h = F.relu(F.layer_norm(h, ln_weight.shape, ln_weight, ln_bias, 1e-6).permute(0, 3, 1, 2))
    return F.conv2d(h, w2[:, :, None, None], b2)


def context_listing(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2) -> Tensor:
    return x * torch.sigmoid(_context_logits(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2))


def context_add_listing(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2) -> Tensor:
    return x + _context_logits(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2)


def _context_best(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2) -> Tensor:
    """Logits and context as sums, which Inductor fuses with what is around them; layers as matrices."""
    a = ((x * weight[:, :, None, None]).sum(1) + bias).flatten(1).softmax(1)
    v = (x.flatten(2) * a[:, None]).sum(2)
    h = torch.relu(F.layer_norm(torch.addmm(b1, v, w1.T), ln_weight.shape, ln_weight, ln_bias, 1e-6))
    return torch.addmm(b2, h, w2.T)[:, :, None, None]


def context_best(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2) -> Tensor:
    return x * torch.sigmoid(_context_best(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2))


def context_add_best(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2) -> Tensor:
    return x + _context_best(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2)


RIVALS = {
    "global_context": Rivals(context_listing, context_best),
    "global_context_add": Rivals(context_add_listing, context_add_best),
}
