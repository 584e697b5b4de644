"""ultralytics: the CBAM of its YOLO models, whose half of the channels is one layer of the mean."""

from ...reference.activations import GATES
from .parts import Parts, activation, layer, part, pooled_dims, qualified_name, window
from .registry import gate

_CONV = "ultralytics.nn.modules.conv"


@gate(f"{_CONV}.CBAM", kernel="cbam", children="channel_attention spatial_attention")
def _cbam(m):
    halves = [qualified_name(type(part(m, name))) for name in ("channel_attention", "spatial_attention")]
    if halves != [f"{_CONV}.ChannelAttention", f"{_CONV}.SpatialAttention"]:
        raise ValueError(f"its halves are {halves[0]} and {halves[1]}")
    gate = activation(m, "channel_attention.act", GATES)
    if gate != activation(m, "spatial_attention.act", GATES):
        raise ValueError("its two gates differ: the kernel has one for both")
    conv = window(m, "spatial_attention.cv1", 2)
    tensors = (*layer(m, "channel_attention.fc"), None, None, conv.weight, conv.bias)
    options = dict(pool="avg", spatial_pool="mean,max", gate=gate)
    return Parts(tensors, options, (pooled_dims(m, "channel_attention.pool"),))
