"""OpenMMLab: the SELayer of mmsegmentation, mmpretrain and mmdetection, two ConvModules after a global pool."""

from torch import nn

from .parts import part, pooled_dims, squeeze_excite
from .registry import gate


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
    attributes="return_weight",
)
def _se_layer(m):
    if getattr(m, "return_weight", False):
        raise ValueError("return_weight: it returns the gate, not the gated map")
    _plain_conv_module(m, "conv1")
    _plain_conv_module(m, "conv2")
    dims = (pooled_dims(m, "global_avgpool"),)
    return squeeze_excite(m, "conv1.conv", "conv1.activate", "conv2.conv", "conv2.activate", dims=dims)
