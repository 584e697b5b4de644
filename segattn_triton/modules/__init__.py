"""The operations as modules: parameters plus one call.

Parameters live in ordinary `nn.Conv2d` and `nn.Linear` children, with torch's initialisation and key names. A child
that carries hooks (pruning, parametrizations, spectral_norm) is called as a module, so that its hooks run.

Maps are NCHW: (N, C, H, W) or (N, C, D, H, W), in any memory order. With `spatial_dims=d` a module takes d spatial
axes, and one image without a batch, (C, *spatial). Rank decides, never sizes. Options are checked when a module is
made.
"""

from .attention_gate import AttentionGate, GridAttentionGate
from .cbam import CBAM, CBAMChannelAttention, CBAMSpatialAttention
from .channel import ChannelAttention, EffectiveSE
from .context import GlobalContext
from .coordinate import CoordinateAttention
from .eca import ECA
from .local import LocalAttention, LocalPoolAttention
from .neighborhood import NeighborhoodAttention1d, NeighborhoodAttention2d, NeighborhoodAttention3d
from .reduction import hidden_channels
from .response import GlobalResponseNorm
from .scse import SCSE
from .spatial import SpatialAttention, SpatialPoolAttention
from .squeeze_excite import SqueezeExcite

__all__ = [
    "CBAM",
    "ECA",
    "SCSE",
    "AttentionGate",
    "CBAMChannelAttention",
    "CBAMSpatialAttention",
    "ChannelAttention",
    "CoordinateAttention",
    "EffectiveSE",
    "GlobalContext",
    "GlobalResponseNorm",
    "GridAttentionGate",
    "LocalAttention",
    "LocalPoolAttention",
    "NeighborhoodAttention1d",
    "NeighborhoodAttention2d",
    "NeighborhoodAttention3d",
    "SpatialAttention",
    "SpatialPoolAttention",
    "SqueezeExcite",
    "hidden_channels",
]
