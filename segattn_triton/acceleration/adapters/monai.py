"""MONAI: its channel gates in 1, 2 and 3 dimensions, the residual blocks of SE-ResNet, SE-ResNeXt and SENet, and the
block of EfficientNet, with it FlexibleUNet, and the attention gate of AttentionUnet."""

import torch
from torch import Tensor, nn

from ...reference.activations import ACTS, GATES
from .attention import Layer, attention_parts
from .parts import Parts, activation, layer, only, part, pooled_dims, sequence, squeeze_excite
from .registry import block, gate

_BLOCKS = "monai.networks.blocks.squeeze_and_excitation"


@gate(f"{_BLOCKS}.ChannelSELayer", f"{_BLOCKS}.ResidualSELayer", children="avg_pool fc", attributes="add_residual")
def _channel_se(m):
    layers = only(m, "fc", nn.Sequential)
    if len(layers) != 4:
        raise ValueError(f"its child 'fc' has {len(layers)} layers, expected 4")
    shortcut = dict(shortcut=True) if m.add_residual else {}
    return squeeze_excite(m, "fc.0", "fc.1", "fc.2", "fc.3", dims=(pooled_dims(m, "avg_pool"),), **shortcut)


block(
    *[f"{_BLOCKS}.{name}" for name in ("SEBlock", "SEBottleneck", "SEResNetBottleneck", "SEResNeXtBottleneck")],
    body="conv1 conv2 conv3",
    gate="se_layer",
    shortcut="project",
    act="act",
)


def _mbconv_forward(block: nn.Module, gates, names: dict, inputs: Tensor):
    """expand, depthwise, gate, project, shortcut: EfficientNet's block, of which the gate is one call."""
    (gate,), x = gates, inputs
    if block.expand_ratio != 1:
        x = block._swish(block._bn0(block._expand_conv(block._expand_conv_padding(x))))
    x = gate(block._swish(block._bn1(block._depthwise_conv(block._depthwise_conv_padding(x)))))
    x = block._bn2(block._project_conv(block._project_conv_padding(x)))
    if block.id_skip and block.stride == 1 and block.in_channels == block.out_channels:
        if block.drop_connect_rate:
            x = names["drop_connect"](x, p=block.drop_connect_rate, training=block.training)
        x = x + inputs
    return x


def _padded_layer(m: nn.Module, path: str):
    """A layer on a map of one pixel, behind a padding by nothing."""
    padding = part(m, f"{path}_padding")
    if type(padding) is not nn.Identity and any(getattr(padding, "padding", (1,))):
        raise ValueError(f"its child '{path}_padding' pads a map of one pixel: {padding}")
    return layer(m, path)


@gate(
    "monai.networks.nets.efficientnet.MBConvBlock",
    children="_expand_conv _expand_conv_padding _bn0 _depthwise_conv _depthwise_conv_padding _bn1 _se_adaptpool "
    "_se_reduce _se_reduce_padding _se_expand _se_expand_padding _project_conv _project_conv_padding _bn2 _swish",
    attributes="in_channels out_channels id_skip stride expand_ratio drop_connect_rate has_se se_ratio",
    inline=_mbconv_forward,
)
def _mbconv(m):
    if not m.has_se:
        return None
    tensors = (*_padded_layer(m, "_se_reduce"), *_padded_layer(m, "_se_expand"))
    options = dict(act=activation(m, "_swish", ACTS), gate="sigmoid")
    return Parts(tensors, options, (pooled_dims(m, "_se_adaptpool"),))


def _attention_forward(block: nn.Module, gates, names: dict, g: Tensor, x: Tensor):
    """x * psi(g, x). Maps that torch would broadcast are for the own forward."""
    (gate,) = gates
    known = x.dtype == block.W_x[0].conv.weight.dtype or torch.is_autocast_enabled(x.device.type)
    alike = g.dtype == x.dtype and g.dim() == x.dim() and g.shape[2:] == x.shape[2:]
    if not (known and alike):
        return type(block)._segattn_plain.forward(block, g, x)
    return gate(x, g=g)


@gate(
    "monai.networks.nets.attentionunet.AttentionBlock",
    kernel="attention_gate",
    children="W_g W_x psi relu",
    inline=_attention_forward,
    arguments=lambda m, new: (new(m.W_g[0].conv.in_channels), new(m.W_x[0].conv.in_channels)),
)
def _attention(m):
    sequence(m, "W_g", 2)
    sequence(m, "W_x", 2)
    sequence(m, "psi", 3)
    only(m, "relu", nn.ReLU)
    layers = (Layer(f"{name}.0.conv", f"{name}.1") for name in ("W_x", "W_g", "psi"))
    return attention_parts(m, *layers, activation(m, "psi.2", GATES))
