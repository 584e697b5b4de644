"""Neighbourhood attention with tensor cores: tiles of 16 queries, or 16 keys, against the patch that they share.

A tile is 4 x 4 or 2 x 8 positions, whichever has the smaller patch: the pixels in its windows, each row of them padded
to a power of two. A program takes BLOCK_T tiles, one below the other, a warp each, and walks down their patches
BLOCK_J pixels at a time, whole rows. The share of the products that is wanted, K * K of the patch:

    K           3      5      7      9      11     13
    tile        4x4    4x4    2x8    2x8    4x4    4x4
    patch       6x8    8x8    8x16   10x16  14x16  16x16
    wanted      19%    39%    38%    51%    54%    66%

Where W is contiguous in memory, windows up to 9 have tiles of 2 x 8 whose patch starts at a multiple of LEAD columns,
so that LEAD of them are one access: 16 columns hold the patch from there, too. Those of 11 and 13 leave room for half.

Pairs outside the windows are excluded by -inf added to the score. What is not finite survives that, and 0 * Inf is
NaN: where a sum is not finite, a program computes its tiles again as the row kernels do, which touch no pair outside.
"""

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ...tuning.model import Config, Model
from ...tuning.target import capability
from .shared import first_key

TILES = ((4, 4), (2, 8))
LEAD = 4  # columns of an access along W: 64 bits
PATCH_WARPS = 4  # of a program, which load more of one another's pixels the more they are
MOST, MOST_BACKWARD = 2048, 1024  # values of a chunk of keys, of queries in the backward, that the registers hold


class Patch(NamedTuple):
    """A tile and the patch of its windows; a constexpr."""

    tile_y: int
    tile_x: int
    rows: int
    columns: int  # padded to a power of two
    lead: int = 1  # divides the first column

    def blocks(self, block_t: int) -> dict[str, int]:
        """Rows and columns of so many tiles."""
        return {"BLOCK_Y": self.tile_y * block_t, "BLOCK_X": self.tile_x}

    def products(self, BLOCK_T: int, BLOCK_J: int) -> int:
        """Scores that a program computes."""
        return 16 * BLOCK_T * triton.cdiv(self.rows * self.columns, BLOCK_J) * BLOCK_J

    def wanted(self, kernel_size: int, block_j: int = 1) -> float:
        """Share of the scores of a tile that its windows have, away from borders."""
        return 16 * kernel_size * kernel_size / self.products(1, block_j)


def patch_of(t: Tensor, kernel_size: int, dilation: int, tiles: Sequence[tuple[int, int]] = TILES) -> Patch:
    """A patch of t's vectors: of the tile with the smallest one; where W is contiguous of one whose accesses are as
    wide as 16 columns leave room for."""
    if dilation == 1 and kernel_size <= 13 and is_wide(t, along=2) and t.shape[2] % 16 == 0 and t.shape[4] > 1:
        y, x, lead = (*TILES[1], LEAD) if kernel_size <= 9 else (*TILES[0], LEAD // 2)
        return Patch(y, x, y + kernel_size - 1, 16, lead)
    patches = [Patch(y, x, y + kernel_size - 1, triton.next_power_of_2(x + kernel_size - 1)) for y, x in tiles]
    return min(patches, key=lambda patch: patch.rows * patch.columns)


def is_wide(t: Tensor, along: int) -> bool:
    """One axis is contiguous, and all that is beside it lies at multiples of 16, as Triton has to know."""
    return t.stride(along) == 1 and all(stride % 16 == 0 for axis, stride in enumerate(t.stride()) if axis != along)


def _smallest(t: Tensor, kernel_size: int, dilation: int) -> int:
    """Values of keys in the smallest chunk of a patch: BLOCK_J is at least a row, and 16."""
    return max(16, patch_of(t, kernel_size, dilation).columns) * triton.next_power_of_2(t.shape[4])


def takes_products(
    t: Tensor, kernel_size: int, dilation: int, rel_bias: Tensor | None, scale: float, most: int = MOST
) -> bool:
    """Whether tensor cores (sm_80 on) form the products, with patches of t: of 16-bit vectors that fit the registers,
    at most so many values of a chunk, half of the forward's where W is contiguous. A bias is added before the scale, so
    that it must be divisible by it."""
    most = MOST // 2 if t.stride(2) == 1 else most
    fits = _smallest(t, kernel_size, dilation) <= most and t.shape[4] >= 16
    divisible = rel_bias is None or 2.0**-64 < abs(scale) < 2.0**64
    return t.element_size() == 2 and kernel_size > 1 and fits and divisible and capability(t.device) >= 80


def patch_model(
    t: Tensor, dilation: int, kernel_size: int, most: int, sums: int = 1, program: int = PATCH_WARPS
) -> Model:
    """By the instructions of a tile as compiled, in the loop and around it; of chunks that fit the registers: of at
    most so many values, a quarter of them where each has its own address. Two sums of 64 channels do not fit the
    registers of a warp beside such addresses: two warps share a tile. `program`: the best number of warps."""
    block_d, patch = triton.next_power_of_2(t.shape[4]), patch_of(t, kernel_size, dilation)
    rows = triton.cdiv(t.shape[1], dilation)
    alone = t.stride(2) == 1 and patch.lead == 1
    warps = 2 if alone and sums * block_d > 64 else 1
    most = max(most // 4 if alone else most, _smallest(t, kernel_size, dilation))

    def instructions(config: Config) -> float | None:
        block_t, block_j = config.blocks["BLOCK_T"], config.blocks["BLOCK_J"]
        too_tall = block_t > 1 and patch.tile_y * block_t >= 2 * rows
        if config.num_warps != block_t * warps or block_j < patch.columns or block_j * block_d > most or too_tall:
            return None
        covered = triton.cdiv(rows, patch.tile_y * block_t) * patch.tile_y * block_t / rows
        chunk = 2 * block_d + block_j * (5.5 + 0.085 * block_d)
        code = 550 + chunk * triton.cdiv(patch.rows * patch.columns, block_j)
        return covered * code * (1 + 0.1 * abs(config.num_warps / program - 1))

    return instructions


@triton.jit
def tile_positions(y0, x0, PATCH: tl.constexpr, BLOCK_T: tl.constexpr):
    """The positions y, x [BLOCK_T * 16] of tiles one below the other."""
    offs = tl.arange(0, BLOCK_T * PATCH.tile_y * PATCH.tile_x)
    return y0 + offs // PATCH.tile_x, x0 + offs % PATCH.tile_x


@triton.jit
def patch_positions(
    y0, x0, rows, cols, PATCH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr, WINDOW: tl.constexpr
):
    """Of the first BLOCK_J pixels of every tile's patch [BLOCK_T * BLOCK_J]: positions y, x, the row in the patch, and
    whether the column is one of the patch and of the image."""
    offs = tl.arange(0, BLOCK_T * BLOCK_J)
    COLUMNS: tl.constexpr = PATCH.columns
    row, col = tl.max_constancy(offs % BLOCK_J // COLUMNS, [COLUMNS]), offs % COLUMNS
    y = first_key(y0 + offs // BLOCK_J * PATCH.tile_y, rows, WINDOW) + row
    y = tl.max_constancy(y, [COLUMNS])  # which the compiler loses at a division and at a minimum
    x = led(first_key(x0, cols, WINDOW), PATCH) + col
    inside_x = (x >= 0) & (x < cols)
    if PATCH.lead == 1:  # else columns that no window has are loaded, too: accesses stay whole
        inside_x &= col < PATCH.tile_x + WINDOW.kernel - 1
    return y, x, row, inside_x


@triton.jit
def led(first, PATCH: tl.constexpr):
    """The last multiple of PATCH.lead up to `first`, which is at least -16."""
    return (first + 16) // PATCH.lead * PATCH.lead - 16 if PATCH.lead > 1 else first


@triton.jit
def as_tiles(vectors, BLOCK_T: tl.constexpr):
    """[BLOCK_T * n, BLOCK_D] as [BLOCK_T, n, BLOCK_D]."""
    return tl.reshape(vectors, (BLOCK_T, vectors.shape[0] // BLOCK_T, vectors.shape[1]))


@triton.jit
def as_column(values, BLOCK_T: tl.constexpr):
    """[BLOCK_T * n] as [BLOCK_T, n, 1]."""
    return tl.reshape(values, (BLOCK_T, values.shape[0] // BLOCK_T, 1))


@triton.jit
def as_row(values, BLOCK_T: tl.constexpr):
    """[BLOCK_T * n] as [BLOCK_T, 1, n]."""
    return tl.reshape(values, (BLOCK_T, 1, values.shape[0] // BLOCK_T))


@triton.jit
def first_of(i, length, WINDOW: tl.constexpr):
    """`first_key` of queries; one outside the image has no key."""
    return tl.where(i < length, first_key(i, length, WINDOW), 2**30)


@triton.jit
def is_near(j, first, inside, BLOCK_T: tl.constexpr, WINDOW: tl.constexpr):
    """[BLOCK_T, 16, BLOCK_J]: whether, along one axis, a query has the key at j. inside: whether the image has it."""
    tap = as_row(j, BLOCK_T) - as_column(first, BLOCK_T)
    near = (tap >= 0) & (tap < WINDOW.kernel)
    return near & as_row(inside, BLOCK_T) if WINDOW.border == "mask" else near


@triton.jit
def exclusion(near):
    """What is added to a score: -inf where a pair is not near."""
    return tl.where(near, 0.0, float("-inf"))


@triton.jit
def load_bias(bias, entry, WINDOW: tl.constexpr):
    """Entries of the table, in base 2; any for pairs that are not near. Without a mask: that costs more than a load."""
    last: tl.constexpr = (2 * WINDOW.kernel - 1) * (2 * WINDOW.kernel - 1) - 1
    return tl.load(bias + tl.minimum(tl.maximum(entry, 0), last)).to(tl.float32) * (1.0 / WINDOW.scale)


@triton.jit
def is_finite(sums):
    """Whether all of a tensor is; as a scalar."""
    return tl.sum(tl.reshape(sums * 0.0, (sums.numel,))) == 0.0
