"""The definition of every op in plain torch: the oracle of the tests and the path without Triton.

Same names and signatures as `segattn_triton.functional`, less `backend` and the checks of the arguments.
"""

from .attention_gate import attention_gate, attention_gate_norm
from .blend import gate_blend, gate_mul, gate_mul_resized, radix_blend
from .cbam import cbam, cbam_channel_gate, cbam_spatial_gate
from .channel import channel_gate, eca, squeeze_excite, squeeze_excite_norm, squeeze_excite_norms
from .context import global_context, global_context_add
from .local import local_gate, local_pool_gate
from .neighborhood import neighborhood_attention, neighborhood_av, neighborhood_qk
from .refinement import pixel_adaptive_refinement
from .response import global_response_norm, simam
from .scse import scse
from .spatial import spatial_gate, spatial_pool_gate
from .strips import coordinate_attention, strip_gate, strip_means

__all__ = [
    "attention_gate",
    "attention_gate_norm",
    "cbam",
    "cbam_channel_gate",
    "cbam_spatial_gate",
    "channel_gate",
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
