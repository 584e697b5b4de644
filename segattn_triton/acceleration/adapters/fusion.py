"""A coarse branch that meets a fine one: TopFormer's and SeaFormer's injections, and PP-LiteSeg's fusions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .parts import channels_of, product
from .registry import gate

_BACKBONES = "mmseg.models.backbones"
_TENSOR_FUSION = "tensor_fusion", "paddleseg.models.layers.tensor_fusion"  # PaddleSeg's file, carried over to torch
_PP_LITE_SEG = "super_gradients.training.models.segmentation_models.ppliteseg"


def _injection_forward(block: nn.Module, gates, names: dict, x_l: Tensor, x_g: Tensor):
    """The coarse gate, which has its sigmoid before it is resized, is read where it lies; what is added is resized."""
    x, under = block.local_embedding(x_l), block.global_embedding(x_g)
    under = F.interpolate(under, size=x_l.shape[2:], mode="bilinear", align_corners=False)
    return gates[0](x, z=block.act(block.global_act(x_g)), shortcut=under)


@gate(
    f"{_BACKBONES}.topformer.InjectionMultiSum",
    f"{_BACKBONES}.topformer.InjectionMultiSumCBR",
    kernel="gate_mul_resized",
    children="local_embedding global_embedding global_act act",
    attributes="norm_cfg out_channels",
    inline=_injection_forward,
    arguments=lambda m, new: (new(channels_of(m, "local_embedding"), 2), new(channels_of(m, "global_act"))),
)
def _injection(m):
    channels_of(m, "global_act")
    return product("identity", align_corners=False)


def _multiplied_forward(block: nn.Module, gates, names: dict, x_l: Tensor, x_h: Tensor):
    return gates[0](block.fuse1(x_l), z=block.act(block.fuse2(x_h)))


@gate(
    f"{_BACKBONES}.topformer.FuseBlockMulti",
    kernel="gate_mul_resized",
    children="fuse1 fuse2 act",
    attributes="stride norm_cfg out_channels",
    inline=_multiplied_forward,
    arguments=lambda m, new: (new(channels_of(m, "fuse1"), 2), new(channels_of(m, "fuse2"))),
)
def _multiplied(m):
    channels_of(m, "fuse2")
    return product("identity", align_corners=False)


def _seaformer_forward(block: nn.Module, gates, names: dict, x_l: Tensor, x_g: Tensor):
    return gates[0](block.local_embedding(x_l), z=block.act(block.global_act(x_g)))


@gate(
    f"{_BACKBONES}.seaformer.Fusion_block",
    kernel="gate_mul_resized",
    children="local_embedding global_act act",
    attributes="norm_cfg",
    inline=_seaformer_forward,
    arguments=lambda m, new: (new(channels_of(m, "local_embedding"), 2), new(channels_of(m, "global_act"))),
)
def _seaformer(m):
    channels_of(m, "global_act")
    return product("identity", align_corners=False)


def _uafm_forward(block: nn.Module, gates, names: dict, x: Tensor, skip: Tensor):
    """Logits of a pixel by the means and maxima of both maps over the channels, which they blend."""
    x, skip = block.up_x(x), block.proj_skip(skip)
    pools = [*block._avg_max_spatial_reduce(x), *block._avg_max_spatial_reduce(skip)]
    return block.conv_out(gates[0](x, b=skip, z=block.conv_atten(torch.cat(pools, dim=1))))


def _uafm_maps(m: nn.Module, new) -> tuple[Tensor, Tensor]:
    channels = channels_of(m, "conv_out")
    skip = channels if type(m.proj_skip) is nn.Identity else channels_of(m, "proj_skip")
    return new(channels), new(skip, int(getattr(m.up_x, "scale_factor", 1)))


@gate(
    f"{_PP_LITE_SEG}.UAFM",
    kernel="gate_blend",
    children="conv_atten proj_skip up_x conv_out",
    inline=_uafm_forward,
    arguments=_uafm_maps,
)
def _uafm(m):
    channels_of(m, "conv_out")
    return product()


def _paddle_forward(block: nn.Module, gates, names: dict, x: Tensor, y: Tensor):
    """Logits of a channel by the means, or the means and maxima, of both maps over the pixels."""
    block.check(x, y)
    x, y = block.prepare(x, y)
    pools = [t.mean((2, 3), keepdim=True) for t in (x, y)]
    if not _of_means(block):
        pools += [F.adaptive_max_pool2d(t, 1) for t in (x, y)]
    return block.conv_out(gates[0](x, b=y, z=block.conv_xy_atten(torch.cat(pools, dim=1))))


def _of_means(m: nn.Module) -> bool:
    return channels_of(m, "conv_xy_atten") == 2 * channels_of(m, "conv_out")


@gate(
    *(f"{path}.UAFM_ChAtten{pools}" for path in _TENSOR_FUSION for pools in ("", "_S")),
    kernel="gate_blend",
    children="conv_x conv_out conv_xy_atten",
    attributes="resize_mode",
    inline=_paddle_forward,
    arguments=lambda m, new: (new(channels_of(m, "conv_x"), 2), new(channels_of(m, "conv_out"))),
)
def _of_channels(m):
    given, channels = channels_of(m, "conv_xy_atten"), channels_of(m, "conv_out")
    if given not in (2 * channels, 4 * channels):
        raise ValueError(f"its child 'conv_xy_atten' takes {given} channels, expected pools of two maps of {channels}")
    return product()


def _of_pixels_forward(block: nn.Module, gates, names: dict, x: Tensor, y: Tensor):
    """Logits of a pixel by the means, or the means and maxima, of both maps over the channels."""
    block.check(x, y)
    x, y = block.prepare(x, y)
    peaks = channels_of(block, "conv_xy_atten") == 4
    pools = []
    for t in (x, y):
        pools += [t.mean(1, keepdim=True), *([torch.max(t, 1, keepdim=True)[0]] if peaks else [])]
    return block.conv_out(gates[0](x, b=y, z=block.conv_xy_atten(torch.cat(pools, dim=1))))


@gate(
    *(f"{path}.UAFM_SpAtten{pools}" for path in _TENSOR_FUSION for pools in ("", "_S")),
    kernel="gate_blend",
    children="conv_x conv_out conv_xy_atten",
    attributes="resize_mode",
    inline=_of_pixels_forward,
    arguments=lambda m, new: (new(channels_of(m, "conv_x"), 2), new(channels_of(m, "conv_out"))),
)
def _of_pixels(m):
    channels_of(m, "conv_out")
    if (given := channels_of(m, "conv_xy_atten")) not in (2, 4):
        raise ValueError(f"its child 'conv_xy_atten' takes {given} channels, expected one or two pools of each map")
    if hasattr(m, "_scale"):
        raise ValueError("it has a _scale: y is weighted by that less the gate")
    return product()
