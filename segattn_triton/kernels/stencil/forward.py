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
from ..common.tile import load_tile, load_vector, only_when, store_tile
from .shared import common_args, geometry_of, own_columns, place, stencil_config
from .window import inverse_count, load_taps, roll


@triton.jit
def _stencil_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    map_ptr,
    x_stride,
    y_stride,
    map_stride,
    H,
    w_units,
    C: tl.constexpr,
    STENCIL: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    W_ALIGN: tl.constexpr,
    VEC: tl.constexpr,
    HALO: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_H: tl.constexpr,
    STAGES: tl.constexpr,
):
    W = w_units * W_ALIGN
    n, h0, offs_w, offs_c = place(H, W, C, HALO, BLOCK_C, BLOCK_W, BLOCK_H)
    mask_c = (offs_c < C)[:, None]
    mask_w = ((offs_w >= 0) & (offs_w < W))[None, :]
    mask_own = mask_c & mask_w & own_columns(HALO, BLOCK_W)
    w = load_taps(weight_ptr, offs_c, C, ACC) if STENCIL == "dot" else None
    b = load_vector(bias_ptr, offs_c, C, ACC)[:, None] if bias_ptr is not None else 0.0
    zero = tl.zeros([BLOCK_C, BLOCK_W], ACC)
    x1, window = zero, (zero, zero)
    for row in tl.range(h0 - 1, tl.minimum(h0 + BLOCK_H, H) + 1, num_stages=STAGES):
        mask = only_when((row >= 0) & (row < H), mask_c & mask_w)
        x2 = load_tile(x_ptr, x_stride, n, offs_c, row * W + offs_w, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_W]
        if STENCIL == "max":
            x2 = tl.where(mask, x2, float("-inf"))
        z, _, window = roll(x2, row, offs_w, w, b, window, STENCIL, VEC)
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
    geometry = geometry_of(x, m)
    config = stencil_config(x, m, geometry, stencil, backward=False)
    args = dict(
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        y_ptr=y,
        map_ptr=gate_map,
        **m.strides,
        **common_args(x, m, geometry, config, stencil, gate),
    )
    blocks_c, tiles_w, strips = geometry.tiles(config)
    tiles = m.N * tiles_w * strips
    reads = geometry.rows(config, 1) * geometry.columns(config)
    traffic = dict(x_ptr=(reads, 0), weight_ptr=(tiles, 0), bias_ptr=(tiles, 0), y_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_stencil_fwd_kernel, args, config, tiles * blocks_c, traffic)
