"""What arrived at the border of an image, added to the pixels of the image that it stands for.

d (N, C, H + 2 R, W + 2 R) of `gather` -> out (N, C, H, W). First the columns beside the image, of every row, into sides
(2, N, C, H + 2 R); then d, these, and the rows above and below, which few tiles have: read d once, write out. To the
image's gradient what a pixel gets as itself comes beside, `own` (N, C, H, W).
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps, partials
from ...runtime.plan import Plan
from ..common.dependent import begin
from ..common.tile import chunk_of, pixels_of, store_tile
from .choice import line_config, tile_config

COLUMNS = 16  # beside the image, that a program reads at once


@triton.jit
def _refinement_sides_kernel(
    d_ptr,
    sides_ptr,
    sizes,
    BLOCK_R: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    W, R, lines = sizes
    offs_l = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)  # rows of all images and channels
    row = d_ptr + offs_l[:, None] * (W + 2 * R)
    left = tl.zeros([BLOCK_P], ACC)
    right = tl.zeros([BLOCK_P], ACC)
    for first in range(0, R, BLOCK_R):
        offs = first + tl.arange(0, BLOCK_R)
        mask = (offs_l < lines)[:, None] & (offs < R)[None, :]
        left += tl.sum(tl.load(row + offs[None, :], mask, other=0.0), 1)
        right += tl.sum(tl.load(row + (R + W + offs)[None, :], mask, other=0.0), 1)
    tl.store(sides_ptr + offs_l, left, offs_l < lines)
    tl.store(sides_ptr + lines + offs_l, right, offs_l < lines)


@triton.jit
def _folded(d_ptr, sides_ptr, line, lines, row, col, mask, W, R):
    """[BLOCK_C, BLOCK_P]: a row of d, with what lies beside the image at its first and last columns."""
    line = line[:, None] + row[None, :]
    value = tl.load(d_ptr + line * (W + 2 * R) + (R + col)[None, :], mask, other=0.0)
    value += tl.load(sides_ptr + line, mask & (col == 0)[None, :], other=0.0)
    return value + tl.load(sides_ptr + lines + line, mask & (col == W - 1)[None, :], other=0.0)


@triton.jit
def _refinement_fold_kernel(
    d_ptr,
    sides_ptr,
    own_ptr,
    out_ptr,
    out_stride,
    sizes,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    H, W, R, lines, tiles = sizes
    tile, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    n, offs_p = pixels_of(tile, tiles, BLOCK_P)
    mask = (offs_c < C)[:, None] & (offs_p < H * W)[None, :]
    row, col = offs_p // W, offs_p % W
    line = (n.to(tl.int64) * C + offs_c) * (H + 2 * R)  # the first of the image and channel
    total = _folded(d_ptr, sides_ptr, line, lines, R + row, col, mask, W, R)
    above = tl.where(tile % tiles * BLOCK_P < W, R, 0)  # of a tile that has pixels of the first row
    below = tl.where(tile % tiles * BLOCK_P + BLOCK_P > (H - 1) * W, R, 0)
    for j in range(0, above):
        total += _folded(d_ptr, sides_ptr, line, lines, row * 0 + j, col, mask & (row == 0)[None, :], W, R)
    for j in range(0, below):
        total += _folded(d_ptr, sides_ptr, line, lines, row + R + 1 + j, col, mask & (row == H - 1)[None, :], W, R)
    if own_ptr is not None:
        own = (n.to(tl.int64) * C + offs_c)[:, None] * (H * W) + offs_p[None, :]
        total += tl.load(own_ptr + own, mask, other=0.0)
    store_tile(out_ptr, out_stride, n, offs_c, offs_p, total, mask, LAYOUT)


def sides_of(d: Tensor) -> Tensor:
    return partials(d, 2, *d.shape[:3])


def plan_refinement_sides(d: Tensor, R: int, sides: Tensor) -> Plan:
    cols, lines = d.shape[3], sides.numel() // 2
    config = line_config("refinement_sides", d, lines)
    args = dict(d_ptr=d, sides_ptr=sides, sizes=(cols - 2 * R, R, lines), BLOCK_R=COLUMNS)
    args |= dict(ACC=accumulator(d), DEPENDENT=config.dependent)
    traffic = dict(d_ptr=(2 * R / cols, 0), sides_ptr=(0, 1))
    grid = -(-lines // config.blocks["BLOCK_P"])
    return Plan(_refinement_sides_kernel, args, config, grid, traffic)


def plan_refinement_fold(d: Tensor, sides: Tensor, own: Tensor | None, out: Tensor) -> Plan:
    m, (H, W) = maps(out=out), out.shape[2:]
    R, lines = (d.shape[2] - H) // 2, m.N * m.C * d.shape[2]
    config = tile_config("refinement_fold", out, m.C, m.P, 1, m.layout)
    chunks, tiles = -(-m.C // config.blocks["BLOCK_C"]), -(-m.P // config.blocks["BLOCK_P"])
    args = dict(d_ptr=d, sides_ptr=sides, own_ptr=own, out_ptr=out, out_stride=m.stride["out"])
    args |= dict(sizes=(H, W, R, lines, tiles), C=m.C, LAYOUT=m.layout, ACC=accumulator(d), DEPENDENT=config.dependent)
    read = (H + 2 * R) * W / (d.shape[2] * d.shape[3])
    traffic = dict(d_ptr=(read, 0), sides_ptr=(1, 0), own_ptr=(1, 0), out_ptr=(0, 1))
    return Plan(_refinement_fold_kernel, args, config, m.N * chunks * tiles, traffic)
