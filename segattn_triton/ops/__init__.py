"""The operations as compositions of kernels, by name, with the signatures of `segattn_triton.reference`."""

from segattn_triton.ops.spatial import spatial_gate, spatial_pool_gate

__all__ = ["spatial_gate", "spatial_pool_gate"]
