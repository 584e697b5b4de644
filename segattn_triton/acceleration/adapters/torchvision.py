"""torchvision: the gate of EfficientNet, MobileNetV3, RegNet and MaxViT, and that of LRASPP's head."""

import torch.nn.functional as F
from torch import Tensor, nn

from .parts import pooled_dims, sequence, squeeze_excite
from .registry import gate


@gate("torchvision.ops.misc.SqueezeExcitation", children="avgpool fc1 fc2 activation scale_activation")
def _squeeze_excitation(m):
    return squeeze_excite(m, "fc1", "activation", "fc2", "scale_activation", dims=(pooled_dims(m, "avgpool"),))


def _lraspp_forward(block: nn.Module, gates, names: dict, input: dict[str, Tensor]):
    """The high map's projection is gated by the high map itself."""
    (gate,), low, high = gates, input["low"], input["high"]
    x = gate(block.cbr(high), source=high)
    x = F.interpolate(x, size=low.shape[-2:], mode="bilinear", align_corners=False)
    return block.low_classifier(low) + block.high_classifier(x)


@gate(
    "torchvision.models.segmentation.lraspp.LRASPPHead",
    children="cbr scale low_classifier high_classifier",
    inline=_lraspp_forward,
    arguments=lambda m, new: ({"low": new(m.low_classifier.in_channels, 2), "high": new(m.scale[1].in_channels)},),
)
def _lraspp(m):
    sequence(m, "scale", 3)
    return squeeze_excite(m, "scale.1", None, None, "scale.2", dims=(pooled_dims(m, "scale.0"),))
