"""torchvision: the gate of EfficientNet, MobileNetV3 (with it LRASPP and DeepLabV3), RegNet and MaxViT."""

from .parts import pooled_dims, squeeze_excite
from .registry import gate


@gate("torchvision.ops.misc.SqueezeExcitation", children="avgpool fc1 fc2 activation scale_activation")
def _squeeze_excitation(m):
    return squeeze_excite(m, "fc1", "activation", "fc2", "scale_activation", dims=(pooled_dims(m, "avgpool"),))
