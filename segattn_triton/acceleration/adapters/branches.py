"""Branches weighted by a softmax over them: timm's SplitAttn and SelectiveKernel, mmsegmentation's ResNeSt.

Of two branches y = a x_1 + (1 - a) x_2: a blend, whose share `a` the block's own layers make of both pools.
"""

import torch
from torch import Tensor, nn

from .parts import Parts, channels_of, product
from .registry import gate


def _mean(maps: tuple[Tensor, ...]) -> Tensor:
    """(N, C, 1, 1): of the branches' sum, in the order of the block's own arithmetic: a norm of few images follows."""
    return (maps[0] + maps[1]).mean((2, 3), keepdim=True)


def _weighted(block: nn.Module, gates, x: Tensor, pooled) -> Tensor:
    """x (N, radix C, H, W) by what `pooled` makes of the branches' mean; split, as a cat is the gradient of that."""
    maps = x.chunk(block.radix, 1)
    share = block.rsoftmax(block.fc2(pooled(_mean(maps)))).reshape(len(x), -1, 1, 1)
    return gates[0](maps[0], b=maps[1], z=share[:, : maps[0].shape[1]])


def _of_two(m: nn.Module, path: str, count: int, what: str) -> Parts:
    channels_of(m, path)
    if count != 2:
        raise ValueError(f"it has {count} {what}: the kernel blends 2")
    return product("identity")


def _first_map(m: nn.Module, new) -> tuple[Tensor]:
    conv = m.conv
    return (new(conv.in_channels, max(conv.stride)),)


def _split_forward(block: nn.Module, gates, names: dict, x: Tensor):
    x = block.act0(block.drop(block.bn0(block.conv(x))))
    return _weighted(block, gates, x, lambda v: block.act1(block.bn1(block.fc1(v))))


@gate(
    "timm.layers.split_attn.SplitAttn",
    kernel="gate_blend",
    children="conv bn0 drop act0 fc1 bn1 act1 fc2 rsoftmax",
    attributes="radix",
    inline=_split_forward,
    arguments=_first_map,
)
def _split(m):
    return _of_two(m, "conv", m.radix, "radix splits")


def _mmseg_forward(block: nn.Module, gates, names: dict, x: Tensor):
    x = block.relu(block.norm0(block.conv(x)))
    return _weighted(block, gates, x, lambda v: block.relu(block.norm1(block.fc1(v))))


@gate(
    "mmseg.models.backbones.resnest.SplitAttentionConv2d",
    kernel="gate_blend",
    children="conv bn0 bn1 relu fc1 fc2 rsoftmax",
    attributes="radix groups channels with_dcn dcn norm0_name norm1_name",
    inline=_mmseg_forward,
    arguments=_first_map,
)
def _mmseg(m):
    return _of_two(m, "conv", m.radix, "radix splits")


def _selective_forward(block: nn.Module, gates, names: dict, x: Tensor):
    """The branches are not stacked."""
    given = x.split(block.in_channels // block.num_paths, 1) if block.split_input else (x,) * block.num_paths
    maps, attn = tuple(path(t) for path, t in zip(block.paths, given, strict=True)), block.attn
    z = attn.fc_select(attn.act(attn.bn(attn.fc_reduce(_mean(maps)))))
    share = torch.softmax(z.unflatten(1, (block.num_paths, -1)), dim=1)
    return gates[0](maps[0], b=maps[1], z=share[:, 0])


@gate(
    "timm.layers.selective_kernel.SelectiveKernel",
    kernel="gate_blend",
    children="paths attn",
    attributes="num_paths in_channels out_channels split_input",
    inline=_selective_forward,
    arguments=lambda m, new: (new(m.in_channels, 2),),
)
def _selective(m):
    return _of_two(m, "paths", m.num_paths, "paths")
