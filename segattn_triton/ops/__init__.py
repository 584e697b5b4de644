"""The operations as compositions of kernels, by name. Each takes tensors, and options as the public function has."""

from torch import Tensor

from ..runtime.operator import OPERATORS
from .attention_gate import attention_gate, attention_gate_norm
from .blend import gate_blend, gate_mul
from .branches import radix_blend
from .cbam import cbam, cbam_spatial_gate
from .channel import squeeze_excite, squeeze_excite_norm, squeeze_excite_norms
from .context import global_context, global_context_add
from .coordinate import coordinate_attention
from .eca import eca
from .local_dense import local_gate_dense
from .local_depthwise import local_gate_depthwise
from .local_pool import local_pool_gate
from .neighborhood import neighborhood_attention, neighborhood_av, neighborhood_qk
from .refinement import pixel_adaptive_refinement
from .resized import gate_mul_resized
from .response import global_response_norm
from .scse import scse
from .simam import simam
from .spatial import spatial_gate, spatial_pool_gate
from .strips import strip_gate, strip_means


def local_gate(x: Tensor, weight: Tensor, bias: Tensor | None, *, dilation: int, **options):
    if weight.shape[1] == 1:
        return local_gate_depthwise(x, weight, bias, dilation=dilation, **options)
    return local_gate_dense(x, weight, bias, **options)


__all__ = [
    "OPERATORS",
    "attention_gate",
    "attention_gate_norm",
    "cbam",
    "cbam_spatial_gate",
    "coordinate_attention",
    "eca",
    "gate_blend",
    "gate_mul",
    "gate_mul_resized",
    "global_context",
    "global_context_add",
    "global_response_norm",
    "local_gate",
    "local_pool_gate",
    "neighborhood_attention",
    "neighborhood_av",
    "neighborhood_qk",
    "pixel_adaptive_refinement",
    "radix_blend",
    "scse",
    "simam",
    "spatial_gate",
    "spatial_pool_gate",
    "squeeze_excite",
    "squeeze_excite_norm",
    "squeeze_excite_norms",
    "strip_gate",
    "strip_means",
]
