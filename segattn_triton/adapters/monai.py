"""MONAI: its channel gates in 1, 2 and 3 dimensions, and the residual blocks of SE-ResNet, SE-ResNeXt and SENet."""

from segattn_triton.adapters.parts import part, pooled_dims, squeeze_excite
from segattn_triton.adapters.registry import block, gate

_BLOCKS = "monai.networks.blocks.squeeze_and_excitation"


@gate(f"{_BLOCKS}.ChannelSELayer", f"{_BLOCKS}.ResidualSELayer", children="avg_pool fc", attributes="add_residual")
def _channel_se(m):
    if len(part(m, "fc")) != 4:
        raise ValueError(f"its child 'fc' has {len(m.fc)} layers, expected 4")
    shortcut = dict(shortcut=True) if m.add_residual else {}
    return squeeze_excite(m, "fc.0", "fc.1", "fc.2", "fc.3", dims=(pooled_dims(m, "avg_pool"),), **shortcut)


block(
    *[f"{_BLOCKS}.{name}" for name in ("SEBlock", "SEBottleneck", "SEResNetBottleneck", "SEResNeXtBottleneck")],
    body="conv1 conv2 conv3",
    gate="se_layer",
    shortcut="project",
    act="act",
)
