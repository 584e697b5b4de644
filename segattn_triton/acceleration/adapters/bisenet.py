"""CoinCheung's BiSeNet: the gates of BiSeNetV1, of which the repository has had two versions."""

import torch
from torch import Tensor, nn

from .norms import with_norm
from .parts import Parts, arguments_of_two, given, layer, only, run_gate, squeeze_excite
from .registry import gate

_MODELS = ("lib.models.bisenetv1", "models.bisenetv1", "bisenetv1")  # from the repository, from lib, from lib/models


def _refinement_forward(block: nn.Module, gates, names: dict, x: Tensor):
    feat = block.conv(x)
    return run_gate(gates, feat, lambda: block.bn_atten(block.conv_atten(feat.mean((2, 3), keepdim=True))))


@gate(
    *[f"{home}.AttentionRefinementModule" for home in _MODELS],
    children="conv conv_atten bn_atten sigmoid_atten",
    inline=_refinement_forward,
    arguments=lambda m, new: (new(m.conv.conv.in_channels),),
)
def _refinement(m):
    if "sigmoid_atten" in m._modules:  # a function in the later version
        only(m, "sigmoid_atten", nn.Sigmoid)
    return _one_layer(m, "conv_atten", "bn_atten")


def _one_layer(m: nn.Module, conv: str, norm: str) -> Parts:
    return with_norm(given(layer(m, conv)[0], "sigmoid", (2,)), m, conv, norm, "sigmoid")


def _fusion_forward(block: nn.Module, gates, names: dict, fsp: Tensor, fcp: Tensor):
    feat = block.convblk(torch.cat([fsp, fcp], dim=1))
    if "conv1" in block._modules:
        return gates[0](feat, shortcut=feat)
    return run_gate(gates, feat, lambda: block.bn(block.conv(feat.mean((2, 3), keepdim=True))), shortcut=feat)


@gate(
    *[f"{home}.FeatureFusionModule" for home in _MODELS],
    children="convblk conv bn conv1 conv2 relu sigmoid",
    inline=_fusion_forward,
    arguments=arguments_of_two("convblk.conv"),
)
def _fusion(m):
    """One layer and its norm; in the first version two layers without one."""
    if "conv1" in m._modules:
        return squeeze_excite(m, "conv1", "relu", "conv2", "sigmoid", dims=(2,))
    return _one_layer(m, "conv", "bn")
