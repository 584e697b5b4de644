"""Attention for semantic segmentation whose forward and backward are Triton kernels."""

from . import functional, layers, reference
from .acceleration.adapters import register_adapter
from .acceleration.api import accelerate, accelerated, acceleration_report, restore
from .acceleration.capture import capture_attention
from .modules import (
    CBAM,
    ECA,
    SCSE,
    AttentionGate,
    CBAMChannelAttention,
    CBAMSpatialAttention,
    ChannelAttention,
    CoordinateAttention,
    EffectiveSE,
    GlobalContext,
    GlobalResponseNorm,
    GridAttentionGate,
    LocalAttention,
    LocalPoolAttention,
    NeighborhoodAttention1d,
    NeighborhoodAttention2d,
    NeighborhoodAttention3d,
    SpatialAttention,
    SpatialPoolAttention,
    SqueezeExcite,
)
from .modules.checkpoints import convert_state_dict
from .runtime.counting import let_torch_count
from .runtime.dispatch import decompositions
from .runtime.known import set_programs_enabled
from .tuning.tune import tune

__version__ = "0.1.0"
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
    "accelerate",
    "accelerated",
    "acceleration_report",
    "capture_attention",
    "convert_state_dict",
    "decompositions",
    "functional",
    "layers",
    "reference",
    "register_adapter",
    "restore",
    "set_programs_enabled",
    "tune",
]

let_torch_count()
