"""Neighbourhood attention, forward: y_i = sum_j p_ij v_j, p_i = softmax_j(s_ij), s_ij = scale <q_i, k_j> + bias.

q, y (N, H, W, heads, D); k, v (N, H, W, heads_kv, D); lse_i = log sum_j exp(s_ij), (N, H, W, heads). One pass over
q, k, v and y; the halo of a tile comes from cache.

Two kernels. Rows: the keys at one offset after another, a running softmax; everything in the accumulator's precision,
and scores with the bits that the backward computes again: in exp(s - lse) the rounding of a large score cancels.
Tiles: see `neighborhood_tile`; S = Q K^T [16, 64] per tile, and P V with P rounded to the vectors' dtype. P is 0 for
the keys that a query does not have, but 0 * Inf is NaN: where a sum is not finite, the program computes it again as
the row kernel does, which never touches a key outside the window.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ...tuning.model import Config, Footprint, Model, cost, space
from ...tuning.target import capability
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
from .tile import near_patch, tile_positions, tile_scores
from .traffic import bias_loads, keys_per_query, patch_loads

TILES = space(BLOCK_T=(1, 2, 4, 8), num_warps=(1, 2, 4, 8))
ALL = (*TILES, *SPACE)
ROWS_AFTER_TILES = 1e3  # the cost by the model that rows have beyond tiles, where those suit


@triton.jit
def _take(q, k, v, bias, oy, ox, near, peak, total, acc, WINDOW: tl.constexpr, ACC: tl.constexpr):
    """Take the keys at one offset into the running softmax. `near`: which of them exist; None: all."""
    k_j = load_shifted(k, oy, ox, near, WINDOW, ACC)
    v_j = load_shifted(v, oy, ox, near, WINDOW, ACC)
    s = tl.sum(q * k_j, 1)
    if near is not None and WINDOW.border == "zero":
        s = tl.where(near, s, 0.0)
    if bias is not None:
        s += tl.load(bias + bias_index(oy, ox, WINDOW)).to(ACC)
    if near is not None and WINDOW.border != "zero":
        s = tl.where(near, s, float("-inf"))
    higher = tl.maximum(peak, s)
    base = tl.where(higher == float("-inf"), 0.0, higher)
    fade = tl.exp2((peak - base) * LOG2E)
    p = tl.exp2((s - base) * LOG2E)
    return higher, total * fade + p, acc * fade[:, None] + p[:, None] * v_j


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
        if WINDOW.border == "zero":
            reach_y, reach_x = (-R, R), (-R, R)
        for oy in range(reach_y[0], reach_y[1] + 1):
            near_y = (low_y <= oy) & (oy <= high_y)
            for ox in range(reach_x[0], reach_x[1] + 1):
                near = near_y & (low_x <= ox) & (ox <= high_x)
                peak, total, acc = _take(q, k, v, bias, oy, ox, near, peak, total, acc, WINDOW, ACC)
    return peak, total, acc


@triton.jit
def _neighborhood_fwd_kernel(
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
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    place, rows, cols, y0, x0 = locate(size, BLOCK_Y, BLOCK_X)
    y, x = positions(y0, x0, BLOCK_Y, BLOCK_X)
    mask = (y < rows) & (x < cols)
    head = place[1]
    q = vectors_at(q_ptr, q_stride, place, head, y, x, WINDOW)
    k = vectors_at(k_ptr, k_stride, place, head // WINDOW.group, y, x, WINDOW)
    v = vectors_at(v_ptr, v_stride, place, head // WINDOW.group, y, x, WINDOW)
    bias = head_bias(bias_ptr, head, WINDOW)
    q_i = load_shifted(q, 0, 0, mask, WINDOW, ACC) * WINDOW.scale
    if is_inner(y0, x0, rows, cols, BLOCK_Y, BLOCK_X, WINDOW):
        peak, total, acc = attend(q_i, k, v, bias, y, x, rows, cols, True, WINDOW, ACC)
    else:
        peak, total, acc = attend(q_i, k, v, bias, y, x, rows, cols, False, WINDOW, ACC)
    store_at(vectors_at(y_ptr, y_stride, place, head, y, x, WINDOW), acc / total[:, None], mask, WINDOW)
    if lse_ptr is not None:
        lse = peak + tl.log2(total) * LN2
        store_at(rows_at(lse_ptr, lse_stride, place, head, y, x, WINDOW), lse, mask, WINDOW)


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
        q_i = load_shifted(q_at, 0, 0, mask, WINDOW, ACC) * WINDOW.scale
        _, row_total, row_acc = attend(q_i, k_i, v_i, bias, y, x, rows, cols, False, WINDOW, ACC)
        store_at(y_at, row_acc / row_total[:, None], mask, WINDOW)
    else:
        store_at(y_at, acc, mask, WINDOW)
    if lse_ptr is not None:
        lse = tl.reshape((peak + tl.log2(total)) * LN2, (BLOCK_T * 16,))
        store_at(rows_at(lse_ptr, lse_stride, place, head, y, x, WINDOW), lse, mask, WINDOW)


def _model(q: Tensor, dilation: int, kernel_size: int) -> Model:
    """Tensor cores (sm_80 on) for 3 x 3 windows of 16-bit vectors where a tile fits the registers, else rows."""
    _, H, W, heads, D = q.shape
    block_d, w_contiguous = triton.next_power_of_2(D), q.stride(2) == 1
    rows, cols = triton.cdiv(H, dilation), triton.cdiv(W, dilation)
    by_rows, target = row_model(q, heads, dilation, kernel_size, loads=4, live=3.5), capability(q.device)
    suits = q.element_size() == 2 and kernel_size == 3 and D >= 16 and target >= 80
    most = 240 if target in (86, 89, 100) else 245

    def price(config: Config) -> Footprint | float | None:
        if "BLOCK_T" in config.blocks:
            return by_tiles(config) if suits else None
        footprint = by_rows(config)
        return ROWS_AFTER_TILES + cost(config, footprint) if suits and footprint else footprint

    def by_tiles(config: Config) -> float | None:
        block_t = config.blocks["BLOCK_T"]
        registers = 50 + (6 if w_contiguous else 2) * block_d * block_t / config.num_warps
        if registers > most or config.num_warps < block_t or (block_t > 1 and 4 * block_t >= 2 * cols):
            return None
        covered = triton.cdiv(rows, 4) * 4 * triton.cdiv(cols, 4 * block_t) * 4 * block_t
        repeated = config.num_warps / block_t  # warps beyond the tiles repeat the products
        return covered / (rows * cols) * (1 + 1 / (4 * block_t)) * (1 + 0.3 * (repeated - 1)) + 0.01 * block_t

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
    model = _model(q, dilation, kernel_size)
    config = choose_for("neighborhood_fwd", ALL, model, q, heads, dilation, constants)
    tiled = "BLOCK_T" in config.blocks
    blocks = dict(BLOCK_Y=4, BLOCK_X=4 * config.blocks["BLOCK_T"]) if tiled else config.blocks
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
    )
    pairs = keys_per_query(q, kernel_size, dilation, border)
    if tiled:
        reads = patch_loads(q, size, config.blocks["BLOCK_T"], border)
        found = kernel_size * kernel_size if border == "zero" else pairs
        bias = q.shape[0] * q.shape[1] * q.shape[2] * found / (2 * kernel_size - 1) ** 2
    else:
        reads, bias = pairs, bias_loads(q, size, *config.blocks.values(), kernel_size, border, of_queries=True)
    key = (reads * constants.group, 0)
    traffic = dict(q_ptr=(1, 0), k_ptr=key, v_ptr=key, bias_ptr=(bias, 0), y_ptr=(0, 1), lse_ptr=(0, 1))
    return Plan(_neighborhood_tile_fwd_kernel if tiled else _neighborhood_fwd_kernel, args, config, grid, traffic)
