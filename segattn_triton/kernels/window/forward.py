"""Attention over windows, forward: y_i = sum_j p_ij v_j, p_i = softmax_j(s_ij), s_ij = scale <q_i, k_j> + bias.

q, y (N, Z, Y, X, heads, D); k, v (N, Z, Y, X, heads_kv, D); lse_i = log sum_j exp(s_ij), (N, Z, Y, X, heads). One pass
over q, k, v and y: one key after another of a tile's queries, a running softmax; what keys share comes from cache. With
the border "zero" and no bias, the keys outside are counted, not visited: each adds exp(0).
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ..common.tile import LN2, LOG2E
from .layout import Reach, choose_for, constants_of, gather_model, row_strides_of, strides_of, tiles
from .shared import (
    bias_at,
    dot,
    entry_of,
    keys_of,
    load_shifted,
    locate,
    of_pixels,
    rows_at,
    store_at,
    taps_along,
    vectors_at,
    within,
)
from .traffic import bias_loads, keys_per_query


@triton.jit
def _higher(peak, total, acc, s, weight, WINDOW: tl.constexpr):
    """The running softmax where a score s, or `weight` of them, comes: what it was fades."""
    higher = tl.maximum(peak, s)
    base = tl.where(higher == float("-inf"), 0.0, higher)
    fade = tl.exp2((peak - base) * LOG2E)
    p = weight * tl.exp2((s - base) * LOG2E)
    return higher, total * fade + p, acc * of_pixels(fade, WINDOW), p


@triton.jit
def _attend(q, k, v, bias, of_z, of_y, of_x, mask, WINDOW: tl.constexpr, ACC: tl.constexpr):
    """peak, total [BLOCK_P] and acc, vectors, of the softmax of the queries over all their keys."""
    VISIT: tl.constexpr = WINDOW.whole or (WINDOW.border == "zero" and bias is not None)
    peak = tl.full(mask.shape, float("-inf"), ACC)
    total = tl.zeros(mask.shape, ACC)
    acc = tl.zeros(q.shape, ACC)
    from_z, to_z = taps_along(of_z[1], of_z[2], mask, WINDOW.kz, VISIT)
    from_y, to_y = taps_along(of_y[1], of_y[2], mask, WINDOW.ky, VISIT)
    from_x, to_x = taps_along(of_x[1], of_x[2], mask, WINDOW.kx, VISIT)
    for tz in range(from_z, to_z):
        near_z = within(tz, of_z[1], of_z[2], mask)
        for ty in range(from_y, to_y):
            near_y = within(ty, of_y[1], of_y[2], near_z)
            for tx in range(from_x, to_x):
                near = mask if WINDOW.whole else within(tx, of_x[1], of_x[2], near_y)
                k_j = load_shifted(k, tz, ty, tx, near, WINDOW, ACC)
                v_j = load_shifted(v, tz, ty, tx, near, WINDOW, ACC)
                s = dot(q, k_j, WINDOW)
                exists = near
                if WINDOW.border == "zero" and bias is not None:
                    s = tl.where(near, s, 0.0)
                    exists = mask
                if bias is not None:
                    s += tl.load(bias + entry_of(tz, ty, tx, WINDOW), exists, other=0.0).to(ACC)
                if not WINDOW.whole:
                    s = tl.where(exists, s, float("-inf"))
                peak, total, acc, p = _higher(peak, total, acc, s, 1.0, WINDOW)
                acc += of_pixels(p, WINDOW) * v_j
    if WINDOW.border == "zero" and bias is None:
        inside = (of_z[2] - of_z[1]) * (of_y[2] - of_y[1]) * (of_x[2] - of_x[1])
        outside = (WINDOW.kz * WINDOW.ky * WINDOW.kx - inside).to(ACC)
        none = tl.where(outside > 0, 0.0, float("-inf")).to(ACC)
        peak, total, acc, p = _higher(peak, total, acc, none, outside, WINDOW)
    return peak, total, acc


@triton.jit
def _window_fwd_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, y_ptr, lse_ptr, q_stride, k_stride, v_stride, y_stride, lse_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    n, head, z, y, x, mask = locate(size, BLOCK_P, WINDOW)
    of_z, of_y, of_x = keys_of(z, y, x, size, WINDOW)
    head_kv = head // WINDOW.group
    k = vectors_at(k_ptr, k_stride, n, head_kv, of_z[0], of_y[0], of_x[0], size, WINDOW)
    v = vectors_at(v_ptr, v_stride, n, head_kv, of_z[0], of_y[0], of_x[0], size, WINDOW)
    at = vectors_at(q_ptr, q_stride, n, head, z, y, x, size, WINDOW)
    q = load_shifted(at, 0, 0, 0, mask, WINDOW, ACC) * WINDOW.scale
    bias = None
    if bias_ptr is not None:
        bias = bias_at(bias_ptr, head, of_z[3], of_y[3], of_x[3], WINDOW)
    peak, total, acc = _attend(q, k, v, bias, of_z, of_y, of_x, mask, WINDOW, ACC)
    store_at(vectors_at(y_ptr, y_stride, n, head, z, y, x, size, WINDOW), acc / of_pixels(total, WINDOW), mask, WINDOW)
    if lse_ptr is not None:
        lse = peak + tl.log2(total) * LN2
        store_at(rows_at(lse_ptr, lse_stride, n, head, z, y, x, size, WINDOW), lse, mask, WINDOW)


def plan_window_fwd(
    q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor | None, y: Tensor, lse: Tensor | None, axes: Reach, scale: float
) -> Plan:
    heads = q.shape[-2]
    constants = constants_of(axes, scale, heads // k.shape[-2], (q, k, v, y), [] if lse is None else [lse[..., None]])
    config = choose_for("window_fwd", gather_model(q, heads, loads=4, live=3.5), q, axes, heads, constants)
    size, grid = tiles(q, axes, heads, **config.blocks)
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
    pairs = keys_per_query(q, axes)
    key = (pairs * constants.group, 0)
    traffic = dict(q_ptr=(1, 0), k_ptr=key, v_ptr=key, y_ptr=(0, 1), lse_ptr=(0, 1))
    traffic["bias_ptr"] = (bias_loads(q, axes, axes.taps if axes.border == "zero" else pairs), 0)
    return Plan(_window_fwd_kernel, args, config, grid, traffic)
