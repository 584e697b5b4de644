"""The gate of a 3x3 stencil in one channel, forward: y = x * gate(z). See `shared` for z and the shapes.

2 passes over the map: read x, write y. In NCHW a program rolls down a strip of rows, of which it holds one: the row
that is loaded completes the window of the one above it, which is written. In channels_last it walks along rows: `walk`.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import maps
from ...runtime.plan import Plan
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import load_vector, only_when, store_tile, tile_ptrs
from .choice import geometry_of, stencil_config
from .shared import common_args, own_columns, place
from .walk import ROWS, walk
from .window import inverse_count, load_taps, roll, shift


@triton.jit
def _roll_down(
    x_ptr,
    y_ptr,
    map_ptr,
    strides,
    sizes,
    spot,
    w,
    b,
    C: tl.constexpr,
    STENCIL: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    VEC: tl.constexpr,
    HALO: tl.constexpr,
    STAGES: tl.constexpr,
):
    """y of the rows h0 to h1 of the columns offs_w [BLOCK_W], where `spot` says."""
    x_stride, y_stride, map_stride = strides
    H, W = sizes
    n, h0, h1, offs_w, offs_c = spot
    mask_all = (offs_c < C)[:, None] & ((offs_w >= 0) & (offs_w < W))[None, :]
    mask_own = mask_all & own_columns(HALO, offs_w.shape[0])
    outside: tl.constexpr = float("-inf") if STENCIL == "max" else 0.0
    zero = tl.zeros(mask_all.shape, ACC)
    x1, window = zero, (zero, zero)
    for row in tl.range(h0 - 1, h1 + 1, num_stages=STAGES):
        mask = only_when((row >= 0) & (row < H), mask_all)
        x2 = tl.load(tile_ptrs(x_ptr, x_stride, n, offs_c, row * W + offs_w, LAYOUT), mask, other=outside).to(ACC)
        left, right = shift(x2, x2, outside, VEC)
        z, _, window = roll(left, x2, right, row, offs_w, w, b, window, STENCIL)
        if STENCIL == "avg":
            z *= inverse_count(row - 1, offs_w, H, W, ACC)
        g = GATE.f(z, GATE.a, GATE.b)
        mask = only_when(row > h0, mask_own)
        offs_p = (row - 1) * W + offs_w
        store_tile(y_ptr, y_stride, n, offs_c, offs_p, x1 * g, mask, LAYOUT)
        if map_ptr is not None:
            store_tile(map_ptr, map_stride, n, offs_c, offs_p, g, mask, LAYOUT)
        x1 = x2


@triton.jit
def _stencil_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    map_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    STENCIL: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    W_ALIGN: tl.constexpr,
    VEC: tl.constexpr,
    HALO: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_H: tl.constexpr,
    STAGES: tl.constexpr,
):
    begin(DEPENDENT)
    H, W = sizes[0], sizes[1] * W_ALIGN
    n, h0, w0, offs_c = place(H, W, C, HALO, BLOCK_C, BLOCK_W, BLOCK_H)
    w = load_taps(weight_ptr, offs_c, C, ACC) if STENCIL == "dot" else None
    b = load_vector(bias_ptr, offs_c, C, ACC)[:, None] if bias_ptr is not None else 0.0
    if LAYOUT.channels_last:
        spot = n, w0, tl.minimum(w0 + BLOCK_W, W), h0 + ROWS * tl.arange(0, BLOCK_H // ROWS), offs_c
        walk(x_ptr, y_ptr, map_ptr, strides, (H, W), spot, w, b, C, STENCIL, GATE, LAYOUT, ACC, STAGES)
    else:
        spot = n, h0, tl.minimum(h0 + BLOCK_H, H), w0 + tl.arange(0, BLOCK_W), offs_c
        _roll_down(x_ptr, y_ptr, map_ptr, strides, (H, W), spot, w, b, C, STENCIL, GATE, LAYOUT, ACC, VEC, HALO, STAGES)


def plan_stencil_fwd(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    gate_map: Tensor | None,
    stencil: str,
    gate: Activation,
) -> Plan:
    m = maps(y=y, x=x, map=gate_map)
    geometry = geometry_of(x, m, stencil, backward=False)
    config = stencil_config(x, m, geometry)
    args = dict(
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        y_ptr=y,
        map_ptr=gate_map,
        strides=m.strides_of("x", "y", "map"),
        **common_args(x, m, geometry, config, stencil, gate),
    )
    blocks_c, tiles_w, strips = geometry.tiles(config)
    tiles = m.N * tiles_w * strips
    reads = geometry.rows(config, 1) * geometry.columns(config)
    traffic = dict(x_ptr=(reads, 0), weight_ptr=(tiles, 0), bias_ptr=(tiles, 0), y_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_stencil_fwd_kernel, args, config, tiles * blocks_c, traffic)
