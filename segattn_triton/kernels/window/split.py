"""Attention over windows in two halves: scores, and sums weighted by them. Taps count a query's keys row by row.

dot           s_it = scale <a_i, b_j> + bias            a (N, Z, Y, X, heads, D), b (N, Z, Y, X, heads_kv, D)
sum           y_i = scale sum_t s_it b_j                s (N, Z, Y, X, heads, taps)
sum to keys   y_j = scale sum_i s_it b_i                over the queries i whose window contains j
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from .layout import Reach, choose_for, constants_of, gather_model, strides_of, tiles
from .shared import (
    bias_at,
    dot,
    entry_of,
    first_of,
    keys_of,
    load_shifted,
    locate,
    of_pixels,
    position,
    queries_of,
    rows_at,
    shifted,
    store_at,
    taps_along,
    vectors_at,
    within,
)
from .traffic import bias_loads, keys_per_query


@triton.jit
def _of_tap(s, stride, tap, WINDOW: tl.constexpr):
    """The scores for one tap of each query."""
    if WINDOW.int64:
        tap = tl.full([], tap, tl.int64)
    return s[0], s[1] + tap * stride[5], s[2], s[3], s[4]


@triton.jit
def _window_dot_kernel(
    a_ptr, b_ptr, bias_ptr, s_ptr, a_stride, b_stride, s_stride, size,
    EXCLUDE: tl.constexpr, WINDOW: tl.constexpr, ACC: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    n, head, z, y, x, mask = locate(size, BLOCK_P, WINDOW)
    of_z, of_y, of_x = keys_of(z, y, x, size, WINDOW)
    b = vectors_at(b_ptr, b_stride, n, head // WINDOW.group, of_z[0], of_y[0], of_x[0], size, WINDOW)
    at = vectors_at(a_ptr, a_stride, n, head, z, y, x, size, WINDOW)
    a = load_shifted(at, 0, 0, 0, mask, WINDOW, ACC) * WINDOW.scale
    s_at = rows_at(s_ptr, s_stride, n, head, z, y, x, size, WINDOW)
    for tap in range(0, WINDOW.kz * WINDOW.ky * WINDOW.kx):
        tz, ty, tx = tap // WINDOW.kx // WINDOW.ky, tap // WINDOW.kx % WINDOW.ky, tap % WINDOW.kx
        near = within(tx, of_x[1], of_x[2], within(ty, of_y[1], of_y[2], within(tz, of_z[1], of_z[2], mask)))
        s = tl.where(near, dot(a, load_shifted(b, tz, ty, tx, near, WINDOW, ACC), WINDOW), 0.0)
        if bias_ptr is not None:
            exists = mask if WINDOW.border == "zero" else near
            bias = bias_at(bias_ptr, head, of_z[3], of_y[3], of_x[3], WINDOW)
            s += tl.load(bias + entry_of(tz, ty, tx, WINDOW), exists, other=0.0).to(ACC)
        if EXCLUDE:
            s = tl.where(near, s, float("-inf"))
        store_at(_of_tap(s_at, s_stride, tap, WINDOW), s, mask, WINDOW)


@triton.jit
def _window_sum_kernel(
    s_ptr, b_ptr, y_ptr, s_stride, b_stride, y_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    n, head, z, y, x, mask = locate(size, BLOCK_P, WINDOW)
    of_z, of_y, of_x = keys_of(z, y, x, size, WINDOW)
    b = vectors_at(b_ptr, b_stride, n, head // WINDOW.group, of_z[0], of_y[0], of_x[0], size, WINDOW)
    s_at = rows_at(s_ptr, s_stride, n, head, z, y, x, size, WINDOW)
    total = tl.zeros(b[1].shape, ACC)
    from_z, to_z = taps_along(of_z[1], of_z[2], mask, WINDOW.kz, WINDOW.whole)
    from_y, to_y = taps_along(of_y[1], of_y[2], mask, WINDOW.ky, WINDOW.whole)
    from_x, to_x = taps_along(of_x[1], of_x[2], mask, WINDOW.kx, WINDOW.whole)
    for tz in range(from_z, to_z):
        near_z = within(tz, of_z[1], of_z[2], mask)
        for ty in range(from_y, to_y):
            near_y = within(ty, of_y[1], of_y[2], near_z)
            for tx in range(from_x, to_x):
                near = within(tx, of_x[1], of_x[2], near_y)
                at = _of_tap(s_at, s_stride, (tz * WINDOW.ky + ty) * WINDOW.kx + tx, WINDOW)
                s = load_shifted(at, 0, 0, 0, near, WINDOW, ACC)
                total += of_pixels(s, WINDOW) * load_shifted(b, tz, ty, tx, near, WINDOW, ACC)
    store_at(vectors_at(y_ptr, y_stride, n, head, z, y, x, size, WINDOW), total * WINDOW.scale, mask, WINDOW)


@triton.jit
def _tap_along(j, i, length, dilation, K: tl.constexpr, CAUSAL: tl.constexpr, SHIFT: tl.constexpr):
    """Along an axis: which tap of the query at i the key at j is."""
    if K == 1:
        return i - i
    else:
        p, n = position(i, length, dilation)
        return j // dilation - first_of(p, n, K, CAUSAL, SHIFT)


@triton.jit
def _window_sum_to_keys_kernel(
    s_ptr, b_ptr, y_ptr, s_stride, b_stride, y_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    SHIFT: tl.constexpr = WINDOW.border == "shift"
    n, head_kv, z, y, x, mask = locate(size, BLOCK_P, WINDOW)
    of_z, of_y, of_x = queries_of(z, y, x, size, WINDOW)
    i_z, i_y, i_x = of_z[0], of_y[0], of_x[0]
    at = vectors_at(y_ptr, y_stride, n, head_kv, z, y, x, size, WINDOW)
    total = tl.zeros(at[1].shape, ACC)
    for member in range(0, WINDOW.group):
        head = head_kv * WINDOW.group + member
        s_at = rows_at(s_ptr, s_stride, n, head, i_z, i_y, i_x, size, WINDOW)
        b = vectors_at(b_ptr, b_stride, n, head, i_z, i_y, i_x, size, WINDOW)
        for iz in range(0, tl.max(tl.where(mask, of_z[1], 0), 0)):
            near_z = mask & (iz < of_z[1])
            tap_z = _tap_along(z, i_z + iz * size[3], size[0], size[3], WINDOW.kz, WINDOW.causal_z, SHIFT)
            for iy in range(0, tl.max(tl.where(mask, of_y[1], 0), 0)):
                near_y = near_z & (iy < of_y[1])
                tap_y = _tap_along(y, i_y + iy * size[4], size[1], size[4], WINDOW.ky, WINDOW.causal_y, SHIFT)
                for ix in range(0, tl.max(tl.where(mask, of_x[1], 0), 0)):
                    near = near_y & (ix < of_x[1])
                    tap_x = _tap_along(x, i_x + ix * size[5], size[2], size[5], WINDOW.kx, WINDOW.causal_x, SHIFT)
                    tap = (tap_z * WINDOW.ky + tap_y) * WINDOW.kx + tap_x
                    s_ptrs = shifted(s_at, iz, iy, ix) + (tap.to(tl.int64) if WINDOW.int64 else tap) * s_stride[5]
                    s = tl.load(s_ptrs, near, other=0.0).to(ACC)
                    total += of_pixels(s, WINDOW) * load_shifted(b, iz, iy, ix, near, WINDOW, ACC)
    store_at(at, total * WINDOW.scale, mask, WINDOW)


def plan_window_dot(
    a: Tensor, b: Tensor, rel_bias: Tensor | None, s: Tensor, axes: Reach, scale: float, exclude: bool
) -> Plan:
    """exclude: keys that do not exist score -inf, not 0."""
    heads = a.shape[-2]
    constants = constants_of(axes, scale, heads // b.shape[-2], (a, b), (s,))
    config = choose_for("window_dot", gather_model(a, heads, loads=2, live=3), a, axes, heads, constants)
    size, grid = tiles(a, axes, heads, **config.blocks)
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
        ACC=accumulator(a),
    )
    pairs = keys_per_query(a, axes)
    traffic = dict(a_ptr=(1, 0), b_ptr=(pairs * constants.group, 0), s_ptr=(0, 1))
    traffic["bias_ptr"] = (bias_loads(a, axes, axes.taps if axes.border == "zero" else pairs), 0)
    return Plan(_window_dot_kernel, args, config, grid, traffic)


def plan_window_sum(s: Tensor, b: Tensor, y: Tensor, axes: Reach, scale: float, to_keys: bool = False) -> Plan:
    heads, heads_kv = s.shape[-2], (y if to_keys else b).shape[-2]
    programs = heads_kv if to_keys else heads
    constants = constants_of(axes, scale, heads // heads_kv, (b, y), (s,))
    what = "keys" if to_keys else "queries"
    config = choose_for("window_sum", gather_model(b, programs, loads=2, live=3), b, axes, programs, constants, what)
    size, grid = tiles(s, axes, programs, **config.blocks)
    args = dict(
        s_ptr=s,
        b_ptr=b,
        y_ptr=y,
        s_stride=strides_of(s),
        b_stride=strides_of(b, constants.align),
        y_stride=strides_of(y, constants.align),
        size=size,
        WINDOW=constants,
        ACC=accumulator(s),
    )
    pairs = keys_per_query(s, axes)
    vectors = pairs if to_keys else pairs * constants.group
    traffic = dict(s_ptr=(pairs / axes.taps, 0), b_ptr=(vectors, 0), y_ptr=(0, 1))
    return Plan(_window_sum_to_keys_kernel if to_keys else _window_sum_kernel, args, config, grid, traffic)
