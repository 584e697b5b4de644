"""Branches weighted by a softmax over them, backward. See `branches` for the equation and the shapes.

    dx_r = a_r dy,    dg_r = sum over the pixels of dy x_r (+ dmap_r),    dz_r = a_r (dg_r - sum over s of a_s dg_s)

One pass: a program has some pixels of one branch, of which it writes dx and adds up dg; those of the other branches lie
next to it and find dy in the cache. What programs found is added, in a fixed order, by another launch, which has dz.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import STEP, Config, space
from ...tuning.target import sms
from ..common.dependent import begin
from ..common.tile import chunk_of, load_tile, num_pixels, store_tile
from .branches import logit_of, maps_of, peak_and_norm, reads_of_logits, weight_of
from .shared import shares_of, sum_config, sum_stages

FINISH = space(BLOCK_T=(4, 16, 64), BLOCK_C=(8, 16, 32), num_warps=(4,))


@triton.jit
def _branches_bwd_kernel(
    dy_ptr,
    x_ptr,
    z_ptr,
    dx_ptr,
    total_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    RADIX: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """total (N, T, R, C): dg of the pixels of each program."""
    begin(DEPENDENT)
    dy_stride, x_stride, dx_stride = strides
    pixels, blocks, tiles = sizes
    row, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)  # (n * tiles + t) * RADIX + r
    r = row % RADIX
    n = row // RADIX // tiles
    P = num_pixels(pixels, LAYOUT)
    peak, norm = peak_and_norm(z_ptr, n, offs_c, C, RADIX, ACC)
    a = weight_of(logit_of(z_ptr, n, r, offs_c, C, RADIX, ACC), peak, RADIX) / norm
    dg = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for block in tl.range(row // RADIX % tiles, blocks, tiles, num_stages=STAGES):
        offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
        dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        if total_ptr is not None:
            dg += dy * load_tile(x_ptr, x_stride, n, r * C + offs_c, offs_p, mask, LAYOUT, ACC)
        if dx_ptr is not None:
            store_tile(dx_ptr, dx_stride, n, r * C + offs_c, offs_p, dy * a[:, None], mask, LAYOUT)
    if total_ptr is not None:
        tl.store(total_ptr + row.to(tl.int64) * C + offs_c, tl.sum(dg, 1), offs_c < C)


@triton.jit
def _branches_dz_kernel(
    total_ptr,
    dmap_ptr,
    z_ptr,
    dz_ptr,
    tiles,
    C: tl.constexpr,
    RADIX: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    begin(DEPENDENT)
    n, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    BLOCK_R: tl.constexpr = triton.next_power_of_2(RADIX)
    offs_r = tl.arange(0, BLOCK_R)
    offs = offs_r[:, None] * C + offs_c[None, :]
    mask = (offs_r < RADIX)[:, None] & (offs_c < C)[None, :]
    image = n.to(tl.int64) * (RADIX * C)
    z = tl.load(z_ptr + image + offs, mask, other=float("-inf")).to(ACC)  # before the loop: under way together
    found = tl.zeros([BLOCK_T, BLOCK_R, BLOCK_C], ACC)
    for tile in range(0, tiles, BLOCK_T):
        offs_t = tile + tl.arange(0, BLOCK_T)
        rows = (n.to(tl.int64) * tiles + offs_t)[:, None, None] * (RADIX * C)
        there = (offs_t < tiles)[:, None, None] & mask[None, :, :]
        found += tl.load(total_ptr + rows + offs[None, :, :], there, other=0.0)
    dg = tl.sum(found, 0)
    if dmap_ptr is not None:
        dg += tl.load(dmap_ptr + image + offs, mask, other=0.0).to(ACC)
    peak = tl.max(z, 0)
    weight = weight_of(z, peak[None, :], RADIX)
    norm = tl.sum(weight, 0) if RADIX > 1 else tl.zeros_like(peak) + 1.0
    a = tl.where(mask, weight / norm[None, :], 0.0)
    dz = a * (dg - tl.sum(a * dg, 0)[None, :])
    tl.store(dz_ptr + image + offs, dz.to(dz_ptr.dtype.element_ty), mask)


def plan_branches_bwd(dy: Tensor, x: Tensor, z: Tensor, dx: Tensor | None, wants_dz: bool) -> Plan:
    """Makes total (N, T, R, C), if it is wanted."""
    radix = z.shape[1]
    m = maps_of(radix, x=x, dy=dy, dx=dx)
    loads = 1 + wants_dz
    config = sum_config("branches_bwd", m._replace(N=m.N * radix), x, loads, 1.2 + 0.8 * loads + 0.4)
    chunks, tiles, programs = shares_of(m._replace(N=m.N * radix), config, sms(x.device))
    args = dict(
        dy_ptr=dy,
        x_ptr=x if wants_dz else None,
        z_ptr=z,
        dx_ptr=dx,
        total_ptr=partials(x, m.N, programs, radix, m.C) if wants_dz else None,
        strides=m.strides_of("dy", "x", "dx"),
        sizes=(m.pixels, tiles, programs),
        C=m.C,
        RADIX=radix,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        STAGES=sum_stages(x.device, x.element_size(), m, config, loads),
        DEPENDENT=config.dependent,
    )
    read = programs * reads_of_logits(radix, radix)  # every program of a branch has the logits of all
    traffic = dict(dy_ptr=(radix, 0), x_ptr=(1, 0), z_ptr=(read, 0), dx_ptr=(0, 1), total_ptr=(0, 1))
    return Plan(_branches_bwd_kernel, args, config, m.N * programs * radix * chunks, traffic, ("total",))


def plan_branches_dz(total: Tensor, dmap: Tensor | None, z: Tensor, dz: Tensor) -> Plan:
    N, tiles, radix, C = total.shape

    def microseconds(config: Config) -> float | None:
        block_t, block_c = config.blocks["BLOCK_T"], config.blocks["BLOCK_C"]
        values = block_t * block_c * radix / (32 * config.num_warps)
        few, many = values < 1 and block_t < 16, values > 64 and config is not FINISH[0]
        if few or many or (block_t >= 2 * tiles and block_t > 4):
            return None
        return -(-tiles // block_t) * STEP + 1e-2 * values

    config = config_for(FINISH, microseconds, "branches_dz", total, C=C, pixels=N * tiles, exact=(N, tiles, radix))
    args = dict(total_ptr=total, dmap_ptr=dmap, z_ptr=z, dz_ptr=dz, tiles=tiles, C=C, RADIX=radix)
    args |= dict(ACC=accumulator(total), DEPENDENT=config.dependent)
    traffic = dict(total_ptr=(1, 0), dmap_ptr=(1, 0), z_ptr=(1, 0), dz_ptr=(0, 1))
    return Plan(_branches_dz_kernel, args, config, N * -(-C // config.blocks["BLOCK_C"]), traffic)
