"""A gate of every pixel, forward: y = x * gate(z). See `spatial` for z and the shapes.

2 passes over the map: read x, write y. It also applies a gate of every channel beside it: y = x * gc + x * g, or the
maximum of both, gc = gate(sum_k zc) of partial logits zc (N, K, C).
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps
from ...runtime.plan import Plan
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import (
    channels_at_once,
    chunk_at,
    load_sum,
    load_tile,
    maximum,
    num_pixels,
    only_when,
    pixels_of,
    store_tile,
)
from .shared import load_weights, logit_of, nothing_yet, spatial_config, squeeze


@triton.jit
def _spatial_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    zc_ptr,
    y_ptr,
    logit_ptr,
    map_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    K: tl.constexpr,
    POOL: tl.constexpr,
    REDUCE: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    x_stride, y_stride = strides
    pixels, tiles = sizes
    n, offs_p = pixels_of(tl.program_id(0), tiles, BLOCK_P)
    P = num_pixels(pixels, LAYOUT)
    mask_p = offs_p < P
    total, peak, first, count = nothing_yet(C, ACC, BLOCK_P)
    x = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for chunk in range(0, C, BLOCK_C):
        offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
        x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
        w = load_weights(weight_ptr, offs_c, C, ACC)
        total, peak, first, count = squeeze(x, w, offs_c, total, peak, first, count, C, POOL)
    g = GATE.f(logit_of(total, peak, bias_ptr, C, POOL), GATE.a, GATE.b)
    if map_ptr is not None:
        tl.store(map_ptr + n.to(tl.int64) * P + offs_p, g.to(map_ptr.dtype.element_ty), mask_p)
    for chunk in range(0, C, BLOCK_C):
        offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
        if C > BLOCK_C:
            x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        y = x * g[None, :]
        if zc_ptr is not None:
            zc = load_sum(zc_ptr, n, offs_c, C, K, ACC)
            mine = only_when(tl.program_id(0) % tiles == 0, offs_c < C)
            tl.store(logit_ptr + n.to(tl.int64) * C + offs_c, zc, mine)
            by_channel = x * GATE.f(zc, GATE.a, GATE.b)[:, None]
            y = maximum(by_channel, y) if REDUCE == "max" else by_channel + y
        store_tile(y_ptr, y_stride, n, offs_c, offs_p, y, mask, LAYOUT)


def plan_spatial_fwd(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    gate_map: Tensor | None,
    *,
    pool: str,
    gate: Activation,
    zc: Tensor | None = None,
    logit: Tensor | None = None,
    reduce: str = "sum",
) -> Plan:
    """With zc, the channels' logits of which `logit` (N, C) takes the sum, y is the sum or maximum of both gates' x."""
    m, block_c = maps(x=x, y=y), channels_at_once(x.shape[1])
    config = spatial_config(m, x, pool)
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    args = dict(
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        zc_ptr=zc,
        y_ptr=y,
        logit_ptr=logit,
        map_ptr=gate_map,
        strides=m.strides_of("x", "y"),
        sizes=(m.pixels, tiles),
        C=m.C,
        K=1 if zc is None else zc.shape[1],
        POOL=pool,
        REDUCE=reduce,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
        BLOCK_C=block_c,
    )
    grid = m.N * tiles
    reads = 1 if block_c >= m.C else 2
    traffic = dict(x_ptr=(reads, 0), weight_ptr=(grid, 0), bias_ptr=(grid, 0), zc_ptr=(tiles, 0))
    traffic |= dict.fromkeys(("y_ptr", "logit_ptr", "map_ptr"), (0, 1))
    return Plan(_spatial_fwd_kernel, args, config, grid, traffic)
