"""Efficient multi-scale attention, the authors': a gate of the pixels in groups of channels, each a map of its own.

    x_1 = norm(x g(rows) g(columns)),  x_2 = conv3x3(x),  y = x sigmoid(softmax(mean x_1) x_2 + softmax(mean x_2) x_1)

The means of rows and columns, the product with both, and the last product are kernels; the layers are the block's own.
Source: Ouyang et al. 2023, arXiv:2305.13563.
"""

import torch
from torch import Tensor, nn

from .parts import Parts, only, part, product
from .registry import gate


def _shares(v: Tensor) -> Tensor:
    """(N, 1, C): a softmax over the channels of v (N, C, ...), of one value each."""
    return torch.softmax(v.flatten(1)[:, None], -1)


def _forward(block: nn.Module, gates, names: dict, x: Tensor) -> Tensor:
    product, strip_gate, strip_means = gates
    N, _, H, W = x.shape
    grouped = x.reshape(N * block.groups, -1, H, W)
    v_h, v_w = strip_means(grouped)
    z_h, z_w = block.conv1x1(torch.cat([v_h, v_w.transpose(2, 3)], 2)).split([H, W], 2)
    first = block.gn(strip_gate(grouped, z_h=z_h, z_w=z_w.transpose(2, 3)))
    second = block.conv3x3(grouped)
    of_first, of_second = _shares(first.mean((2, 3))), _shares(second.mean((2, 3)))
    z = of_first @ second.flatten(2) + of_second @ first.flatten(2)
    return product(grouped, z=z.reshape(len(grouped), 1, H, W)).reshape(x.shape)


@gate(
    "EMA_attention_module.EMA",
    kernel="gate_mul",
    children="softmax agp pool_h pool_w gn conv1x1 conv3x3",
    attributes="groups",
    inline=_forward,
    arguments=lambda m, new: (new(m.groups * m.conv1x1.in_channels),),
)
def _ema(m):
    for path, size in (("agp", (1, 1)), ("pool_h", (None, 1)), ("pool_w", (1, None))):
        if tuple(only(m, path, nn.AdaptiveAvgPool2d).output_size) != size:
            raise ValueError(f"its child {path!r} pools to {part(m, path).output_size}, expected {size}")
    if only(m, "softmax", nn.Softmax).dim != -1:
        raise ValueError("its softmax is not over the channels")
    strips = Parts((), dict(gate=("sigmoid", 0.0, 0.0), combine="product"), (2,), kernel="strip_gate")
    return product()._replace(more=(strips, Parts((), {}, (2,), kernel="strip_means")))
