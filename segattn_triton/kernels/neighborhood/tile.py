"""Neighbourhood attention with tensor cores: tiles of 4 x 4 queries, for 3 x 3 windows of 16-bit vectors.

The 8 x 8 keys from two before the first query of a tile on cover its windows at every border. A program takes
BLOCK_T tiles side by side, one per warp; 9 of the 64 scores of a query count.
"""

import triton
import triton.language as tl

from .shared import LOG2E, bias_index, first_key


@triton.jit
def tile_positions(y0, x0, SIDE: tl.constexpr, BLOCK_T: tl.constexpr):
    """The positions y, x [BLOCK_T * SIDE * SIDE] of squares that start 4 apart, tile by tile."""
    offs = tl.arange(0, BLOCK_T * SIDE * SIDE)
    return y0 + offs // SIDE % SIDE, x0 + offs // (SIDE * SIDE) * 4 + offs % SIDE


@triton.jit
def window_mask(qy, qx, ky, kx, rows, cols, BLOCK_T: tl.constexpr, WINDOW: tl.constexpr):
    """[BLOCK_T, 16, 64]: whether the key is one of the query's, inside the image or not."""
    first_y = tl.reshape(first_key(qy, rows, WINDOW), (BLOCK_T, 16, 1))
    first_x = tl.reshape(first_key(qx, cols, WINDOW), (BLOCK_T, 16, 1))
    tap_y = tl.reshape(ky, (BLOCK_T, 1, 64)) - first_y
    tap_x = tl.reshape(kx, (BLOCK_T, 1, 64)) - first_x
    return (tap_y >= 0) & (tap_y < 3) & (tap_x >= 0) & (tap_x < 3)


@triton.jit
def tile_scores(q, k, bias, qy, qx, ky, kx, rows, cols, BLOCK_T: tl.constexpr, WINDOW: tl.constexpr):
    """Scores [BLOCK_T, 16, 64] in base 2, -inf where the query does not have the key."""
    inside = (ky >= 0) & (ky < rows) & (kx >= 0) & (kx < cols)
    inside = tl.reshape(inside, (BLOCK_T, 1, 64))
    mask = window_mask(qy, qx, ky, kx, rows, cols, BLOCK_T, WINDOW)
    s = tl.dot(q, tl.trans(k, (0, 2, 1))) * (WINDOW.scale * LOG2E)
    if WINDOW.border == "zero":
        s = tl.where(inside, s, 0.0)
    else:
        mask = mask & inside
    if bias is not None:
        oy = tl.reshape(ky, (BLOCK_T, 1, 64)) - tl.reshape(qy, (BLOCK_T, 16, 1))
        ox = tl.reshape(kx, (BLOCK_T, 1, 64)) - tl.reshape(qx, (BLOCK_T, 16, 1))
        query = tl.reshape((qy < rows) & (qx < cols), (BLOCK_T, 16, 1))  # others' offsets leave the table
        s += tl.load(bias + bias_index(oy, ox, WINDOW), mask & query, other=0.0).to(tl.float32) * LOG2E
    return tl.where(mask, s, float("-inf"))


@triton.jit
def near_patch(ky, kx, y0, x0, rows, cols, BLOCK_T: tl.constexpr, WINDOW: tl.constexpr):
    """[BLOCK_T * 64]: whether a key lies inside and in a window of its tile's queries."""
    tile = tl.arange(0, BLOCK_T * 64) // 64 * 4
    low_y, low_x = first_key(y0, rows, WINDOW), first_key(x0 + tile, cols, WINDOW)
    high_y, high_x = first_key(y0 + 3, rows, WINDOW) + 2, first_key(x0 + tile + 3, cols, WINDOW) + 2
    near_y = (ky >= tl.maximum(low_y, 0)) & (ky <= tl.minimum(high_y, rows - 1))
    return near_y & (kx >= tl.maximum(low_x, 0)) & (kx <= tl.minimum(high_x, cols - 1))
