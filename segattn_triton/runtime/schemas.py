"""The operators as torch knows them, from the package's import on: their schemas.

`segattn::<name>` and `segattn::<name>_bwd` get what they do from `operator`, once the first of them is wanted: that
needs Triton.
"""

from .. import flops
from .schema import Schema

spatial_gate = Schema(
    "spatial_gate",
    tensors=("x", "weight", "bias?"),
    options="str gate, float gate_a, float gate_b, bool return_map",
    outputs=("y", "map"),
    flops=flops.spatial_gate,
)
spatial_pool_gate = Schema(
    "spatial_pool_gate",
    tensors=("x",),
    options="str pool, str ties, str gate, float gate_a, float gate_b, bool return_map",
    outputs=("y", "map"),
    flops=flops.spatial_pool_gate,
)
squeeze_excite = Schema(
    "squeeze_excite",
    tensors=("x", "w1", "b1?", "w2?", "b2?", "source?", "shortcut?"),
    options="str pool, str act, float act_a, float act_b, str gate, float gate_a, float gate_b, str out_act, "
    "str ties, bool return_map",
    outputs=("y", "map", "pooled", "z", "z1", "highest", "found"),
    flops=flops.squeeze_excite,
)
squeeze_excite_norm = Schema(
    "squeeze_excite_norm",
    tensors=("x", "w1", "b1?", "norm_weight", "norm_bias?", "w2?", "b2?", "source?", "shortcut?"),
    options="str pool, str act, float act_a, float act_b, str gate, float gate_a, float gate_b, str out_act, "
    "str ties, float eps, bool return_map",
    outputs=("y", "map", "stats", "pooled", "z", "z1", "hhat", "highest", "found"),
    flops=flops.squeeze_excite_norm,
    returned=3,
)
squeeze_excite_norms = Schema(
    "squeeze_excite_norms",
    tensors=(
        *("x", "w1", "b1?", "norm_weight1?", "norm_bias1?", "w2", "b2?", "norm_weight2", "norm_bias2?"),
        *("source?", "shortcut?"),
    ),
    options="str pool, str act, float act_a, float act_b, str gate, float gate_a, float gate_b, str out_act, "
    "str ties, float eps1, float eps2, bool return_map",
    outputs=("y", "map", "stats", "pooled", "z", "z1", "hhat", "zhat", "highest", "found"),
    flops=flops.squeeze_excite_norms,
    returned=3,
)
eca = Schema(
    "eca",
    tensors=("x", "weight", "bias?"),
    options="bool circular, str gate, float gate_a, float gate_b, bool return_map",
    outputs=("y", "map", "pooled", "z"),
    flops=flops.eca,
)
attention_gate = Schema(
    "attention_gate",
    tensors=("x", "g", "wx", "wg", "b?", "weight", "bias?"),
    options="str gate, float gate_a, float gate_b, bool return_map",
    outputs=("y", "map", "z"),
    flops=flops.attention_gate,
)
attention_gate_norm = Schema(
    "attention_gate_norm",
    tensors=("x", "g", "wx", "wg", "b?", "weight", "bias?", "norm_x?", "norm_g?", "norm_psi?"),
    options="str gate, float gate_a, float gate_b, float eps, bool return_map",
    outputs=("y", "map", "stats", "affine", "z", "raw"),
    flops=flops.attention_gate_norm,
    returned=3,
)
cbam = Schema(
    "cbam",
    tensors=("x", "w1", "b1?", "w2?", "b2?", "weight", "bias?", "norm_weight?", "norm_bias?"),
    options="str pool, str spatial_pool, str act, float act_a, float act_b, str gate, float gate_a, float gate_b, "
    "str ties, bool residual, float eps, bool return_map",
    outputs=(
        *("y", "map", "stats", "pooled", "zc", "z1", "highest", "place", "gc"),
        *("pools", "peak", "found", "z", "raw"),
    ),
    flops=flops.cbam,
    returned=3,
)
cbam_spatial_gate = Schema(
    "cbam_spatial_gate",
    tensors=("x", "weight", "bias?", "norm_weight?", "norm_bias?"),
    options="str pool, str ties, str gate, float gate_a, float gate_b, float eps, bool return_map",
    outputs=("y", "map", "stats", "pools", "peak", "found", "z", "raw"),
    flops=flops.cbam_spatial_gate,
    returned=3,
)
gate_mul = Schema(
    "gate_mul",
    tensors=("x", "z", "shortcut?"),
    options="str gate, float gate_a, float gate_b, str out_act, bool return_map",
    outputs=("y", "map"),
    flops=flops.gate_mul,
)
gate_mul_resized = Schema(
    "gate_mul_resized",
    tensors=("x", "z", "shortcut?"),
    options="str resize, bool align_corners, float scale_factor, str gate, float gate_a, float gate_b, str out_act, "
    "bool return_map",
    outputs=("y", "map"),
    flops=flops.gate_mul_resized,
)
gate_blend = Schema(
    "gate_blend",
    tensors=("a", "b", "z"),
    options="str gate, float gate_a, float gate_b, bool return_map",
    outputs=("y", "map"),
    flops=flops.gate_blend,
)
radix_blend = Schema(
    "radix_blend",
    tensors=("x", "z"),
    options="bool return_map",
    outputs=("y", "map"),
    flops=flops.radix_blend,
)
global_context = Schema(
    "global_context",
    tensors=("x", "weight", "bias?", "w1", "b1?", "ln_weight", "ln_bias?", "w2", "b2?"),
    options="str act, float act_a, float act_b, str gate, float gate_a, float gate_b, float eps, bool return_map",
    outputs=("y", "map", "pooled", "lse", "z", "u", "hhat", "scale"),
    flops=flops.global_context,
)
global_context_add = Schema(
    "global_context_add",
    tensors=("x", "weight", "bias?", "w1", "b1?", "ln_weight", "ln_bias?", "w2", "b2?"),
    options="str act, float act_a, float act_b, float eps, bool return_map",
    outputs=("y", "map", "pooled", "lse", "z", "u", "hhat", "scale"),
    flops=flops.global_context_add,
)
global_response_norm = Schema(
    "global_response_norm",
    tensors=("x", "weight", "bias?"),
    options="float eps, bool return_map",
    outputs=("y", "map", "norm", "response"),
    flops=flops.global_response_norm,
)
simam = Schema(
    "simam",
    tensors=("x",),
    options="float eps, bool return_map",
    outputs=("y", "map", "mean", "rate"),
    flops=flops.simam,
)
scse = Schema(
    "scse",
    tensors=("x", "w1", "b1?", "w2", "b2?", "weight", "bias?"),
    options="str act, float act_a, float act_b, str gate, float gate_a, float gate_b, str reduce, bool return_map",
    outputs=("y", "map", "pooled", "zc", "z1"),
    flops=flops.scse,
)
local_gate = Schema(
    "local_gate",
    tensors=("x", "weight", "bias?"),
    options="str gate, float gate_a, float gate_b, str variant, bool save, bool return_map",
    outputs=("y", "map", "z"),
    flops=flops.local_gate,
)
local_gate_depthwise = Schema(
    "local_gate_depthwise",
    tensors=("x", "weight", "bias?"),
    options="str gate, float gate_a, float gate_b, bool return_map, int dilation=1",
    outputs=("y", "map"),
    flops=flops.local_gate,
)
local_pool_gate = Schema(
    "local_pool_gate",
    tensors=("x",),
    options="str pool, str ties, str gate, float gate_a, float gate_b, bool return_map",
    outputs=("y", "map"),
    flops=flops.local_pool_gate,
)
strip_means = Schema("strip_means", tensors=("x",), options="", outputs=("rows", "cols"), flops=flops.strip_means)
strip_gate = Schema(
    "strip_gate",
    tensors=("x", "z_h", "z_w"),
    options="str combine, str gate, float gate_a, float gate_b, bool return_map",
    outputs=("y", "map"),
    flops=flops.strip_gate,
)
coordinate_attention = Schema(
    "coordinate_attention",
    tensors=("x", "w1", "b1?", "w_h", "b_h?", "w_w", "b_w?", "norm_weight?", "norm_bias?"),
    options="str combine, str act, float act_a, float act_b, str gate, float gate_a, float gate_b, float eps, "
    "bool return_map",
    outputs=("y", "map", "stats", "scale", "strips", "h", "a", "z_h", "z_w"),
    flops=flops.coordinate_attention,
    returned=3,
)
pixel_adaptive_refinement = Schema(
    "pixel_adaptive_refinement",
    tensors=("image", "mask"),
    options="int[] dilations, int steps, bool return_map",
    outputs=("y", "map"),
    flops=flops.pixel_adaptive_refinement,
)
neighborhood_attention = Schema(
    "neighborhood_attention",
    tensors=("q", "k", "v", "rel_bias?"),
    options="int[1] kernel_size, int[1] dilation, str border, float scale, bool return_lse, bool[] is_causal=[]",
    outputs=("y", "lse"),
    flops=flops.neighborhood_attention,
    saved=("y", "lse"),
)
neighborhood_qk = Schema(
    "neighborhood_qk",
    tensors=("q", "k", "rel_bias?"),
    options="int[1] kernel_size, int[1] dilation, str border, float scale, bool[] is_causal=[]",
    outputs=("scores",),
    flops=flops.neighborhood_qk,
    differentiable=1,
)
neighborhood_av = Schema(
    "neighborhood_av",
    tensors=("attn", "v"),
    options="int[1] kernel_size, int[1] dilation, str border, bool[] is_causal=[]",
    outputs=("y",),
    flops=flops.neighborhood_av,
    differentiable=1,
)

SCHEMAS = [schema for schema in list(globals().values()) if isinstance(schema, Schema)]
