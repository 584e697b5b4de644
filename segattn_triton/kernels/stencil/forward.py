"""The gate of a 3x3 stencil in one channel, forward: y = x * gate(z). See `stencil` for z and the shapes.

2 passes over the map: read x, write y. The row of the strip that is loaded completes the window of the one above it,
which is written.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import maps
from ...runtime.plan import Plan
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import load_vector, only_when, store_tile, tile_ptrs
from .shared import common_args, geometry_of, own_columns, place, stencil_config
from .window import inverse_count, load_taps, roll, shift


@triton.jit
def _load_row(ptr, stride, n, offs_c, row, offs_w, W, stop, mask, STENCIL: tl.constexpr, LAYOUT: tl.constexpr):
    """A row [BLOCK_C, BLOCK_W] above `stop` as it lies in memory, and what is beyond the image."""
    mask = only_when((row >= 0) & (row < stop), mask)
    outside: tl.constexpr = float("-inf") if STENCIL == "max" else 0.0
    return tl.load(tile_ptrs(ptr, stride, n, offs_c, row * W + offs_w, LAYOUT), mask, other=outside)


@triton.jit
def _load_triple(ptr, stride, n, offs_c, row, offs_w, W, stop, mask, STENCIL: tl.constexpr, LAYOUT: tl.constexpr):
    """A row, and the columns before and after each of it: in channels_last all are wide loads, near in the cache."""
    before = mask & (offs_w >= 1)[None, :]
    after = mask & (offs_w < W - 1)[None, :]
    left = _load_row(ptr, stride, n, offs_c, row, offs_w - 1, W, stop, before, STENCIL, LAYOUT)
    here = _load_row(ptr, stride, n, offs_c, row, offs_w, W, stop, mask, STENCIL, LAYOUT)
    return left, here, _load_row(ptr, stride, n, offs_c, row, offs_w + 1, W, stop, after, STENCIL, LAYOUT)


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
    x_stride, y_stride, map_stride = strides
    H, W = sizes[0], sizes[1] * W_ALIGN
    n, h0, offs_w, offs_c = place(H, W, C, HALO, BLOCK_C, BLOCK_W, BLOCK_H)
    mask_all = (offs_c < C)[:, None] & ((offs_w >= 0) & (offs_w < W))[None, :]
    mask_own = mask_all & own_columns(HALO, BLOCK_W)
    stop = tl.minimum(h0 + BLOCK_H + 1, H)  # rows from here on are no neighbours of the strip's
    w = load_taps(weight_ptr, offs_c, C, ACC) if STENCIL == "dot" else None
    b = load_vector(bias_ptr, offs_c, C, ACC)[:, None] if bias_ptr is not None else 0.0
    zero = tl.zeros([BLOCK_C, BLOCK_W], ACC)
    x1, window = zero, (zero, zero)
    TRIPLES: tl.constexpr = LAYOUT.channels_last and STENCIL != "dot"  # whose weights fill the registers
    if TRIPLES:
        ahead = _load_triple(x_ptr, x_stride, n, offs_c, h0 - 1, offs_w, W, stop, mask_all, STENCIL, LAYOUT)
    stages: tl.constexpr = 1 if TRIPLES else STAGES
    for row in tl.range(h0 - 1, tl.minimum(h0 + BLOCK_H, H) + 1, num_stages=stages):
        if TRIPLES:
            left, x2, right = ahead[0].to(ACC), ahead[1].to(ACC), ahead[2].to(ACC)
            ahead = _load_triple(x_ptr, x_stride, n, offs_c, row + 1, offs_w, W, stop, mask_all, STENCIL, LAYOUT)
        else:
            x2 = _load_row(x_ptr, x_stride, n, offs_c, row, offs_w, W, stop, mask_all, STENCIL, LAYOUT).to(ACC)
            left, right = shift(x2, x2, float("-inf") if STENCIL == "max" else 0.0, VEC)
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
