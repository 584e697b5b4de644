"""Products and blends, forward: y = out(x g + s), or y = g x + (1 - g) s, g = gate(z). See `shared` for the shapes.

Every map once: read x, z and s, write y; and the gate, if it is asked for, in the shape of z.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps
from ...runtime.plan import Plan
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.resize import Resize
from ..common.tile import chunk_of, load_tile, num_pixels, pixels_of, store_tile
from .resize import RESIZING, logits_of, reads_of, resized
from .shared import axes_of, blend_config, blocks, logits_traffic, place_of, store_logits


@triton.jit
def _blend_fwd_kernel(
    x_ptr,
    z_ptr,
    s_ptr,
    y_ptr,
    map_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    AXES: tl.constexpr,
    RESIZE: tl.constexpr,
    BLEND: tl.constexpr,
    GATE: tl.constexpr,
    OUT: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    x_stride, z_stride, s_stride, y_stride, map_stride = strides
    extents, pixels, tiles = sizes
    tile, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    n, offs_p = pixels_of(tile, tiles, BLOCK_P)
    P = num_pixels(pixels, LAYOUT)
    mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
    x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
    z = logits_of(z_ptr, z_stride, extents, n, offs_c, offs_p, P, C, AXES, RESIZE, LAYOUT, ACC)
    g = GATE.f(z, GATE.a, GATE.b)
    if map_ptr is not None:
        store_logits(map_ptr, map_stride, n, offs_c, offs_p, P, g, C, AXES, LAYOUT)
    y = x * g
    if s_ptr is not None:
        s = load_tile(s_ptr, s_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        y += s * (1.0 - g) if BLEND else s
    if OUT is not None:
        y = OUT.f(y, OUT.a, OUT.b)
    store_tile(y_ptr, y_stride, n, offs_c, offs_p, y, mask, LAYOUT)


def plan_blend_fwd(
    x: Tensor,
    z: Tensor,
    s: Tensor | None,
    y: Tensor,
    gate_map: Tensor | None,
    blend: bool,
    gate: Activation,
    out: Activation | None = None,
    rule: Resize | None = None,
) -> Plan:
    """y = out(x gate(z) + s), or with `blend` gate(z) x + (1 - gate(z)) s; the gate also into the map, as z lies, or
    as z resized by the rule."""
    m = maps(x=x, y=y, z=place_of(z, x), s=s, map=place_of(gate_map, x))
    axes = axes_of(z, x, rule is not None)
    more = (axes.c and axes.p) + (s is not None)
    live = 1.2 + 0.6 * more + RESIZING * (rule is not None)
    config = blend_config("blend_fwd", m, x, 1 + more, live, (False, False))
    chunks, tiles = blocks(m, config)
    m, extents = resized(m, z, x, rule)
    args = dict(
        x_ptr=x,
        z_ptr=z,
        s_ptr=s,
        y_ptr=y,
        map_ptr=gate_map,
        strides=m.strides_of("x", "z", "s", "y", "map"),
        sizes=(extents, m.pixels, tiles),
        C=m.C,
        AXES=axes,
        RESIZE=rule,
        BLEND=blend,
        GATE=gate,
        OUT=out,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
    )
    reads = logits_traffic(axes, m.N, chunks, tiles) * reads_of(z, x, rule)
    traffic = dict(x_ptr=(1, 0), z_ptr=(reads, 0), s_ptr=(1, 0), y_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_blend_fwd_kernel, args, config, m.N * chunks * tiles, traffic)
