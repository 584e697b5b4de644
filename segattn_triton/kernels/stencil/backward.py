"""The gate of a stencil in one channel, backward. See `stencil` for z and the shapes.

    dz = (dy x + dmap) gate'(z),    dx = dy gate(z) + sum over the windows that hold x of dz dz/dx
    dweight_c,ij = sum_nhw dz(h, w) x(h+i-K//2, w+j-K//2),    dbias_c = sum_nhw dz

3 passes over the map: read x and dy, write dx; z and dz are recomputed. The row that is loaded completes z of one
above it, and that one dx of another above: with a window of 3 x 3 the next in each case, of K x K the K // 2-nd.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import maps, partials
from ...runtime.plan import Plan
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import load_tile, load_vector, only_when, store_tile
from .choice import geometry_of, stencil_config
from .shared import common_args, own_columns, place
from .window import (
    HELD,
    accumulate,
    around,
    inverse_count,
    load_taps,
    load_taps_again,
    push,
    roll,
    route,
    settle,
    several,
)


@triton.jit
def _to_each(dz, z, tag, share, valid, STENCIL: tl.constexpr):
    """What each of the neighbours, or each of the maxima, gets of dz; 0 where the pixel is not `valid`."""
    if STENCIL == "avg":
        dz *= share
    if STENCIL == "split":
        dz = tl.where(z == z, dz / tag.to(dz.dtype), float("nan"))
    return tl.where(valid, dz, 0.0)


@triton.jit
def _routed(dx, rows, dzs, zs, tags, w, STENCIL: tl.constexpr):
    """dx of the K rows of a window but the first, with what the windows around the middle one give to them. The last is
    a row more than `dx` has."""
    others = ()
    for i in tl.static_range(1, len(dx)):
        others += (route(dx[i], dzs, zs, tags, rows[i], w, i, STENCIL),)
    last: tl.constexpr = len(dx)
    return others + (route(tl.zeros_like(dx[0]), dzs, zs, tags, rows[last], w, last, STENCIL),)


@triton.jit
def _added(rows, value, I: tl.constexpr):
    """The rows, with `value` added to row I."""
    sums = ()
    for i in tl.static_range(len(rows)):
        if i == I:
            sums += (rows[i] + value,)
        else:
            sums += (rows[i],)
    return sums


@triton.jit
def _masked(rows, mask):
    kept = ()
    for i in tl.static_range(len(rows)):
        kept += (tl.where(mask, rows[i], 0.0),)
    return kept


@triton.jit
def _store_sums(dweight_ptr, dbias_ptr, dw, db, row, offs_c, C: tl.constexpr):
    """The sums over the tile of this program, into its row of the partials."""
    if dweight_ptr is not None:
        for k in tl.static_range(len(dw)):
            tl.store(dweight_ptr + row + offs_c * len(dw) + k, tl.sum(dw[k], 1), offs_c < C)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + row + offs_c, tl.sum(db, 1), offs_c < C)


@triton.jit
def _stencil_bwd_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    dx_ptr,
    dweight_ptr,
    dbias_ptr,
    strides,
    row_stride,
    sizes,
    C: tl.constexpr,
    STENCIL: tl.constexpr,
    WINDOW: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    W_ALIGN: tl.constexpr,
    VEC: tl.constexpr,
    HALO: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_H: tl.constexpr,
    STAGES: tl.constexpr,
):
    begin(DEPENDENT)
    dy_stride, dmap_stride, x_stride, dx_stride = strides
    H, W = sizes[0], sizes[1] * W_ALIGN
    K: tl.constexpr = WINDOW.size
    R: tl.constexpr = K // 2
    APART: tl.constexpr = WINDOW.dilation // WINDOW.step
    pitch = WINDOW.dilation * W
    n, h0, w0, offs_c, first, H, W = place(H, W, C, WINDOW, HALO, BLOCK_C, BLOCK_W, BLOCK_H)
    offs_w = w0 + tl.arange(0, BLOCK_W)
    h1 = tl.minimum(h0 + BLOCK_H, H)
    mask_c = (offs_c < C)[:, None]
    mask_w = ((offs_w >= 0) & (offs_w < W))[None, :]
    own_w = own_columns(HALO, BLOCK_W)
    w = load_taps(weight_ptr, offs_c, C, K, ACC) if STENCIL == "dot" and 2 * K * K <= HELD else None
    b = load_vector(bias_ptr, offs_c, C, ACC)[:, None] if bias_ptr is not None else 0.0
    tagged: tl.constexpr = STENCIL == "first" or STENCIL == "split"
    outside: tl.constexpr = float("-inf") if tagged else 0.0
    zero = tl.zeros([BLOCK_C, BLOCK_W], ACC)
    no_tag = tl.zeros([BLOCK_C, BLOCK_W], tl.int32)
    window = (zero, no_tag, zero) if tagged else several(zero, K - 1)
    rows, dx = several(zero, K - 1), several(zero, K - 1)  # the last rows of x, and of dx as far as they have come
    least = tl.maximum(h0 - R, 0)  # before it nothing of dy is wanted: the window only fills
    db = tl.zeros([BLOCK_C, BLOCK_W // VEC], ACC)
    dw = several(db, K * K)
    for row in tl.range(h0 - 2 * R, h1 + 2 * R, num_stages=STAGES):
        offs_p = row * pitch + (first + offs_w * WINDOW.step)
        mask = only_when((row >= 0) & (row < H), mask_c & mask_w)
        x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_W]
        if tagged:
            x = tl.where(only_when((row >= 0) & (row < H), mask_w), x, outside)
        if LAYOUT.channels_last and K > 3:
            x = settle(x, VEC)  # or every row that waits for its window would change its layout, in every round
        taps = w if 2 * K * K <= HELD else load_taps_again(weight_ptr, offs_c, C, K)
        z, tag, window = roll(around(x, outside, K, APART, VEC), row, offs_w, taps, b, window, STENCIL)
        # from here on the row R above; dy is loaded after the shifts, or the compiler changes layouts around them
        mask = only_when((row - R >= least) & (row - R < H), mask_c & mask_w)
        dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p - R * pitch, mask, LAYOUT, ACC)
        if (W_ALIGN == 1 and not LAYOUT.channels_last) or (LAYOUT.channels_last and K > 3):
            dy = settle(dy, VEC)  # narrow loads have a layout of their own, which the arithmetic would take on
        share = inverse_count(row - 1, offs_w, H, W, ACC) if STENCIL == "avg" else None
        if STENCIL == "avg":
            z *= share
        ds = dy * rows[R]
        if dmap_ptr is not None:
            ds += load_tile(dmap_ptr, dmap_stride, n, offs_c, offs_p - R * pitch, mask, LAYOUT, ACC)
        dz = GATE.df(ds, z, GATE.a, GATE.b)
        dx = _added(dx, dy * GATE.f(z, GATE.a, GATE.b), R)
        dz = _to_each(dz, z, tag, share, only_when((row >= R) & (row - R < H), mask_w), STENCIL)
        dzs = around(dz, 0.0, K, APART, VEC)
        near = rows + (x,)  # the K rows of the window
        if dx_ptr is not None:
            zs = around(z, float("nan"), 3, 1, VEC) if STENCIL == "split" else None
            tags = around(tag, 0, 3, 1, VEC) if STENCIL == "first" else None
            complete = route(dx[0], dzs, zs, tags, near[0], taps, 0, STENCIL)
            mask = only_when(row - 2 * R >= h0, mask_c & mask_w & own_w)
            store_tile(dx_ptr, dx_stride, n, offs_c, offs_p - 2 * R * pitch, complete, mask, LAYOUT)
            # again, behind the store: registers do not hold them in between
            taps = w if 2 * K * K <= HELD else load_taps_again(weight_ptr, offs_c, C, K)
            dx = _routed(dx, near, dzs, zs, tags, taps, STENCIL)
        own = (row - R >= h0) & (row - R < h1)
        dzs = _masked(dzs, only_when(own, own_w))
        if dbias_ptr is not None:
            db += tl.sum(tl.reshape(dzs[R], [BLOCK_C, BLOCK_W // VEC, VEC]), 2)
        if dweight_ptr is not None:
            dw = accumulate(dw, near, dzs, VEC)
        rows = push(rows, x, mask_c & mask_w, outside)
    tile = tl.program_id(0) // tl.cdiv(C, BLOCK_C)
    _store_sums(dweight_ptr, dbias_ptr, dw, db, tile.to(tl.int64) * row_stride, offs_c, C)


def plan_stencil_bwd(
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dx: Tensor | None,
    *,
    with_dweight: bool,
    with_dbias: bool,
    stencil: str,
    gate: Activation,
    dilation: int = 1,
) -> tuple[Plan, Tensor]:
    """The plan, and the partial sums that it fills: (tiles, K K C and C more), columns only for what is wanted."""
    m = maps(dx=dx, x=x, dy=dy, dmap=dmap)
    geometry = geometry_of(x, m, stencil, weight, dilation, backward=True)
    config = stencil_config(x, m, geometry)
    blocks_c, tiles_w, strips = geometry.tiles(config)
    tiles, head = m.N * tiles_w * strips, geometry.taps * m.C * with_dweight
    partial = partials(x, tiles, head + m.C * with_dbias)
    args = dict(
        dy_ptr=dy,
        dmap_ptr=dmap,
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        dx_ptr=dx,
        dweight_ptr=partial[:, :head] if with_dweight else None,
        dbias_ptr=partial[:, head:] if with_dbias else None,
        strides=m.strides_of("dy", "dmap", "x", "dx"),
        row_stride=partial.stride(0),
        **common_args(x, m, geometry, config, gate),
    )
    columns = geometry.columns(config)
    once = geometry.rows(config, 1) * columns
    taps = tiles * geometry.times_of_weights(config, 2 if dx is not None else 1)
    traffic = dict(
        dy_ptr=(once, 0),
        dmap_ptr=(once, 0),
        x_ptr=(geometry.rows(config, 2) * columns, 0),
        weight_ptr=(taps, 0),
        bias_ptr=(tiles, 0),
        dx_ptr=(0, 1),
        dweight_ptr=(0, 1),
        dbias_ptr=(0, 1),
    )
    return Plan(_stencil_bwd_kernel, args, config, tiles * blocks_c, traffic), partial
