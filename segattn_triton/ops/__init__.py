"""The operations as compositions of kernels, by name, with the signatures of `segattn_triton.reference`."""

from segattn_triton._register import OPS
from segattn_triton.ops.channel import channel_gate
from segattn_triton.ops.neighborhood import neighborhood_attention, neighborhood_av, neighborhood_qk
from segattn_triton.ops.spatial import spatial_gate, spatial_pool_gate

__all__ = [
    "OPS",
    "channel_gate",
    "neighborhood_attention",
    "neighborhood_av",
    "neighborhood_qk",
    "spatial_gate",
    "spatial_pool_gate",
]
