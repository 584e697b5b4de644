"""Neighbourhood attention, backward, in two passes and without atomics. With p_ij = exp(s_ij - lse_i) rebuilt:

    delta_i = <y_i, dy_i> - dlse_i                    the pre-pass, in `delta`
    ds_ij = p_ij (<dy_i, v_j> - delta_i)
    dq_i = scale sum_j ds_ij k_j                      over the keys of query i
    dk_j = scale sum_i ds_ij q_i,  dv_j = sum_i p_ij dy_i          over the queries whose window contains j
    drel_bias_o = sum of ds over the pairs at offset o, in partial sums per tile

The second kernel gathers: a program computes all of dq, dk and dv for its tile, reading q, k, v and dy once from
memory and the halo from cache. Every sum runs in one fixed order, so results repeat bit for bit.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from .shared import (
    LOG2E,
    SPACE,
    add_at,
    bias_index,
    choose_for,
    head_bias,
    is_inner,
    load_shifted,
    locate,
    offsets_to_keys,
    offsets_to_queries,
    positions,
    row_model,
    row_strides_of,
    rows_at,
    store_at,
    store_bias,
    strides_of,
    tiles,
    vectors_at,
    window,
)
from .traffic import bias_loads, keys_per_query


@triton.jit
def _p_ds(q, k, v, dy, lse, delta, bias, oy, ox, near, inside, WINDOW: tl.constexpr, ACC: tl.constexpr):
    """p and ds [BLOCK_P] of the pairs at one offset; q comes times scale. s - lse before the change of base: where p
    counts the difference is small, and keeps the digits that the product of each with log2(e) would round.

    `near`: the pairs that exist. `inside`: those of them whose key lies in the image, the others score 0. None: all.
    """
    s = tl.sum(q * k, 1)
    if inside is not None:
        s = tl.where(inside, s, 0.0)
    if bias is not None:
        s += tl.load(bias + bias_index(oy, ox, WINDOW)).to(ACC)
    p = tl.exp2((s - lse) * LOG2E)
    ds = p * (tl.sum(dy * v, 1) - delta)
    if near is not None:
        p = tl.where(near, p, 0.0)
        ds = tl.where(near, ds, 0.0)
    return p, ds


@triton.jit
def _to_query(queries, k, v, bias, oy, ox, near, inside, dq, db, WINDOW: tl.constexpr, ACC: tl.constexpr):
    """Add what the keys at one offset give to dq / scale [BLOCK_P, BLOCK_D], and to db, the sums of ds per offset."""
    q_i, dy_i, lse_i, delta_i = queries
    k_j = load_shifted(k, oy, ox, inside, WINDOW, ACC)
    v_j = load_shifted(v, oy, ox, inside, WINDOW, ACC)
    ds = _p_ds(q_i, k_j, v_j, dy_i, lse_i, delta_i, bias, oy, ox, near, inside, WINDOW, ACC)[1]
    if db.shape[0] > 1:
        db = add_at(db, bias_index(oy, ox, WINDOW), tl.sum(ds, 0))
    return dq + ds[:, None] * k_j, db


@triton.jit
def _to_queries(
    queries, k, v, bias, y, x, rows, cols,
    BIASES: tl.constexpr, INNER: tl.constexpr, WINDOW: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dq / scale [BLOCK_P, BLOCK_D] of the queries (y, x) and the sums of ds per offset [BIASES]."""
    R: tl.constexpr = WINDOW.kernel // 2
    dq = tl.zeros(queries[0].shape, ACC)
    db = tl.zeros([BIASES], ACC)
    if INNER:
        for oy in range(-R, R + 1):
            for ox in range(-R, R + 1):
                dq, db = _to_query(queries, k, v, bias, oy, ox, None, None, dq, db, WINDOW, ACC)
    else:
        mask = (y < rows) & (x < cols)
        low_y, high_y = offsets_to_keys(y, rows, WINDOW)
        low_x, high_x = offsets_to_keys(x, cols, WINDOW)
        reach_y, reach_x = (tl.min(low_y, 0), tl.max(high_y, 0)), (tl.min(low_x, 0), tl.max(high_x, 0))
        if WINDOW.border == "zero" and BIASES > 1:  # keys of zeros give dq nothing
            reach_y, reach_x = (-R, R), (-R, R)
        for oy in range(reach_y[0], reach_y[1] + 1):
            inside_y = (low_y <= oy) & (oy <= high_y)
            for ox in range(reach_x[0], reach_x[1] + 1):
                inside = inside_y & (low_x <= ox) & (ox <= high_x)
                near = mask if WINDOW.border == "zero" else inside
                dq, db = _to_query(queries, k, v, bias, oy, ox, near, inside, dq, db, WINDOW, ACC)
    return dq, db


@triton.jit
def _to_key(k_j, v_j, q, dy, lse, delta, bias, oy, ox, near, dk, dv, WINDOW: tl.constexpr, ACC: tl.constexpr):
    """Add to dk and dv [BLOCK_P, BLOCK_D] what the queries that have the keys at offset (oy, ox) give."""
    q_i = load_shifted(q, -oy, -ox, near, WINDOW, ACC) * WINDOW.scale
    dy_i = load_shifted(dy, -oy, -ox, near, WINDOW, ACC)
    lse_i = load_shifted(lse, -oy, -ox, near, WINDOW, ACC)
    delta_i = load_shifted(delta, -oy, -ox, near, WINDOW, ACC)
    p, ds = _p_ds(q_i, k_j, v_j, dy_i, lse_i, delta_i, bias, oy, ox, near, near, WINDOW, ACC)
    return dk + ds[:, None] * q_i, dv + p[:, None] * dy_i


@triton.jit
def _to_keys(
    k_j, v_j, dk, dv, q, dy, lse, delta, bias, y, x, rows, cols,
    INNER: tl.constexpr, WINDOW: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Add to dk and dv [BLOCK_P, BLOCK_D] of the keys (y, x) what the queries of one head give."""
    R: tl.constexpr = WINDOW.kernel // 2
    if INNER:
        for oy in range(-R, R + 1):
            for ox in range(-R, R + 1):
                dk, dv = _to_key(k_j, v_j, q, dy, lse, delta, bias, oy, ox, None, dk, dv, WINDOW, ACC)
    else:
        low_y, high_y = offsets_to_queries(y, rows, WINDOW)
        low_x, high_x = offsets_to_queries(x, cols, WINDOW)
        for oy in range(tl.min(low_y, 0), tl.max(high_y, 0) + 1):
            near_y = (low_y <= oy) & (oy <= high_y)
            for ox in range(tl.min(low_x, 0), tl.max(high_x, 0) + 1):
                near = near_y & (low_x <= ox) & (ox <= high_x)
                dk, dv = _to_key(k_j, v_j, q, dy, lse, delta, bias, oy, ox, near, dk, dv, WINDOW, ACC)
    return dk, dv


@triton.jit
def to_queries(
    q_ptr, k_ptr, v_ptr, bias, dy_ptr, lse_ptr, delta_ptr, dq_ptr,
    q_stride, k_stride, v_stride, dy_stride, row_stride, dq_stride,
    place, head, head_kv, y, x, rows, cols, BIASES: tl.constexpr, inner, WINDOW: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Store dq of the queries (y, x) of a head; the sums of ds per offset [BIASES]."""
    mask = (y < rows) & (x < cols)
    k = vectors_at(k_ptr, k_stride, place, head_kv, y, x, WINDOW)
    v = vectors_at(v_ptr, v_stride, place, head_kv, y, x, WINDOW)
    q_at = vectors_at(q_ptr, q_stride, place, head, y, x, WINDOW)
    q = load_shifted(q_at, 0, 0, mask, WINDOW, ACC) * WINDOW.scale
    dy = load_shifted(vectors_at(dy_ptr, dy_stride, place, head, y, x, WINDOW), 0, 0, mask, WINDOW, ACC)
    lse = load_shifted(rows_at(lse_ptr, row_stride, place, head, y, x, WINDOW), 0, 0, mask, WINDOW, ACC)
    delta = load_shifted(rows_at(delta_ptr, row_stride, place, head, y, x, WINDOW), 0, 0, mask, WINDOW, ACC)
    queries = q, dy, lse, delta
    if inner:
        dq, db = _to_queries(queries, k, v, bias, y, x, rows, cols, BIASES, True, WINDOW, ACC)
    else:
        dq, db = _to_queries(queries, k, v, bias, y, x, rows, cols, BIASES, False, WINDOW, ACC)
    if dq_ptr is not None:
        at = vectors_at(dq_ptr, dq_stride, place, head, y, x, WINDOW)
        store_at(at, dq * WINDOW.scale, mask, WINDOW)
    return db


@triton.jit
def to_keys(
    q_ptr, k_ptr, v_ptr, bias_ptr, dy_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    q_stride, k_stride, v_stride, dy_stride, row_stride, dk_stride, dv_stride,
    place, head_kv, y, x, rows, cols, inner, WINDOW: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Store dk and dv of the keys (y, x) of a head."""
    mask = (y < rows) & (x < cols)
    k_j = load_shifted(vectors_at(k_ptr, k_stride, place, head_kv, y, x, WINDOW), 0, 0, mask, WINDOW, ACC)
    v_j = load_shifted(vectors_at(v_ptr, v_stride, place, head_kv, y, x, WINDOW), 0, 0, mask, WINDOW, ACC)
    dk = tl.zeros(k_j.shape, ACC)
    dv = tl.zeros(v_j.shape, ACC)
    for member in range(0, WINDOW.group):
        head = head_kv * WINDOW.group + member
        bias = None if bias_ptr is None else head_bias(bias_ptr, head, WINDOW)
        q = vectors_at(q_ptr, q_stride, place, head, y, x, WINDOW)
        dy = vectors_at(dy_ptr, dy_stride, place, head, y, x, WINDOW)
        lse = rows_at(lse_ptr, row_stride, place, head, y, x, WINDOW)
        delta = rows_at(delta_ptr, row_stride, place, head, y, x, WINDOW)
        if inner:
            dk, dv = _to_keys(k_j, v_j, dk, dv, q, dy, lse, delta, bias, y, x, rows, cols, True, WINDOW, ACC)
        else:
            dk, dv = _to_keys(k_j, v_j, dk, dv, q, dy, lse, delta, bias, y, x, rows, cols, False, WINDOW, ACC)
    if dk_ptr is not None:
        store_at(vectors_at(dk_ptr, dk_stride, place, head_kv, y, x, WINDOW), dk, mask, WINDOW)
    if dv_ptr is not None:
        store_at(vectors_at(dv_ptr, dv_stride, place, head_kv, y, x, WINDOW), dv, mask, WINDOW)


@triton.jit
def _neighborhood_bwd_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, dy_ptr, lse_ptr, delta_ptr, dq_ptr, dk_ptr, dv_ptr, dbias_ptr,
    q_stride, k_stride, v_stride, dy_stride, row_stride, dq_stride, dk_stride, dv_stride, size,
    WINDOW: tl.constexpr, BIASES: tl.constexpr, ACC: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    place, rows, cols, y0, x0 = locate(size, BLOCK_Y, BLOCK_X)
    y, x = positions(y0, x0, BLOCK_Y, BLOCK_X)
    inner = is_inner(y0, x0, rows, cols, BLOCK_Y, BLOCK_X, WINDOW)
    head_kv = place[1]
    if dq_ptr is not None or dbias_ptr is not None:
        for member in range(0, WINDOW.group):
            head = head_kv * WINDOW.group + member
            bias = None if bias_ptr is None else head_bias(bias_ptr, head, WINDOW)
            db = to_queries(
                q_ptr, k_ptr, v_ptr, bias, dy_ptr, lse_ptr, delta_ptr, dq_ptr,
                q_stride, k_stride, v_stride, dy_stride, row_stride, dq_stride,
                place, head, head_kv, y, x, rows, cols, BIASES, inner, WINDOW, ACC,
            )  # fmt: skip
            if dbias_ptr is not None:
                store_bias(dbias_ptr, db, head, size[2] * WINDOW.group, size[2], WINDOW)
    if dk_ptr is not None or dv_ptr is not None:
        to_keys(
            q_ptr, k_ptr, v_ptr, bias_ptr, dy_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
            q_stride, k_stride, v_stride, dy_stride, row_stride, dk_stride, dv_stride,
            place, head_kv, y, x, rows, cols, inner, WINDOW, ACC,
        )  # fmt: skip


def plan_neighborhood_bwd(
    dy: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_bias: Tensor | None,
    lse: Tensor,
    delta: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    with_dbias: bool,
    kernel_size: int,
    dilation: int,
    border: str,
    scale: float,
) -> Plan:
    """lse and delta lie alike. Makes dbias (tiles, heads * (2K-1)^2), if asked for: partial
    sums."""
    heads, heads_kv = q.shape[3], k.shape[3]
    entries = (2 * kernel_size - 1) ** 2
    views = dict(q=q, k=k, v=v, dy=dy, dq=dq, dk=dk, dv=dv)
    given = [t for t in views.values() if t is not None]
    constants = window(kernel_size, border, scale, heads // heads_kv, given)
    model = row_model(q, heads_kv, dilation, kernel_size, loads=4, live=5)
    wanted = [name for name in ("dq", "dk", "dv") if views[name] is not None] + ["bias"] * with_dbias
    config = choose_for("neighborhood_bwd", SPACE, model, q, heads_kv, dilation, constants, "+".join(wanted))
    size, grid = tiles(q, heads_kv, dilation, **config.blocks)
    args = dict(
        **{f"{name}_ptr": t for name, t in views.items()},
        bias_ptr=rel_bias,
        lse_ptr=lse,
        delta_ptr=delta,
        dbias_ptr=partials(q, grid // heads_kv, heads * entries) if with_dbias else None,
        **{f"{name}_stride": None if t is None else strides_of(t, constants.align) for name, t in views.items()},
        row_stride=row_strides_of(lse),
        size=size,
        WINDOW=constants,
        BIASES=triton.next_power_of_2(entries) if with_dbias else 1,
        ACC=accumulator(q),
    )
    pairs = keys_per_query(q, kernel_size, dilation, border)
    to_queries, to_keys = dq is not None or with_dbias, dk is not None or dv is not None
    tile = q, size, *config.blocks.values(), kernel_size, border
    bias = sum(bias_loads(*tile, of_queries=way) for way, wanted in ((True, to_queries), (False, to_keys)) if wanted)
    traffic = {name: (to_queries + pairs * to_keys, 0) for name in ("q_ptr", "dy_ptr", "lse_ptr", "delta_ptr")}
    traffic |= {name: (to_keys + pairs * constants.group * to_queries, 0) for name in ("k_ptr", "v_ptr")}
    traffic |= {"bias_ptr": (bias, 0), **{name: (0, 1) for name in ("dq_ptr", "dk_ptr", "dv_ptr", "dbias_ptr")}}
    return Plan(_neighborhood_bwd_kernel, args, config, grid, traffic, ("dbias",))
