"""Additive attention, backward in several kernels, for any C, G and F. See `additive`.

With ds_p = sum_c dy x + dmap, dlogit = ds gate'(z) and dz_f = dlogit weight_f where h_f > 0:
    dx = dy gate(z) + wx^T dz,    dg = wg^T dz,    dwx_fc = sum_p dz_f x_c,    dwg_fc = sum_p dz_f g_c
    db_f = sum_p dz_f,    dweight_f = sum_p dlogit h_f,    dbias = sum_p dlogit

dz (N, P, F), in x's dtype; of norms one for each map, see `sums`. Passes over the map, those of dz F channels wide: x,
g and dy into dz; then in `products` dz and dy into dx; dz into dg; dz with x, and with g, into the gradients of the
weights, partial sums that `finish` adds.
"""

from collections.abc import Collection

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps, partials
from ...runtime.plan import Plan
from ...tuning.grids import sharing
from ...tuning.model import space
from ...tuning.target import sms
from ..common.activations import Activation, d_relu, relu
from ..common.dot import precision
from ..common.tile import load_vector, num_pixels, pixels_of
from .shared import (
    Given,
    d_gate,
    d_logit,
    d_normed,
    dot_config,
    dot_stages,
    load_affine,
    load_logit,
    normed,
    project,
    project_beside,
    side_by_side,
)

SPACE = side_by_side(space(BLOCK_P=(32, 64, 128), BLOCK_F=(16, 32, 64, 128), BLOCK_K=(16, 32, 64)))


@triton.jit
def store_dz(dz_ptr, dz, offs_p, offs_f, mask_p, F: tl.constexpr):
    """dz [BLOCK_P, BLOCK_F], where it is wanted, of pixels counted over all images."""
    if dz_ptr is not None:
        dz_ptrs = dz_ptr + offs_p[:, None] * F + offs_f[None, :]
        tl.store(dz_ptrs, dz.to(dz_ptr.dtype.element_ty), mask_p[:, None] & (offs_f < F)[None, :])


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
    affine_ptr,
    coef_ptr,
    z_ptr,
    raw_ptr,
    dz_ptr,
    dzg_ptr,
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
    BLOCK_P: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    dy_stride, x_stride, g_stride = strides
    pixels, tiles, all_tiles, programs = sizes
    blocks: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    first = tl.program_id(0) // blocks
    offs_f = tl.program_id(0) % blocks * BLOCK_F + tl.arange(0, BLOCK_F)
    P = num_pixels(pixels, LAYOUT)
    weight = load_vector(weight_ptr, offs_f, F, ACC)
    if raw_ptr is not None:
        of_logit = load_logit(coef_ptr, F)
    dweight = tl.zeros([BLOCK_F], ACC)
    db = tl.zeros([BLOCK_F], ACC)
    dbias = tl.zeros([BLOCK_P], ACC)
    for tile in range(first, all_tiles, programs):
        n, offs_p = pixels_of(tile, tiles, BLOCK_P)
        mask_p = offs_p < P
        dy, x = (dy_ptr, dy_stride), (x_ptr, x_stride)
        hx, ds = project_beside(dy, x, wx_ptr, n, offs_f, offs_p, mask_p, C, F, LAYOUT, ACC, PRECISION, STAGES, BLOCK_K)
        h = hx if affine_ptr is None else tl.zeros([BLOCK_P, BLOCK_F], ACC)
        hg = project(h, g_ptr, g_stride, wg_ptr, n, offs_f, offs_p, mask_p, G, F, LAYOUT_G, PRECISION, STAGES, BLOCK_K)
        h = hg
        if affine_ptr is not None:
            affine = load_affine(affine_ptr, offs_f, F, ACC)
            hx, hg, h = normed(hx, hg, affine)
        if b_ptr is not None:
            h += load_vector(b_ptr, offs_f, F, ACC)[None, :]
        image = n.to(tl.int64) * P
        dlogit = d_gate(ds, dmap_ptr, z_ptr, image + offs_p, mask_p, GATE, ACC)
        if raw_ptr is not None:
            dlogit = d_logit(dlogit, raw_ptr, of_logit, image + offs_p, mask_p)
        dz = tl.where(mask_p[:, None], d_relu(dlogit[:, None] * weight[None, :], h, 0.0, 0.0), 0.0)
        if dweight_ptr is not None:
            dweight += tl.sum(tl.where(mask_p[:, None], dlogit[:, None] * relu(h, 0.0, 0.0), 0.0), 0)
            dbias += dlogit
        if db_ptr is not None:
            db += tl.sum(dz, 0)
        if affine_ptr is None:
            store_dz(dz_ptr, dz, image + offs_p, offs_f, mask_p, F)
        else:
            dzx, dzg = d_normed(dz, hx, hg, affine, load_affine(coef_ptr, offs_f, F, ACC), mask_p)
            store_dz(dz_ptr, dzx, image + offs_p, offs_f, mask_p, F)
            store_dz(dzg_ptr, dzg, image + offs_p, offs_f, mask_p, F)
    row = first.to(tl.int64)
    if dweight_ptr is not None:
        row_ptr = dweight_ptr + row * (F + 1)
        tl.store(row_ptr + offs_f, dweight, offs_f < F)
        if tl.program_id(0) % blocks == 0:
            tl.store(row_ptr + F, tl.sum(dbias, 0))
    if db_ptr is not None:
        tl.store(db_ptr + row * F + offs_f, db, offs_f < F)


def plan_additive_dz(
    given: Given, dz: Tensor | None, dzg: Tensor | None, makes: Collection[str], gate: Activation
) -> Plan:
    """Makes dweight (programs, F + 1), partial dweight and dbias, and db (programs, F), those that are asked for. With
    norms dz is that of x, dzg that of g."""
    x, F, affine, raw = given.x, len(given.wx), given.affine, given.raw
    m, mg = maps(dy=given.dy, x=x), maps(g=given.g)
    itemsize = x.element_size()
    size = max(m.P, 1), F, m.C + mg.C
    nbytes = (2 * m.C + mg.C + F) * m.P * itemsize
    how = dict(also=(mg.C, F), most=32) if affine is None else dict(also=(mg.C, F, "norm"), most=16)
    config = dot_config("additive_dz", SPACE, x, m, size, nbytes, m.N, **how)
    block_p, block_f, block_k = config.blocks.values()
    tiles, blocks = -(-m.P // block_p), -(-F // block_f)
    programs = sharing(m.N * tiles, config, sms(x.device), blocks)
    turned = not (m.layout.channels_last and mg.layout.channels_last)
    args = dict(
        **given.pointers,
        dz_ptr=dz,
        dzg_ptr=dzg,
        dweight_ptr=partials(x, programs, F + 1) if "dweight" in makes else None,
        db_ptr=partials(x, programs, F) if "db" in makes else None,
        strides=(*m.strides_of("dy", "x"), *mg.strides_of("g")),
        sizes=(m.pixels, tiles, m.N * tiles, programs),
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
    traffic = dict.fromkeys(("dy_ptr", "dmap_ptr", "x_ptr", "g_ptr", "z_ptr", "raw_ptr"), (blocks, 0))
    traffic |= dict(wx_ptr=(each, 0), wg_ptr=(each, 0), b_ptr=(each, 0), weight_ptr=(programs, 0))
    of_logit = 4 * (raw is not None)
    traffic |= dict(
        affine_ptr=(each, 0), coef_ptr=((4 * F * each + of_logit * programs * blocks) / (4 * F + of_logit), 0)
    )
    traffic |= dict.fromkeys(("dz_ptr", "dzg_ptr", "dweight_ptr", "db_ptr"), (0, 1))
    return Plan(_additive_dz_kernel, args, config, programs * blocks, traffic, ("dweight", "db"))
