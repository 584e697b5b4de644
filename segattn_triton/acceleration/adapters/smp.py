"""segmentation_models_pytorch: scSE of its decoders, the gates of MAnet and PAN, SE of its encoders, and the blocks of
SE-ResNet and SENet."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...reference.activations import ACTS, GATES
from .norms import with_norm
from .parts import (
    Parts,
    activation,
    given,
    layer,
    part,
    pooled_dims,
    run_gate,
    sequence,
    squeeze_excite,
)
from .registry import block, gate

_ENCODERS = "segmentation_models_pytorch.encoders"
_DECODERS = "segmentation_models_pytorch.decoders"


@gate("segmentation_models_pytorch.base.modules.SCSEModule", kernel="scse", children="cSE sSE")
def _scse(m):
    sequence(m, "cSE", 5)
    sequence(m, "sSE", 2)
    gates = activation(m, "cSE.4", GATES), activation(m, "sSE.1", GATES)
    if gates[0] != gates[1]:
        raise ValueError(f"its two gates differ, {gates[0][0]} and {gates[1][0]}: the kernel has one for both")
    tensors = (*layer(m, "cSE.1"), *layer(m, "cSE.3"), *layer(m, "sSE.0"))
    return Parts(tensors, dict(act=activation(m, "cSE.2", ACTS), gate=gates[0]), (pooled_dims(m, "cSE.0"),))


@gate(f"{_ENCODERS}._senet.SEModule", children="avg_pool fc1 relu fc2 sigmoid")
def _senet(m):
    return squeeze_excite(m, "fc1", "relu", "fc2", "sigmoid", dims=(pooled_dims(m, "avg_pool"),))


@gate(f"{_ENCODERS}.mobileone.SEBlock", children="reduce expand")
def _mobileone(m):
    return Parts((*layer(m, "reduce"), *layer(m, "expand")), dict(act="relu", gate="sigmoid"), (2,))


block(
    *[f"{_ENCODERS}._senet.{name}" for name in ("SEBottleneck", "SEResNetBottleneck", "SEResNeXtBottleneck")],
    body="conv1 bn1 relu conv2 bn2 relu conv3 bn3",
    gate="se_module",
    shortcut="downsample",
    act="relu",
    attributes="stride downsample",
)


def _mbconv_forward(block: nn.Module, gates, names: dict, inputs: Tensor, drop_connect_rate: float | None = None):
    """expand, depthwise, gate, project, shortcut: EfficientNet's block, of which the gate is one call."""
    (gate,), x = gates, inputs
    if block._has_expansion:
        x = block._swish(block._bn0(block._expand_conv(x)))
    x = gate(block._swish(block._bn1(block._depthwise_conv(x))))
    x = block._bn2(block._project_conv(x))
    if block._has_drop_connect:
        if drop_connect_rate:
            x = names["drop_connect"](x, p=drop_connect_rate, training=block.training)
        x = x + inputs
    return x


@gate(
    f"{_ENCODERS}._efficientnet.MBConvBlock",
    children="_expand_conv _bn0 _depthwise_conv _bn1 _se_reduce _se_expand _project_conv _bn2 _swish",
    inline=_mbconv_forward,
)
def _mbconv(m):
    if not m._has_se:
        return None
    tensors = (*layer(m, "_se_reduce"), *layer(m, "_se_expand"))
    return Parts(tensors, dict(act=activation(m, "_swish", ACTS), gate="sigmoid"), (2,))


def _mfab_forward(block: nn.Module, gates, names: dict, x: Tensor, skip: Tensor | None = None):
    """x * (high(x) + low(skip)): two gates, the first of which is the shortcut of the second."""
    high, low = gates
    x = F.interpolate(block.hl_conv(x), scale_factor=2.0, mode=block.interpolation_mode)
    if skip is not None:
        x = torch.cat([low(x, source=skip, shortcut=high(x)), skip], dim=1)
    return block.conv2(block.conv1(x))


@gate(
    f"{_DECODERS}.manet.decoder.MFABBlock",
    children="hl_conv SE_ll SE_hl conv1 conv2",
    attributes="interpolation_mode",
    inline=_mfab_forward,
    arguments=lambda m, new: (new(m.hl_conv[0][0].in_channels), new(m.SE_ll[1].in_channels, 2)),
)
def _mfab(m):
    high, low = (_mfab_half(m, name) for name in ("SE_hl", "SE_ll"))
    return high._replace(more=(low,))


def _mfab_half(m: nn.Module, name: str) -> Parts:
    sequence(m, name, 5)
    dims = (pooled_dims(m, f"{name}.0"),)
    return squeeze_excite(m, f"{name}.1", f"{name}.2", f"{name}.3", f"{name}.4", dims=dims)


def _gau_forward(block: nn.Module, gates, names: dict, x: Tensor, y: Tensor):
    """y, resized, + x * gate(norm(layer of y))."""
    pool, layers, _ = block.conv1
    up = F.interpolate(y, size=x.shape[2:], mode=block.interpolation_mode, align_corners=block.align_corners)
    return run_gate(gates, block.conv2(x), lambda: layers(pool(y)), source=y, shortcut=up)


@gate(
    f"{_DECODERS}.pan.decoder.GAUBlock",
    children="conv1 conv2",
    attributes="interpolation_mode align_corners",
    inline=_gau_forward,
    arguments=lambda m, new: (new(m.conv2.conv.in_channels, 2), new(m.conv1[1].conv.in_channels)),
)
def _gau(m):
    sequence(m, "conv1", 3)
    (weight, _), layers = layer(m, "conv1.1.conv"), part(m, "conv1.1")
    gate = activation(m, "conv1.2", GATES)
    product = given(weight, gate, (pooled_dims(m, "conv1.0"),))
    plain = layers._modules.keys() == {"conv", "bn", "activation"} and not (layers.add_relu or layers.interpolate)
    return with_norm(product, m, "conv1.1.conv", "conv1.1.bn", gate) if plain else product
