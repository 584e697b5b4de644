"""Attention over windows: the gradient of the relative bias, drel_bias_o = sum of ds over the pairs at offset o.

A program has one entry of one head's table, and a share of the queries whose window has a key at that offset: along
each axis these follow each other. ds comes from p and dP (see `backward`), or is given: the gradient of scores. Partial
sums per share.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from .backward import p_and_ds
from .layout import Reach, choose_for, constants_of, gather_model, row_strides_of, strides_of, tiles
from .shared import (
    first_of,
    load_shifted,
    position,
    rows_at,
    vectors_at,
)
from .traffic import keys_per_query

PROGRAMS = 2048  # at least, of entries that most queries have, where there are as many tiles: several for every SM


@triton.jit
def _queries_at(offset, length, dilation, K: tl.constexpr, CAUSAL: tl.constexpr, BORDER: tl.constexpr):
    """Along an axis: the first query that has a key so many dilations away, and how many follow each other that do."""
    low, high = tl.maximum(0, -offset * dilation), length - tl.maximum(0, offset * dilation)  # with the key inside
    reach = K - 1 if CAUSAL else K // 2
    if CAUSAL:
        high = tl.where(offset > 0, low, high)
    elif BORDER == "shift":  # windows that were moved reach further, of the queries at that end
        high = tl.where(offset > reach, tl.minimum(high, (K - offset) * dilation), high)
        low = tl.where(offset < -reach, tl.maximum(low, length - (K + offset) * dilation), low)
    else:
        high = tl.where(offset > reach, low, high)
        low = tl.where(offset < -reach, high, low)
    if BORDER == "zero":
        has = (offset <= (0 if CAUSAL else reach)) & (offset >= -reach)
        low, high = tl.where(has, 0, low), tl.where(has, length, low)
    return low, tl.maximum(high - low, 0)


@triton.jit
def _tap_at(i, length, dilation, offset, K: tl.constexpr, CAUSAL: tl.constexpr, SHIFT: tl.constexpr):
    """Along an axis: which tap of the queries at i what lies so many dilations away is."""
    if K == 1:
        return i - i
    else:
        p, n = position(i, length, dilation)
        return p + offset - first_of(p, n, K, CAUSAL, SHIFT)


@triton.jit
def _tap(z, y, x, o_z, o_y, o_x, size, WINDOW: tl.constexpr):
    """Which tap of the queries the keys at this offset are."""
    SHIFT: tl.constexpr = WINDOW.border == "shift"
    tap_z = _tap_at(z, size[0], size[3], o_z, WINDOW.kz, WINDOW.causal_z, SHIFT)
    tap_y = _tap_at(y, size[1], size[4], o_y, WINDOW.ky, WINDOW.causal_y, SHIFT)
    tap_x = _tap_at(x, size[2], size[5], o_x, WINDOW.kx, WINDOW.causal_x, SHIFT)
    return (tap_z * WINDOW.ky + tap_y) * WINDOW.kx + tap_x


@triton.jit
def _window_table_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, dy_ptr, lse_ptr, delta_ptr, ds_ptr, dbias_ptr,
    q_stride, k_stride, v_stride, dy_stride, row_stride, ds_stride, size, shares,
    WINDOW: tl.constexpr, ACC: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    BORDER: tl.constexpr = WINDOW.border
    images, share_count = shares
    entries: tl.constexpr = (2 * WINDOW.kz - 1) * (2 * WINDOW.ky - 1) * (2 * WINDOW.kx - 1)
    pid = tl.program_id(0).to(tl.int64) if WINDOW.int64 else tl.program_id(0)
    entry, head, share = pid % entries, pid // entries % size[6], pid // entries // size[6]
    o_x = entry % (2 * WINDOW.kx - 1) - (WINDOW.kx - 1)
    o_y = entry // (2 * WINDOW.kx - 1) % (2 * WINDOW.ky - 1) - (WINDOW.ky - 1)
    o_z = entry // (2 * WINDOW.kx - 1) // (2 * WINDOW.ky - 1) - (WINDOW.kz - 1)
    z0, count_z = _queries_at(o_z, size[0], size[3], WINDOW.kz, WINDOW.causal_z, BORDER)
    y0, count_y = _queries_at(o_y, size[1], size[4], WINDOW.ky, WINDOW.causal_y, BORDER)
    x0, count_x = _queries_at(o_x, size[2], size[5], WINDOW.kx, WINDOW.causal_x, BORDER)
    count = count_z * count_y * count_x
    tiles = tl.cdiv(count, BLOCK_P)
    bias = None if bias_ptr is None else tl.load(bias_ptr + head * entries + entry).to(ACC)
    total = tl.zeros([BLOCK_P], ACC)
    for tile in range(share, images * tiles, share_count):
        n = tile // tiles
        offs = tile % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
        exists = offs < count
        z, y, x = z0 + offs // count_x // count_y, y0 + offs // count_x % count_y, x0 + offs % count_x
        if ds_ptr is not None:
            base, at, a, b, c = rows_at(ds_ptr, ds_stride, n, head, z, y, x, size, WINDOW)
            at += _tap(z, y, x, o_z, o_y, o_x, size, WINDOW) * ds_stride[5]
            ds = load_shifted((base, at, a, b, c), 0, 0, 0, exists, WINDOW, ACC)
        else:
            j_z, j_y, j_x = z + o_z * size[3], y + o_y * size[4], x + o_x * size[5]
            inside = exists
            if WINDOW.border == "zero":
                inside = exists & (j_z >= 0) & (j_z < size[0]) & (j_y >= 0) & (j_y < size[1])
                inside = inside & (j_x >= 0) & (j_x < size[2])
            q_at = vectors_at(q_ptr, q_stride, n, head, z, y, x, size, WINDOW)
            dy_at = vectors_at(dy_ptr, dy_stride, n, head, z, y, x, size, WINDOW)
            k_at = vectors_at(k_ptr, k_stride, n, head // WINDOW.group, j_z, j_y, j_x, size, WINDOW)
            v_at = vectors_at(v_ptr, v_stride, n, head // WINDOW.group, j_z, j_y, j_x, size, WINDOW)
            q = load_shifted(q_at, 0, 0, 0, inside, WINDOW, ACC) * WINDOW.scale
            dy = load_shifted(dy_at, 0, 0, 0, inside, WINDOW, ACC)
            k = load_shifted(k_at, 0, 0, 0, inside, WINDOW, ACC)
            v = load_shifted(v_at, 0, 0, 0, inside, WINDOW, ACC)
            lse_at = rows_at(lse_ptr, row_stride, n, head, z, y, x, size, WINDOW)
            delta_at = rows_at(delta_ptr, row_stride, n, head, z, y, x, size, WINDOW)
            lse = load_shifted(lse_at, 0, 0, 0, exists, WINDOW, ACC)
            delta = load_shifted(delta_at, 0, 0, 0, exists, WINDOW, ACC)
            _, ds = p_and_ds(q, k, v, dy, lse, delta, bias, WINDOW)
        total += tl.where(exists, ds, 0.0)
    tl.store(dbias_ptr + (share.to(tl.int64) * size[6] + head) * entries + entry, tl.sum(total, 0))


def _plan(like: Tensor, heads: int, views: dict, rel_bias, lse, delta, ds, axes: Reach, scale: float) -> Plan:
    """Makes dbias (shares, heads * entries), partial sums; `like` has the vectors, or the scores, of the queries."""
    given = [t for t in views.values() if t is not None]
    group = 1 if ds is not None else heads // views["k"].shape[-2]
    constants = constants_of(axes, scale, group, given or (ds,), [] if lse is None else [lse[..., None]])
    model = gather_model(like if given else ds[..., :1], heads, loads=4, live=4)
    config = choose_for("window_table", model, like, axes, heads, constants, "" if given else "scores")
    size, _ = tiles(like, axes, heads, **config.blocks)
    N, columns = like.shape[0], heads * axes.entries
    share_count = max(1, min(N * size[-1], triton.cdiv(PROGRAMS, heads * axes.taps)))
    args = dict(
        **{f"{name}_ptr": t for name, t in views.items()},
        bias_ptr=rel_bias,
        lse_ptr=lse,
        delta_ptr=delta,
        ds_ptr=ds,
        dbias_ptr=partials(like, share_count, columns),
        **{f"{name}_stride": None if t is None else strides_of(t, constants.align) for name, t in views.items()},
        row_stride=row_strides_of(lse),
        ds_stride=None if ds is None else strides_of(ds),
        size=size,
        shares=(N, share_count),
        WINDOW=constants,
        ACC=accumulator(like),
    )
    pairs = keys_per_query(like, axes)
    scores = axes.taps if axes.border == "zero" else pairs
    traffic = {f"{name}_ptr": (pairs, 0) for name in ("q", "dy")}
    traffic |= {name: (pairs * group, 0) for name in ("k_ptr", "v_ptr")}
    traffic |= {"lse_ptr": (scores, 0), "delta_ptr": (scores, 0), "ds_ptr": (scores / axes.taps, 0)}
    traffic |= {"bias_ptr": (share_count, 0), "dbias_ptr": (0, 1)}
    return Plan(_window_table_kernel, args, config, share_count * columns, traffic, ("dbias",))


def plan_window_table(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor, lse: Tensor, delta: Tensor, axes: Reach, scale: float
) -> Plan:
    """lse and delta lie alike."""
    return _plan(q, q.shape[-2], dict(q=q, k=k, v=v, dy=dy), rel_bias, lse, delta, None, axes, scale)


def plan_window_table_of(ds: Tensor, axes: Reach) -> Plan:
    """Of the gradient ds (N, *S, heads, taps) of scores."""
    return _plan(ds, ds.shape[-2], dict.fromkeys("qkv") | {"dy": None}, None, None, None, ds, axes, 1.0)
