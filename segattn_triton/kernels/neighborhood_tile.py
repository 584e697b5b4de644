"""Neighbourhood attention with tensor cores, 3 x 3 windows of 16-bit vectors: tiles of 4 x 4 queries.

The 8 x 8 keys from two before the first query of a tile on cover its windows at every border. A program takes
BLOCK_T tiles side by side, one per warp: S = Q K^T [16, 64] per tile, the softmax of the 9 of 64 scores that count,
and P V, with P rounded to the vectors' dtype. P is 0 for the other keys, but 0 * Inf is NaN: where a sum is not
finite, the program computes it again in the way of the row kernel, which never touches a key outside the window.
"""

import triton
import triton.language as tl
from torch import Tensor

from segattn_triton.kernels.neighborhood import (
    LN2,
    LOG2E,
    Window,
    bias_index,
    first_key,
    head_bias,
    load_shifted,
    locate,
    rows_at,
    store_at,
    vectors_at,
)
from segattn_triton.kernels.neighborhood_fwd import attend


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
        s += tl.load(bias + bias_index(oy, ox, WINDOW), mask, other=0.0).to(tl.float32) * LOG2E
    return tl.where(mask, s, float("-inf"))


@triton.jit
def near_patch(ky, kx, y0, x0, rows, cols, BLOCK_T: tl.constexpr, WINDOW: tl.constexpr):
    """[BLOCK_T * 64]: whether a key lies inside and in a window of its tile's queries."""
    tile = tl.arange(0, BLOCK_T * 64) // 64 * 4
    low_y, low_x = first_key(y0, rows, WINDOW), first_key(x0 + tile, cols, WINDOW)
    high_y, high_x = first_key(y0 + 3, rows, WINDOW) + 2, first_key(x0 + tile + 3, cols, WINDOW) + 2
    near_y = (ky >= tl.maximum(low_y, 0)) & (ky <= tl.minimum(high_y, rows - 1))
    return near_y & (kx >= tl.maximum(low_x, 0)) & (kx <= tl.minimum(high_x, cols - 1))


@triton.jit
def _neighborhood_tile_fwd_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    bias_ptr,
    y_ptr,
    lse_ptr,
    q_stride,
    k_stride,
    v_stride,
    y_stride,
    lse_stride,
    size,
    WINDOW: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    BLOCK_D: tl.constexpr = WINDOW.block_d
    place, rows, cols, y0, x0 = locate(size, 4, 4 * BLOCK_T)
    head = place[1]
    y, x = tile_positions(y0, x0, 4, BLOCK_T)
    ky, kx = tile_positions(y0 - 2, x0 - 2, 8, BLOCK_T)
    mask = (y < rows) & (x < cols)
    near = near_patch(ky, kx, y0, x0, rows, cols, BLOCK_T, WINDOW)
    q_at = vectors_at(q_ptr, q_stride, place, head, y, x, WINDOW)
    k_at = vectors_at(k_ptr, k_stride, place, head // WINDOW.group, ky, kx, WINDOW)
    v_at = vectors_at(v_ptr, v_stride, place, head // WINDOW.group, ky, kx, WINDOW)
    bias = head_bias(bias_ptr, head, WINDOW)
    dtype = q_ptr.dtype.element_ty
    q = tl.reshape(load_shifted(q_at, 0, 0, mask, WINDOW, dtype), (BLOCK_T, 16, BLOCK_D))
    k = tl.reshape(load_shifted(k_at, 0, 0, near, WINDOW, dtype), (BLOCK_T, 64, BLOCK_D))
    v = tl.reshape(load_shifted(v_at, 0, 0, near, WINDOW, dtype), (BLOCK_T, 64, BLOCK_D))
    s = tile_scores(q, k, bias, y, x, ky, kx, rows, cols, BLOCK_T, WINDOW)
    peak = tl.max(s, 2)
    p = tl.exp2(s - tl.where(peak == float("-inf"), 0.0, peak)[:, :, None])
    total = tl.sum(p, 2)
    acc = tl.dot(p.to(dtype), v) / total[:, :, None]  # [BLOCK_T, 16, BLOCK_D]
    y_at = vectors_at(y_ptr, y_stride, place, head, y, x, WINDOW)
    acc = tl.reshape(acc, (BLOCK_T * 16, BLOCK_D))
    if tl.max(tl.where(mask[:, None] & (acc - acc != 0.0), 1, 0)) > 0:
        k_i = vectors_at(k_ptr, k_stride, place, head // WINDOW.group, y, x, WINDOW)
        v_i = vectors_at(v_ptr, v_stride, place, head // WINDOW.group, y, x, WINDOW)
        q_i = load_shifted(q_at, 0, 0, mask, WINDOW, ACC) * (WINDOW.scale * LOG2E)
        _, row_total, row_acc = attend(q_i, k_i, v_i, bias, y, x, rows, cols, False, WINDOW, ACC)
        store_at(y_at, row_acc / row_total[:, None], mask, WINDOW)
    else:
        store_at(y_at, acc, mask, WINDOW)
    if lse_ptr is not None:
        lse = tl.reshape((peak + tl.log2(total)) * LN2, (BLOCK_T * 16,))
        store_at(rows_at(lse_ptr, lse_stride, place, head, y, x, WINDOW), lse, mask, WINDOW)
