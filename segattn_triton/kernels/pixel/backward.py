"""A gate of every pixel, backward. See `spatial` for z and the shapes.

With ds_p = sum_c dy_cp x_cp + dmap_p and dz = ds * gate'(z):
    dx = dy * g + dz * dz/dx,    dweight_c = sum_p dz_p x_cp,    dbias = sum_p dz_p

3 passes over the map: read x and dy, write dx; z and its maximum are recomputed.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps, partials
from ...runtime.plan import Plan
from ...tuning.target import sms
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.sums import add_chunk, by_lane, store_chunks, sum_lanes
from ..common.tile import channels_at_once, chunk_at, load_tile, num_pixels, pixels_of, store_tile
from .shared import at_peak, load_weights, logit_of, nothing_yet, spatial_bwd_config, squeeze, tiles_and_programs


@triton.jit
def _d_logit(x, w, offs_c, peak, first, count, C: tl.constexpr, POOL: tl.constexpr, SPLIT: tl.constexpr):
    """dz/dx [BLOCK_C, BLOCK_P]"""
    mean = tl.full([1, 1], 1.0, x.dtype) / C
    if POOL == "dot":
        return w[:, None]
    elif POOL == "mean":
        return mean
    elif POOL == "max":
        return at_peak(x, offs_c, peak, count if SPLIT else first, SPLIT)
    else:
        return 0.5 * (mean + at_peak(x, offs_c, peak, count if SPLIT else first, SPLIT))


@triton.jit
def _spatial_bwd_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    dx_ptr,
    dparam_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    POOL: tl.constexpr,
    SPLIT: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    CHUNKS: tl.constexpr,
    LANES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    dy_stride, x_stride, dx_stride = strides
    pixels, tiles, all_tiles, programs = sizes
    P = num_pixels(pixels, LAYOUT)
    dw = tl.zeros([CHUNKS, BLOCK_C, LANES], ACC)
    db = tl.zeros([BLOCK_P], ACC)
    for tile in range(tl.program_id(0), all_tiles, programs):
        n, offs_p = pixels_of(tile, tiles, BLOCK_P)
        mask_p = offs_p < P
        total, peak, first, count = nothing_yet(C, ACC, BLOCK_P)
        ds = tl.zeros([BLOCK_P], ACC)
        x = tl.zeros([BLOCK_C, BLOCK_P], ACC)
        dy = tl.zeros([BLOCK_C, BLOCK_P], ACC)
        w = tl.zeros([BLOCK_C], ACC)
        for chunk in range(0, C, BLOCK_C):
            offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
            x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
            dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
            w = load_weights(weight_ptr, offs_c, C, ACC)
            total, peak, first, count = squeeze(x, w, offs_c, total, peak, first, count, C, POOL)
            ds += tl.sum(dy * x, 0)
        if dmap_ptr is not None:
            ds += tl.load(dmap_ptr + n.to(tl.int64) * P + offs_p, mask_p, other=0.0).to(ACC)
        z = logit_of(total, peak, bias_ptr, C, POOL)
        g = GATE.f(z, GATE.a, GATE.b)
        dz = tl.where(mask_p, GATE.df(ds, z, GATE.a, GATE.b), 0.0)
        db += dz
        for chunk in range(0, C, BLOCK_C):
            offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
            if C > BLOCK_C:
                x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
                dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
                w = load_weights(weight_ptr, offs_c, C, ACC)
            if dx_ptr is not None:
                dx = dy * g[None, :] + dz[None, :] * _d_logit(x, w, offs_c, peak, first, count, C, POOL, SPLIT)
                store_tile(dx_ptr, dx_stride, n, offs_c, offs_p, dx, mask, LAYOUT)
            if dparam_ptr is not None:
                dw = add_chunk(dw, chunk, by_lane(x * dz[None, :], LANES, LAYOUT))
    if dparam_ptr is not None:
        row = dparam_ptr + tl.program_id(0) * (C + 1)
        store_chunks(row, dw, C)
        tl.store(row + C, tl.sum(db, 0))


def plan_spatial_bwd(
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dx: Tensor | None,
    *,
    with_dparam: bool,
    pool: str,
    split: bool,
    gate: Activation,
) -> Plan:
    """Makes dparam (programs, C + 1), partial dweight and dbias, if asked for."""
    m, block_c = maps(x=x, dy=dy, dx=dx), channels_at_once(x.shape[1])
    config = spatial_bwd_config(m, x, pool)
    tiles, grid = tiles_and_programs(m, config, sms(x.device))
    args = dict(
        dy_ptr=dy,
        dmap_ptr=dmap,
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        dx_ptr=dx,
        dparam_ptr=partials(x, grid, m.C + 1) if with_dparam else None,
        strides=m.strides_of("dy", "x", "dx"),
        sizes=(m.pixels, tiles, m.N * tiles, grid),
        C=m.C,
        POOL=pool,
        SPLIT=split,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
        CHUNKS=triton.next_power_of_2(-(-m.C // block_c)),
        LANES=sum_lanes(m, block_c, config, x.element_size()),
        BLOCK_C=block_c,
    )
    reads = 1 if block_c >= m.C else 2
    each = m.N * tiles
    traffic = dict(
        dy_ptr=(reads, 0),
        x_ptr=(reads, 0),
        weight_ptr=(reads * each, 0),
        bias_ptr=(each, 0),
        dmap_ptr=(1, 0),
        dx_ptr=(0, 1),
        dparam_ptr=(0, 1),
    )
    return Plan(_spatial_bwd_kernel, args, config, grid, traffic, ("dparam",))
