"""The operations as compositions of kernels, by name, with the signatures of `segattn_triton.reference`."""

from torch import Tensor

from segattn_triton._register import OPS
from segattn_triton.ops.channel import squeeze_excite
from segattn_triton.ops.eca import eca
from segattn_triton.ops.local_dense import local_gate_dense
from segattn_triton.ops.local_depthwise import local_gate_depthwise
from segattn_triton.ops.local_pool import local_pool_gate
from segattn_triton.ops.neighborhood import neighborhood_attention, neighborhood_av, neighborhood_qk
from segattn_triton.ops.scse import scse
from segattn_triton.ops.spatial import spatial_gate, spatial_pool_gate


def local_gate(x: Tensor, weight: Tensor, bias: Tensor | None, **options):
    run = local_gate_depthwise if weight.shape[1] == 1 else local_gate_dense
    return run(x, weight, bias, **options)


__all__ = [
    "OPS",
    "eca",
    "local_gate",
    "local_pool_gate",
    "neighborhood_attention",
    "neighborhood_av",
    "neighborhood_qk",
    "scse",
    "spatial_gate",
    "spatial_pool_gate",
    "squeeze_excite",
]
