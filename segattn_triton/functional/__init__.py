"""The operations. Each returns x times a gate, in x's shape, dtype and memory order.

Shared by all of them:

- x is (N, C, *spatial) in float16, bfloat16, float32 or float64, on one device with its parameters, which come in
  x's dtype or float32. Contiguous and channels_last maps, and channel slices of them, are read as they lie;
  anything else is copied once.
- `gate` is a name (sigmoid, hard_sigmoid, tanh, relu, relu_sigmoid, identity), or (name, a, b) with its constants: see
  `segattn_triton.reference.activations` for the equations. Units: z is a plain number, the gate a factor.
- `ties`: where a maximum is reached more than once, its gradient goes to the "first" or is "split" evenly.
- `backend`: None runs Triton on a GPU and the reference elsewhere; "triton" and "reference" run that or raise.
- `return_map=True` returns (y, map): the gate's values, differentiable. Without it the map is not written.
- Errors: TypeError for a wrong type or dtype, ValueError for a wrong shape, device or option, naming the argument;
  RuntimeError where backend="triton" cannot run. A second derivative raises: use backend="reference".
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

for _name in __all__:  # the place where users find them, and pickles look
    globals()[_name].__module__ = __name__
