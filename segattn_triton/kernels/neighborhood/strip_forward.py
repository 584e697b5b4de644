"""Neighbourhood attention, forward, by strips: see `strip`, and `forward` for the equation."""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.plan import Plan
from .forward import _attend_rows
from .shared import LN2, LOG2E, first_key, locate, positions, row_strides_of, rows_at, wide
from .strip import (
    any_of,
    bad_of,
    keys_at,
    load_along,
    near_rows,
    plan_strips,
    store_along,
    tile_at,
    vectors_along,
)
from .traffic import strip_loads


@triton.jit
def _neighborhood_strip_fwd_kernel(
    q_ptr, k_ptr, v_ptr, y_ptr, lse_ptr, q_stride, k_stride, v_stride, y_stride, lse_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, PATCH: tl.constexpr, STEPS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    place, rows, cols, y0, x0 = locate(size, PATCH.tile_y * STEPS, PATCH.tile_x * BLOCK_T)
    head, head_kv = place[1], place[1] // WINDOW.group
    dtype = q_ptr.dtype.element_ty
    left, down, x = tile_at(x0, PATCH, BLOCK_T)
    row, kx, inside_x, excluded_x = keys_at(left, x, cols, PATCH, BLOCK_J, WINDOW)
    q_at = vectors_along(q_ptr, q_stride, place, head, down, x, False, WINDOW)
    y_at = vectors_along(y_ptr, y_stride, place, head, down, x, False, WINDOW)
    k_at = vectors_along(k_ptr, k_stride, place, head_kv, row, kx, True, WINDOW)
    v_at = vectors_along(v_ptr, v_stride, place, head_kv, row, kx, False, WINDOW)
    if lse_ptr is not None:
        lse_at = rows_at(lse_ptr, lse_stride, place, head, down, x, WINDOW)
    bad = tl.zeros([BLOCK_T, 16], tl.float32)
    for step in range(0, tl.minimum(STEPS, tl.cdiv(rows - y0, PATCH.tile_y))):
        y = y0 + step * PATCH.tile_y
        ky = first_key(y, rows, WINDOW)
        mask = (y + down < rows) & (x < cols)
        inside = inside_x & (ky + row >= 0) & (ky + row < rows)
        q = load_along(q_at, y, mask, False, WINDOW)
        k = load_along(k_at, ky, inside, True, WINDOW)
        v = load_along(v_at, ky, inside, False, WINDOW)
        excluded = tl.where(near_rows(ky + row, y + down, rows, WINDOW), excluded_x, float("-inf"))
        s = tl.dot(q, k) * (WINDOW.scale * LOG2E) + excluded
        peak = tl.max(s, 2)
        base = tl.where(peak == float("-inf"), 0.0, peak)
        p = tl.exp2(s - base[:, :, None])
        total = tl.sum(p, 2)
        acc = tl.dot(p.to(dtype), v) * (1.0 / total)[:, :, None]
        bad += bad_of(acc, mask)
        store_along(y_at, y, acc, mask, WINDOW)
        if lse_ptr is not None:
            lse = (peak + tl.log2(total)) * LN2
            tl.store(lse_at[0] + wide(y, WINDOW) * lse_at[2] + lse_at[1], lse, mask)
    if any_of(bad):
        for step in range(0, STEPS * 2):
            HALF: tl.constexpr = PATCH.tile_y // 2
            tile_y, tile_x = positions(y0 + step * HALF, x0, HALF, PATCH.tile_x * BLOCK_T)
            _attend_rows(
                q_ptr, k_ptr, v_ptr, None, y_ptr, lse_ptr, q_stride, k_stride, v_stride, y_stride, lse_stride,
                place, tile_y, tile_x, rows, cols, False, WINDOW, ACC,
            )  # fmt: skip


def plan_neighborhood_strip_fwd(
    q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor | None,
    kernel_size: int, dilation: int, border: str, scale: float,
) -> Plan:  # fmt: skip
    window = kernel_size, dilation, border
    views = dict(q=q, k=k, v=v, y=y)
    patch, config, grid, args = plan_strips("neighborhood_strip_fwd", views, *window, scale)
    reads = strip_loads(q, patch, *window) * args["WINDOW"].group
    traffic = dict(q_ptr=(1, 0), k_ptr=(reads, 0), v_ptr=(reads, 0), y_ptr=(0, 1), lse_ptr=(0, 1))
    return Plan(
        _neighborhood_strip_fwd_kernel, dict(args, lse_ptr=lse, lse_stride=row_strides_of(lse)), config, grid, traffic
    )
