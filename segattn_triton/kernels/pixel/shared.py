"""One weight per pixel, of all its channels: what the kernels of y = x * gate(z) share.

    z_p = a dot product, mean or maximum over the channels of pixel p

x, y (N, C, P); map (N, P); weight (C,); bias (1,). Up to C = 1024 a program holds all channels of its pixels; above,
it takes them in chunks, and reads the tile a second time, from cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps
from ...tuning.choice import config_for
from ...tuning.grids import sharing
from ...tuning.model import Config, Footprint, looping, space
from ...tuning.target import capability, rounds_ahead, sms, stages_for, with_all_registers
from ..common.sums import shared_time
from ..common.tile import WHOLE, channels_at_once, is_peak, load_vector, nan_max

SPACE = space(BLOCK_P=(8, 16, 32, 64, 128, 256, 512, 1024, 2048), num_warps=(2, 4, 8, 16))
LOOPING = looping(SPACE)


@triton.jit
def load_weights(weight_ptr, offs_c, C: tl.constexpr, ACC: tl.constexpr):
    """The weights [BLOCK_C] of a chunk of channels; zeros of a pool, which has none."""
    if weight_ptr is None:
        return tl.zeros_like(offs_c).to(ACC)
    else:
        return load_vector(weight_ptr, offs_c, C, ACC)


@triton.jit
def nothing_yet(C: tl.constexpr, ACC: tl.constexpr, BLOCK_P: tl.constexpr):
    """[BLOCK_P] each: what `squeeze` starts from."""
    total = tl.zeros([BLOCK_P], ACC)
    peak = tl.full([BLOCK_P], float("-inf"), ACC)
    return total, peak, tl.full([BLOCK_P], C, tl.int32), tl.zeros([BLOCK_P], tl.int32)


@triton.jit
def _reached(here, offs_c, C: tl.constexpr):
    """[BLOCK_P] each: the first channel where it holds, and how many there are."""
    if C // here.shape[0] * here.shape[0] != C:
        here = here & (offs_c < C)[:, None]
    return tl.min(tl.where(here, offs_c[:, None], C), 0), tl.sum(here.to(tl.int32), 0)


@triton.jit
def squeeze(x, w, offs_c, total, peak, first, count, C: tl.constexpr, POOL: tl.constexpr):
    """Take a chunk of channels x [BLOCK_C, BLOCK_P] into the running sum, maximum, its first channel and count."""
    if POOL == "dot":
        total += tl.sum(x * w[:, None], 0)
    if POOL == "mean" or POOL == "max" or POOL == "meanmax":
        chunk_total = tl.sum(x, 0)
    if POOL == "mean" or POOL == "meanmax":
        total += chunk_total
    if POOL == "max" or POOL == "meanmax":
        if C // x.shape[0] * x.shape[0] != C:
            x = tl.where((offs_c < C)[:, None], x, float("-inf"))
        chunk_peak = tl.max(x, 0)
        chunk_first, chunk_count = _reached(x == chunk_peak[None, :], offs_c, C)
        # A maximum drops NaN, a sum keeps it: what a NaN costs is paid where one may be.
        if tl.max((chunk_total != chunk_total).to(tl.int32), 0) > 0:
            chunk_peak = nan_max(x, 0)
            chunk_first, chunk_count = _reached(is_peak(x, chunk_peak[None, :]), offs_c, C)
        higher = (chunk_peak > peak) | ((chunk_peak != chunk_peak) & (peak == peak)) | (first == C)
        count = tl.where(higher, chunk_count, count + tl.where(is_peak(chunk_peak, peak), chunk_count, 0))
        first = tl.where(higher, chunk_first, first)
        peak = tl.where(higher, chunk_peak, peak)
    return total, peak, first, count


@triton.jit
def at_peak(x, offs_c, peak, found, SPLIT: tl.constexpr):
    """d max / dx [BLOCK_C, BLOCK_P]: 1 at the channel `found`, or shared by the `found` channels of the peak."""
    if SPLIT:
        return tl.where(is_peak(x, peak[None, :]), 1.0 / found[None, :].to(x.dtype), 0.0)
    else:
        return (offs_c[:, None] == found[None, :]).to(x.dtype)


@triton.jit
def logit_of(total, peak, bias_ptr, C: tl.constexpr, POOL: tl.constexpr):
    """z [BLOCK_P]"""
    z = total
    if POOL == "mean":
        z = total / C
    elif POOL == "max":
        z = peak
    elif POOL == "meanmax":
        z = 0.5 * (total / C + peak)
    if bias_ptr is not None:
        z += tl.load(bias_ptr).to(z.dtype)
    return z


def _live(m: Maps, pool: str, backward: bool) -> float:
    """fp32 values alive per tile element, read off compiled kernels."""
    chunks, peak = m.C > WHOLE, "max" in pool
    scattered = m.layout.align == 1  # every element has its own address and mask
    if backward:
        return 6.2 if chunks or scattered else 4.0 if peak else 1.6 if m.layout.channels_last else 2.3
    return 4.0 if chunks and peak else 2.3 if scattered else 1.6 if chunks or peak else 1.2


PARTIALS = 16384  # values per image that the second stage of a reduction has to read, at most


def blocks(m: Maps, config: Config, sms: int) -> tuple[int, int]:
    """Pixel tiles, and the programs T that share those of an image."""
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    return tiles, sharing(tiles, config, sms, m.N, PARTIALS // m.C)


def chain_stages(device: torch.device, itemsize: int, m: Maps, config: Config, loads: int) -> int:
    """Of the loop over tiles of a program that has all channels of its pixels at once; 1 of one that has not."""
    if m.C > WHOLE:
        return 1
    # beside the tiles, a sum for every channel
    elements = channels_at_once(m.C) * (loads * config.blocks["BLOCK_P"] + 1)
    return stages_for(device, itemsize, elements, m.layout.align, config.programs)


def chain_config(kernel: str, m: Maps, x: Tensor, loads: int, live: float, sums: int = 0) -> Config:
    """Of a kernel that has all channels of its pixels, one tile of an image, and so many sums over them."""
    itemsize, block_c = x.element_size(), channels_at_once(m.C)
    few = _spills_first(m, x)

    def footprint(config: Config) -> Footprint | None:
        block_p, tiles = config.blocks["BLOCK_P"], -(-m.P // config.blocks["BLOCK_P"])
        if config.num_warps > 8 or (few and block_c * block_p > 512 * config.num_warps):
            return None  # more warps wait for each other at every sum of partials
        row, waste = (block_c if m.layout.channels_last else block_p) * itemsize, tiles * block_p / max(m.P, 1)
        shared = shared_time(m, block_c, config, itemsize, sums, loads=0, passes=loads)
        return Footprint(block_c * block_p, itemsize, loads, live, m.N * tiles, waste, row, shared=shared)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads, f"{live:g}"), exact=m.N)
    return with_all_registers(config_for(SPACE, footprint, kernel, x, **how), x.device)


def looping_config(kernel: str, m: Maps, x: Tensor, loads: int, live: float) -> Config:
    """Of a kernel that has all channels of its pixels, every T-th tile of an image."""
    itemsize, block_c, device, size = x.element_size(), channels_at_once(m.C), x.device, sms(x.device)
    few = _spills_first(m, x)

    def footprint(config: Config) -> Footprint | None:
        block_p, (tiles, share) = config.blocks["BLOCK_P"], blocks(m, config, size)
        if few and block_c * block_p > 512 * config.num_warps:
            return None
        row = (block_c if m.layout.channels_last else block_p) * itemsize
        waste = -(-tiles // max(share, 1)) * share * block_p / max(m.P, 1)
        ahead = rounds_ahead(chain_stages(device, itemsize, m, config, loads))
        shared = shared_time(m, block_c, config, itemsize, sums=loads - 1, loads=loads, passes=loads)
        return Footprint(
            block_c * block_p, itemsize, loads, live, m.N * share, waste, row, ahead=ahead, shared=shared, sms=size
        )

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads, f"{live:g}"), exact=m.N)
    return config_for(LOOPING, footprint, kernel, x, **how)


def _spills_first(m: Maps, x: Tensor) -> bool:
    """Blackwell keeps fewer values of many channels, where each of them is contiguous."""
    return m.C > WHOLE and m.layout.channels_last and capability(x.device) >= 100


def tiles_and_programs(m: Maps, config: Config, sms: int) -> tuple[int, int]:
    """The tiles of an image, and the programs that share those of all images."""
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    return tiles, sharing(m.N * tiles, config, sms)


def spatial_config(m: Maps, x: Tensor, pool: str) -> Config:
    itemsize, block_c, live = x.element_size(), channels_at_once(m.C), _live(m, pool, backward=False)
    ampere = 80 <= capability(x.device) < 90 and m.layout.channels_last

    def footprint(config: Config) -> Footprint | None:
        block_p = config.blocks["BLOCK_P"]
        if ampere and config.num_warps == 4 and block_c * block_p > 4096 and itemsize == 2:  # some of these spill
            return None
        tiles = -(-m.P // block_p)
        row = (block_c if m.layout.channels_last else block_p) * itemsize
        waste = tiles * block_p / max(m.P, 1)
        across = 0.0 if m.layout.channels_last else config.num_warps / 4  # warps that a pixel's sum crosses
        return Footprint(block_c * block_p, itemsize, 1, live, m.N * tiles, waste, row, shared=across)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(pool,), exact=m.N)
    config = config_for(SPACE, footprint, "spatial_fwd", x, **how)
    return with_all_registers(config, x.device) if ampere and itemsize == 2 else config


def spatial_bwd_config(m: Maps, x: Tensor, pool: str) -> Config:
    itemsize, block_c, live, size = x.element_size(), channels_at_once(m.C), _live(m, pool, True), sms(x.device)

    def footprint(config: Config) -> Footprint:
        block_p, (tiles, programs) = config.blocks["BLOCK_P"], tiles_and_programs(m, config, size)
        row = (block_c if m.layout.channels_last else block_p) * itemsize
        waste = -(-m.N * tiles // max(programs, 1)) * programs * block_p / max(m.N * m.P, 1)
        shared = shared_time(m, block_c, config, itemsize, sums=2, loads=0, passes=3)
        return Footprint(block_c * block_p, itemsize, 2, live, programs, waste, row, shared=shared, sms=size)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(pool,), exact=m.N)
    return config_for(LOOPING, footprint, "spatial_bwd", x, **how)
