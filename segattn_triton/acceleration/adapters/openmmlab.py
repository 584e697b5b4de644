"""OpenMMLab: the SELayer of mmsegmentation, mmpretrain and mmdetection, two ConvModules after a global pool; and of
mmsegmentation the gates of CGNet, BiSeNetV1 and STDC."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...reference.activations import GATES, Spec
from .norms import with_norm
from .parts import (
    Parts,
    activation,
    arguments_of_two,
    given,
    layer,
    part,
    pooled_dims,
    run_gate,
    sequence,
    spec_of,
    squeeze_excite,
)
from .registry import gate

_BACKBONES = "mmseg.models.backbones"


def _plain_conv_module(m: nn.Module, path: str) -> None:
    """A ConvModule of a convolution and its activation, in this order, and nothing else."""
    child = part(m, path)
    if set(child._modules) != {"conv", "activate"} or child.order != ("conv", "norm", "act"):
        raise ValueError(f"its child {path!r} is more than a convolution and an activation")
    if child.with_norm or child.with_spectral_norm or child.with_explicit_padding or not child.with_activation:
        raise ValueError(f"its child {path!r} has a norm or a padding of its own, or no activation")


@gate(
    "mmseg.models.utils.se_layer.SELayer",
    "mmpretrain.models.utils.se_layer.SELayer",
    "mmdet.models.layers.se_layer.SELayer",
    children="global_avgpool conv1 conv2",
    attributes="return_weight init_cfg",
)
def _se_layer(m):
    if getattr(m, "return_weight", False):
        raise ValueError("return_weight: it returns the gate, not the gated map")
    _plain_conv_module(m, "conv1")
    _plain_conv_module(m, "conv2")
    dims = (pooled_dims(m, "global_avgpool"),)
    return squeeze_excite(m, "conv1.conv", "conv1.activate", "conv2.conv", "conv2.activate", dims=dims)


@gate(f"{_BACKBONES}.cgnet.GlobalContextExtractor", children="avg_pool fc", attributes="channel reduction with_cp")
def _cgnet(m):
    sequence(m, "fc", 4)
    return squeeze_excite(m, "fc.0", "fc.1", "fc.2", "fc.3", dims=(pooled_dims(m, "avg_pool"),))


def _stdc_fusion_forward(block: nn.Module, gates, names: dict, spatial_inputs: Tensor, context_inputs: Tensor):
    (gate,), x = gates, block.conv0(torch.cat([spatial_inputs, context_inputs], dim=1))
    return gate(x, shortcut=x)


@gate(
    f"{_BACKBONES}.stdc.FeatureFusionModule",
    children="conv0 conv1 conv2",
    attributes="init_cfg",
    inline=_stdc_fusion_forward,
    arguments=arguments_of_two("conv0.conv"),
)
def _stdc_fusion(m):
    _plain_conv_module(m, "conv1")
    _plain_conv_module(m, "conv2")
    return squeeze_excite(m, "conv1.conv", "conv1.activate", "conv2.conv", "conv2.activate", dims=(2,))


# Gates whose vector goes through a batch norm. A BatchNorm is part of the kernels; with a norm of all processes the
# layers run as they are, and the product and the sum are one kernel.


def _with_layers(product: Parts, m: nn.Module, path: str, gate: str | Spec) -> Parts:
    """Beside the product with the vector that the layers at `path` make the whole gate, if they are a convolution and
    a BatchNorm in this order."""
    child = part(m, path)
    known = {"conv", "bn", *(["activate"] if child.with_activation else [])}
    plain = not (child.with_spectral_norm or child.with_explicit_padding) and child.order == ("conv", "norm", "act")
    if set(child._modules) != known or not plain:
        return product
    return with_norm(product, m, f"{path}.conv", f"{path}.bn", gate)


def _stdc_refinement_forward(block: nn.Module, gates, names: dict, x: Tensor):
    x = block.conv(x)
    return run_gate(gates, x, lambda: block.conv_attn(F.avg_pool2d(x, x.shape[2:])))


@gate(
    f"{_BACKBONES}.stdc.AttentionRefinementModule",
    children="conv conv_attn",
    attributes="init_cfg",
    inline=_stdc_refinement_forward,
)
def _stdc_refinement(m):
    weight, _ = layer(m, "conv_attn.conv")
    product = given(weight, ("identity", 0.0, 0.0), (2,))
    gate = spec_of(m.conv_attn.activate) if m.conv_attn.with_activation else None
    return _with_layers(product, m, "conv_attn", gate) if gate and gate[0] in GATES else product


def _bisenet_refinement_forward(block: nn.Module, gates, names: dict, x: Tensor):
    x = block.conv_layer(x)
    pool, layers, _ = block.atten_conv_layer
    return run_gate(gates, x, lambda: layers(pool(x)))


@gate(
    f"{_BACKBONES}.bisenetv1.AttentionRefinementModule",
    children="conv_layer atten_conv_layer",
    attributes="init_cfg",
    inline=_bisenet_refinement_forward,
)
def _bisenet_refinement(m):
    sequence(m, "atten_conv_layer", 3)
    weight, _ = layer(m, "atten_conv_layer.1.conv")
    gate, dims = activation(m, "atten_conv_layer.2", GATES), (pooled_dims(m, "atten_conv_layer.0"),)
    product, layers = given(weight, gate, dims), part(m, "atten_conv_layer.1")
    return product if layers.with_activation else _with_layers(product, m, "atten_conv_layer.1", gate)


def _bisenet_fusion_forward(block: nn.Module, gates, names: dict, x_sp: Tensor, x_cp: Tensor):
    x = block.conv1(torch.cat([x_sp, x_cp], dim=1))
    return run_gate(gates, x, lambda: block.conv_atten[0](block.gap(x)), shortcut=x)


@gate(
    f"{_BACKBONES}.bisenetv1.FeatureFusionModule",
    children="conv1 gap conv_atten",
    attributes="init_cfg",
    inline=_bisenet_fusion_forward,
    arguments=arguments_of_two("conv1.conv"),
)
def _bisenet_fusion(m):
    sequence(m, "conv_atten", 2)
    weight, _ = layer(m, "conv_atten.0.conv")
    gate, layers = activation(m, "conv_atten.1", GATES), part(m, "conv_atten.0")
    product = given(weight, gate, (pooled_dims(m, "gap"),))
    relu = layers.with_activation and type(layers._modules.get("activate")) is nn.ReLU
    return _with_layers(product, m, "conv_atten.0", "relu_sigmoid") if relu and gate[0] == "sigmoid" else product
