"""Neighbourhood attention, backward, with tensor cores: see `patch` for the tiles and `backward` for the equations.

dq of a tile of queries is a sum over the patch of their keys, dk and dv of a tile of keys one over the queries that
reach it, in a fixed order each. P and dS are rounded to the vectors' dtype before their products. Where a sum is not
finite, its tiles are computed again as the row kernel does.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ...tuning.model import space
from .backward import to_keys, to_queries
from .patch import (
    MOST_BACKWARD,
    PATCH_WARPS,
    as_column,
    as_row,
    as_tiles,
    exclusion,
    first_of,
    is_finite,
    is_near,
    led,
    load_bias,
    patch_model,
    patch_of,
    patch_positions,
    tile_positions,
)
from .shared import (
    LOG2E,
    bias_index,
    choose_for,
    head_bias,
    load_shifted,
    locate,
    row_strides_of,
    rows_at,
    store_at,
    strides_of,
    tiles,
    vectors_at,
    window,
)
from .traffic import patch_loads, query_traffic

SPACE = space(BLOCK_T=(1, 2, 4, 8), BLOCK_J=(16, 32, 64), num_warps=(1, 2, 4, 8))


@triton.jit
def _scores(a, b, bias, entry, down, WINDOW: tl.constexpr):
    """scale (a b^T + bias / scale) [BLOCK_T, 16, BLOCK_J]; down: rows that the table's entries have moved."""
    s = tl.zeros([a.shape[0], a.shape[1], b.shape[1]], tl.float32)
    if bias is not None:
        s = load_bias(bias, entry + down * (2 * WINDOW.kernel - 1), WINDOW)
    return tl.dot(a, tl.trans(b, (0, 2, 1)), s) * WINDOW.scale


@triton.jit
def _to_queries_of_patch(
    q, dy, lse, delta, k_at, v_at, bias, y, x, patch, rows, cols,
    WINDOW: tl.constexpr, PATCH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """dq / scale [BLOCK_T, 16, BLOCK_D] of tiles of queries."""
    ky, kx, row, inside_x = patch
    excluded_x = exclusion(is_near(kx, first_of(x, cols, WINDOW), inside_x, BLOCK_T, WINDOW))
    first_y = first_of(y, rows, WINDOW)
    entry = as_row(bias_index(ky, kx, WINDOW), BLOCK_T) - as_column(y * (2 * WINDOW.kernel - 1) + x, BLOCK_T)
    dq = tl.zeros(q.shape, tl.float32)
    for down in tl.range(0, PATCH.rows, BLOCK_J // PATCH.columns, num_stages=2):
        inside_y = (ky + down >= 0) & (ky + down < rows) & (row + down < PATCH.rows)
        k = as_tiles(load_shifted(k_at, down, 0, inside_x & inside_y, WINDOW, q.dtype), BLOCK_T)
        v = as_tiles(load_shifted(v_at, down, 0, inside_x & inside_y, WINDOW, q.dtype), BLOCK_T)
        s = _scores(q, k, bias, entry, down, WINDOW) + (
            excluded_x + exclusion(is_near(ky + down, first_y, inside_y, BLOCK_T, WINDOW))
        )
        p = tl.exp2((s - lse) * LOG2E)
        ds = p * (tl.dot(dy, tl.trans(v, (0, 2, 1))) - delta)
        dq = tl.dot(ds.to(q.dtype), k, dq)
    return dq


@triton.jit
def _neighborhood_patch_dq_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, dy_ptr, lse_ptr, delta_ptr, dq_ptr,
    q_stride, k_stride, v_stride, dy_stride, row_stride, dq_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, PATCH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    dtype = q_ptr.dtype.element_ty
    place, rows, cols, y0, x0 = locate(size, PATCH.tile_y * BLOCK_T, PATCH.tile_x)
    head, head_kv = place[1], place[1] // WINDOW.group
    y, x = tile_positions(y0, x0, PATCH, BLOCK_T)
    mask = (y < rows) & (x < cols)
    bias = None if bias_ptr is None else head_bias(bias_ptr, head, WINDOW)
    patch = patch_positions(y0, x0, rows, cols, PATCH, BLOCK_T, BLOCK_J, WINDOW)
    k_at = vectors_at(k_ptr, k_stride, place, head_kv, patch[0], patch[1], WINDOW)
    v_at = vectors_at(v_ptr, v_stride, place, head_kv, patch[0], patch[1], WINDOW)
    q = load_shifted(vectors_at(q_ptr, q_stride, place, head, y, x, WINDOW), 0, 0, mask, WINDOW, dtype)
    dy = load_shifted(vectors_at(dy_ptr, dy_stride, place, head, y, x, WINDOW), 0, 0, mask, WINDOW, dtype)
    lse = load_shifted(rows_at(lse_ptr, row_stride, place, head, y, x, WINDOW), 0, 0, mask, WINDOW, ACC)
    delta = load_shifted(rows_at(delta_ptr, row_stride, place, head, y, x, WINDOW), 0, 0, mask, WINDOW, ACC)
    dq = _to_queries_of_patch(
        as_tiles(q, BLOCK_T), as_tiles(dy, BLOCK_T), as_column(lse, BLOCK_T), as_column(delta, BLOCK_T),
        k_at, v_at, bias, y, x, patch, rows, cols, WINDOW, PATCH, BLOCK_T, BLOCK_J,
    )  # fmt: skip
    if is_finite(dq):
        dq_at = vectors_at(dq_ptr, dq_stride, place, head, y, x, WINDOW)
        store_at(dq_at, tl.reshape(dq * WINDOW.scale, (BLOCK_T * 16, WINDOW.block_d)), mask, WINDOW)
    else:
        STEP: tl.constexpr = min(BLOCK_T, max(1, 16 * BLOCK_T // WINDOW.block_d))  # 128 bits a thread
        for tile in range(0, BLOCK_T, STEP):
            tile_y, tile_x = tile_positions(y0 + tile * PATCH.tile_y, x0, PATCH, STEP)
            to_queries(
                q_ptr, k_ptr, v_ptr, bias, dy_ptr, lse_ptr, delta_ptr, dq_ptr,
                q_stride, k_stride, v_stride, dy_stride, row_stride, dq_stride,
                place, head, head_kv, tile_y, tile_x, rows, cols, 1, False, WINDOW, ACC,
            )  # fmt: skip


@triton.jit
def _to_keys_of_patch(
    k, v, dk, dv, q_at, dy_at, lse_at, delta_at, bias, y, x, patch, rows, cols,
    WINDOW: tl.constexpr, PATCH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """Add to dk / scale and dv [BLOCK_T, 16, BLOCK_D] of tiles of keys what the queries of one head give."""
    qy, qx, last_y, end_x, tall, wide = patch
    entry = as_column(bias_index(y, x, WINDOW), BLOCK_T) - as_row(qy * (2 * WINDOW.kernel - 1) + qx, BLOCK_T)
    for right in range(0, wide, PATCH.columns):
        tap_x = as_column(x, BLOCK_T) - as_row(first_of(qx + right, cols, WINDOW), BLOCK_T)
        excluded_x = exclusion((tap_x >= 0) & (tap_x < WINDOW.kernel))
        for down in tl.range(0, tall, BLOCK_J // PATCH.columns, num_stages=2):
            inside = (qy + down <= last_y) & (qx + right < end_x)
            q = as_tiles(load_shifted(q_at, down, right, inside, WINDOW, k.dtype), BLOCK_T)
            dy = as_tiles(load_shifted(dy_at, down, right, inside, WINDOW, k.dtype), BLOCK_T)
            lse = as_row(load_shifted(lse_at, down, right, inside, WINDOW, tl.float32), BLOCK_T)
            delta = as_row(load_shifted(delta_at, down, right, inside, WINDOW, tl.float32), BLOCK_T)
            tap_y = as_column(y, BLOCK_T) - as_row(first_of(qy + down, rows, WINDOW), BLOCK_T)
            excluded = excluded_x + exclusion((tap_y >= 0) & (tap_y < WINDOW.kernel))
            s = _scores(k, q, bias, entry - right, -down, WINDOW) + excluded
            p = tl.exp2((s - lse) * LOG2E)
            dv = tl.dot(p.to(k.dtype), dy, dv)
            ds = p * (tl.dot(v, tl.trans(dy, (0, 2, 1))) - delta)
            dk = tl.dot(ds.to(k.dtype), q, dk)
    return dk, dv


@triton.jit
def _queries_of(
    y0, x0, rows, cols, PATCH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr, WINDOW: tl.constexpr
):
    """The first BLOCK_J queries that may reach each tile of keys [BLOCK_T * BLOCK_J]: positions, the last row and the
    end of the columns of the tile, and how many rows and columns there are at most."""
    offs = tl.arange(0, BLOCK_T * BLOCK_J)
    tile_y = y0 + offs // BLOCK_J * PATCH.tile_y
    first_y, last_y = reaching(tile_y, tile_y + PATCH.tile_y - 1, rows, WINDOW)
    first_x, last_x = reaching(x0, x0 + PATCH.tile_x - 1, cols, WINDOW)
    # whole accesses: beside them queries that have none of the keys
    first_x, end_x = led(first_x, PATCH), led(last_x, PATCH) + PATCH.lead
    tall = 0  # of scalars: a maximum over the program would stand between it and its first loads
    for tile in tl.static_range(BLOCK_T):
        start = y0 + tile * PATCH.tile_y
        low, high = reaching(start, start + PATCH.tile_y - 1, rows, WINDOW)
        tall = tl.maximum(tall, high - low + 1)
    COLUMNS: tl.constexpr = PATCH.columns
    y = tl.max_constancy(first_y + offs % BLOCK_J // PATCH.columns, [COLUMNS])
    last_y = tl.max_constancy(last_y, [COLUMNS])
    return y, first_x + offs % PATCH.columns, last_y, end_x, tall, end_x - first_x


@triton.jit
def reaching(first, last, length, WINDOW: tl.constexpr):
    """Along an axis: the first and the last query that may have one of the keys first..last."""
    low, high = tl.maximum(first - WINDOW.kernel // 2, 0), tl.minimum(last + WINDOW.kernel // 2, length - 1)
    if WINDOW.border == "shift":  # the moved windows of the outermost queries reach further
        low = tl.where(first < WINDOW.kernel, 0, low)
        high = tl.where(last >= length - WINDOW.kernel, length - 1, high)
    return low, high


@triton.jit
def _neighborhood_patch_dkv_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, dy_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    q_stride, k_stride, v_stride, dy_stride, row_stride, dk_stride, dv_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, PATCH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    dtype = q_ptr.dtype.element_ty
    place, rows, cols, y0, x0 = locate(size, PATCH.tile_y * BLOCK_T, PATCH.tile_x)
    head_kv = place[1]
    y, x = tile_positions(y0, x0, PATCH, BLOCK_T)
    mask = (y < rows) & (x < cols)
    k = load_shifted(vectors_at(k_ptr, k_stride, place, head_kv, y, x, WINDOW), 0, 0, mask, WINDOW, dtype)
    v = load_shifted(vectors_at(v_ptr, v_stride, place, head_kv, y, x, WINDOW), 0, 0, mask, WINDOW, dtype)
    patch = _queries_of(y0, x0, rows, cols, PATCH, BLOCK_T, BLOCK_J, WINDOW)
    qy, qx = patch[0], patch[1]
    BLOCK_D: tl.constexpr = WINDOW.block_d
    dk = tl.zeros([BLOCK_T, 16, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_T, 16, BLOCK_D], tl.float32)
    for member in range(0, WINDOW.group):
        head = head_kv * WINDOW.group + member
        q_at = vectors_at(q_ptr, q_stride, place, head, qy, qx, WINDOW)
        dy_at = vectors_at(dy_ptr, dy_stride, place, head, qy, qx, WINDOW)
        lse_at = rows_at(lse_ptr, row_stride, place, head, qy, qx, WINDOW)
        delta_at = rows_at(delta_ptr, row_stride, place, head, qy, qx, WINDOW)
        bias = None if bias_ptr is None else head_bias(bias_ptr, head, WINDOW)
        dk, dv = _to_keys_of_patch(
            as_tiles(k, BLOCK_T), as_tiles(v, BLOCK_T), dk, dv, q_at, dy_at, lse_at, delta_at, bias,
            y, x, patch, rows, cols, WINDOW, PATCH, BLOCK_T, BLOCK_J,
        )  # fmt: skip
    if is_finite(dk) & is_finite(dv):
        if dk_ptr is not None:
            at = vectors_at(dk_ptr, dk_stride, place, head_kv, y, x, WINDOW)
            store_at(at, tl.reshape(dk * WINDOW.scale, (BLOCK_T * 16, WINDOW.block_d)), mask, WINDOW)
        if dv_ptr is not None:
            at = vectors_at(dv_ptr, dv_stride, place, head_kv, y, x, WINDOW)
            store_at(at, tl.reshape(dv, (BLOCK_T * 16, WINDOW.block_d)), mask, WINDOW)
    else:
        STEP: tl.constexpr = min(BLOCK_T, max(1, 16 * BLOCK_T // WINDOW.block_d))  # 128 bits a thread
        for tile in range(0, BLOCK_T, STEP):
            tile_y, tile_x = tile_positions(y0 + tile * PATCH.tile_y, x0, PATCH, STEP)
            to_keys(
                q_ptr, k_ptr, v_ptr, bias_ptr, dy_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
                q_stride, k_stride, v_stride, dy_stride, row_stride, dk_stride, dv_stride,
                place, head_kv, tile_y, tile_x, rows, cols, False, WINDOW, ACC,
            )  # fmt: skip


def _plan(kernel, name, views, rel_bias, rows, kernel_size, dilation, border, scale):
    """What both plans have: patch, config, size, grid and arguments. The tiles are those of the last view."""
    q, k, tiled = views["q"], views["k"], list(views)[-1]
    of_keys = tiled in ("dk", "dv")
    heads = (k if of_keys else q).shape[3]
    constants = window(
        kernel_size, border, scale, q.shape[3] // k.shape[3], [t for t in views.values() if t is not None]
    )
    near = q if of_keys else k  # whose patches are loaded
    patch = patch_of(near, kernel_size, dilation)
    wanted = "+".join(n for n in ("dk", "dv") if views.get(n) is not None)
    program = PATCH_WARPS if of_keys or near.stride(2) == 1 else 1  # one warp needs no barrier
    model = patch_model(near, dilation, kernel_size, MOST_BACKWARD, sums=1 + of_keys, program=program)
    config = choose_for(name, SPACE, model, near, heads, dilation, constants, wanted)
    size, grid = tiles(q, heads, dilation, **patch.blocks(config.blocks["BLOCK_T"]))
    lse, delta = rows
    args = dict(
        **{f"{n}_ptr": t for n, t in views.items()},
        bias_ptr=rel_bias,
        lse_ptr=lse,
        delta_ptr=delta,
        **{f"{n}_stride": None if t is None else strides_of(t, constants.align) for n, t in views.items()},
        row_stride=row_strides_of(lse),
        size=size,
        WINDOW=constants,
        ACC=accumulator(q),
        PATCH=patch,
    )
    return patch, config, size, grid, args


def plan_neighborhood_dq(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor | None, lse: Tensor, delta: Tensor, dq: Tensor,
    kernel_size: int, dilation: int, border: str, scale: float,
) -> Plan:  # fmt: skip
    views = dict(q=q, k=k, v=v, dy=dy, dq=dq)
    kernel, name = _neighborhood_patch_dq_kernel, "neighborhood_dq"
    patch, config, size, grid, args = _plan(
        kernel, name, views, rel_bias, (lse, delta), kernel_size, dilation, border, scale
    )
    block_t = config.blocks["BLOCK_T"]
    reads = patch_loads(q, size, patch, block_t, kernel_size, border) * args["WINDOW"].group
    entries = grid // q.shape[3] * patch.products(**config.blocks) / (2 * kernel_size - 1) ** 2
    traffic = {name: (1, 0) for name in ("q_ptr", "dy_ptr", "lse_ptr", "delta_ptr")}
    traffic |= dict(k_ptr=(reads, 0), v_ptr=(reads, 0), bias_ptr=(entries, 0), dq_ptr=(0, 1))
    return Plan(kernel, args, config, grid, traffic)


def plan_neighborhood_dkv(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor | None, lse: Tensor, delta: Tensor,
    dk: Tensor | None, dv: Tensor | None, kernel_size: int, dilation: int, border: str, scale: float,
) -> Plan:  # fmt: skip
    views = dict(q=q, k=k, v=v, dy=dy, dk=dk, dv=dv)
    kernel, name = _neighborhood_patch_dkv_kernel, "neighborhood_dkv"
    patch, config, size, grid, args = _plan(
        kernel, name, views, rel_bias, (lse, delta), kernel_size, dilation, border, scale
    )
    block_t, block_j = config.blocks["BLOCK_T"], config.blocks["BLOCK_J"]
    reads, chunks = query_traffic(q, size, patch, block_t, block_j, kernel_size, border)
    entries = chunks * 16 * block_t * block_j / (2 * kernel_size - 1) ** 2
    traffic = {name: (reads, 0) for name in ("q_ptr", "dy_ptr", "lse_ptr", "delta_ptr")}
    traffic |= dict(k_ptr=(1, 0), v_ptr=(1, 0), bias_ptr=(entries, 0), dk_ptr=(0, 1), dv_ptr=(0, 1))
    return Plan(kernel, args, config, grid, traffic)
