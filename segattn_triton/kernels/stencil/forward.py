"""The gate of a stencil in one channel, forward: y = x * gate(z). See `shared` for z and the shapes.

2 passes over the map: read x, write y. A program rolls down a strip of rows, of which it holds one: the row that is
loaded completes the window of one above it, which is written. In channels_last with 3 x 3 neighbours it walks along
rows: `walk`.
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
from .window import HELD, around, inverse_count, load_taps, load_taps_again, push, roll, settle, several


@triton.jit
def _roll_down(
    x_ptr,
    weight_ptr,
    y_ptr,
    map_ptr,
    strides,
    sizes,
    spot,
    w,
    b,
    C: tl.constexpr,
    STENCIL: tl.constexpr,
    WINDOW: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    VEC: tl.constexpr,
    HALO: tl.constexpr,
    STAGES: tl.constexpr,
):
    """y of the rows h0 to h1 of the columns offs_w [BLOCK_W], where `spot` says."""
    x_stride, y_stride, map_stride = strides
    H, W, pitch = sizes
    n, h0, h1, offs_w, offs_c, first = spot
    K: tl.constexpr = WINDOW.size
    R: tl.constexpr = K // 2
    APART: tl.constexpr = WINDOW.dilation // WINDOW.step
    mask_all = (offs_c < C)[:, None] & ((offs_w >= 0) & (offs_w < W))[None, :]
    mask_own = mask_all & own_columns(HALO, offs_w.shape[0])
    outside: tl.constexpr = float("-inf") if STENCIL == "max" else 0.0
    zero = tl.zeros(mask_all.shape, ACC)
    rows, window = several(zero, R), several(zero, K - 1)
    for row in tl.range(h0 - R, h1 + R, num_stages=STAGES):
        mask = only_when((row >= 0) & (row < H), mask_all)
        offs_p = row * pitch + (first + offs_w * WINDOW.step)
        x = tl.load(tile_ptrs(x_ptr, x_stride, n, offs_c, offs_p, LAYOUT), mask, other=outside).to(ACC)
        if LAYOUT.channels_last:
            x = settle(x, VEC)  # or every row that waits for its window would change its layout, in every round
        taps = w if K * K <= HELD else load_taps_again(weight_ptr, offs_c, C, K)
        z, _, window = roll(around(x, outside, K, APART, VEC), row, offs_w, taps, b, window, STENCIL)
        if STENCIL == "avg":
            z *= inverse_count(row - 1, offs_w, H, W, ACC)
        g = GATE.f(z, GATE.a, GATE.b)
        mask = only_when(row - R >= h0, mask_own)
        store_tile(y_ptr, y_stride, n, offs_c, offs_p - R * pitch, rows[0] * g, mask, LAYOUT)
        if map_ptr is not None:
            store_tile(map_ptr, map_stride, n, offs_c, offs_p - R * pitch, g, mask, LAYOUT)
        rows = push(rows, x, mask_all, outside)


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
    WINDOW: tl.constexpr,
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
    n, h0, w0, offs_c, first, rows, cols = place(H, W, C, WINDOW, HALO, BLOCK_C, BLOCK_W, BLOCK_H)
    K: tl.constexpr = WINDOW.size
    w = load_taps(weight_ptr, offs_c, C, K, ACC) if STENCIL == "dot" and K * K <= HELD else None
    b = load_vector(bias_ptr, offs_c, C, ACC)[:, None] if bias_ptr is not None else 0.0
    if LAYOUT.channels_last and K == 3 and WINDOW.dilation == 1:
        spot = n, w0, tl.minimum(w0 + BLOCK_W, W), h0 + ROWS * tl.arange(0, BLOCK_H // ROWS), offs_c
        walk(x_ptr, y_ptr, map_ptr, strides, (H, W), spot, w, b, C, STENCIL, GATE, LAYOUT, ACC, STAGES)
    else:
        sizes = rows, cols, WINDOW.dilation * W
        spot = n, h0, tl.minimum(h0 + BLOCK_H, rows), w0 + tl.arange(0, BLOCK_W), offs_c, first
        _roll_down(
            x_ptr,
            weight_ptr,
            y_ptr,
            map_ptr,
            strides,
            sizes,
            spot,
            w,
            b,
            C,
            STENCIL,
            WINDOW,
            GATE,
            LAYOUT,
            ACC,
            VEC,
            HALO,
            STAGES,
        )


def plan_stencil_fwd(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    gate_map: Tensor | None,
    stencil: str,
    gate: Activation,
    dilation: int = 1,
) -> Plan:
    m = maps(y=y, x=x, map=gate_map)
    geometry = geometry_of(x, m, stencil, weight, dilation, backward=False)
    config = stencil_config(x, m, geometry)
    args = dict(
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        y_ptr=y,
        map_ptr=gate_map,
        strides=m.strides_of("x", "y", "map"),
        **common_args(x, m, geometry, config, gate),
    )
    blocks_c, tiles_w, strips = geometry.tiles(config)
    tiles = m.N * tiles_w * strips
    reads = geometry.rows(config, 1) * geometry.columns(config)
    taps = tiles * geometry.times_of_weights(config)
    traffic = dict(x_ptr=(reads, 0), weight_ptr=(taps, 0), bias_ptr=(tiles, 0), y_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_stencil_fwd_kernel, args, config, tiles * blocks_c, traffic)
