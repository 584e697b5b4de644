"""Branches weighted by a softmax over them: timm's SplitAttn and SelectiveKernel, mmsegmentation's ResNeSt.

The block's own layers make the logits, of what the mean of all branches' sum is. Two that are not stacked blend as they
are: y = a x_1 + (1 - a) x_2.
"""

import torch
from torch import Tensor, nn

from .parts import Parts, channels_of, part, product, qualified_name, wide_as_autocast
from .registry import gate

_GROUPS = {  # how each class that orders the logits names the groups among them
    "timm.layers.split_attn.RadixSoftmax": "cardinality",
    "mmseg.models.backbones.resnest.RSoftmax": "groups",
}


def _sum_of(x: Tensor, radix: int) -> Tensor:
    return x.unflatten(1, (radix, -1)).sum(1)


def _mean(total: Tensor) -> Tensor:
    """(N, C, 1, 1): of the branches' sum, in the order of the block's own arithmetic: a norm of few images follows."""
    return total.mean((2, 3), keepdim=True)


def _weighted(block: nn.Module, gates, x: Tensor, pooled) -> Tensor:
    """x (N, radix C, H, W) by what `pooled` makes of the branches' mean: logits (N, groups radix C / groups, 1, 1)."""
    radix, softmax = block.radix, block.rsoftmax
    z = block.fc2(pooled(_mean(_sum_of(x, radix) if radix > 1 else x)))
    groups = getattr(softmax, _GROUPS[qualified_name(type(softmax))])
    z = z.reshape(len(x), groups, radix, -1).transpose(1, 2).reshape(len(x), radix, -1)
    return gates[0](x, z=wide_as_autocast(z) if radix > 1 else z)


def _split_parts(m: nn.Module) -> Parts:
    channels_of(m, "conv")
    softmax = part(m, "rsoftmax")
    if qualified_name(type(softmax)) not in _GROUPS:
        raise ValueError(f"its child 'rsoftmax' is {qualified_name(type(softmax))}, expected a softmax over the radix")
    if m.radix < 1 or softmax.radix != m.radix:
        raise ValueError(f"it has {m.radix} radix splits, and its softmax {softmax.radix}")
    return Parts((), {}, (2,))


def _first_map(m: nn.Module, new) -> tuple[Tensor]:
    conv = m.conv
    return (new(conv.in_channels, max(conv.stride)),)


def _split_forward(block: nn.Module, gates, names: dict, x: Tensor):
    x = block.act0(block.drop(block.bn0(block.conv(x))))
    return _weighted(block, gates, x, lambda v: block.act1(block.bn1(block.fc1(v))))


@gate(
    "timm.layers.split_attn.SplitAttn",
    kernel="radix_blend",
    children="conv bn0 drop act0 fc1 bn1 act1 fc2 rsoftmax",
    attributes="radix",
    inline=_split_forward,
    arguments=_first_map,
)
def _split(m):
    return _split_parts(m)


def _mmseg_forward(block: nn.Module, gates, names: dict, x: Tensor):
    x = block.relu(block.norm0(block.conv(x)))
    return _weighted(block, gates, x, lambda v: block.relu(block.norm1(block.fc1(v))))


@gate(
    "mmseg.models.backbones.resnest.SplitAttentionConv2d",
    kernel="radix_blend",
    children="conv bn0 bn1 relu fc1 fc2 rsoftmax",
    attributes="radix groups channels with_dcn dcn norm0_name norm1_name",
    inline=_mmseg_forward,
    arguments=_first_map,
)
def _mmseg(m):
    return _split_parts(m)


def _selective_forward(block: nn.Module, gates, names: dict, x: Tensor):
    """Of two the branches are not stacked; of more they are, as the block itself has them."""
    count, attn = block.num_paths, block.attn
    given = x.split(block.in_channels // count, 1) if block.split_input else (x,) * count
    maps = [path(given[i]) for i, path in enumerate(block.paths)]  # of more channels the last have no path
    stacked = torch.cat(maps, 1) if count > 2 else None
    v = _mean(maps[0] + maps[1] if stacked is None else _sum_of(stacked, count))
    z = attn.fc_select(attn.act(attn.bn(attn.fc_reduce(v)))).unflatten(1, (count, -1))
    if stacked is not None:
        return gates[0](stacked, z=wide_as_autocast(z))
    return gates[0](maps[0], b=maps[1], z=torch.softmax(z, dim=1)[:, 0])


@gate(
    "timm.layers.selective_kernel.SelectiveKernel",
    kernel="gate_blend",
    children="paths attn",
    attributes="num_paths in_channels out_channels split_input",
    inline=_selective_forward,
    arguments=lambda m, new: (new(m.in_channels, 2),),
)
def _selective(m):
    channels_of(m, "paths")
    if m.num_paths < 2:
        raise ValueError(f"it has {m.num_paths} path: a softmax over one is one")
    return product("identity") if m.num_paths == 2 else Parts((), {}, (2,), kernel="radix_blend")
