"""A gate a value, of a window around it."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared import Rivals


def local_listing(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3x3 convolution to as many channels, sigmoid, product. Inductor splits the bias off by itself."""
    return x * torch.sigmoid(F.conv2d(x, weight, bias, padding=1))


def depthwise_listing(x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
    window = dict(padding=dilation * (weight.shape[2] // 2), dilation=dilation, groups=x.shape[1])
    return x * torch.sigmoid(F.conv2d(x, weight, bias, **window))


def depthwise_best(x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
    """The convolution as shifted products, nine of a 3x3 window, which Inductor fuses into one kernel."""
    H, W = x.shape[2:]
    K = weight.shape[2]
    padded, z = F.pad(x, (dilation * (K // 2),) * 4), bias[:, None, None]
    for i in range(K):
        for j in range(K):
            h, w = dilation * i, dilation * j
            z = z + padded[:, :, h : h + H, w : w + W] * weight[:, :, i, j, None]
    return x * torch.sigmoid(z)


def local_pool_listing(x: Tensor) -> Tensor:
    return x * torch.sigmoid(F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False))


def _of_dilation(dilation: int) -> Rivals:
    """Of a depthwise window of any size. Partial: a tracer takes a function's every parameter for a tensor."""
    return Rivals(partial(depthwise_listing, dilation=dilation), partial(depthwise_best, dilation=dilation))


RIVALS = {
    "local_gate": Rivals(local_listing),
    "local_gate_depthwise": _of_dilation(1),
    "local_gate_depthwise_5x5": _of_dilation(1),
    "local_gate_depthwise_7x7_dilated": _of_dilation(3),
    "local_pool_gate": Rivals(local_pool_listing),
}
