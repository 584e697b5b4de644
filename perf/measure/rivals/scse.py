"""Both gates of squeeze and excitation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared import Rivals


def scse_listing(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """segmentation_models_pytorch's: both gates by 1x1 convolutions, the sum of both products."""
    v = F.adaptive_avg_pool2d(x, 1)
    gc = torch.sigmoid(F.conv2d(F.relu(F.conv2d(v, w1[:, :, None, None], b1)), w2[:, :, None, None], b2))
    return x * gc + x * torch.sigmoid(F.conv2d(x, weight[:, :, None, None], bias))


def scse_best(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One product, and the convolution to one channel as a sum, which Inductor fuses with it."""
    gc = torch.sigmoid(torch.addmm(b2, torch.relu(torch.addmm(b1, x.mean((2, 3)), w1.T)), w2.T))
    gp = torch.sigmoid((x * weight[:, :, None, None]).sum(1, keepdim=True) + bias)
    return x * (gc[:, :, None, None] + gp)


RIVALS = {
    "scse": Rivals(scse_listing, scse_best),
}
