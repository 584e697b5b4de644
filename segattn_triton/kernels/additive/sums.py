"""Additive attention with norms, backward: what the gradients have in common over all pixels of the batch.

With hx and hg the projections less their means, s their norms' scales, h = hx sx + hg sg + b, and of the pixel p

    du = (sum_c dy x + dmap) gate'(u),    dz = k (du - E du - zc E[du zc] / (var + eps)),   k = gain / sqrt(var + eps)

zc the logit less its mean (without a norm there dz = du), dh_f = dz weight_f where h_f > 0, and over all pixels

    db = sum dh,   dgain_x = sum dh hx / sqrt(var_x + eps),   dweight = sum dz h where h > 0,   dbias = sum du
    dhx = sx (dh - E dh - hx E[dh hx] / (var_x + eps)),   and the same of g

These sums are linear in E du and E[du zc], which are sums, too: one sweep adds q du, q and q zc for q of 1, hx and hg
where h > 0, and `settle` puts them together. 3 passes over the map, dy, x and g, in which nothing is written; the
kernels that give dx and dg then take from `coef` what every pixel wants of the sums.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps, partials
from ...runtime.plan import Plan
from ...tuning.grids import sharing
from ...tuning.model import space
from ...tuning.target import capability, sms
from ..common.activations import Activation, d_relu
from ..common.dot import precision, takes_shared_operands
from ..common.tile import load_vector, num_pixels, pixels_of
from .shared import (
    add_rows,
    d_gate,
    dot_config,
    load_affine,
    loop_stages,
    normed,
    project,
    project_beside,
    side_by_side,
)

SPACE = side_by_side(space(BLOCK_P=(16, 32, 64, 128), BLOCK_F=(16, 32, 64), BLOCK_K=(16, 32, 64), num_warps=(4, 8)))


@triton.jit
def add_where_open(sums, d, h, hx, hg):
    """To the sums of each `add_rows` those of d [BLOCK_P], d hx and d hg of the pixels where h > 0."""
    d = d_relu(d[:, None] + tl.zeros_like(h), h, 0.0, 0.0)
    return add_rows(sums[0], d), add_rows(sums[1], d * hx), add_rows(sums[2], d * hg)


@triton.jit
def store_three(ptr, offs_f, sums, F: tl.constexpr):
    tl.store(ptr + offs_f, tl.sum(sums[0], 0), offs_f < F)
    tl.store(ptr + F + offs_f, tl.sum(sums[1], 0), offs_f < F)
    tl.store(ptr + 2 * F + offs_f, tl.sum(sums[2], 0), offs_f < F)


@triton.jit
def _additive_sums_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    g_ptr,
    wx_ptr,
    wg_ptr,
    b_ptr,
    affine_ptr,
    z_ptr,
    raw_ptr,
    stats_ptr,
    partial_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    G: tl.constexpr,
    F: tl.constexpr,
    COLS: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    LAYOUT_G: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    AHEAD: tl.constexpr,
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
    affine = load_affine(affine_ptr, offs_f, F, ACC)
    b = affine[0]
    if b_ptr is not None:
        b = load_vector(b_ptr, offs_f, F, ACC)
    if raw_ptr is not None:
        mean = tl.load(stats_ptr)
    zeros = tl.zeros([BLOCK_P // 2, BLOCK_F], ACC)
    of_du, of_one, of_far = (zeros, zeros, zeros), (zeros, zeros, zeros), (zeros, zeros, zeros)
    dbias = tl.zeros([BLOCK_P], ACC)
    dgain = tl.zeros([BLOCK_P], ACC)
    for tile in tl.range(first, all_tiles, programs, num_stages=AHEAD):
        n, offs_p = pixels_of(tile, tiles, BLOCK_P)
        mask_p = offs_p < P
        dy, x = (dy_ptr, dy_stride), (x_ptr, x_stride)
        hx, ds = project_beside(dy, x, wx_ptr, n, offs_f, offs_p, mask_p, C, F, LAYOUT, ACC, PRECISION, STAGES, BLOCK_K)
        hg = tl.zeros([BLOCK_P, BLOCK_F], ACC)
        hg = project(hg, g_ptr, g_stride, wg_ptr, n, offs_f, offs_p, mask_p, G, F, LAYOUT_G, PRECISION, STAGES, BLOCK_K)
        hx, hg, h = normed(hx, hg, affine)
        if b_ptr is not None:
            h += b[None, :]
        h = tl.where(mask_p[:, None], h, 0.0)
        image = n.to(tl.int64) * P
        du = d_gate(ds, dmap_ptr, z_ptr, image + offs_p, mask_p, GATE, ACC)
        of_du = add_where_open(of_du, du, h, hx, hg)
        dbias += du
        if raw_ptr is not None:
            apart = tl.load(raw_ptr + image + offs_p, mask_p, other=0.0) - mean
            of_one = add_where_open(of_one, tl.zeros_like(du) + 1.0, h, hx, hg)
            of_far = add_where_open(of_far, apart, h, hx, hg)
            dgain += tl.where(mask_p, du * apart, 0.0)
    row_ptr = partial_ptr + first.to(tl.int64) * COLS
    store_three(row_ptr, offs_f, of_du, F)
    if raw_ptr is not None:
        store_three(row_ptr + 3 * F, offs_f, of_one, F)
        store_three(row_ptr + 6 * F, offs_f, of_far, F)
    if tl.program_id(0) % blocks == 0:
        tl.store(row_ptr + COLS - 2, tl.sum(dbias, 0))
        tl.store(row_ptr + COLS - 1, tl.sum(dgain, 0))


def plan_additive_sums(
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    g: Tensor,
    wx: Tensor,
    wg: Tensor,
    b: Tensor | None,
    affine: Tensor,
    z: Tensor,
    raw: Tensor | None,
    stats: Tensor | None,
    gate: Activation,
) -> Plan:
    """Makes partial (programs, 9 F + 2), or 3 F + 2 columns without `raw`, for `settle`. raw (N, P): the logits before
    their norm, whose mean and variance are stats (2,); z: behind it."""
    m, mg, F = maps(dy=dy, x=x), maps(g=g), len(wx)
    nbytes = (2 * m.C + mg.C) * m.P * x.element_size()
    size = max(m.P, 1), F, m.C + mg.C
    few = raw is not None and takes_shared_operands(x) and capability(x.device) >= 100  # Blackwell spills first
    also = mg.C, F, raw is not None
    config = dot_config("additive_sums", SPACE, x, m, size, nbytes, m.N, also, most=4 if few else 16)
    block_p, block_f, _ = config.blocks.values()
    tiles, blocks = -(-m.P // block_p), -(-F // block_f)
    programs = sharing(m.N * tiles, config, sms(x.device), blocks)
    turned = not (m.layout.channels_last and mg.layout.channels_last)
    cols = (3 if raw is None else 9) * F + 2
    args = dict(
        dy_ptr=dy,
        dmap_ptr=dmap,
        x_ptr=x,
        g_ptr=g,
        wx_ptr=wx,
        wg_ptr=wg,
        b_ptr=b,
        affine_ptr=affine,
        z_ptr=z,
        raw_ptr=raw,
        stats_ptr=stats,
        partial_ptr=partials(x, programs, cols),
        strides=(*m.strides_of("dy", "x"), *mg.strides_of("g")),
        sizes=(m.pixels, tiles, m.N * tiles, programs),
        C=m.C,
        G=mg.C,
        F=F,
        COLS=cols,
        GATE=gate,
        LAYOUT=m.layout,
        LAYOUT_G=mg.layout,
        ACC=accumulator(x),
        PRECISION=precision(x),
        **loop_stages(x, m, (m.C, mg.C), 4, config, 2 * block_p + block_f, turned),  # g has a buffer more
    )
    each = m.N * tiles
    traffic = dict.fromkeys(("dy_ptr", "dmap_ptr", "x_ptr", "g_ptr", "z_ptr", "raw_ptr"), (blocks, 0))
    traffic |= dict(wx_ptr=(each, 0), wg_ptr=(each, 0), b_ptr=(programs, 0), affine_ptr=(programs, 0))
    traffic |= dict(stats_ptr=(programs * blocks / 2, 0), partial_ptr=(0, 1))
    return Plan(_additive_sums_kernel, args, config, programs * blocks, traffic, ("partial",))
