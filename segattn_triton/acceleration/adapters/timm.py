"""timm: its SE, eSE, ECA and CBAM gates, and the residual blocks of SE-ResNet, SE-ResNeXt and SENet."""

import torch
from torch import Tensor, nn

from ...modules._children import folded, uses_batch
from ...reference.activations import ACTS, GATES
from .norms import of_pixels, squeeze_excite_norm
from .parts import (
    Parts,
    activation,
    layer,
    only,
    part,
    qualified_name,
    squeeze_excite,
    unexpected,
    wide_as_autocast,
    window,
)
from .registry import block, gate


def _pooling(m) -> dict:
    return dict(pool="avgmax", ties="split") if m.add_maxpool else {}  # amax shares the gradient of a tie


@gate("timm.layers.squeeze_excite.SEModule", children="fc1 bn act fc2 gate", attributes="add_maxpool")
def _se_module(m):
    if type(part(m, "bn")) is nn.Identity:
        return squeeze_excite(m, "fc1", "act", "fc2", "gate", **_pooling(m))
    act, gate = activation(m, "act", ACTS), activation(m, "gate", GATES)
    parts = squeeze_excite_norm(m, [("fc1", "bn"), ("fc2", None)], act, gate)
    return parts._replace(options={**parts.options, **_pooling(m)})


@gate("timm.models._efficientnet_blocks.SqueezeExcite", children="conv_reduce act1 conv_expand gate")
def _squeeze_excite(m):
    return squeeze_excite(m, "conv_reduce", "act1", "conv_expand", "gate")


@gate("timm.models.senet.SEModule", children="fc1 relu fc2 sigmoid")
def _senet(m):
    return squeeze_excite(m, "fc1", "relu", "fc2", "sigmoid")


@gate("timm.layers.squeeze_excite.EffectiveSEModule", children="fc gate", attributes="add_maxpool")
def _effective(m):
    return squeeze_excite(m, "fc", None, None, "gate", **_pooling(m))


@gate("timm.models.hgnet.EseModule", children="conv sigmoid")
def _hgnet(m):
    return squeeze_excite(m, "conv", None, None, "sigmoid")


def _eca(m, circular: bool):
    conv = only(m, "conv", nn.Conv1d)
    padding = 0 if circular else conv.kernel_size[0] // 2
    odd = conv.kernel_size[0] % 2 == 1
    plain = conv.stride == conv.dilation == (1,) and conv.padding_mode == "zeros"
    if not (odd and plain) or (conv.in_channels, conv.out_channels) != (1, 1) or conv.padding != (padding,):
        raise ValueError(f"its child 'conv' is not a convolution over the channels that keeps their number: {conv}")
    options = dict(circular=circular, gate=activation(m, "gate", GATES))
    return Parts((conv.weight, conv.bias), options, (2,))


@gate("timm.layers.eca.EcaModule", kernel="eca", children="conv act conv2 gate", attributes="act conv2")
def _eca_module(m):
    if m.conv2 is not None:
        raise ValueError("use_mlp: two convolutions over the channels have no kernel")
    return _eca(m, circular=False)


@gate("timm.layers.eca.CecaModule", kernel="eca", children="conv gate", attributes="padding")
def _ceca_module(m):
    if m.padding != only(m, "conv", nn.Conv1d).kernel_size[0] // 2:
        raise ValueError(f"padding is {m.padding}, expected half the kernel size")
    return _eca(m, circular=True)


def _cbam_forward(block: nn.Module, gates, names: dict, x: Tensor):
    """The whole block, its norm folded into the convolution or that of the batch; else the channels' half, and its own
    layers for the pixels."""
    channel, *whole = gates
    return whole[0](x) if whole else block.spatial(channel(x))


def _cbam(m, light: bool):
    halves = [qualified_name(type(part(m, name))) for name in ("channel", "spatial")]
    prefix = "timm.layers.cbam.Light" if light else "timm.layers.cbam."
    if halves != [f"{prefix}ChannelAttn", f"{prefix}SpatialAttn"]:
        raise ValueError(f"its halves are {halves[0]} and {halves[1]}")
    gate = activation(m, "spatial.gate", GATES)
    if gate != (activation(m, "channel.gate", GATES) if not light else ("sigmoid", 0.0, 0.0)):
        raise ValueError("its two gates differ: the kernel has one for both")
    layers = (*layer(m, "channel.fc1"), *layer(m, "channel.fc2"))
    options = dict(act=activation(m, "channel.act", ACTS), gate=gate, ties="split")
    options["pool"] = "avgmax" if light else "avg+max"
    conv, norm = window(m, "spatial.conv.conv", 1 if light else 2), part(m, "spatial.conv.bn")
    more = m.spatial.conv._modules.keys() - {"conv", "bn"}
    if any(type(m.spatial.conv._modules[name]) not in (nn.Identity, type(None)) for name in more):
        raise ValueError("its convolution is more than a convolution and a norm")
    if qualified_name(type(norm)) not in ("timm.layers.norm_act.BatchNormAct2d", qualified_name(nn.BatchNorm2d)):
        raise unexpected("spatial.conv.bn", norm, "a batch norm")
    for name in norm._modules:
        only(m, f"spatial.conv.bn.{name}", nn.Identity)
    channel = Parts(layers, options, (2,), kernel="squeeze_excite")
    options = {**options, "spatial_pool": "mean,max"}
    if uses_batch(norm):
        if norm.weight is None:
            return channel
        tensors = *layers, conv.weight, conv.bias, norm.weight, norm.bias
        return channel._replace(more=(of_pixels(Parts(tensors, options, (2,)), norm),))
    if torch.is_grad_enabled() and norm.weight is not None and norm.weight.requires_grad:
        return channel  # folded, its gradient is a sum that cancels
    return channel._replace(more=(Parts((*layers, *folded(conv, norm)), options, (2,)),))


@gate("timm.layers.cbam.CbamModule", kernel="cbam", children="channel spatial", inline=_cbam_forward)
def _cbam_module(m):
    return _cbam(m, light=False)


@gate("timm.layers.cbam.LightCbamModule", kernel="cbam", children="channel spatial", inline=_cbam_forward)
def _light_cbam_module(m):
    return _cbam(m, light=True)


def _response_forward(block: nn.Module, gates, names: dict, x: Tensor):
    """Of maps with the channels last, of a view. A norm under autocast is float32 on a GPU, and so is the sum; beside
    weights of another dtype it is what torch makes of both."""
    (gate,), last = gates, block.channel_dim == -1
    x = wide_as_autocast(x)
    x = x.to(torch.promote_types(x.dtype, block.weight.dtype))
    return gate(x.movedim(-1, 1)).movedim(1, -1) if last else gate(x)


def _response_map(m: nn.Module, new):
    x = new(m.weight.numel())
    return (x.movedim(1, -1) if m.channel_dim == -1 else x,)


@gate(
    "timm.layers.grn.GlobalResponseNorm",
    kernel="global_response_norm",
    children="",
    attributes="eps spatial_dim channel_dim wb_shape",
    inline=_response_forward,
    arguments=_response_map,
)
def _response_norm(m):
    if (m.spatial_dim, m.channel_dim) not in (((1, 2), -1), ((2, 3), 1)):
        raise ValueError(
            f"spatial_dim is {m.spatial_dim}, channel_dim {m.channel_dim}: expected (1, 2), -1 or (2, 3), 1"
        )
    return Parts((m.weight, m.bias), dict(eps=m.eps), (2,))


_three = dict(body="conv1 bn1 relu conv2 bn2 relu conv3 bn3", gate="se_module", shortcut="downsample", act="relu")
_two = dict(body="conv1 bn1 relu conv2 bn2 relu", gate="se_module", shortcut="downsample", act="relu")
SENET = [f"senet.{name}" for name in ("SEBottleneck", "SEResNetBottleneck", "SEResNeXtBottleneck")]
block(*[f"timm.models.{name}" for name in SENET], **_three, attributes="stride downsample")
block("timm.models.senet.SEResNetBlock", **_two, attributes="stride downsample")
_resnet = dict(gate="se", shortcut="downsample", absent="drop_path", attributes="downsample stride dilation")
_body = "conv1 bn1 act1 conv2 bn2 drop_block act2 aa conv3 bn3"
block("timm.models.resnet.Bottleneck", body=_body, act="act3", **_resnet)
block("timm.models.resnet.BasicBlock", body="conv1 bn1 drop_block act1 aa conv2 bn2", act="act2", **_resnet)
