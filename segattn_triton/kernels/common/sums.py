"""Sums over the tiles of a loop, for each channel: what threads add by themselves, and what by way of shared memory.

A sum over pixels is kept for each *lane*, the pixels of a tile that a thread holds of a channel: it adds its own
in every round, and the sums of all threads meet once, behind the loop.
"""

import triton
import triton.language as tl

from ...runtime.maps import Maps
from ...tuning.model import Config
from .tile import WHOLE

BYTES_A_CYCLE = 18.5  # that DRAM brings an SM of an H200, which moves one wavefront of shared memory in a cycle


def _side_by_side(m: Maps, itemsize: int) -> int:
    """Elements of a 128-bit access, or of as wide a one as the maps allow."""
    return min(m.layout.align, 16 // itemsize)


def sum_lanes(m: Maps, block_c: int, config: Config, itemsize: int) -> int:
    """LANES of the tiles of a config."""
    block_p, wide = config.blocks["BLOCK_P"], _side_by_side(m, itemsize)
    if m.C > WHOLE:
        return 1
    if m.layout.channels_last:
        return max(1, min(block_p, 32 * config.num_warps * wide // block_c))
    return max(1, block_p // wide) if wide > 1 else min(block_p, 32)


@triton.jit
def by_lane(x, LANES: tl.constexpr, LAYOUT: tl.constexpr):
    """[BLOCK_C, LANES]: x [BLOCK_C, BLOCK_P] summed over the pixels of each lane."""
    if LAYOUT.channels_last or LAYOUT.align == 1:
        return tl.sum(tl.reshape(x, [x.shape[0], x.shape[1] // LANES, LANES]), 1)
    else:
        return tl.sum(tl.reshape(x, [x.shape[0], LANES, x.shape[1] // LANES]), 2)


@triton.jit
def add_chunk(sums, chunk, value):
    """Add value [BLOCK_C, LANES] to the channels from `chunk` on of sums [CHUNKS, BLOCK_C, LANES]."""
    if sums.shape[0] == 1:
        return sums + value[None, :, :]
    else:
        chunk_ids = tl.arange(0, sums.shape[0])[:, None, None]
        return sums + tl.where(chunk_ids == chunk // sums.shape[1], value[None, :, :], 0.0)


@triton.jit
def store_chunks(ptr, sums, C: tl.constexpr):
    """Store sums [CHUNKS, BLOCK_C, LANES], added over the lanes, as the vector of channels that they are."""
    chunk_ids = tl.arange(0, sums.shape[0])[:, None]
    offs_c = chunk_ids * sums.shape[1] + tl.arange(0, sums.shape[1])[None, :]
    tl.store(ptr + offs_c, tl.sum(sums, 2), offs_c < C)


def shared_time(m: Maps, block_c: int, config: Config, itemsize: int, sums: int, loads: int, passes: int) -> float:
    """Of shared memory, over DRAM's, where a tile has so many sums over channels: `loads` of the `passes` by copies.

    A pixel's sum crosses the warps that share its channels; its partial sums lie side by side, so that the pixels of
    neighbouring threads collide in the banks.
    """
    wide, block_p = _side_by_side(m, itemsize), config.blocks["BLOCK_P"]
    if m.layout.channels_last:
        across = min(config.num_warps, max(1, block_c // (32 * wide)))
        collide = across / 32
    else:
        across = max(1, config.num_warps // max(1, block_p // (32 * wide)))
        collide = min(1.0, wide * across / 32)
    fronts = 2 * sums * across * collide / block_c if across > 1 else 0.0
    return (fronts + 2 * itemsize * loads / 128) * BYTES_A_CYCLE / (itemsize * passes)
