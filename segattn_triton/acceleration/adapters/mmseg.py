"""mmsegmentation and mmpretrain: attention, and branches that meet, whose logits the network's own layers make."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .parts import channels_of, product
from .registry import gate

_BACKBONES = "mmseg.models.backbones"


def _msca_forward(block: nn.Module, gates, names: dict, x: Tensor):
    """Strips of three lengths beside a window, mixed: the product with x has no sigmoid."""
    z = block.conv0(x)
    strips = [getattr(block, f"conv{i}_2")(getattr(block, f"conv{i}_1")(z)) for i in range(3)]
    return gates[0](x, z=block.conv3(z + strips[0] + strips[1] + strips[2]))


@gate(
    f"{_BACKBONES}.mscan.MSCAAttention",
    f"{_BACKBONES}.mscan.AttentionModule",
    kernel="gate_mul",
    children="conv0 conv0_1 conv0_2 conv1_1 conv1_2 conv2_1 conv2_2 conv3",
    attributes="init_cfg",
    inline=_msca_forward,
)
def _msca(m):
    return product("identity")


def _lka_forward(block: nn.Module, gates, names: dict, x: Tensor):
    return gates[0](x, z=block.conv1(block.DW_D_conv(block.DW_conv(x))))


@gate(
    "mmpretrain.models.backbones.van.LKA",
    kernel="gate_mul",
    children="DW_conv DW_D_conv conv1",
    attributes="init_cfg",
    inline=_lka_forward,
)
def _lka(m):
    return product("identity")


def _bga_forward(block: nn.Module, gates, names: dict, x_d: Tensor, x_s: Tensor):
    """The details by the coarse logits, resized where they are read, and the coarse details by the semantics'."""
    fine, coarse = gates
    x = block.detail_dwconv(x_d)
    under = coarse(block.detail_down(x_d), z=block.semantic_dwconv(x_s))
    under = F.interpolate(under, size=x.shape[2:], mode="bilinear", align_corners=block.align_corners)
    return block.conv(fine(x, z=block.semantic_conv(x_s), shortcut=under))


@gate(
    f"{_BACKBONES}.bisenetv2.BGALayer",
    kernel="gate_mul_resized",
    children="detail_dwconv detail_down semantic_conv semantic_dwconv conv",
    attributes="out_channels align_corners init_cfg",
    inline=_bga_forward,
    arguments=lambda m, new: (new(m.out_channels, 4), new(m.out_channels)),
)
def _bga(m):
    coarse = product()._replace(kernel="gate_mul")
    return product(align_corners=m.align_corners)._replace(more=(coarse,))


def _pag_forward(block: nn.Module, gates, names: dict, x_p: Tensor, x_i: Tensor):
    """x_i, resized, where its pixels are like those of x_p in both embeddings, else x_p."""
    if block.after_relu:
        x_p, x_i = block.relu(x_p), block.relu(x_i)
    size = dict(size=x_p.shape[2:], mode=block.upsample_mode, align_corners=False)
    z = block.f_p(x_p) * F.interpolate(block.f_i(x_i), **size)
    z = block.up(z) if block.with_channel else torch.sum(z, dim=1, keepdim=True)
    return gates[0](F.interpolate(x_i, **size), b=x_p, z=z)


@gate(
    f"{_BACKBONES}.pidnet.PagFM",
    kernel="gate_blend",
    children="f_i f_p up relu",
    attributes="after_relu with_channel upsample_mode init_cfg",
    inline=_pag_forward,
    arguments=lambda m, new: (new(channels_of(m, "f_p"), 2), new(channels_of(m, "f_i"))),
)
def _pag(m):
    for path in ("f_p", "f_i"):
        channels_of(m, path)
    return product()


def _bag_forward(block: nn.Module, gates, names: dict, x_p: Tensor, x_i: Tensor, x_d: Tensor):
    return block.conv(gates[0](x_p, b=x_i, z=x_d))


@gate(
    f"{_BACKBONES}.pidnet.Bag",
    kernel="gate_blend",
    children="conv",
    attributes="init_cfg",
    inline=_bag_forward,
    arguments=lambda m, new: tuple(new(channels_of(m, "conv")) for _ in range(3)),
)
def _bag(m):
    channels_of(m, "conv")
    return product()


def _light_bag_forward(block: nn.Module, gates, names: dict, x_p: Tensor, x_i: Tensor, x_d: Tensor):
    """1 - sigmoid(d) is sigmoid(-d)."""
    (gate,) = gates
    return block.f_p(gate(x_i, z=-x_d, shortcut=x_p)) + block.f_i(gate(x_p, z=x_d, shortcut=x_i))


@gate(
    f"{_BACKBONES}.pidnet.LightBag",
    kernel="gate_mul",
    children="f_p f_i",
    attributes="init_cfg",
    inline=_light_bag_forward,
    arguments=lambda m, new: tuple(new(channels_of(m, "f_p")) for _ in range(3)),
)
def _light_bag(m):
    channels_of(m, "f_p")
    return product()
