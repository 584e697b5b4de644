"""Neighbourhood attention, backward, by strips: see `strip`, and `backward` for the equations."""

from dataclasses import replace

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.plan import Plan
from ..common.tile import in_elements, only_when
from .backward import to_keys, to_queries
from .patch import exclusion, first_of, led
from .patch_backward import reaching
from .shared import LOG2E, first_key, locate, positions, row_strides_of, rows_at, wide
from .strip import (
    any_of,
    bad_of,
    keys_at,
    load_along,
    load_rows_along,
    near_rows,
    patch_at,
    plan_strips,
    store_along,
    tile_at,
    vectors_along,
    within,
)
from .traffic import strip_key_loads, strip_loads, strip_query_loads


@triton.jit
def _twice(loaded, COLUMNS: tl.constexpr):
    """Vectors as columns, and with D last."""
    turned = tl.trans(loaded, (0, 2, 1))
    if COLUMNS:
        return loaded, turned
    else:
        return turned, loaded


@triton.jit
def _neighborhood_strip_dq_kernel(
    q_ptr, k_ptr, v_ptr, dy_ptr, lse_ptr, delta_ptr, dq_ptr,
    q_stride, k_stride, v_stride, dy_stride, row_stride, dq_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, PATCH: tl.constexpr, STEPS: tl.constexpr, ALONG_W: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    place, rows, cols, y0, x0 = locate(size, PATCH.tile_y * STEPS, PATCH.tile_x * BLOCK_T)
    head, head_kv = place[1], place[1] // WINDOW.group
    dtype = q_ptr.dtype.element_ty
    left, down, x = tile_at(x0, PATCH, BLOCK_T)
    row, kx, inside_x, excluded_x = keys_at(left, x, cols, PATCH, BLOCK_J, WINDOW)
    q_at = vectors_along(q_ptr, q_stride, place, head, down, x, False, WINDOW)
    dy_at = vectors_along(dy_ptr, dy_stride, place, head, down, x, False, WINDOW)
    dq_at = vectors_along(dq_ptr, dq_stride, place, head, down, x, False, WINDOW)
    lse_at = rows_at(lse_ptr, row_stride, place, head, down, x, WINDOW)
    delta_at = rows_at(delta_ptr, row_stride, place, head, down, x, WINDOW)
    k_at = vectors_along(k_ptr, k_stride, place, head_kv, row, kx, ALONG_W, WINDOW)
    v_at = vectors_along(v_ptr, v_stride, place, head_kv, row, kx, True, WINDOW)
    bad = tl.zeros([BLOCK_T, 16], tl.float32)
    for step in range(0, tl.minimum(STEPS, tl.cdiv(rows - y0, PATCH.tile_y))):
        y = y0 + step * PATCH.tile_y
        ky = first_key(y, rows, WINDOW)
        mask = (y + down < rows) & (x < cols)
        inside = inside_x & (ky + row >= 0) & (ky + row < rows)
        q = load_along(q_at, y, mask, False, WINDOW)
        k, k_rows = _twice(load_along(k_at, ky, inside, ALONG_W, WINDOW), ALONG_W)
        v = load_along(v_at, ky, inside, True, WINDOW)
        dy = load_along(dy_at, y, mask, False, WINDOW)
        lse = load_rows_along(lse_at, y, mask, WINDOW) * LOG2E
        delta = load_rows_along(delta_at, y, mask, WINDOW)
        near_y = near_rows(ky + row, y + down, rows, WINDOW)
        less = tl.where(near_y, excluded_x - lse[:, :, None], float("-inf"))
        p = tl.exp2(tl.dot(q, k) * (WINDOW.scale * LOG2E) + less)
        ds = p * (tl.dot(dy, v) - delta[:, :, None])
        dq = tl.dot(ds.to(dtype), k_rows) * WINDOW.scale
        bad += bad_of(dq, mask)
        store_along(dq_at, y, dq, mask, WINDOW)
    if any_of(bad):
        for step in range(0, STEPS * 2):
            HALF: tl.constexpr = PATCH.tile_y // 2
            tile_y, tile_x = positions(y0 + step * HALF, x0, HALF, PATCH.tile_x * BLOCK_T)
            to_queries(
                q_ptr, k_ptr, v_ptr, None, dy_ptr, lse_ptr, delta_ptr, dq_ptr,
                q_stride, k_stride, v_stride, dy_stride, row_stride, dq_stride,
                place, head, head_kv, tile_y, tile_x, rows, cols, 1, False, WINDOW, ACC,
            )  # fmt: skip


@triton.jit
def _chunks(y, rows, REACH: tl.constexpr, PATCH: tl.constexpr, WINDOW: tl.constexpr):
    """Of the keys of a tile: the first and the last row of their queries, and how often REACH rows of these are."""
    low, high = reaching(y, y + PATCH.tile_y - 1, rows, WINDOW)
    chunks = 1
    if WINDOW.border == "shift" and PATCH.tile_y + 2 * (WINDOW.kernel - 1) > REACH:
        chunks = (high - low + REACH) // REACH
    return low, high, chunks


@triton.jit
def _turns(y0, rows, REACH: tl.constexpr, PATCH: tl.constexpr, STEPS: tl.constexpr, WINDOW: tl.constexpr):
    """The turns of a strip: one for each tile, query head of its key head, and chunk of its queries."""
    steps = tl.minimum(STEPS, tl.cdiv(rows - y0, PATCH.tile_y))
    turns = steps
    if WINDOW.border == "shift" and PATCH.tile_y + 2 * (WINDOW.kernel - 1) > REACH:
        turns = 0
        for step in range(0, steps):
            turns += _chunks(y0 + step * PATCH.tile_y, rows, REACH, PATCH, WINDOW)[2]
    return turns * WINDOW.group


@triton.jit
def _of_member(at, member, stride, ALIGN: tl.constexpr, WINDOW: tl.constexpr):
    """The same positions of the member-th query head of a group."""
    if WINDOW.group == 1:
        return at
    else:
        return at[0] + wide(member, WINDOW) * in_elements(stride[3], ALIGN, WINDOW.int64), at[1], at[2]


@triton.jit
def _queries_at(left, x, cols, PATCH: tl.constexpr, BLOCK_J: tl.constexpr, WINDOW: tl.constexpr):
    """Of tiles of keys, as `keys_at`: the queries that may have them, in whole accesses."""
    first, last = reaching(left, left + PATCH.tile_x - 1, cols, WINDOW)
    row, qx = patch_at(first, PATCH, BLOCK_J)
    near = within(x[:, :, None] - first_of(qx, cols, WINDOW)[:, None, :], WINDOW)
    return row, qx, (left < cols) & (qx < led(last, PATCH) + PATCH.lead), exclusion(near)


@triton.jit
def _to_keys(k, v, q, dy, lse, delta, near_y, excluded_x, dk, dv, ALONG_W: tl.constexpr, WINDOW: tl.constexpr):
    """Add to dk / scale and dv what a chunk of queries gives."""
    q, q_rows = _twice(q, ALONG_W)
    dy, dy_rows = _twice(dy, ALONG_W)
    less = tl.where(near_y, excluded_x - (lse * LOG2E)[:, None, :], float("-inf"))
    p = tl.exp2(tl.dot(k, q) * (WINDOW.scale * LOG2E) + less)
    dv = tl.dot(p.to(k.dtype), dy_rows, dv)
    ds = p * (tl.dot(v, dy) - delta[:, None, :])
    return tl.dot(ds.to(k.dtype), q_rows, dk), dv


@triton.jit
def _neighborhood_strip_dkv_kernel(
    q_ptr, k_ptr, v_ptr, dy_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    q_stride, k_stride, v_stride, dy_stride, row_stride, dk_stride, dv_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, PATCH: tl.constexpr, STEPS: tl.constexpr, ALONG_W: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    REACH: tl.constexpr = BLOCK_J // PATCH.columns
    place, rows, cols, y0, x0 = locate(size, PATCH.tile_y * STEPS, PATCH.tile_x * BLOCK_T)
    head_kv, head = place[1], place[1] * WINDOW.group
    left, down, x = tile_at(x0, PATCH, BLOCK_T)
    row, qx, inside_x, excluded_x = _queries_at(left, x, cols, PATCH, BLOCK_J, WINDOW)
    k_at = vectors_along(k_ptr, k_stride, place, head_kv, down, x, False, WINDOW)
    v_at = vectors_along(v_ptr, v_stride, place, head_kv, down, x, False, WINDOW)
    q_at = vectors_along(q_ptr, q_stride, place, head, row, qx, ALONG_W, WINDOW)
    dy_at = vectors_along(dy_ptr, dy_stride, place, head, row, qx, ALONG_W, WINDOW)
    lse_at = rows_at(lse_ptr, row_stride, place, head, row, qx, WINDOW)
    delta_at = rows_at(delta_ptr, row_stride, place, head, row, qx, WINDOW)
    BLOCK_D: tl.constexpr = WINDOW.block_d
    dk = tl.zeros([BLOCK_T, 16, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_T, 16, BLOCK_D], tl.float32)
    bad = tl.zeros([BLOCK_T, 16], tl.float32)
    y, turn = y0 + 0, y0 * 0
    for _ in range(0, _turns(y0, rows, REACH, PATCH, STEPS, WINDOW)):
        low, high, chunks = _chunks(y, rows, REACH, PATCH, WINDOW)
        member, qy = turn % WINDOW.group, low + turn // WINDOW.group * REACH
        mask = (y + down < rows) & (x < cols)
        inside = inside_x & (qy + row <= high)
        k = load_along(k_at, y, mask, False, WINDOW)
        v = load_along(v_at, y, mask, False, WINDOW)
        q = load_along(_of_member(q_at, member, q_stride, WINDOW.align, WINDOW), qy, inside, ALONG_W, WINDOW)
        dy = load_along(_of_member(dy_at, member, dy_stride, WINDOW.align, WINDOW), qy, inside, ALONG_W, WINDOW)
        lse = load_rows_along(_of_member(lse_at, member, row_stride, 1, WINDOW), qy, inside, WINDOW)
        delta = load_rows_along(_of_member(delta_at, member, row_stride, 1, WINDOW), qy, inside, WINDOW)
        near_y = within((y + down)[:, :, None] - first_of(qy + row, rows, WINDOW)[:, None, :], WINDOW)
        dk, dv = tl.where(turn == 0, 0.0, dk), tl.where(turn == 0, 0.0, dv)
        dk, dv = _to_keys(k, v, q, dy, lse, delta, near_y, excluded_x, dk, dv, ALONG_W, WINDOW)
        last = turn == chunks * WINDOW.group - 1
        done = only_when(last, mask)
        bad += bad_of(dk, done) + bad_of(dv, done)
        if dk_ptr is not None:
            dk_at = vectors_along(dk_ptr, dk_stride, place, head_kv, down, x, False, WINDOW)
            store_along(dk_at, y, dk * WINDOW.scale, done, WINDOW)
        if dv_ptr is not None:
            dv_at = vectors_along(dv_ptr, dv_stride, place, head_kv, down, x, False, WINDOW)
            store_along(dv_at, y, dv, done, WINDOW)
        y, turn = tl.where(last, y + PATCH.tile_y, y), tl.where(last, 0, turn + 1)
    if any_of(bad):
        for step in range(0, STEPS * 2):
            HALF: tl.constexpr = PATCH.tile_y // 2
            tile_y, tile_x = positions(y0 + step * HALF, x0, HALF, PATCH.tile_x * BLOCK_T)
            to_keys(
                q_ptr, k_ptr, v_ptr, None, dy_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
                q_stride, k_stride, v_stride, dy_stride, row_stride, dk_stride, dv_stride,
                place, head_kv, tile_y, tile_x, rows, cols, False, WINDOW, ACC,
            )  # fmt: skip


def _plan(kernel, name, views, rows, kernel_size, dilation, border, scale):
    """The patch, and what both plans have; without their traffic."""
    patch, config, grid, args = plan_strips(name, views, kernel_size, dilation, border, scale)
    lse, delta = rows
    args |= dict(lse_ptr=lse, delta_ptr=delta, row_stride=row_strides_of(lse), ALONG_W=patch.lead > 1)
    return patch, Plan(kernel, args, config, grid)


def plan_neighborhood_strip_dq(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor, dq: Tensor,
    kernel_size: int, dilation: int, border: str, scale: float,
) -> Plan:  # fmt: skip
    window = kernel_size, dilation, border
    views = dict(q=q, k=k, v=v, dy=dy, dq=dq)
    patch, plan = _plan(_neighborhood_strip_dq_kernel, "neighborhood_strip_dq", views, (lse, delta), *window, scale)
    reads = strip_loads(q, patch, *window) * plan.args["WINDOW"].group
    traffic = {name: (1, 0) for name in ("q_ptr", "dy_ptr", "lse_ptr", "delta_ptr")}
    traffic |= dict(k_ptr=(reads, 0), v_ptr=(reads, 0), dq_ptr=(0, 1))
    return replace(plan, traffic=traffic)


def plan_neighborhood_strip_dkv(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
    dk: Tensor | None, dv: Tensor | None, kernel_size: int, dilation: int, border: str, scale: float,
) -> Plan:  # fmt: skip
    window = kernel_size, dilation, border
    views = dict(q=q, k=k, v=v, dy=dy, dk=dk, dv=dv)
    patch, plan = _plan(_neighborhood_strip_dkv_kernel, "neighborhood_strip_dkv", views, (lse, delta), *window, scale)
    reads = strip_query_loads(q, patch, *window)
    traffic = {name: (reads, 0) for name in ("q_ptr", "dy_ptr", "lse_ptr", "delta_ptr")}
    keys = strip_key_loads(q, patch, plan.args["BLOCK_J"], *window) * plan.args["WINDOW"].group
    traffic |= dict(k_ptr=(keys, 0), v_ptr=(keys, 0), dk_ptr=(0, 1), dv_ptr=(0, 1))
    return replace(plan, traffic=traffic)
