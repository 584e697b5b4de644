"""nnU-Net (dynamic_network_architectures): the SE of its residual encoders, which pools axes 2 and 3 in 3-D too."""

from torch import nn

from .parts import only, squeeze_excite
from .registry import gate


@gate(
    "dynamic_network_architectures.building_blocks.regularization.SqueezeExcite",
    children="fc1 bn act fc2 gate",
    attributes="add_maxpool",
)
def _squeeze_excite(m):
    only(m, "bn", nn.Identity)
    if m.add_maxpool:
        raise ValueError("add_maxpool: timm's experiment")
    found = squeeze_excite(m, "fc1", "act", "fc2", "gate")
    if found.dims == (3,):
        raise ValueError("in 3-D its gate keeps the last axis, for which the map would have to be copied")
    return found
