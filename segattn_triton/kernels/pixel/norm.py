"""The batch norm of the logit of every pixel, one channel, by the statistics of the batch.

    u = (z - mean) / sqrt(var + eps) * weight + bias,    mean and var over all pixels of all images

    backward  dweight = sum du zhat,  dbias = sum du,  dz = weight / sqrt(var + eps) (du - dbias / E - zhat dweight / E)

z, u, du, dz (E,), weight, bias (1,), stats (2,) = (mean, var), var the biased one, about the mean, so that nothing
cancels. Both reductions are two-stage. The maps are a C-th of the feature map, and are read again from the cache.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.grids import sharing
from ...tuning.model import STEP, Config, Footprint, looping, space
from ...tuning.target import sms
from ..common.activations import Activation
from ..common.dependent import begin

SPACE = space(BLOCK=(256, 512, 1024, 2048, 4096, 8192), num_warps=(1, 2, 4, 8))
MERGE_SPACE = space(BLOCK=(64, 128, 256, 512, 1024, 2048), num_warps=(1, 2, 4, 8))
LOOPING = tuple(c for c in looping(SPACE) if c.programs <= 4)  # few, so that the partial results stay few


@triton.jit
def _scale(stats_ptr, EPS: tl.constexpr):
    """mean and 1 / sqrt(var + eps)"""
    return tl.load(stats_ptr), 1.0 / tl.sqrt(tl.load(stats_ptr + 1) + EPS)


@triton.jit
def _norm_moments_kernel(
    z_ptr,
    partial_ptr,
    size,
    tiles,
    programs,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(count, mean, sum of squares about it) of this program's elements, tile by tile (Chan et al. 1979)."""
    begin(DEPENDENT)
    count = tl.zeros([], ACC)
    mean = tl.zeros([], ACC)
    m2 = tl.zeros([], ACC)
    for tile in tl.range(tl.program_id(0), tiles, programs, num_stages=STAGES):
        offs = tl.full([], tile, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = offs < size
        z = tl.load(z_ptr + offs, mask, other=0.0)
        here = tl.sum(mask.to(ACC), 0)
        mean_here = tl.sum(z, 0) / here
        around = tl.where(mask, z - mean_here, 0.0)
        both = count + here
        apart = mean_here - mean
        m2 += tl.sum(around * around, 0) + apart * apart * (count * here / both)
        mean += apart * (here / both)
        count = both
    row = partial_ptr + tl.program_id(0) * 3
    tl.store(row, count)
    tl.store(row + 1, mean)
    tl.store(row + 2, m2)


@triton.jit
def _norm_merge_kernel(partial_ptr, stats_ptr, rows, ACC: tl.constexpr, DEPENDENT: tl.constexpr, BLOCK: tl.constexpr):
    begin(DEPENDENT)
    total = tl.zeros([BLOCK], ACC)
    counts = tl.zeros([BLOCK], ACC)
    for row in range(0, rows, BLOCK):
        offs = row + tl.arange(0, BLOCK)
        count = tl.load(partial_ptr + offs * 3, offs < rows, other=0.0)
        total += count * tl.load(partial_ptr + offs * 3 + 1, offs < rows, other=0.0)
        counts += count
    size = tl.maximum(tl.sum(counts, 0), 1.0)  # of no pixel both are zero
    mean = tl.sum(total, 0) / size
    m2 = tl.zeros([BLOCK], ACC)
    for row in range(0, rows, BLOCK):
        offs = row + tl.arange(0, BLOCK)
        count = tl.load(partial_ptr + offs * 3, offs < rows, other=0.0)
        apart = tl.load(partial_ptr + offs * 3 + 1, offs < rows, other=0.0) - mean
        m2 += tl.load(partial_ptr + offs * 3 + 2, offs < rows, other=0.0) + count * apart * apart
    tl.store(stats_ptr, mean)
    tl.store(stats_ptr + 1, tl.sum(m2, 0) / size)


@triton.jit
def _norm_apply_kernel(
    z_ptr,
    stats_ptr,
    weight_ptr,
    bias_ptr,
    u_ptr,
    map_ptr,
    size,
    EPS: tl.constexpr,
    GATE: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    begin(DEPENDENT)
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < size
    mean, scale = _scale(stats_ptr, EPS)
    u = (tl.load(z_ptr + offs, mask, other=0.0) - mean) * (scale * tl.load(weight_ptr).to(ACC))
    if bias_ptr is not None:
        u += tl.load(bias_ptr).to(ACC)
    tl.store(u_ptr + offs, u, mask)
    if map_ptr is not None:
        tl.store(map_ptr + offs, GATE.f(u, GATE.a, GATE.b).to(map_ptr.dtype.element_ty), mask)


@triton.jit
def _norm_sums_kernel(
    du_ptr,
    z_ptr,
    stats_ptr,
    partial_ptr,
    size,
    tiles,
    programs,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    begin(DEPENDENT)
    mean, scale = _scale(stats_ptr, EPS)
    dweight = tl.zeros([BLOCK], ACC)
    dbias = tl.zeros([BLOCK], ACC)
    for tile in tl.range(tl.program_id(0), tiles, programs, num_stages=STAGES):
        offs = tl.full([], tile, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        du = tl.load(du_ptr + offs, offs < size, other=0.0)
        dweight += du * ((tl.load(z_ptr + offs, offs < size, other=0.0) - mean) * scale)
        dbias += du
    tl.store(partial_ptr + tl.program_id(0) * 2, tl.sum(dweight, 0))
    tl.store(partial_ptr + tl.program_id(0) * 2 + 1, tl.sum(dbias, 0))


@triton.jit
def _norm_bwd_kernel(
    du_ptr,
    z_ptr,
    stats_ptr,
    weight_ptr,
    partial_ptr,
    dz_ptr,
    dweight_ptr,
    dbias_ptr,
    size,
    rows,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    begin(DEPENDENT)
    row = tl.arange(0, ROWS)
    dweight = tl.sum(tl.load(partial_ptr + 2 * row, row < rows, other=0.0), 0)
    dbias = tl.sum(tl.load(partial_ptr + 2 * row + 1, row < rows, other=0.0), 0)
    if dweight_ptr is not None:
        tl.store(dweight_ptr, dweight.to(dweight_ptr.dtype.element_ty), tl.program_id(0) == 0)
    if dbias_ptr is not None:
        tl.store(dbias_ptr, dbias.to(dbias_ptr.dtype.element_ty), tl.program_id(0) == 0)
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < size
    mean, scale = _scale(stats_ptr, EPS)
    zhat = (tl.load(z_ptr + offs, mask, other=0.0) - mean) * scale
    du = tl.load(du_ptr + offs, mask, other=0.0)
    tl.store(dz_ptr + offs, (scale * tl.load(weight_ptr).to(ACC)) * (du - dbias / size - zhat * (dweight / size)), mask)


def _config(kernel: str, z: Tensor, loads: int, loops: bool = False) -> tuple[Config, int, int]:
    """The config, the tiles, and the programs that take them."""
    numel, itemsize, size = z.numel(), z.element_size(), sms(z.device)

    def grid(config: Config) -> tuple[int, int]:
        tiles = -(-numel // config.blocks["BLOCK"])
        return tiles, sharing(tiles, config, size) if loops else tiles

    def footprint(config: Config) -> Footprint:
        (tiles, shared), block = grid(config), config.blocks["BLOCK"]
        waste = -(-tiles // max(shared, 1)) * shared * block / max(numel, 1)
        return Footprint(block, itemsize, loads, 3, shared, waste, block * itemsize, sms=size)

    config = config_for(LOOPING if loops else SPACE, footprint, kernel, z, C=1, pixels=numel)
    return config, *grid(config)


def plan_norm_moments(z: Tensor) -> Plan:
    """Makes partial (programs, 3): see `plan_norm_merge`."""
    config, tiles, programs = _config("norm_moments", z, 1, loops=True)
    partial = partials(z, programs, 3)
    args = dict(z_ptr=z, partial_ptr=partial, size=z.numel(), tiles=tiles, programs=programs)
    args |= dict(ACC=accumulator(z), DEPENDENT=config.dependent, STAGES=2)
    traffic = dict(z_ptr=(1, 0), partial_ptr=(0, 1))
    return Plan(_norm_moments_kernel, args, config, programs, traffic, ("partial",))


def plan_norm_merge(partial: Tensor, stats: Tensor) -> Plan:
    rows = partial.shape[0]

    def microseconds(config: Config) -> float:
        return 2 * STEP * -(-rows // config.blocks["BLOCK"]) + 1e-3 * config.blocks["BLOCK"] / config.num_warps

    config = config_for(MERGE_SPACE, microseconds, "norm_merge", partial, C=1, pixels=rows)
    args = dict(partial_ptr=partial, stats_ptr=stats, rows=rows, ACC=accumulator(partial), DEPENDENT=config.dependent)
    return Plan(_norm_merge_kernel, args, config, 1, dict(partial_ptr=(5 / 3, 0), stats_ptr=(0, 1)))


def plan_norm_apply(
    z: Tensor,
    stats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    u: Tensor,
    gate_map: Tensor | None,
    eps: float,
    gate: Activation,
) -> Plan:
    config, tiles, _ = _config("norm_apply", z, 1)
    args = dict(z_ptr=z, stats_ptr=stats, weight_ptr=weight, bias_ptr=bias, u_ptr=u, map_ptr=gate_map)
    args |= dict(size=z.numel(), EPS=eps, GATE=gate, ACC=accumulator(z), DEPENDENT=config.dependent)
    traffic = dict(z_ptr=(1, 0), u_ptr=(0, 1), map_ptr=(0, 1))
    traffic |= dict.fromkeys(("stats_ptr", "weight_ptr", "bias_ptr"), (tiles, 0))
    return Plan(_norm_apply_kernel, args, config, tiles, traffic)


def plan_norm_sums(du: Tensor, z: Tensor, stats: Tensor, eps: float) -> Plan:
    """Makes partial (programs, 2), of dweight and dbias."""
    config, tiles, programs = _config("norm_sums", z, 2, loops=True)
    args = dict(du_ptr=du, z_ptr=z, stats_ptr=stats, partial_ptr=partials(z, programs, 2))
    args |= dict(
        size=z.numel(),
        tiles=tiles,
        programs=programs,
        EPS=eps,
        ACC=accumulator(z),
        DEPENDENT=config.dependent,
        STAGES=2,
    )
    traffic = dict(du_ptr=(1, 0), z_ptr=(1, 0), stats_ptr=(programs, 0), partial_ptr=(0, 1))
    return Plan(_norm_sums_kernel, args, config, programs, traffic, ("partial",))


def plan_norm_bwd(
    du: Tensor,
    z: Tensor,
    stats: Tensor,
    weight: Tensor,
    partial: Tensor,
    dz: Tensor,
    dweight: Tensor | None,
    dbias: Tensor | None,
    eps: float,
) -> Plan:
    """Of partial (programs, 2), which each program sums: it is a few kilobytes, and waiting for another launch more."""
    config, tiles, _ = _config("norm_bwd", z, 2)
    rows = partial.shape[0]
    args = dict(du_ptr=du, z_ptr=z, stats_ptr=stats, weight_ptr=weight, partial_ptr=partial, dz_ptr=dz)
    args |= dict(dweight_ptr=dweight, dbias_ptr=dbias, size=z.numel(), rows=rows)
    args |= dict(EPS=eps, ACC=accumulator(z), DEPENDENT=config.dependent, ROWS=triton.next_power_of_2(max(rows, 1)))
    traffic = dict(du_ptr=(1, 0), z_ptr=(1, 0), dz_ptr=(0, 1), dweight_ptr=(0, 1), dbias_ptr=(0, 1))
    traffic |= dict.fromkeys(("stats_ptr", "weight_ptr", "partial_ptr"), (tiles, 0))
    return Plan(_norm_bwd_kernel, args, config, max(tiles, 1), traffic)  # of no pixel the gradients are zero
