"""Additive attention, backward where dz is in memory: the products of `separate`'s dz with weights and maps.

dx = dy gate(z) + wx^T dz,    dg = wg^T dz,    dwx = sum_p dz x,    dwg = sum_p dz g
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps, partials
from ...runtime.plan import Plan
from ...tuning.grids import sharing
from ...tuning.model import SMS, space
from ...tuning.target import sms
from ..common.activations import Activation
from ..common.dot import precision
from ..common.tile import chunk_of, load_tile, num_pixels, pixels_of, store_tile, tile_ptrs
from .shared import dot_config, dot_stages, load_weight, side_by_side

DX = space(BLOCK_P=(32, 64, 128), BLOCK_C=(16, 32, 64, 128), BLOCK_K=(16, 32, 64))
DW = side_by_side(space(BLOCK_F=(16, 32, 64, 128), BLOCK_C=(16, 32, 64, 128), BLOCK_P=(16, 32, 64)))


@triton.jit
def load_dz(dz_ptr, n, P, offs_p, offs_f, mask_p, F: tl.constexpr):
    """[BLOCK_P, BLOCK_F] of image n."""
    ptrs = dz_ptr + (n.to(tl.int64) * P + offs_p)[:, None] * F + offs_f[None, :]
    return tl.load(ptrs, mask_p[:, None] & (offs_f < F)[None, :], other=0.0)


@triton.jit
def _additive_dx_kernel(
    dy_ptr,
    z_ptr,
    dz_ptr,
    w_ptr,
    dx_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    F: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Of x, or without dy of g."""
    dy_stride, dx_stride = strides
    pixels, tiles = sizes
    tile, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    n, offs_p = pixels_of(tile, tiles, BLOCK_P)
    P = num_pixels(pixels, LAYOUT)
    mask_p = offs_p < P
    dx = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    for k in tl.range(0, F, BLOCK_K, num_stages=STAGES):
        offs_f = k + tl.arange(0, BLOCK_K)
        dz = load_dz(dz_ptr, n, P, offs_p, offs_f, mask_p, F)
        w = load_weight(w_ptr, offs_f, offs_c, F, C, dz.dtype)  # [BLOCK_C, BLOCK_K]
        dx = tl.dot(dz, tl.trans(w), dx, input_precision=PRECISION, out_dtype=ACC)
    dx = tl.trans(dx)  # [BLOCK_C, BLOCK_P]
    mask = (offs_c < C)[:, None] & mask_p[None, :]
    if dy_ptr is not None:
        z = tl.load(z_ptr + n.to(tl.int64) * P + offs_p, mask_p, other=0.0)
        dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        dx += dy * GATE.f(z, GATE.a, GATE.b)[None, :]
    store_tile(dx_ptr, dx_stride, n, offs_c, offs_p, dx, mask, LAYOUT)


@triton.jit
def _additive_dw_kernel(
    dz_ptr,
    x_ptr,
    dw_ptr,
    x_stride,
    sizes,
    C: tl.constexpr,
    F: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    pixels, tiles, all_tiles, programs = sizes
    row, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    first, offs_f = chunk_of(row, F, BLOCK_F)
    P = num_pixels(pixels, LAYOUT)
    dw = tl.zeros([BLOCK_F, BLOCK_C], ACC)
    for tile in tl.range(first, all_tiles, programs, num_stages=STAGES):
        n, offs_p = pixels_of(tile, tiles, BLOCK_P)
        mask_p = offs_p < P
        dz = load_dz(dz_ptr, n, P, offs_p, offs_f, mask_p, F)
        mask = (offs_c < C)[:, None] & mask_p[None, :]
        x = tl.load(tile_ptrs(x_ptr, x_stride, n, offs_c, offs_p, LAYOUT), mask, other=0.0)
        dw = tl.dot(tl.trans(dz), tl.trans(x), dw, input_precision=PRECISION, out_dtype=ACC)
    dw_ptrs = dw_ptr + first.to(tl.int64) * (F * C) + offs_f[:, None] * C + offs_c[None, :]
    tl.store(dw_ptrs, dw, (offs_f < F)[:, None] & (offs_c < C)[None, :])


def plan_additive_dx(
    dy: Tensor | None, z: Tensor | None, dz: Tensor, w: Tensor, dx: Tensor, gate: Activation | None
) -> Plan:
    """dx of a map with the weight w (F, channels); of g, that is without dy, z and gate."""
    m, F = maps(dx=dx, dy=dy), w.shape[0]
    size = max(m.P, 1), m.C, F
    nbytes = (m.C * (1 if dy is None else 2) + F) * m.P * dx.element_size()
    config = dot_config("additive_dx", DX, dx, m, size, nbytes, m.N, (F, dy is None))
    block_p, block_c, block_k = config.blocks.values()
    tiles, blocks = -(-m.P // block_p), -(-m.C // block_c)
    args = dict(
        dy_ptr=dy,
        z_ptr=z,
        dz_ptr=dz,
        w_ptr=w,
        dx_ptr=dx,
        strides=m.strides_of("dy", "dx"),
        sizes=(m.pixels, tiles),
        C=m.C,
        F=F,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(dx),
        PRECISION=precision(dx),
        STAGES=dot_stages(dx, (block_p + block_c) * block_k, m.layout.align, turned=False),
    )
    each = m.N * tiles
    traffic = dict(dy_ptr=(1, 0), z_ptr=(blocks, 0), dz_ptr=(blocks, 0), w_ptr=(each, 0), dx_ptr=(0, 1))
    return Plan(_additive_dx_kernel, args, config, each * blocks, traffic)


def plan_additive_dw(dz: Tensor, x: Tensor) -> Plan:
    """Makes dw (programs, F * channels), partial gradients of the weight of a map x."""
    m, F = maps(x=x), dz.shape[-1]
    share = max(m.N * m.P // (4 * SMS), 1)  # pixels of a program that has all channels
    nbytes = (m.C + F) * share * x.element_size()
    config = dot_config("additive_dw", DW, x, m, (F, m.C, share), nbytes, 4 * SMS, (F,))
    block_f, block_c, block_p = config.blocks.values()
    tiles, blocks = -(-m.P // block_p), -(-F // block_f) * -(-m.C // block_c)
    programs = sharing(m.N * tiles, config, sms(x.device), blocks)
    args = dict(
        dz_ptr=dz,
        x_ptr=x,
        dw_ptr=partials(x, programs, F * m.C),
        x_stride=m.stride["x"],
        sizes=(m.pixels, tiles, m.N * tiles, programs),
        C=m.C,
        F=F,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        PRECISION=precision(x),
        STAGES=dot_stages(x, (block_f + block_c) * block_p, m.layout.align, turned=True, programs=config.programs),
    )
    traffic = dict(dz_ptr=(-(-m.C // block_c), 0), x_ptr=(-(-F // block_f), 0), dw_ptr=(0, 1))
    return Plan(_additive_dw_kernel, args, config, programs * blocks, traffic, ("dw",))
