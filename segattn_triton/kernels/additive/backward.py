"""Additive attention, backward in one kernel, where all channels and projections fit on chip. See `additive`.

The equations are those of `separate`. 5 passes over the map: read dy, x and g, write dx and dg. A program has the
weights, takes every `programs`-th tile of pixels whole, and keeps its share of all sums in registers to the end, where
`finish` adds the shares. Of one image all of dz is at hand: nothing between is in memory. Products are [BLOCK_P, .] and
[BLOCK_C, BLOCK_F], which warpgroups multiply from where the next tiles' copies arrive.
"""

from collections.abc import Collection
from math import ceil

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps, accumulator, maps, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.grids import sharing
from ...tuning.model import Config, space
from ...tuning.target import capability, sms
from ..common.activations import Activation, d_relu, relu
from ..common.dot import DRAM_BYTES, STEP_CYCLES, precision, takes_shared_operands, unit_of
from ..common.tile import load_vector, num_pixels, pixels_of, store_tile, tile_ptrs
from .shared import (
    Given,
    add_rows,
    d_logit,
    d_normed,
    dot_stages,
    load_affine,
    load_logit,
    load_weight,
    normed,
    side_by_side,
)

SPACE = side_by_side(space(BLOCK_P=(16, 32, 64, 128), num_warps=(4, 8)), (2, 1))
MOST_SUMS = 32  # gradients of the weights that a thread keeps


@triton.jit
def load_operand(x_ptr, x_stride, n, offs_c, offs_p, mask_p, C: tl.constexpr, LAYOUT: tl.constexpr):
    """[BLOCK_C, BLOCK_P] of a map in its own dtype."""
    mask = (offs_c < C)[:, None] & mask_p[None, :]
    return tl.load(tile_ptrs(x_ptr, x_stride, n, offs_c, offs_p, LAYOUT), mask, other=0.0)


@triton.jit
def store_dw(dw_ptr, dw, offs_f, offs_c, F: tl.constexpr, C: tl.constexpr):
    """dw [BLOCK_C, BLOCK_F] into a gradient (F, C)."""
    tl.store(dw_ptr + offs_f[None, :] * C + offs_c[:, None], dw, (offs_f < F)[None, :] & (offs_c < C)[:, None])


@triton.jit
def _additive_bwd_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    g_ptr,
    wx_ptr,
    wg_ptr,
    b_ptr,
    weight_ptr,
    affine_ptr,
    coef_ptr,
    z_ptr,
    raw_ptr,
    dx_ptr,
    dg_ptr,
    dwx_ptr,
    dwg_ptr,
    dweight_ptr,
    db_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    G: tl.constexpr,
    F: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    LAYOUT_G: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    dy_stride, x_stride, g_stride, dx_stride, dg_stride = strides
    pixels, tiles, all_tiles, programs = sizes
    P = num_pixels(pixels, LAYOUT)
    offs_c = tl.arange(0, BLOCK_C)
    offs_g = tl.arange(0, BLOCK_G)
    offs_f = tl.arange(0, BLOCK_F)
    weight = load_vector(weight_ptr, offs_f, F, ACC)
    wx = load_weight(wx_ptr, offs_f, offs_c, F, C, x_ptr.dtype.element_ty)  # [BLOCK_C, BLOCK_F]
    wg = load_weight(wg_ptr, offs_f, offs_g, F, G, x_ptr.dtype.element_ty)
    b = weight
    if b_ptr is not None:
        b = load_vector(b_ptr, offs_f, F, ACC)
    if affine_ptr is not None:
        affine = load_affine(affine_ptr, offs_f, F, ACC)
        coef = load_affine(coef_ptr, offs_f, F, ACC)
    if raw_ptr is not None:
        of_logit = load_logit(coef_ptr, F)
    dwx = tl.zeros([BLOCK_C, BLOCK_F], ACC)
    dwg = tl.zeros([BLOCK_G, BLOCK_F], ACC)
    dweight = tl.zeros([BLOCK_P // 2, BLOCK_F], ACC)
    db = tl.zeros([BLOCK_P // 2, BLOCK_F], ACC)
    dbias = tl.zeros([BLOCK_P], ACC)
    for tile in tl.range(tl.program_id(0), all_tiles, programs, num_stages=STAGES):
        n, offs_p = pixels_of(tile, tiles, BLOCK_P)
        mask_p = offs_p < P
        x = load_operand(x_ptr, x_stride, n, offs_c, offs_p, mask_p, C, LAYOUT)
        g = load_operand(g_ptr, g_stride, n, offs_g, offs_p, mask_p, G, LAYOUT_G)
        dy = load_operand(dy_ptr, dy_stride, n, offs_c, offs_p, mask_p, C, LAYOUT).to(ACC)
        hx = tl.dot(tl.trans(x), wx, input_precision=PRECISION, out_dtype=ACC)  # [BLOCK_P, BLOCK_F]
        if affine_ptr is None:
            hg = hx
            h = tl.dot(tl.trans(g), wg, hx, input_precision=PRECISION, out_dtype=ACC)
        else:
            hg = tl.dot(tl.trans(g), wg, input_precision=PRECISION, out_dtype=ACC)
            hx, hg, h = normed(hx, hg, affine)
        if b_ptr is not None:
            h += b[None, :]
        h = tl.where(mask_p[:, None], h, 0.0)
        ds = tl.sum(x.to(ACC) * dy, 0)
        image = n.to(tl.int64) * P
        if dmap_ptr is not None:
            ds += tl.load(dmap_ptr + image + offs_p, mask_p, other=0.0).to(ACC)
        z = tl.load(z_ptr + image + offs_p, mask_p, other=0.0)
        dlogit = tl.where(mask_p, GATE.df(ds, z, GATE.a, GATE.b), 0.0)
        if raw_ptr is not None:
            dlogit = d_logit(dlogit, raw_ptr, of_logit, image + offs_p, mask_p)
        dz = d_relu(dlogit[:, None] * weight[None, :], h, 0.0, 0.0)
        if dweight_ptr is not None:
            dweight = add_rows(dweight, dlogit[:, None] * relu(h, 0.0, 0.0))
            dbias += dlogit
        if db_ptr is not None:
            db = add_rows(db, dz)
        if affine_ptr is None:
            dzx = dz.to(x.dtype)
            dzg = dzx
        else:
            dzx, dzg = d_normed(dz, hx, hg, affine, coef, mask_p)
            dzx, dzg = dzx.to(x.dtype), dzg.to(x.dtype)
        if dx_ptr is not None:
            dx = tl.dot(dzx, tl.trans(wx), input_precision=PRECISION, out_dtype=ACC)  # [BLOCK_P, BLOCK_C]
            dx = tl.trans(dx) + dy * GATE.f(z, GATE.a, GATE.b)[None, :]
            mask = (offs_c < C)[:, None] & mask_p[None, :]
            store_tile(dx_ptr, dx_stride, n, offs_c, offs_p, dx, mask, LAYOUT)
        if dg_ptr is not None:
            dg = tl.trans(tl.dot(dzg, tl.trans(wg), input_precision=PRECISION, out_dtype=ACC))
            mask = (offs_g < G)[:, None] & mask_p[None, :]
            store_tile(dg_ptr, dg_stride, n, offs_g, offs_p, dg, mask, LAYOUT_G)
        if dwx_ptr is not None:
            dwx = tl.dot(x, dzx, dwx, input_precision=PRECISION, out_dtype=ACC)
        if dwg_ptr is not None:
            dwg = tl.dot(g, dzg, dwg, input_precision=PRECISION, out_dtype=ACC)
    row = tl.program_id(0).to(tl.int64)
    if dwx_ptr is not None:
        store_dw(dwx_ptr + row * (F * C), dwx, offs_f, offs_c, F, C)
    if dwg_ptr is not None:
        store_dw(dwg_ptr + row * (F * G), dwg, offs_f, offs_g, F, G)
    if dweight_ptr is not None:
        tl.store(dweight_ptr + row * (F + 1) + offs_f, tl.sum(dweight, 0), offs_f < F)
        tl.store(dweight_ptr + row * (F + 1) + F, tl.sum(dbias, 0))
    if db_ptr is not None:
        tl.store(db_ptr + row * F + offs_f, tl.sum(db, 0), offs_f < F)


def _block(size: int) -> int:
    """The dimension of a product that holds so many."""
    return max(16, triton.next_power_of_2(size))


def _most(x: Tensor, most: int) -> int:
    """Values of a thread: fewer of those that take two registers, or whose operands are in registers."""
    return most if unit_of(x) == "tensor" else most // 2 if x.element_size() <= 4 else most // 4


def fits_on_chip(x: Tensor, g: Tensor, F: int) -> bool:
    """Whether the gradients of both weights fit into the registers of a program, and its tiles beside them: in 16 bits
    128 channels of both maps together with 32 projections, in float32 half of that, in float64 a quarter."""
    channels, F = _block(x.shape[1]) + _block(g.shape[1]), _block(F)
    return channels * F <= _most(x, MOST_SUMS) * 128 and channels <= 4 * MOST_SUMS


def _config(x: Tensor, m: Maps, G: int, F: int, with_norms: bool) -> Config:
    """The model: cycles of the fullest SM, which moves each tile, and synchronises after each of six products."""
    nbytes, channels = (3 * m.C + 2 * G) * x.element_size(), _block(m.C) + _block(G)
    if takes_shared_operands(x) and not (with_norms and capability(x.device) >= 100):
        most = 64 if unit_of(x) == "tensor" else 48 - 8 * with_norms
    else:  # operands take registers, and Blackwell spills first
        most = (32 if capability(x.device) >= 80 else 16) - 8 * with_norms
    most = _most(x, most) * 32  # values of the tiles that the threads of a warp have room for
    size = sms(x.device)

    def cycles(config: Config) -> float | None:
        p = config.blocks["BLOCK_P"]
        if p > 16 and p * channels > most * config.num_warps:
            return None
        work = ceil(m.N * ceil(m.P / p) / size) * (6 * STEP_CYCLES + p * nbytes / DRAM_BYTES)
        return work * (1 + 0.2 / config.programs)  # gaps, which another program fills

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(precision(x), G, F, *["norm"] * with_norms), exact=m.N)
    return config_for(SPACE, cycles, "additive_bwd", x, **how)


def plan_additive_bwd(
    given: Given, dx: Tensor | None, dg: Tensor | None, makes: Collection[str], gate: Activation
) -> Plan:
    """Makes the partial sums of each program that are asked for: dwx, dwg, dweight with dbias in one row, and db."""
    x, F, affine = given.x, len(given.wx), given.affine
    m, mg = maps(x=x, dy=given.dy, dx=dx), maps(g=given.g, dg=dg)
    config = _config(x, m, mg.C, F, affine is not None)
    (block_p,) = config.blocks.values()
    tiles = -(-m.P // block_p)
    programs = sharing(m.N * tiles, config, sms(x.device))
    turned = not (m.layout.channels_last and mg.layout.channels_last)
    columns = dict(dwx=F * m.C, dwg=F * mg.C, dweight=F + 1, db=F)
    sums = {f"{name}_ptr": partials(x, programs, cols) if name in makes else None for name, cols in columns.items()}
    args = dict(
        **given.pointers,
        dx_ptr=dx,
        dg_ptr=dg,
        **sums,
        strides=(*m.strides_of("dy", "x"), *mg.strides_of("g"), *m.strides_of("dx"), *mg.strides_of("dg")),
        sizes=(m.pixels, tiles, m.N * tiles, programs),
        C=m.C,
        G=mg.C,
        F=F,
        GATE=gate,
        LAYOUT=m.layout,
        LAYOUT_G=mg.layout,
        ACC=accumulator(x),
        PRECISION=precision(x),
        STAGES=dot_stages(x, (2 * m.C + mg.C) * block_p, m.layout.align, turned=turned, programs=config.programs),
        BLOCK_C=_block(m.C),
        BLOCK_G=_block(mg.C),
        BLOCK_F=_block(F),
    )
    traffic = dict.fromkeys(("dy_ptr", "dmap_ptr", "x_ptr", "g_ptr", "z_ptr", "raw_ptr"), (1, 0))
    traffic |= dict.fromkeys(("wx_ptr", "wg_ptr", "b_ptr", "weight_ptr", "affine_ptr", "coef_ptr"), (programs, 0))
    traffic |= dict.fromkeys(("dx_ptr", "dg_ptr", *sums), (0, 1))
    return Plan(_additive_bwd_kernel, args, config, programs, traffic, tuple(columns))
