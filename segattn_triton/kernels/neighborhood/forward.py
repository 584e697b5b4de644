"""Neighbourhood attention, forward: y_i = sum_j p_ij v_j, p_i = softmax_j(s_ij), s_ij = scale <q_i, k_j> + bias.

q, y (N, H, W, heads, D); k, v (N, H, W, heads_kv, D); lse_i = log sum_j exp(s_ij), (N, H, W, heads). One pass over
q, k, v and y; the halo of a tile comes from cache.

Two kernels. Rows: the keys at one offset after another, a running softmax; everything in the accumulator's precision,
and scores with the bits that the backward computes again: in exp(s - lse) the rounding of a large score cancels.
Patches: see `patch`; S = Q K^T and P V on tensor cores, with P rounded to the vectors' dtype.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ...tuning.model import Config, Footprint, Model, space
from .patch import (
    MOST,
    as_column,
    as_row,
    as_tiles,
    exclusion,
    first_of,
    is_finite,
    is_near,
    load_bias,
    patch_model,
    patch_of,
    patch_positions,
    takes_products,
    tile_positions,
)
from .shared import (
    LN2,
    LOG2E,
    SPACE,
    bias_index,
    choose_for,
    head_bias,
    is_inner,
    load_shifted,
    locate,
    offsets_to_keys,
    positions,
    row_model,
    row_strides_of,
    rows_at,
    store_at,
    strides_of,
    tiles,
    vectors_at,
    window,
)
from .traffic import bias_loads, keys_per_query, patch_loads

TILES = space(BLOCK_T=(1, 2, 4, 8), BLOCK_J=(16, 32, 64, 128), num_warps=(1, 2, 4, 8))
ALL = (*TILES, *SPACE)


@triton.jit
def _take(q, k, v, bias, oy, ox, near, peak, total, acc, WINDOW: tl.constexpr, ACC: tl.constexpr):
    """Take the keys at one offset into the running softmax. `near`: which of them exist; None: all."""
    k_j = load_shifted(k, oy, ox, near, WINDOW, ACC)
    v_j = load_shifted(v, oy, ox, near, WINDOW, ACC)
    s = tl.sum(q * k_j, 1)
    if near is not None and WINDOW.border == "zero" and bias is not None:
        s = tl.where(near, s, 0.0)
    if bias is not None:
        s += tl.load(bias + bias_index(oy, ox, WINDOW)).to(ACC)
    if near is not None and (WINDOW.border != "zero" or bias is None):
        s = tl.where(near, s, float("-inf"))
    higher = tl.maximum(peak, s)
    base = tl.where(higher == float("-inf"), 0.0, higher)
    fade = tl.exp2((peak - base) * LOG2E)
    p = tl.exp2((s - base) * LOG2E)
    return higher, total * fade + p, acc * fade[:, None] + p[:, None] * v_j


@triton.jit
def _take_zeros(count, peak, total, acc):
    """Take so many keys and values of zeros into the running softmax: their score is 0, too."""
    higher = tl.where(count > 0, tl.maximum(peak, 0.0), peak)
    base = tl.where(higher == float("-inf"), 0.0, higher)
    fade = tl.exp2((peak - base) * LOG2E)
    p = tl.where(count > 0, count * tl.exp2(-base * LOG2E), 0.0)
    return higher, total * fade + p, acc * fade[:, None]


@triton.jit
def attend(q, k, v, bias, y, x, rows, cols, INNER: tl.constexpr, WINDOW: tl.constexpr, ACC: tl.constexpr):
    """peak, total [BLOCK_P] and acc [BLOCK_P, BLOCK_D] of the softmax of the queries (y, x) over all their keys."""
    R: tl.constexpr = WINDOW.kernel // 2
    peak = tl.full([q.shape[0]], float("-inf"), ACC)
    total = tl.zeros([q.shape[0]], ACC)
    acc = tl.zeros(q.shape, ACC)
    if INNER and R == 1:  # unrolled along a row: the loads of three keys are in flight together
        for oy in range(-1, 2):
            for ox in tl.static_range(-1, 2):
                peak, total, acc = _take(q, k, v, bias, oy, ox, None, peak, total, acc, WINDOW, ACC)
    elif INNER:
        for oy in range(-R, R + 1):
            for ox in range(-R, R + 1):
                peak, total, acc = _take(q, k, v, bias, oy, ox, None, peak, total, acc, WINDOW, ACC)
    else:
        low_y, high_y = offsets_to_keys(y, rows, WINDOW)
        low_x, high_x = offsets_to_keys(x, cols, WINDOW)
        reach_y, reach_x = (tl.min(low_y, 0), tl.max(high_y, 0)), (tl.min(low_x, 0), tl.max(high_x, 0))
        if WINDOW.border == "zero" and bias is not None:
            reach_y, reach_x = (-R, R), (-R, R)
        for oy in range(reach_y[0], reach_y[1] + 1):
            near_y = (low_y <= oy) & (oy <= high_y)
            for ox in range(reach_x[0], reach_x[1] + 1):
                near = near_y & (low_x <= ox) & (ox <= high_x)
                peak, total, acc = _take(q, k, v, bias, oy, ox, near, peak, total, acc, WINDOW, ACC)
        if WINDOW.border == "zero" and bias is None:
            inside = (high_y - low_y + 1) * (high_x - low_x + 1)
            peak, total, acc = _take_zeros(WINDOW.kernel * WINDOW.kernel - inside, peak, total, acc)
    return peak, total, acc


@triton.jit
def _attend_rows(
    q_ptr, k_ptr, v_ptr, bias, y_ptr, lse_ptr, q_stride, k_stride, v_stride, y_stride, lse_stride,
    place, y, x, rows, cols, inner, WINDOW: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """y and lse of the queries (y, x)."""
    mask = (y < rows) & (x < cols)
    head, head_kv = place[1], place[1] // WINDOW.group
    q = vectors_at(q_ptr, q_stride, place, head, y, x, WINDOW)
    k = vectors_at(k_ptr, k_stride, place, head_kv, y, x, WINDOW)
    v = vectors_at(v_ptr, v_stride, place, head_kv, y, x, WINDOW)
    q_i = load_shifted(q, 0, 0, mask, WINDOW, ACC) * WINDOW.scale
    if inner:
        peak, total, acc = attend(q_i, k, v, bias, y, x, rows, cols, True, WINDOW, ACC)
    else:
        peak, total, acc = attend(q_i, k, v, bias, y, x, rows, cols, False, WINDOW, ACC)
    store_at(vectors_at(y_ptr, y_stride, place, head, y, x, WINDOW), acc / total[:, None], mask, WINDOW)
    if lse_ptr is not None:
        lse = peak + tl.log2(total) * LN2
        store_at(rows_at(lse_ptr, lse_stride, place, head, y, x, WINDOW), lse, mask, WINDOW)


@triton.jit
def _neighborhood_fwd_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, y_ptr, lse_ptr, q_stride, k_stride, v_stride, y_stride, lse_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    place, rows, cols, y0, x0 = locate(size, BLOCK_Y, BLOCK_X)
    y, x = positions(y0, x0, BLOCK_Y, BLOCK_X)
    bias = None if bias_ptr is None else head_bias(bias_ptr, place[1], WINDOW)
    inner = is_inner(y0, x0, rows, cols, BLOCK_Y, BLOCK_X, WINDOW)
    _attend_rows(
        q_ptr, k_ptr, v_ptr, bias, y_ptr, lse_ptr, q_stride, k_stride, v_stride, y_stride, lse_stride,
        place, y, x, rows, cols, inner, WINDOW, ACC,
    )  # fmt: skip


@triton.jit
def _attend_patch(
    q, k_at, v_at, bias, y, x, patch, rows, cols,
    WINDOW: tl.constexpr, PATCH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """As `attend`, of tiles: peak and total [BLOCK_T, 16] in base 2, acc [BLOCK_T, 16, BLOCK_D]."""
    ky, kx, row, inside_x = patch
    dtype = q.dtype
    near_x = is_near(kx, first_of(x, cols, WINDOW), inside_x, BLOCK_T, WINDOW)
    excluded_x = exclusion(near_x)
    first_y = first_of(y, rows, WINDOW)
    entry = as_row(bias_index(ky, kx, WINDOW), BLOCK_T) - as_column(y * (2 * WINDOW.kernel - 1) + x, BLOCK_T)
    peak = tl.full([BLOCK_T, 16], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_T, 16], tl.float32)
    acc = tl.zeros(q.shape, tl.float32)
    # copies of two columns ask the L2 cache for sectors that loads find in the L1 cache
    STAGES: tl.constexpr = 1 if PATCH.lead == 2 else 2
    for down in tl.range(0, PATCH.rows, BLOCK_J // PATCH.columns, num_stages=STAGES):
        inside_y = (ky + down >= 0) & (ky + down < rows) & (row + down < PATCH.rows)
        inside = inside_x & inside_y
        k = as_tiles(load_shifted(k_at, down, 0, inside, WINDOW, dtype), BLOCK_T)
        v = as_tiles(load_shifted(v_at, down, 0, inside, WINDOW, dtype), BLOCK_T)
        near_y = is_near(ky + down, first_y, inside_y, BLOCK_T, WINDOW)
        s = tl.zeros([BLOCK_T, 16, BLOCK_J], tl.float32)
        if bias is not None:
            s = load_bias(bias, entry + down * (2 * WINDOW.kernel - 1), WINDOW)
        s = tl.dot(q, tl.trans(k, (0, 2, 1)), s) * (WINDOW.scale * LOG2E)
        s += excluded_x + exclusion(near_y)
        higher = tl.maximum(peak, tl.max(s, 2))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        fade = tl.exp2(peak - base)
        p = tl.exp2(s - base[:, :, None])
        total = total * fade + tl.sum(p, 2)
        acc = tl.dot(p.to(dtype), v, acc * fade[:, :, None])
        peak = higher
    return peak, total, acc


@triton.jit
def _neighborhood_patch_fwd_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, y_ptr, lse_ptr, q_stride, k_stride, v_stride, y_stride, lse_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, PATCH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    place, rows, cols, y0, x0 = locate(size, PATCH.tile_y * BLOCK_T, PATCH.tile_x)
    head, head_kv = place[1], place[1] // WINDOW.group
    y, x = tile_positions(y0, x0, PATCH, BLOCK_T)
    mask = (y < rows) & (x < cols)
    q_at = vectors_at(q_ptr, q_stride, place, head, y, x, WINDOW)
    y_at = vectors_at(y_ptr, y_stride, place, head, y, x, WINDOW)
    bias = None if bias_ptr is None else head_bias(bias_ptr, head, WINDOW)
    patch = patch_positions(y0, x0, rows, cols, PATCH, BLOCK_T, BLOCK_J, WINDOW)
    k_at = vectors_at(k_ptr, k_stride, place, head_kv, patch[0], patch[1], WINDOW)
    v_at = vectors_at(v_ptr, v_stride, place, head_kv, patch[0], patch[1], WINDOW)
    q = as_tiles(load_shifted(q_at, 0, 0, mask, WINDOW, q_ptr.dtype.element_ty), BLOCK_T)
    peak, total, acc = _attend_patch(q, k_at, v_at, bias, y, x, patch, rows, cols, WINDOW, PATCH, BLOCK_T, BLOCK_J)
    if is_finite(acc):
        acc *= (1.0 / total)[:, :, None]
        store_at(y_at, tl.reshape(acc, (BLOCK_T * 16, WINDOW.block_d)), mask, WINDOW)
        if lse_ptr is not None:
            lse = tl.reshape((peak + tl.log2(total)) * LN2, (BLOCK_T * 16,))
            store_at(rows_at(lse_ptr, lse_stride, place, head, y, x, WINDOW), lse, mask, WINDOW)
    else:
        STEP: tl.constexpr = min(BLOCK_T, max(1, 16 * BLOCK_T // WINDOW.block_d))  # 128 bits a thread
        for tile in range(0, BLOCK_T, STEP):
            tile_y, tile_x = tile_positions(y0 + tile * PATCH.tile_y, x0, PATCH, STEP)
            _attend_rows(
                q_ptr, k_ptr, v_ptr, bias, y_ptr, lse_ptr, q_stride, k_stride, v_stride, y_stride, lse_stride,
                place, tile_y, tile_x, rows, cols, False, WINDOW, ACC,
            )  # fmt: skip


def _model(q: Tensor, k: Tensor, dilation: int, kernel_size: int, by_products: bool) -> Model:
    """Patches of k where tensor cores can, else rows."""
    by_rows = row_model(q, q.shape[3], dilation, kernel_size, loads=4, live=3.5)
    by_patches = patch_model(k, dilation, kernel_size, MOST // 2)  # half: more programs an SM, by the account

    def price(config: Config) -> Footprint | float | None:
        if ("BLOCK_T" in config.blocks) != by_products:
            return None
        return by_patches(config) if by_products else by_rows(config)

    return price


def plan_neighborhood_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_bias: Tensor | None,
    y: Tensor,
    lse: Tensor | None,
    kernel_size: int,
    dilation: int,
    border: str,
    scale: float,
) -> Plan:
    heads = q.shape[3]
    constants = window(kernel_size, border, scale, heads // k.shape[3], (q, k, v, y))
    patch = patch_of(k, kernel_size, dilation)
    tiled = takes_products(k, kernel_size, dilation, rel_bias, scale)
    model = _model(q, k, dilation, kernel_size, tiled)
    also = "rows" if takes_products(k, kernel_size, dilation, None, scale) and not tiled else ""
    config = choose_for("neighborhood_fwd", ALL, model, k if tiled else q, heads, dilation, constants, also)
    blocks = patch.blocks(config.blocks["BLOCK_T"]) if tiled else config.blocks
    size, grid = tiles(q, heads, dilation, **blocks)
    args = dict(
        q_ptr=q,
        k_ptr=k,
        v_ptr=v,
        bias_ptr=rel_bias,
        y_ptr=y,
        lse_ptr=lse,
        q_stride=strides_of(q, constants.align),
        k_stride=strides_of(k, constants.align),
        v_stride=strides_of(v, constants.align),
        y_stride=strides_of(y, constants.align),
        lse_stride=row_strides_of(lse),
        size=size,
        WINDOW=constants,
        ACC=accumulator(q),
        **(dict(PATCH=patch) if tiled else {}),
    )
    pairs = keys_per_query(q, kernel_size, dilation, border)
    if tiled:
        reads = patch_loads(q, size, patch, config.blocks["BLOCK_T"], kernel_size, border)
        bias = grid // heads * patch.products(**config.blocks) / (2 * kernel_size - 1) ** 2
    else:
        reads, bias = pairs, bias_loads(q, size, *config.blocks.values(), kernel_size, border, of_queries=True)
    key = (reads * constants.group, 0)
    traffic = dict(q_ptr=(1, 0), k_ptr=key, v_ptr=key, bias_ptr=(bias, 0), y_ptr=(0, 1), lse_ptr=(0, 1))
    return Plan(_neighborhood_patch_fwd_kernel if tiled else _neighborhood_fwd_kernel, args, config, grid, traffic)
