"""Attention for semantic segmentation whose forward and backward are Triton kernels."""

from segattn_triton import functional, reference
from segattn_triton._accelerate import accelerate, accelerated, acceleration_report, restore
from segattn_triton._capture import capture_attention
from segattn_triton._convert import convert_state_dict
from segattn_triton._counting import let_torch_count
from segattn_triton._dispatch import decompositions
from segattn_triton._tune import tune
from segattn_triton.adapters import register_adapter
from segattn_triton.modules import (
    ECA,
    SCSE,
    ChannelAttention,
    EffectiveSE,
    LocalAttention,
    LocalPoolAttention,
    NeighborhoodAttention2d,
    SpatialAttention,
    SpatialPoolAttention,
    SqueezeExcite,
)

__version__ = "0.1.0"
__all__ = [
    "ECA",
    "SCSE",
    "ChannelAttention",
    "EffectiveSE",
    "LocalAttention",
    "LocalPoolAttention",
    "NeighborhoodAttention2d",
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
    "reference",
    "register_adapter",
    "restore",
    "tune",
]

let_torch_count()
