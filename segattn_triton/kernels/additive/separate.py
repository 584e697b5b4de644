"""Additive attention, backward in several kernels, for any C, G and F. See `additive`.

With ds_p = sum_c dy x + dmap, dlogit = ds gate'(z) and dz_f = dlogit weight_f where h_f > 0:
    dx = dy gate(z) + wx^T dz,    dg = wg^T dz,    dwx_fc = sum_p dz_f x_c,    dwg_fc = sum_p dz_f g_c
    db_f = sum_p dz_f,    dweight_f = sum_p dlogit h_f,    dbias = sum_p dlogit

dz (N, P, F), in x's dtype. Passes over the map, F of them narrower: x, g and dy into dz; dz and dy into dx; dz into dg;
dz with x, and with g, into the gradients of the weights, partial sums that `finish` adds.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps, partials
from ...runtime.plan import Plan
from ...tuning.grids import sharing
from ...tuning.model import SMS, space
from ...tuning.target import sms
from ..common.activations import Activation, d_relu, relu
from ..common.dot import precision
from ..common.tile import chunk_at, load_tile, load_vector, num_pixels, store_tile, tile_ptrs
from .shared import dot_config, dot_stages, load_weight, project, side_by_side

DZ = side_by_side(space(BLOCK_P=(32, 64, 128), BLOCK_F=(16, 32, 64, 128), BLOCK_K=(16, 32, 64)))
DX = space(BLOCK_P=(32, 64, 128), BLOCK_C=(16, 32, 64, 128), BLOCK_K=(16, 32, 64))
DW = side_by_side(space(BLOCK_F=(16, 32, 64, 128), BLOCK_C=(16, 32, 64, 128), BLOCK_P=(16, 32, 64)))


@triton.jit
def _additive_dz_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    g_ptr,
    wx_ptr,
    wg_ptr,
    b_ptr,
    weight_ptr,
    z_ptr,
    dz_ptr,
    dweight_ptr,
    db_ptr,
    dy_stride,
    x_stride,
    g_stride,
    pixels,
    tiles,
    all_tiles,
    programs,
    C: tl.constexpr,
    G: tl.constexpr,
    F: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    LAYOUT_G: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    blocks: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    first = tl.program_id(0) // blocks
    offs_f = tl.program_id(0) % blocks * BLOCK_F + tl.arange(0, BLOCK_F)
    P = num_pixels(pixels, LAYOUT)
    weight = load_vector(weight_ptr, offs_f, F, ACC)
    dweight = tl.zeros([BLOCK_F], ACC)
    db = tl.zeros([BLOCK_F], ACC)
    dbias = tl.zeros([BLOCK_P], ACC)
    for tile in range(first, all_tiles, programs):
        n = tile // tiles
        offs_p = tile % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
        mask_p = offs_p < P
        ds = tl.zeros([BLOCK_P], ACC)
        h = tl.zeros([BLOCK_P, BLOCK_F], ACC)
        for k in tl.range(0, C, BLOCK_K, num_stages=STAGES):
            offs_k, mask = chunk_at(k, mask_p, C, BLOCK_K)
            x = tl.load(tile_ptrs(x_ptr, x_stride, n, offs_k, offs_p, LAYOUT), mask, other=0.0)  # [BLOCK_K, BLOCK_P]
            w = load_weight(wx_ptr, offs_f, offs_k, F, C, x.dtype)
            h = tl.dot(tl.trans(x), w, h, input_precision=PRECISION, out_dtype=ACC)
            ds += tl.sum(x.to(ACC) * load_tile(dy_ptr, dy_stride, n, offs_k, offs_p, mask, LAYOUT, ACC), 0)
        h = project(h, g_ptr, g_stride, wg_ptr, n, offs_f, offs_p, mask_p, G, F, LAYOUT_G, PRECISION, STAGES, BLOCK_K)
        if b_ptr is not None:
            h += load_vector(b_ptr, offs_f, F, ACC)[None, :]
        image = n.to(tl.int64) * P
        if dmap_ptr is not None:
            ds += tl.load(dmap_ptr + image + offs_p, mask_p, other=0.0).to(ACC)
        z = tl.load(z_ptr + image + offs_p, mask_p, other=0.0)
        dlogit = tl.where(mask_p, GATE.df(ds, z, GATE.a, GATE.b), 0.0)
        dz = tl.where(mask_p[:, None], d_relu(dlogit[:, None] * weight[None, :], h, 0.0, 0.0), 0.0)
        if dz_ptr is not None:
            dz_ptrs = dz_ptr + (image + offs_p)[:, None] * F + offs_f[None, :]
            tl.store(dz_ptrs, dz.to(dz_ptr.dtype.element_ty), mask_p[:, None] & (offs_f < F)[None, :])
        dweight += tl.sum(tl.where(mask_p[:, None], dlogit[:, None] * relu(h, 0.0, 0.0), 0.0), 0)
        db += tl.sum(dz, 0)
        dbias += dlogit
    row = first.to(tl.int64)
    if dweight_ptr is not None:
        row_ptr = dweight_ptr + row * (F + 1)
        tl.store(row_ptr + offs_f, dweight, offs_f < F)
        if tl.program_id(0) % blocks == 0:
            tl.store(row_ptr + F, tl.sum(dbias, 0))
    if db_ptr is not None:
        tl.store(db_ptr + row * F + offs_f, db, offs_f < F)


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
    dy_stride,
    dx_stride,
    pixels,
    tiles,
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
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    n = tl.program_id(0) // blocks // tiles
    P = num_pixels(pixels, LAYOUT)
    offs_c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    offs_p = tl.program_id(0) // blocks % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
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
    pixels,
    tiles,
    all_tiles,
    programs,
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
    blocks_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    blocks_f: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    first = tl.program_id(0) // (blocks_c * blocks_f)
    offs_f = tl.program_id(0) // blocks_c % blocks_f * BLOCK_F + tl.arange(0, BLOCK_F)
    offs_c = tl.program_id(0) % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    P = num_pixels(pixels, LAYOUT)
    dw = tl.zeros([BLOCK_F, BLOCK_C], ACC)
    for tile in tl.range(first, all_tiles, programs, num_stages=STAGES):
        n = tile // tiles
        offs_p = tile % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
        mask_p = offs_p < P
        dz = load_dz(dz_ptr, n, P, offs_p, offs_f, mask_p, F)
        mask = (offs_c < C)[:, None] & mask_p[None, :]
        x = tl.load(tile_ptrs(x_ptr, x_stride, n, offs_c, offs_p, LAYOUT), mask, other=0.0)
        dw = tl.dot(tl.trans(dz), tl.trans(x), dw, input_precision=PRECISION, out_dtype=ACC)
    dw_ptrs = dw_ptr + first.to(tl.int64) * (F * C) + offs_f[:, None] * C + offs_c[None, :]
    tl.store(dw_ptrs, dw, (offs_f < F)[:, None] & (offs_c < C)[None, :])


def plan_additive_dz(
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    g: Tensor,
    wx: Tensor,
    wg: Tensor,
    b: Tensor | None,
    weight: Tensor,
    z: Tensor,
    dz: Tensor | None,
    with_dweight: bool,
    with_db: bool,
    gate: Activation,
) -> Plan:
    """Makes dweight (programs, F + 1), partial dweight and dbias, and db (programs, F), those that are asked for."""
    m, mg, F = maps(dy=dy, x=x), maps(g=g), wx.shape[0]
    itemsize = x.element_size()
    size = max(m.P, 1), F, m.C + mg.C
    nbytes = (2 * m.C + mg.C + F) * m.P * itemsize
    config = dot_config("additive_dz", DZ, x, m, size, nbytes, m.N, (mg.C, F), most=32)
    block_p, block_f, block_k = config.blocks.values()
    tiles, blocks = -(-m.P // block_p), -(-F // block_f)
    programs = sharing(m.N * tiles, config, sms(x.device), blocks)
    turned = not (m.layout.channels_last and mg.layout.channels_last)
    args = dict(
        dy_ptr=dy,
        dmap_ptr=dmap,
        x_ptr=x,
        g_ptr=g,
        wx_ptr=wx,
        wg_ptr=wg,
        b_ptr=b,
        weight_ptr=weight,
        z_ptr=z,
        dz_ptr=dz,
        dweight_ptr=partials(x, programs, F + 1) if with_dweight else None,
        db_ptr=partials(x, programs, F) if with_db else None,
        **m.strides,
        **mg.strides,
        pixels=m.pixels,
        tiles=tiles,
        all_tiles=m.N * tiles,
        programs=programs,
        C=m.C,
        G=mg.C,
        F=F,
        GATE=gate,
        LAYOUT=m.layout,
        LAYOUT_G=mg.layout,
        ACC=accumulator(x),
        PRECISION=precision(x),
        STAGES=dot_stages(
            x, (2 * block_p + block_f) * block_k, m.layout.align, turned=turned, programs=config.programs
        ),
    )
    each = m.N * tiles
    traffic = dict.fromkeys(("dy_ptr", "dmap_ptr", "x_ptr", "g_ptr", "z_ptr"), (blocks, 0))
    traffic |= dict(wx_ptr=(each, 0), wg_ptr=(each, 0), b_ptr=(each, 0), weight_ptr=(programs, 0))
    traffic |= dict.fromkeys(("dz_ptr", "dweight_ptr", "db_ptr"), (0, 1))
    return Plan(_additive_dz_kernel, args, config, programs * blocks, traffic, ("dweight", "db"))


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
        **m.strides,
        pixels=m.pixels,
        tiles=tiles,
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
        **m.strides,
        pixels=m.pixels,
        tiles=tiles,
        all_tiles=m.N * tiles,
        programs=programs,
        C=m.C,
        F=F,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        PRECISION=precision(x),
        STAGES=dot_stages(x, (block_f + block_c) * block_p, m.layout.align, turned=True, programs=config.programs),
    )
    traffic = dict(dz_ptr=(-(-m.C // block_c), 0), x_ptr=(-(-F // block_f), 0), dw_ptr=(0, 1))
    return Plan(_additive_dw_kernel, args, config, programs * blocks, traffic, ("dw",))
