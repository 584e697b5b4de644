"""A convolution over the pooled channels of every image, and its gradients.

    v = mean over the pixels,    z_c = sum_j w_j v_{c + j - R} + b,    R = k // 2,  j < k    (zeros past the ends, or
    the channels of the other end)

v, z (N, C); w (k,), k odd; b (1,). The second stage of the pool is done on the way.

Backward, with ds_nc = sum_p dy x + dmap:    dz = ds gate'(z),    dv_c = sum_j w_j dz_{c - j + R}
    dw_j = sum_nc dz_c v_{c + j - R},    db = sum_nc dz_c
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import SM_BANDWIDTH, SMS, START, STEP, Config, space
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import chunk_of, d_logit, finish_sum, load_vector

SPACE = space(BLOCK_C=(8, 16, 32, 64, 128), BLOCK_T=(1, 4, 16, 64, 256), num_warps=(1, 2, 4, 8))
DW_SPACE = space(BLOCK=(256, 512, 1024, 2048, 4096, 8192), num_warps=(1, 2, 4, 8))


@triton.jit
def _shifted(offs_c, shift, C: tl.constexpr, CIRCULAR: tl.constexpr):
    """The channels `shift` further on; C, which is none, past the ends."""
    offs = offs_c + shift
    if CIRCULAR:
        return tl.where(offs_c < C, (offs + C) % C, C)
    else:
        return tl.where((offs < 0) | (offs >= C) | (offs_c >= C), C, offs)


@triton.jit
def _band_fwd_kernel(
    total_ptr,
    w_ptr,
    b_ptr,
    pooled_ptr,
    z_ptr,
    tiles,
    pixels,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    CIRCULAR: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    begin(DEPENDENT)
    n, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    image = n.to(tl.int64) * C
    z = tl.zeros([BLOCK_C], ACC)
    for j in tl.static_range(TAPS):
        source = _shifted(offs_c, j - TAPS // 2, C, CIRCULAR)
        v = finish_sum(total_ptr, n, source, tiles, C, ACC, BLOCK_T) / pixels
        z += v * tl.load(w_ptr + j).to(ACC)
        if j == TAPS // 2:
            tl.store(pooled_ptr + image + offs_c, v, offs_c < C)
    if b_ptr is not None:
        z += tl.load(b_ptr).to(ACC)
    tl.store(z_ptr + image + offs_c, z, offs_c < C)


@triton.jit
def _band_bwd_kernel(
    ds_ptr,
    dmap_ptr,
    z_ptr,
    w_ptr,
    dz_ptr,
    dpooled_ptr,
    tiles,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    CIRCULAR: tl.constexpr,
    GATE: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    begin(DEPENDENT)
    n, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    image = n.to(tl.int64) * C
    if dpooled_ptr is None:
        dz = d_logit(ds_ptr, dmap_ptr, z_ptr, n, offs_c, tiles, C, GATE, ACC, BLOCK_T)
        tl.store(dz_ptr + image + offs_c, dz, offs_c < C)
    else:
        dv = tl.zeros([BLOCK_C], ACC)
        for j in tl.static_range(TAPS):
            source = _shifted(offs_c, TAPS // 2 - j, C, CIRCULAR)
            dz = d_logit(ds_ptr, dmap_ptr, z_ptr, n, source, tiles, C, GATE, ACC, BLOCK_T)
            dv += tl.where(source < C, dz * tl.load(w_ptr + j).to(ACC), 0.0)
            if j == TAPS // 2 and dz_ptr is not None:
                tl.store(dz_ptr + image + offs_c, dz, offs_c < C)
        tl.store(dpooled_ptr + image + offs_c, dv, offs_c < C)


@triton.jit
def _band_dw_kernel(
    dz_ptr,
    pooled_ptr,
    dw_ptr,
    db_ptr,
    values,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    CIRCULAR: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    begin(DEPENDENT)
    j = tl.program_id(0)
    dw = tl.zeros([BLOCK], ACC)
    db = tl.zeros([BLOCK], ACC)
    for first in range(0, values, BLOCK):
        offs = first + tl.arange(0, BLOCK)
        dz = load_vector(dz_ptr, offs, values, ACC)
        db += dz
        if dw_ptr is not None:
            source = _shifted(offs % C, j - TAPS // 2, C, CIRCULAR)
            inside = (offs < values) & (source < C)
            v = tl.load(pooled_ptr + (offs // C * C + source), inside, other=0.0).to(ACC)
            dw += dz * v
    if dw_ptr is not None:
        tl.store(dw_ptr + j, tl.sum(dw, 0).to(dw_ptr.dtype.element_ty))
    if db_ptr is not None:
        tl.store(db_ptr, tl.sum(db, 0).to(db_ptr.dtype.element_ty), j == 0)


def _config(kernel: str, partial: Tensor, reads: int) -> tuple[Config, int]:
    """For partials (N, T, C), each read so many times by a program; and the blocks of channels.

    The model: microseconds of one program's steps, bound by latency, and of what one SM reads.
    """
    N, tiles, C = partial.shape

    def microseconds(config: Config) -> float | None:
        block_c, block_t = config.blocks["BLOCK_C"], config.blocks["BLOCK_T"]
        values = block_c * block_t / (32 * config.num_warps)
        if values > 32 or (block_c >= 2 * C and block_c > 8) or block_t >= 4 * max(tiles, 1):
            return None
        rounds = -(-tiles // block_t)
        nbytes = START + 4 * reads * min(rounds * block_t, tiles) * block_c
        each_sm = max(1.0, N * -(-C // block_c) / SMS)
        return (reads * rounds + 2) * STEP + each_sm * nbytes / SM_BANDWIDTH + 1e-3 * (values + config.num_warps)

    how = dict(C=C, pixels=N * tiles, also=(f"reads{reads}",), exact=(N, tiles))
    config = config_for(SPACE, microseconds, kernel, partial, **how)
    return config, -(-C // config.blocks["BLOCK_C"])


def _inside(C: int, taps: int, circular: bool) -> float:
    """How many channels a channel's window has, on the average."""
    radius = taps // 2
    return taps if circular else sum(max(0, C - abs(j - radius)) for j in range(taps)) / C


def plan_band_fwd(total: Tensor, pixels: int, w: Tensor, b: Tensor | None, circular: bool, pooled: Tensor) -> Plan:
    """Of partials (N, T, C): pooled (N, C). Makes z (N, 1, C)."""
    (N, tiles, C), taps = total.shape, w.shape[2]
    config, chunks = _config("band_fwd", total, taps)
    args = dict(
        total_ptr=total,
        w_ptr=w,
        b_ptr=b,
        pooled_ptr=pooled,
        z_ptr=pooled.new_empty((N, 1, C)),
        tiles=tiles,
        pixels=pixels,
        C=C,
        TAPS=taps,
        CIRCULAR=circular,
        ACC=accumulator(pooled),
        DEPENDENT=config.dependent,
    )
    traffic = dict(total_ptr=(_inside(C, taps, circular), 0), w_ptr=(N * chunks, 0), b_ptr=(N * chunks, 0))
    traffic |= dict(pooled_ptr=(0, 1), z_ptr=(0, 1))
    return Plan(_band_fwd_kernel, args, config, N * chunks, traffic, ("z",))


def plan_band_bwd(
    ds: Tensor,
    dmap: Tensor | None,
    z: Tensor,
    w: Tensor,
    circular: bool,
    with_dz: bool,
    with_dpooled: bool,
    gate: Activation,
) -> Plan:
    """Of partials ds (N, T, C). Makes, where wanted, dz (N, C) and dpooled (N, 1, C)."""
    (N, tiles, C), taps = ds.shape, w.shape[2]
    config, chunks = _config("band_bwd", ds, taps if with_dpooled else 1)
    args = dict(
        ds_ptr=ds,
        dmap_ptr=dmap,
        z_ptr=z,
        w_ptr=w if with_dpooled else None,
        dz_ptr=torch.empty_like(z) if with_dz else None,
        dpooled_ptr=z.new_empty((N, 1, C)) if with_dpooled else None,
        tiles=tiles,
        C=C,
        TAPS=taps,
        CIRCULAR=circular,
        GATE=gate,
        ACC=accumulator(z),
        DEPENDENT=config.dependent,
    )
    reads = _inside(C, taps, circular) if with_dpooled else 1
    traffic = dict.fromkeys(("ds_ptr", "dmap_ptr", "z_ptr"), (reads, 0)) | {"w_ptr": (N * chunks, 0)}
    traffic |= dict(dz_ptr=(0, 1), dpooled_ptr=(0, 1))
    return Plan(_band_bwd_kernel, args, config, N * chunks, traffic, ("dz", "dpooled"))


def plan_band_dw(dz: Tensor, pooled: Tensor, taps: int, circular: bool, dw: Tensor | None, db: Tensor | None) -> Plan:
    """A program for every tap sums over the images and channels in order."""
    programs, (N, C) = 1 if dw is None else taps, pooled.shape

    def microseconds(config: Config) -> float | None:
        block = config.blocks["BLOCK"]
        values = block / (32 * config.num_warps)
        if values > 32 or (block >= 2 * N * C and block > 256):
            return None
        return -(-N * C // block) * (STEP + 8 * block / SM_BANDWIDTH) + 1e-3 * (values + config.num_warps)

    config = config_for(DW_SPACE, microseconds, "band_dw", pooled, C=C, pixels=N, also=(f"K{taps}",))
    args = dict(
        dz_ptr=dz,
        pooled_ptr=None if dw is None else pooled,
        dw_ptr=dw,
        db_ptr=db,
        values=pooled.numel(),
        C=C,
        TAPS=taps,
        CIRCULAR=circular,
        ACC=accumulator(pooled),
        DEPENDENT=config.dependent,
    )
    inside = _inside(C, taps, circular)
    traffic = dict(dz_ptr=(programs, 0), pooled_ptr=(inside, 0), dw_ptr=(0, 1), db_ptr=(0, 1))
    return Plan(_band_dw_kernel, args, config, programs, traffic)
