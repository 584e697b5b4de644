"""Prototype."""
import triton
import triton.language as tl

from .forward import _attend_rows
from .patch import exclusion, first_of, led, load_bias
from .shared import LN2, LOG2E, bias_index, first_key, head_bias, locate, positions, rows_at, wide, store_at


@triton.jit
def vectors_3d(ptr, stride, place, head, y, x, WINDOW: tl.constexpr):
    """Of positions y, x [T, n]: (base, offsets [T, n, BLOCK_D], step of one position down)."""
    base, offs, step_y, _ = rows_at(ptr, stride, place, head, y, x, WINDOW, WINDOW.align)
    offs_d = wide(tl.arange(0, WINDOW.block_d), WINDOW)
    return base, offs[:, :, None] + offs_d[None, None, :] * stride[4], step_y


@triton.jit
def columns_3d(ptr, stride, place, head, y, x, WINDOW: tl.constexpr):
    """Of positions y, x [T, n]: (base, offsets [T, BLOCK_D, n], step of one position down)."""
    base, offs, step_y, _ = rows_at(ptr, stride, place, head, y, x, WINDOW, WINDOW.align)
    offs_d = wide(tl.arange(0, WINDOW.block_d), WINDOW)
    return base, offs[:, None, :] + offs_d[None, :, None] * stride[4], step_y


@triton.jit
def load_columns_3d(at, y, mask, WINDOW: tl.constexpr):
    y = wide(y, WINDOW)
    ptrs = at[0] + y * at[2] + at[1]
    mask = mask[:, None, :]
    if WINDOW.dim < WINDOW.block_d:
        mask = mask & (tl.arange(0, WINDOW.block_d) < WINDOW.dim)[None, :, None]
    return tl.load(ptrs, mask, other=0.0)


@triton.jit
def load_3d(at, y, mask, WINDOW: tl.constexpr):
    y = wide(y, WINDOW)
    ptrs = at[0] + y * at[2] + at[1]
    mask = mask[:, :, None]
    if WINDOW.dim < WINDOW.block_d:
        mask = mask & (tl.arange(0, WINDOW.block_d) < WINDOW.dim)[None, None, :]
    return tl.load(ptrs, mask, other=0.0)


@triton.jit
def store_3d(at, y, value, mask, WINDOW: tl.constexpr):
    y = wide(y, WINDOW)
    mask = mask[:, :, None]
    if WINDOW.dim < WINDOW.block_d:
        mask = mask & (tl.arange(0, WINDOW.block_d) < WINDOW.dim)[None, None, :]
    tl.store(at[0] + y * at[2] + at[1], value, mask)


@triton.jit
def _neighborhood_strip_fwd_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, y_ptr, lse_ptr, q_stride, k_stride, v_stride, y_stride, lse_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, PATCH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    place, rows, cols, y0, x0 = locate(size, PATCH.tile_y * STEPS, PATCH.tile_x * BLOCK_T)
    head, head_kv = place[1], place[1] // WINDOW.group
    dtype = q_ptr.dtype.element_ty
    bias = None if bias_ptr is None else head_bias(bias_ptr, head, WINDOW)
    left = x0 + tl.arange(0, BLOCK_T)[:, None] * PATCH.tile_x
    i = tl.arange(0, 16)[None, :]
    j = tl.arange(0, BLOCK_J)[None, :]
    down, x = i // PATCH.tile_x, left + i % PATCH.tile_x
    row, col = j // PATCH.columns, j % PATCH.columns
    kx = led(first_key(left, cols, WINDOW), PATCH) + col
    row_of, down_of = row + kx * 0, down + x * 0
    inside_x = (kx >= 0) & (kx < cols) & (row < PATCH.rows)
    if PATCH.lead == 1:
        inside_x &= col < PATCH.tile_x + WINDOW.kernel - 1
    tap_x = kx[:, None, :] - first_of(x, cols, WINDOW)[:, :, None]
    near_x = (tap_x >= 0) & (tap_x < WINDOW.kernel)
    near_x = near_x & inside_x[:, None, :] if WINDOW.border == "mask" else near_x
    excluded_x = exclusion(near_x)
    q_at = vectors_3d(q_ptr, q_stride, place, head, down_of, x, WINDOW)
    y_at = vectors_3d(y_ptr, y_stride, place, head, down_of, x, WINDOW)
    k_at = columns_3d(k_ptr, k_stride, place, head_kv, row_of, kx, WINDOW)
    v_at = vectors_3d(v_ptr, v_stride, place, head_kv, row_of, kx, WINDOW)
    if lse_ptr is not None:
        lse_base, lse_offs, lse_step, _ = rows_at(lse_ptr, lse_stride, place, head, down_of, x, WINDOW)
    bad = tl.zeros([BLOCK_T, 16], tl.float32)
    for step in range(0, tl.minimum(STEPS, (rows - y0 + PATCH.tile_y - 1) // PATCH.tile_y)):
        y = y0 + step * PATCH.tile_y
        ky = first_key(y, rows, WINDOW)
        mask = (y + down < rows) & (x < cols)
        inside = inside_x & (ky + row >= 0) & (ky + row < rows)
        q = load_3d(q_at, y, mask, WINDOW)
        k = load_columns_3d(k_at, ky, inside, WINDOW)
        v = load_3d(v_at, ky, inside, WINDOW)
        tap_y = (ky + row)[:, None, :] - first_of(y + down, rows, WINDOW)[:, :, None]  # [1, 16, J]
        near_y = (tap_y >= 0) & (tap_y < WINDOW.kernel)
        if WINDOW.border == "mask":
            near_y = near_y & ((ky + row >= 0) & (ky + row < rows))[:, None, :]
        excluded = tl.where(near_y, excluded_x, float("-inf"))
        s = tl.zeros([BLOCK_T, 16, BLOCK_J], tl.float32)
        s = tl.dot(q, k, s) * (WINDOW.scale * LOG2E) + excluded
        peak = tl.max(s, 2)
        base = tl.where(peak == float("-inf"), 0.0, peak)
        p = tl.exp2(s - base[:, :, None])
        total = tl.sum(p, 2)
        acc = tl.dot(p.to(dtype), v)
        acc *= (1.0 / total)[:, :, None]
        bad += tl.where(mask, tl.sum(acc * 0.0, 2), 0.0)
        store_3d(y_at, y, acc.to(dtype), mask, WINDOW)
        if lse_ptr is not None:
            lse = (peak + tl.log2(total)) * LN2
            tl.store(lse_base + wide(y, WINDOW) * lse_step + lse_offs, lse, mask)
    if tl.sum(tl.reshape(bad, (BLOCK_T * 16,))) != 0.0:
        for step in range(0, 2 * STEPS):
            tile_y, tile_x = positions(y0 + step * (PATCH.tile_y // 2), x0, PATCH.tile_y // 2, PATCH.tile_x * BLOCK_T)
            _attend_rows(
                q_ptr, k_ptr, v_ptr, bias, y_ptr, lse_ptr, q_stride, k_stride, v_stride, y_stride, lse_stride,
                place, tile_y, tile_x, rows, cols, False, WINDOW, ACC,
            )  # fmt: skip
