"""Additive attention, statistics of the norms: means and variances of the projections over the batch. See `additive`.

    mean_f = E <w_f, x_p>,    var_f = E (<w_f, x_p> - mean_f)^2,    over the pixels p of all images

A pass over each map whose projection has a norm. A program sums squares about the mean of its own tiles, and what two
know is merged by Chan, Golub and LeVeque 1979: of projections far from zero no digit is lost, as it would be in a
difference of squares, or in a Gram matrix of the channels.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.grids import sharing
from ...tuning.model import SM_BANDWIDTH, STEP, Config, space
from ...tuning.target import sms, stages_for
from ..common.dot import precision
from ..common.tile import chunk_of, load_vector, num_pixels, pixels_of
from .shared import dot_config, loop_stages, project, side_by_side

SPACE = side_by_side(space(BLOCK_P=(32, 64, 128), BLOCK_F=(16, 32, 64, 128), BLOCK_K=(16, 32, 64)))
MERGE = space(BLOCK_ROWS=(32, 64, 128, 256), BLOCK_F=(4, 8, 16), num_warps=(4, 8))


@triton.jit
def add_moments(mean, m2, h, mask_p, count, here):
    """mean and m2 [BLOCK_F] of `count` pixels, and of `here` more, h [BLOCK_P, BLOCK_F], zeros where masked."""
    mean_here = tl.sum(h, 0) / here
    around = tl.where(mask_p[:, None], h - mean_here[None, :], 0.0)
    apart = mean_here - mean
    both = count + here
    return mean + apart * (here / both), m2 + tl.sum(around * around, 0) + apart * apart * (count * here / both)


@triton.jit
def store_moments(row_ptr, offs_f, mean, m2, count, F: tl.constexpr):
    """A row of 2 F + 1."""
    tl.store(row_ptr + offs_f, mean, offs_f < F)
    tl.store(row_ptr + F + offs_f, m2, offs_f < F)
    tl.store(row_ptr + 2 * F + offs_f, tl.zeros_like(mean) + count, offs_f == 0)


@triton.jit
def _additive_moments_kernel(
    x_ptr,
    g_ptr,
    wx_ptr,
    wg_ptr,
    of_x_ptr,
    of_g_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    G: tl.constexpr,
    F: tl.constexpr,
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
    x_stride, g_stride = strides
    pixels, tiles, all_tiles, programs = sizes
    first, offs_f = chunk_of(tl.program_id(0), F, BLOCK_F)
    P = num_pixels(pixels, LAYOUT)
    zeros = tl.zeros([BLOCK_P, BLOCK_F], ACC)
    mean_x = tl.zeros([BLOCK_F], ACC)
    m2_x = tl.zeros([BLOCK_F], ACC)
    mean_g = tl.zeros([BLOCK_F], ACC)
    m2_g = tl.zeros([BLOCK_F], ACC)
    count = tl.zeros([], ACC)
    for tile in tl.range(first, all_tiles, programs, num_stages=AHEAD):
        n, offs_p = pixels_of(tile, tiles, BLOCK_P)
        mask_p = offs_p < P
        here = tl.sum(mask_p.to(ACC), 0)
        if of_x_ptr is not None:
            h = project(
                zeros, x_ptr, x_stride, wx_ptr, n, offs_f, offs_p, mask_p, C, F, LAYOUT, PRECISION, STAGES, BLOCK_K
            )
            mean_x, m2_x = add_moments(mean_x, m2_x, h, mask_p, count, here)
        if of_g_ptr is not None:
            h = project(
                zeros, g_ptr, g_stride, wg_ptr, n, offs_f, offs_p, mask_p, G, F, LAYOUT_G, PRECISION, STAGES, BLOCK_K
            )
            mean_g, m2_g = add_moments(mean_g, m2_g, h, mask_p, count, here)
        count += here
    row = first.to(tl.int64) * (2 * F + 1)
    if of_x_ptr is not None:
        store_moments(of_x_ptr + row, offs_f, mean_x, m2_x, count, F)
    if of_g_ptr is not None:
        store_moments(of_g_ptr + row, offs_f, mean_g, m2_g, count, F)


@triton.jit
def load_row(partial_ptr, row, rows, offs_f, F: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """From `row` on counts [BLOCK_ROWS], and pointers to means [BLOCK_ROWS, BLOCK_F] with their mask."""
    ids = row + tl.arange(0, BLOCK_ROWS)
    ptrs, mask = partial_ptr + ids * (2 * F + 1), ids < rows
    count = tl.load(ptrs + 2 * F, mask, other=0.0)
    return count, ptrs[:, None] + offs_f[None, :], mask[:, None] & (offs_f < F)[None, :]


@triton.jit
def merge_moments(
    partial_ptr,
    gain_ptr,
    stats_ptr,
    affine_ptr,
    offs_f,
    rows,
    F: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """The mean and the biased variance of all rows, into stats (2 F,); mean and scale of the norm, into affine; 0 and
    1 where there is none."""
    mask_f = offs_f < F
    mean = tl.zeros([offs_f.shape[0]], ACC)
    scale = mean + 1.0
    if partial_ptr is not None:
        total = tl.zeros([BLOCK_ROWS, offs_f.shape[0]], ACC)
        counts = tl.zeros([BLOCK_ROWS], ACC)
        for row in tl.range(0, rows, BLOCK_ROWS, num_stages=STAGES):
            count, ptrs, mask = load_row(partial_ptr, row, rows, offs_f, F, BLOCK_ROWS)
            total += count[:, None] * tl.load(ptrs, mask, other=0.0)
            counts += count
        size = tl.maximum(tl.sum(counts, 0), 1.0)  # of no pixel both are zero
        mean = tl.sum(total, 0) / size
        m2 = tl.zeros([BLOCK_ROWS, offs_f.shape[0]], ACC)
        for row in tl.range(0, rows, BLOCK_ROWS, num_stages=STAGES):
            count, ptrs, mask = load_row(partial_ptr, row, rows, offs_f, F, BLOCK_ROWS)
            apart = tl.load(ptrs, mask, other=0.0) - mean[None, :]
            m2 += tl.load(ptrs + F, mask, other=0.0) + count[:, None] * apart * apart
        var = tl.sum(m2, 0) / size
        scale = load_vector(gain_ptr, offs_f, F, ACC) / tl.sqrt(var + EPS)
        tl.store(stats_ptr + offs_f, mean, mask_f)
        tl.store(stats_ptr + F + offs_f, var, mask_f)
    tl.store(affine_ptr + offs_f, mean, mask_f)
    tl.store(affine_ptr + F + offs_f, scale, mask_f)


@triton.jit
def _additive_merge_kernel(
    of_x_ptr,
    of_g_ptr,
    gain_x_ptr,
    gain_g_ptr,
    stats_x_ptr,
    stats_g_ptr,
    affine_ptr,
    rows,
    F: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    blocks: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    offs_f = tl.program_id(0) % blocks * BLOCK_F + tl.arange(0, BLOCK_F)
    if tl.program_id(0) < blocks:
        merge_moments(of_x_ptr, gain_x_ptr, stats_x_ptr, affine_ptr, offs_f, rows, F, EPS, ACC, STAGES, BLOCK_ROWS)
    else:
        affine_ptr += 2 * F
        merge_moments(of_g_ptr, gain_g_ptr, stats_g_ptr, affine_ptr, offs_f, rows, F, EPS, ACC, STAGES, BLOCK_ROWS)


def plan_additive_moments(x: Tensor, g: Tensor, wx: Tensor, wg: Tensor, with_x: bool, with_g: bool) -> Plan:
    """Makes of_x and of_g (programs, 2 F + 1), those that are asked for: see `plan_additive_merge`."""
    m, mg, F = maps(x=x), maps(g=g), len(wx)
    channels = m.C * with_x + mg.C * with_g
    nbytes = channels * m.P * x.element_size()
    also = mg.C, F, with_x, with_g
    config = dot_config("additive_moments", SPACE, x, m, (max(m.P, 1), F, channels), nbytes, m.N, also, most=32)
    block_p, block_f, _ = config.blocks.values()
    tiles, blocks = -(-m.P // block_p), -(-F // block_f)
    programs = sharing(m.N * tiles, config, sms(x.device), blocks)
    turned = not (m.layout.channels_last and mg.layout.channels_last)
    args = dict(
        x_ptr=x,
        g_ptr=g,
        wx_ptr=wx,
        wg_ptr=wg,
        of_x_ptr=partials(x, programs, 2 * F + 1) if with_x else None,
        of_g_ptr=partials(x, programs, 2 * F + 1) if with_g else None,
        strides=(*m.strides_of("x"), *mg.strides_of("g")),
        sizes=(m.pixels, tiles, m.N * tiles, programs),
        C=m.C,
        G=mg.C,
        F=F,
        LAYOUT=m.layout,
        LAYOUT_G=mg.layout,
        ACC=accumulator(x),
        PRECISION=precision(x),
        **loop_stages(x, m, (m.C * with_x, mg.C * with_g), with_x + with_g, config, block_p + block_f, turned),
    )
    each = m.N * tiles
    traffic = dict(x_ptr=(blocks * with_x, 0), g_ptr=(blocks * with_g, 0))
    traffic |= dict(wx_ptr=(each * with_x, 0), wg_ptr=(each * with_g, 0), of_x_ptr=(0, 1), of_g_ptr=(0, 1))
    return Plan(_additive_moments_kernel, args, config, programs * blocks, traffic, ("of_x", "of_g"))


def plan_additive_merge(
    of_x: Tensor | None,
    of_g: Tensor | None,
    gain_x: Tensor | None,
    gain_g: Tensor | None,
    stats_x: Tensor | None,
    stats_g: Tensor | None,
    affine: Tensor,
    eps: float,
) -> Plan:
    """Of the maps whose projections have a norm, into stats (2 F,); affine (4, F), see `shared.normed`."""
    rows, F = next((len(t) for t in (of_x, of_g) if t is not None), 0), affine.shape[1]
    size = sms(affine.device)

    def microseconds(config: Config) -> float:
        block_rows, block_f = config.blocks["BLOCK_ROWS"], config.blocks["BLOCK_F"]
        steps = 2 * -(-rows // block_rows) * max(1.0, 2 * -(-F // block_f) / size)
        return steps * (STEP + 8 * block_rows * block_f / SM_BANDWIDTH) + 1e-3 * (block_f + config.num_warps)

    config = config_for(MERGE, microseconds, "additive_merge", affine, C=F, pixels=rows)
    block_rows, block_f = config.blocks.values()
    args = dict(
        of_x_ptr=of_x,
        of_g_ptr=of_g,
        gain_x_ptr=gain_x,
        gain_g_ptr=gain_g,
        stats_x_ptr=stats_x,
        stats_g_ptr=stats_g,
        affine_ptr=affine,
        rows=rows,
        F=F,
        EPS=eps,
        ACC=accumulator(affine),
        STAGES=stages_for(affine.device, affine.element_size(), 2 * block_rows * block_f, 4, programs=1),
    )
    blocks = -(-F // block_f)
    traffic = dict.fromkeys(("of_x_ptr", "of_g_ptr"), ((3 * F + 2 * blocks) / (2 * F + 1), 0))
    traffic |= dict(gain_x_ptr=(1, 0), gain_g_ptr=(1, 0))
    traffic |= dict.fromkeys(("stats_x_ptr", "stats_g_ptr", "affine_ptr"), (0, 1))
    return Plan(_additive_merge_kernel, args, config, 2 * blocks, traffic)
