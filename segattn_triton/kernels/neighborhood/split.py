"""Neighbourhood attention in two halves: scores, and sums weighted by them. Taps t = 0..K*K-1 count a query's keys.

dot           s_it = scale <a_i, b_j> + bias            a (N, H, W, heads, D), b (N, H, W, heads_kv, D)
sum           y_i = scale sum_t s_it b_j                s (N, H, W, heads, K*K)
sum to keys   y_j = scale sum_i s_it b_i                over the queries i whose window contains j
dbias_o = sum of s over the pairs at offset o, in partial sums per tile
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from .shared import (
    SPACE,
    add_at,
    bias_index,
    choose_for,
    first_key,
    head_bias,
    load_shifted,
    locate,
    offsets_to_keys,
    offsets_to_queries,
    positions,
    row_model,
    rows_at,
    store_at,
    store_bias,
    strides_of,
    tiles,
    vectors_at,
    wide,
    window,
)
from .traffic import bias_loads, keys_per_query


@triton.jit
def _tap(i_y, i_x, j_y, j_x, rows, cols, WINDOW: tl.constexpr):
    """Which key of the query (i_y, i_x) the position (j_y, j_x) is."""
    tap_y = j_y - first_key(i_y, rows, WINDOW)
    return tap_y * WINDOW.kernel + j_x - first_key(i_x, cols, WINDOW)


@triton.jit
def _load_tap(s, stride, oy, ox, tap, mask, WINDOW: tl.constexpr, ACC: tl.constexpr):
    """The scores [BLOCK_P] for key `tap` of the queries (oy, ox) away, 0 where masked."""
    base, offs, step_y, step_x = s
    return load_shifted((base, offs + wide(tap, WINDOW) * stride[4], step_y, step_x), oy, ox, mask, WINDOW, ACC)


@triton.jit
def _neighborhood_dot_kernel(
    a_ptr,
    b_ptr,
    bias_ptr,
    s_ptr,
    a_stride,
    b_stride,
    s_stride,
    size,
    EXCLUDE: tl.constexpr,
    WINDOW: tl.constexpr,
    TAPS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    R: tl.constexpr = WINDOW.kernel // 2
    place, rows, cols, y0, x0 = locate(size, BLOCK_Y, BLOCK_X)
    y, x = positions(y0, x0, BLOCK_Y, BLOCK_X)
    mask = (y < rows) & (x < cols)
    head = place[1]
    bias = None if bias_ptr is None else head_bias(bias_ptr, head, WINDOW)
    b = vectors_at(b_ptr, b_stride, place, head // WINDOW.group, y, x, WINDOW)
    a = load_shifted(vectors_at(a_ptr, a_stride, place, head, y, x, WINDOW), 0, 0, mask, WINDOW, ACC) * WINDOW.scale
    offs_t = tl.arange(0, TAPS)
    s = tl.zeros([BLOCK_Y * BLOCK_X, TAPS], ACC)
    low_y, high_y = offsets_to_keys(y, rows, WINDOW)
    low_x, high_x = offsets_to_keys(x, cols, WINDOW)
    reach_y, reach_x = (tl.min(low_y, 0), tl.max(high_y, 0)), (tl.min(low_x, 0), tl.max(high_x, 0))
    if WINDOW.border != "shift":  # the scores of keys outside are stored too
        reach_y, reach_x = (-R, R), (-R, R)
    for oy in range(reach_y[0], reach_y[1] + 1):
        inside_y = (low_y <= oy) & (oy <= high_y)
        for ox in range(reach_x[0], reach_x[1] + 1):
            inside = inside_y & (low_x <= ox) & (ox <= high_x)
            s_j = tl.where(inside, tl.sum(a * load_shifted(b, oy, ox, inside, WINDOW, ACC), 1), 0.0)
            if bias is not None:
                s_j += tl.load(bias + bias_index(oy, ox, WINDOW)).to(ACC)
            if EXCLUDE:
                s_j = tl.where(inside, s_j, float("-inf"))
            tap = _tap(y, x, y + oy, x + ox, rows, cols, WINDOW)
            if WINDOW.border == "shift":
                tap = tl.where(inside, tap, -1)
            s = tl.where(offs_t[None, :] == tap[:, None], s_j[:, None], s)
    at = rows_at(s_ptr, s_stride, place, head, y, x, WINDOW)
    mask_s = mask[:, None] & (offs_t < WINDOW.kernel * WINDOW.kernel)[None, :]
    ptrs = at[0] + at[1][:, None] + wide(offs_t, WINDOW)[None, :] * s_stride[4]
    tl.store(ptrs, s.to(s_ptr.dtype.element_ty), mask_s)


@triton.jit
def _over_keys(
    s, s_stride, b, y, x, rows, cols, BIASES: tl.constexpr, WINDOW: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """sum_t s_it b_j [BLOCK_P, BLOCK_D] of the queries (y, x), and the sums of s per offset [BIASES]."""
    R: tl.constexpr = WINDOW.kernel // 2
    mask = (y < rows) & (x < cols)
    total = tl.zeros(b[1].shape, ACC)
    db = tl.zeros([BIASES], ACC)
    low_y, high_y = offsets_to_keys(y, rows, WINDOW)
    low_x, high_x = offsets_to_keys(x, cols, WINDOW)
    reach_y, reach_x = (tl.min(low_y, 0), tl.max(high_y, 0)), (tl.min(low_x, 0), tl.max(high_x, 0))
    if WINDOW.border == "zero":
        reach_y, reach_x = (-R, R), (-R, R)
    for oy in range(reach_y[0], reach_y[1] + 1):
        inside_y = (low_y <= oy) & (oy <= high_y)
        for ox in range(reach_x[0], reach_x[1] + 1):
            inside = inside_y & (low_x <= ox) & (ox <= high_x)
            near = mask if WINDOW.border == "zero" else inside
            tap = _tap(y, x, y + oy, x + ox, rows, cols, WINDOW)
            s_j = _load_tap(s, s_stride, 0, 0, tap, near, WINDOW, ACC)
            total += s_j[:, None] * load_shifted(b, oy, ox, inside, WINDOW, ACC)
            if BIASES > 1:
                db = add_at(db, bias_index(oy, ox, WINDOW), tl.sum(s_j, 0))
    return total, db


@triton.jit
def _over_queries(total, s, s_stride, b, y, x, rows, cols, WINDOW: tl.constexpr, ACC: tl.constexpr):
    """Add sum_i s_it b_i [BLOCK_P, BLOCK_D] over the queries of one head whose window contains the keys (y, x)."""
    low_y, high_y = offsets_to_queries(y, rows, WINDOW)
    low_x, high_x = offsets_to_queries(x, cols, WINDOW)
    for oy in range(tl.min(low_y, 0), tl.max(high_y, 0) + 1):
        near_y = (low_y <= oy) & (oy <= high_y)
        for ox in range(tl.min(low_x, 0), tl.max(high_x, 0) + 1):
            near = near_y & (low_x <= ox) & (ox <= high_x)
            tap = _tap(y - oy, x - ox, y, x, rows, cols, WINDOW)
            s_i = _load_tap(s, s_stride, -oy, -ox, tap, near, WINDOW, ACC)
            total += s_i[:, None] * load_shifted(b, -oy, -ox, near, WINDOW, ACC)
    return total


@triton.jit
def _neighborhood_sum_kernel(
    s_ptr,
    b_ptr,
    y_ptr,
    dbias_ptr,
    s_stride,
    b_stride,
    y_stride,
    size,
    TO_KEYS: tl.constexpr,
    WINDOW: tl.constexpr,
    BIASES: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    place, rows, cols, y0, x0 = locate(size, BLOCK_Y, BLOCK_X)
    y, x = positions(y0, x0, BLOCK_Y, BLOCK_X)
    head = place[1]
    if TO_KEYS:
        BLOCK_D: tl.constexpr = WINDOW.block_d
        total = tl.zeros([BLOCK_Y * BLOCK_X, BLOCK_D], ACC)
        for member in range(0, WINDOW.group):
            s = rows_at(s_ptr, s_stride, place, head * WINDOW.group + member, y, x, WINDOW)
            b = vectors_at(b_ptr, b_stride, place, head * WINDOW.group + member, y, x, WINDOW)
            total = _over_queries(total, s, s_stride, b, y, x, rows, cols, WINDOW, ACC)
    else:
        s = rows_at(s_ptr, s_stride, place, head, y, x, WINDOW)
        b = vectors_at(b_ptr, b_stride, place, head // WINDOW.group, y, x, WINDOW)
        total, db = _over_keys(s, s_stride, b, y, x, rows, cols, BIASES, WINDOW, ACC)
        if dbias_ptr is not None:
            store_bias(dbias_ptr, db, head, size[2], size[2], WINDOW)
    if y_ptr is not None:
        at = vectors_at(y_ptr, y_stride, place, head, y, x, WINDOW)
        store_at(at, total * WINDOW.scale, (y < rows) & (x < cols), WINDOW)


def plan_neighborhood_dot(
    a: Tensor,
    b: Tensor,
    rel_bias: Tensor | None,
    s: Tensor,
    kernel_size: int,
    dilation: int,
    border: str,
    scale: float,
    exclude: bool,
) -> Plan:
    """exclude: keys that do not exist score -inf, not 0."""
    heads = a.shape[3]
    constants = window(kernel_size, border, scale, heads // b.shape[3], (a, b), (s,))
    model = row_model(a, heads, dilation, kernel_size, loads=2, live=3)
    config = choose_for("neighborhood_dot", SPACE, model, a, heads, dilation, constants)
    size, grid = tiles(a, heads, dilation, **config.blocks)
    args = dict(
        a_ptr=a,
        b_ptr=b,
        bias_ptr=rel_bias,
        s_ptr=s,
        a_stride=strides_of(a, constants.align),
        b_stride=strides_of(b, constants.align),
        s_stride=strides_of(s),
        size=size,
        EXCLUDE=exclude,
        WINDOW=constants,
        TAPS=triton.next_power_of_2(kernel_size * kernel_size),
        ACC=accumulator(a),
    )
    keys = keys_per_query(a, kernel_size, dilation, border) * constants.group
    visits = border if border == "shift" else "zero"  # a window that leaves the image visits all of its offsets
    bias = bias_loads(a, size, *config.blocks.values(), kernel_size, visits, of_queries=True)
    traffic = dict(a_ptr=(1, 0), b_ptr=(keys, 0), bias_ptr=(bias, 0), s_ptr=(0, 1))
    return Plan(_neighborhood_dot_kernel, args, config, grid, traffic)


def plan_neighborhood_sum(
    s: Tensor,
    b: Tensor,
    y: Tensor | None,
    with_dbias: bool,
    kernel_size: int,
    dilation: int,
    border: str,
    scale: float,
    to_keys: bool = False,
) -> Plan:
    """Makes dbias (tiles, heads * (2K-1)^2), partial sums, if asked for."""
    heads = s.shape[3]
    heads_kv = y.shape[3] if to_keys else b.shape[3]
    programs = heads_kv if to_keys else heads
    entries = (2 * kernel_size - 1) ** 2
    constants = window(kernel_size, border, scale, heads // heads_kv, (b,) if y is None else (b, y), (s,))
    model = row_model(b, programs, dilation, kernel_size, loads=2, live=3)
    what = "keys" if to_keys else "queries+bias" if with_dbias else "queries"
    config = choose_for("neighborhood_sum", SPACE, model, b, programs, dilation, constants, what)
    size, grid = tiles(s, programs, dilation, **config.blocks)
    args = dict(
        s_ptr=s,
        b_ptr=b,
        y_ptr=y,
        dbias_ptr=partials(s, grid // programs, heads * entries) if with_dbias else None,
        s_stride=strides_of(s),
        b_stride=strides_of(b, constants.align),
        y_stride=None if y is None else strides_of(y, constants.align),
        size=size,
        TO_KEYS=to_keys,
        WINDOW=constants,
        BIASES=triton.next_power_of_2(entries) if with_dbias else 1,
        ACC=accumulator(s),
    )
    pairs, taps = keys_per_query(s, kernel_size, dilation, border), kernel_size * kernel_size
    weights = 1 if border == "zero" and not to_keys else pairs / taps  # of keys outside, too, or not
    vectors = pairs if to_keys else pairs * constants.group
    traffic = dict(s_ptr=(weights, 0), b_ptr=(vectors, 0), y_ptr=(0, 1), dbias_ptr=(0, 1))
    return Plan(_neighborhood_sum_kernel, args, config, grid, traffic, ("dbias",))
