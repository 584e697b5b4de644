"""Attention over windows, backward, without atomics. With p_ij = exp(s_ij - lse_i) rebuilt:

    delta_i = <y_i, dy_i> - dlse_i                    the pre-pass, in `delta`
    ds_ij = p_ij (<dy_i, v_j> - delta_i)
    dq_i = scale sum_j ds_ij k_j                      over the keys of query i
    dk_j = scale sum_i ds_ij q_i,  dv_j = sum_i p_ij dy_i          over the queries whose window contains j

Two kernels, each of which gathers: one goes from the queries of a tile to their keys, one from the keys to the queries.
Every sum runs in one fixed order, so results repeat bit for bit. The gradient of the relative bias is in `table`.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ..common.tile import LOG2E
from .layout import Reach, choose_for, constants_of, gather_model, row_strides_of, strides_of, tiles
from .shared import (
    bias_at,
    dot,
    entry_of,
    keys_of,
    load_shifted,
    locate,
    of_pixels,
    queries_of,
    rows_at,
    store_at,
    taps_along,
    vectors_at,
    within,
)
from .traffic import bias_loads, keys_per_query


@triton.jit
def p_and_ds(q, k, v, dy, lse, delta, bias, WINDOW: tl.constexpr):
    """p and ds [BLOCK_P] of pairs; q comes times scale. s - lse before the change of base: where p counts the
    difference is small, and keeps the digits that the product of each with log2(e) would round."""
    s = dot(q, k, WINDOW)
    if bias is not None:
        s += bias
    p = tl.exp2((s - lse) * LOG2E)
    return p, p * (dot(dy, v, WINDOW) - delta)


@triton.jit
def _window_dq_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, dy_ptr, lse_ptr, delta_ptr, dq_ptr,
    q_stride, k_stride, v_stride, dy_stride, row_stride, dq_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    n, head, z, y, x, mask = locate(size, BLOCK_P, WINDOW)
    of_z, of_y, of_x = keys_of(z, y, x, size, WINDOW)
    head_kv = head // WINDOW.group
    k = vectors_at(k_ptr, k_stride, n, head_kv, of_z[0], of_y[0], of_x[0], size, WINDOW)
    v = vectors_at(v_ptr, v_stride, n, head_kv, of_z[0], of_y[0], of_x[0], size, WINDOW)
    at = vectors_at(q_ptr, q_stride, n, head, z, y, x, size, WINDOW)
    q = load_shifted(at, 0, 0, 0, mask, WINDOW, ACC) * WINDOW.scale
    dy = load_shifted(vectors_at(dy_ptr, dy_stride, n, head, z, y, x, size, WINDOW), 0, 0, 0, mask, WINDOW, ACC)
    lse = load_shifted(rows_at(lse_ptr, row_stride, n, head, z, y, x, size, WINDOW), 0, 0, 0, mask, WINDOW, ACC)
    delta = load_shifted(rows_at(delta_ptr, row_stride, n, head, z, y, x, size, WINDOW), 0, 0, 0, mask, WINDOW, ACC)
    bias = None
    if bias_ptr is not None:
        bias = bias_at(bias_ptr, head, of_z[3], of_y[3], of_x[3], WINDOW)
    dq = tl.zeros(q.shape, ACC)
    from_z, to_z = taps_along(of_z[1], of_z[2], mask, WINDOW.kz, WINDOW.whole)
    from_y, to_y = taps_along(of_y[1], of_y[2], mask, WINDOW.ky, WINDOW.whole)
    from_x, to_x = taps_along(of_x[1], of_x[2], mask, WINDOW.kx, WINDOW.whole)
    for tz in range(from_z, to_z):
        near_z = within(tz, of_z[1], of_z[2], mask)
        for ty in range(from_y, to_y):
            near_y = within(ty, of_y[1], of_y[2], near_z)
            for tx in range(from_x, to_x):
                near = mask if WINDOW.whole else within(tx, of_x[1], of_x[2], near_y)
                k_j = load_shifted(k, tz, ty, tx, near, WINDOW, ACC)
                v_j = load_shifted(v, tz, ty, tx, near, WINDOW, ACC)
                b = None
                if bias is not None:
                    b = tl.load(bias + entry_of(tz, ty, tx, WINDOW), near, other=0.0).to(ACC)
                _, ds = p_and_ds(q, k_j, v_j, dy, lse, delta, b, WINDOW)
                if not WINDOW.whole:
                    ds = tl.where(near, ds, 0.0)
                dq += of_pixels(ds, WINDOW) * k_j
    store_at(vectors_at(dq_ptr, dq_stride, n, head, z, y, x, size, WINDOW), dq * WINDOW.scale, mask, WINDOW)


@triton.jit
def _to_keys(k, v, dk, dv, q, dy, lse, delta, bias, of_z, of_y, of_x, mask, WINDOW: tl.constexpr, ACC: tl.constexpr):
    """Add to dk and dv, vectors, of the keys what the queries of one head give."""
    for iz in range(0, tl.max(tl.where(mask, of_z[1], 0), 0)):
        near_z = mask & (iz < of_z[1])
        for iy in range(0, tl.max(tl.where(mask, of_y[1], 0), 0)):
            near_y = near_z & (iy < of_y[1])
            for ix in range(0, tl.max(tl.where(mask, of_x[1], 0), 0)):
                near = near_y & (ix < of_x[1])
                q_i = load_shifted(q, iz, iy, ix, near, WINDOW, ACC) * WINDOW.scale
                dy_i = load_shifted(dy, iz, iy, ix, near, WINDOW, ACC)
                lse_i = load_shifted(lse, iz, iy, ix, near, WINDOW, ACC)
                delta_i = load_shifted(delta, iz, iy, ix, near, WINDOW, ACC)
                b = None
                if bias is not None:
                    b = tl.load(bias - entry_of(iz, iy, ix, WINDOW), near, other=0.0).to(ACC)
                p, ds = p_and_ds(q_i, k, v, dy_i, lse_i, delta_i, b, WINDOW)
                dk += of_pixels(tl.where(near, ds, 0.0), WINDOW) * q_i
                dv += of_pixels(tl.where(near, p, 0.0), WINDOW) * dy_i
    return dk, dv


@triton.jit
def _window_dkv_kernel(
    q_ptr, k_ptr, v_ptr, bias_ptr, dy_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    q_stride, k_stride, v_stride, dy_stride, row_stride, dk_stride, dv_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    n, head_kv, z, y, x, mask = locate(size, BLOCK_P, WINDOW)
    of_z, of_y, of_x = queries_of(z, y, x, size, WINDOW)
    i_z, i_y, i_x = of_z[0], of_y[0], of_x[0]
    k = load_shifted(vectors_at(k_ptr, k_stride, n, head_kv, z, y, x, size, WINDOW), 0, 0, 0, mask, WINDOW, ACC)
    v = load_shifted(vectors_at(v_ptr, v_stride, n, head_kv, z, y, x, size, WINDOW), 0, 0, 0, mask, WINDOW, ACC)
    dk = tl.zeros(k.shape, ACC)
    dv = tl.zeros(v.shape, ACC)
    for member in range(0, WINDOW.group):
        head = head_kv * WINDOW.group + member
        q = vectors_at(q_ptr, q_stride, n, head, i_z, i_y, i_x, size, WINDOW)
        dy = vectors_at(dy_ptr, dy_stride, n, head, i_z, i_y, i_x, size, WINDOW)
        lse = rows_at(lse_ptr, row_stride, n, head, i_z, i_y, i_x, size, WINDOW)
        delta = rows_at(delta_ptr, row_stride, n, head, i_z, i_y, i_x, size, WINDOW)
        bias = None
        if bias_ptr is not None:
            bias = bias_at(bias_ptr, head, of_z[2], of_y[2], of_x[2], WINDOW)
        dk, dv = _to_keys(k, v, dk, dv, q, dy, lse, delta, bias, of_z, of_y, of_x, mask, WINDOW, ACC)
    if dk_ptr is not None:
        store_at(vectors_at(dk_ptr, dk_stride, n, head_kv, z, y, x, size, WINDOW), dk, mask, WINDOW)
    if dv_ptr is not None:
        store_at(vectors_at(dv_ptr, dv_stride, n, head_kv, z, y, x, size, WINDOW), dv, mask, WINDOW)


def _arguments(kernel: str, heads: int, live: float, views: dict, rel_bias, lse, delta, axes: Reach, scale: float):
    """The config, grid and arguments of a kernel whose programs take tiles of so many heads."""
    q, k = views["q"], views["k"]
    given = [t for t in views.values() if t is not None]
    constants = constants_of(axes, scale, q.shape[-2] // k.shape[-2], given, (lse[..., None],))
    wanted = "+".join(name for name in ("dq", "dk", "dv") if views.get(name) is not None)
    config = choose_for(kernel, gather_model(q, heads, loads=4, live=live), q, axes, heads, constants, wanted)
    size, grid = tiles(q, axes, heads, **config.blocks)
    args = dict(
        **{f"{name}_ptr": t for name, t in views.items()},
        bias_ptr=rel_bias,
        lse_ptr=lse,
        delta_ptr=delta,
        **{f"{name}_stride": None if t is None else strides_of(t, constants.align) for name, t in views.items()},
        row_stride=row_strides_of(lse),
        size=size,
        WINDOW=constants,
        ACC=accumulator(q),
    )
    return args, config, grid


def plan_window_dq(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor | None, lse: Tensor, delta: Tensor, dq: Tensor,
    axes: Reach, scale: float,
) -> Plan:  # fmt: skip
    """lse and delta lie alike."""
    views = dict(q=q, k=k, v=v, dy=dy, dq=dq)
    args, config, grid = _arguments("window_dq", q.shape[-2], 4.5, views, rel_bias, lse, delta, axes, scale)
    pairs = keys_per_query(q, axes)
    traffic = {name: (1, 0) for name in ("q_ptr", "dy_ptr", "lse_ptr", "delta_ptr")}
    traffic |= {name: (pairs * args["WINDOW"].group, 0) for name in ("k_ptr", "v_ptr")}
    traffic |= {"bias_ptr": (bias_loads(q, axes, pairs), 0), "dq_ptr": (0, 1)}
    return Plan(_window_dq_kernel, args, config, grid, traffic)


def plan_window_dkv(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, rel_bias: Tensor | None, lse: Tensor, delta: Tensor,
    dk: Tensor | None, dv: Tensor | None, axes: Reach, scale: float,
) -> Plan:  # fmt: skip
    """lse and delta lie alike."""
    views = dict(q=q, k=k, v=v, dy=dy, dk=dk, dv=dv)
    args, config, grid = _arguments("window_dkv", k.shape[-2], 5.5, views, rel_bias, lse, delta, axes, scale)
    pairs = keys_per_query(q, axes)
    traffic = {name: (pairs, 0) for name in ("q_ptr", "dy_ptr", "lse_ptr", "delta_ptr")}
    traffic |= {"k_ptr": (1, 0), "v_ptr": (1, 0), "bias_ptr": (bias_loads(q, axes, pairs), 0)}
    traffic |= {"dk_ptr": (0, 1), "dv_ptr": (0, 1)}
    return Plan(_window_dkv_kernel, args, config, grid, traffic)
