"""The gate of a 3x3 stencil in one channel, backward. See `stencil` for z and the shapes.

    dz = (dy x + dmap) gate'(z),    dx = dy gate(z) + sum over the windows that hold x of dz dz/dx
    dweight_c,ij = sum_nhw dz(h, w) x(h+i-1, w+j-1),    dbias_c = sum_nhw dz

3 passes over the map: read x and dy, write dx; z and dz are recomputed. The row that is loaded completes z of the one
above it, and that one dx of the next above.
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
from .window import accumulate, around, inverse_count, load_taps, roll, route, settle, shift


@triton.jit
def _to_each(dz, z, tag, share, valid, STENCIL: tl.constexpr):
    """What each of the neighbours, or each of the maxima, gets of dz; 0 where the pixel is not `valid`."""
    if STENCIL == "avg":
        dz *= share
    if STENCIL == "split":
        dz = tl.where(z == z, dz / tag.to(dz.dtype), float("nan"))
    return tl.where(valid, dz, 0.0)


@triton.jit
def _route_rows(dx0, dx1, x0, x1, x2, dzs, z, tag, w, STENCIL: tl.constexpr, VEC: tl.constexpr):
    """dx of the rows x0, x1 and x2 with what the windows around the row x1 give to them: the first is complete."""
    zs = around(z, float("nan"), VEC) if STENCIL == "split" else None
    tags = around(tag, 0, VEC) if STENCIL == "first" else None
    dx = route(dx0, dzs, zs, tags, x0, w, 0, STENCIL)
    dx0 = route(dx1, dzs, zs, tags, x1, w, 1, STENCIL)
    return dx, dx0, route(tl.zeros_like(dx0), dzs, zs, tags, x2, w, 2, STENCIL)


@triton.jit
def _store_sums(dweight_ptr, dbias_ptr, dw, db, row, offs_c, C: tl.constexpr):
    """The sums over the tile of this program, into its row of the partials."""
    if dweight_ptr is not None:
        for k in tl.static_range(9):
            tl.store(dweight_ptr + row + offs_c * 9 + k, tl.sum(dw[k], 1), offs_c < C)
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
    n, h0, w0, offs_c = place(H, W, C, HALO, BLOCK_C, BLOCK_W, BLOCK_H)
    offs_w = w0 + tl.arange(0, BLOCK_W)
    h1 = tl.minimum(h0 + BLOCK_H, H)
    mask_c = (offs_c < C)[:, None]
    mask_w = ((offs_w >= 0) & (offs_w < W))[None, :]
    own_w = own_columns(HALO, BLOCK_W)
    w = load_taps(weight_ptr, offs_c, C, ACC) if STENCIL == "dot" else None
    b = load_vector(bias_ptr, offs_c, C, ACC)[:, None] if bias_ptr is not None else 0.0
    tagged: tl.constexpr = STENCIL == "first" or STENCIL == "split"
    zero = tl.zeros([BLOCK_C, BLOCK_W], ACC)
    no_tag = tl.zeros([BLOCK_C, BLOCK_W], tl.int32)
    window = (zero, no_tag, zero) if tagged else (zero, zero)
    x0, x1 = zero, zero  # the last two rows of x, and of dx as far as they have come
    dx0, dx1 = zero, zero
    first = tl.maximum(h0, 1)  # before it nothing of dy is wanted: the window only fills
    db = tl.zeros([BLOCK_C, BLOCK_W // VEC], ACC)
    dw = (db, db, db, db, db, db, db, db, db)
    for row in tl.range(h0 - 2, h1 + 2, num_stages=STAGES):
        offs_p = row * W + offs_w
        mask = only_when((row >= 0) & (row < H), mask_c & mask_w)
        x2 = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_W]
        if tagged:
            x2 = tl.where(only_when((row >= 0) & (row < H), mask_w), x2, float("-inf"))
        left, right = shift(x2, x2, float("-inf") if tagged else 0.0, VEC)
        z, tag, window = roll(left, x2, right, row, offs_w, w, b, window, STENCIL)
        # from here on the row above; dy is loaded after the shifts, or the compiler changes layouts around them
        mask = only_when((row >= first) & (row <= H), mask_c & mask_w)
        dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p - W, mask, LAYOUT, ACC)
        if W_ALIGN == 1 and not LAYOUT.channels_last:
            dy = settle(dy, VEC)  # narrow loads have a layout of their own, which the arithmetic would take on
        share = inverse_count(row - 1, offs_w, H, W, ACC) if STENCIL == "avg" else None
        if STENCIL == "avg":
            z *= share
        ds = dy * x1
        if dmap_ptr is not None:
            ds += load_tile(dmap_ptr, dmap_stride, n, offs_c, offs_p - W, mask, LAYOUT, ACC)
        dz = GATE.df(ds, z, GATE.a, GATE.b)
        dx1 += dy * GATE.f(z, GATE.a, GATE.b)
        dz = _to_each(dz, z, tag, share, only_when((row >= 1) & (row <= H), mask_w), STENCIL)
        dzs = around(dz, 0.0, VEC)
        if dx_ptr is not None:
            dx, dx0, dx1 = _route_rows(dx0, dx1, x0, x1, x2, dzs, z, tag, w, STENCIL, VEC)
            mask = only_when(row - 2 >= h0, mask_c & mask_w & own_w)
            store_tile(dx_ptr, dx_stride, n, offs_c, offs_p - 2 * W, dx, mask, LAYOUT)
        own = (row > h0) & (row <= h1)
        if HALO:
            dzs = tl.where(own_w, dzs[0], 0.0), tl.where(own_w, dzs[1], 0.0), tl.where(own_w, dzs[2], 0.0)
        if dbias_ptr is not None:
            db += tl.where(own, tl.sum(tl.reshape(dzs[1], [BLOCK_C, BLOCK_W // VEC, VEC]), 2), 0.0)
        if dweight_ptr is not None:
            dw = accumulate(dw, x0, x1, x2, dzs, own, VEC)
        # a copy: MLIR takes two carried values for one where both begin as zero and the one becomes the other
        x0, x1 = x1 + 0.0, x2
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
) -> tuple[Plan, Tensor]:
    """The plan, and the partial sums that it fills: (tiles, 9 C and C more), columns only for what is wanted."""
    m = maps(dx=dx, x=x, dy=dy, dmap=dmap)
    geometry = geometry_of(x, m, stencil, backward=True)
    config = stencil_config(x, m, geometry)
    blocks_c, tiles_w, strips = geometry.tiles(config)
    tiles, head = m.N * tiles_w * strips, 9 * m.C * with_dweight
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
        **common_args(x, m, geometry, config, stencil, gate),
    )
    columns = geometry.columns(config)
    once = geometry.rows(config, 1) * columns
    traffic = dict(
        dy_ptr=(once, 0),
        dmap_ptr=(once, 0),
        x_ptr=(geometry.rows(config, 2) * columns, 0),
        weight_ptr=(tiles, 0),
        bias_ptr=(tiles, 0),
        dx_ptr=(0, 1),
        dweight_ptr=(0, 1),
        dbias_ptr=(0, 1),
    )
    return Plan(_stencil_bwd_kernel, args, config, tiles * blocks_c, traffic), partial
