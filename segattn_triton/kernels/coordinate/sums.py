"""What a gate of rows and columns gets backward, first stage; dx = dy g in the same pass where it is complete.

    dg = dy x + dmap
    g = gate(z_h) gate(z_w)    dz_h = gate'(z_h) sum_w dg gate(z_w),    dz_w = gate'(z_w) sum_h dg gate(z_h)
    g = gate(z_h + z_w)        dz_h = sum_w dg gate'(z_h + z_w),        dz_w = sum_h dg gate'(z_h + z_w)

x, dy, dmap, dx (N, C, H, W), read once; rows (J, N C H) and cols (T, N C W) as of `mean`, but for the divisors.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import num_pixels
from .choice import sums_config
from .shared import coordinate_maps, coordinate_ptrs, gate_of, load_rows, share_of, store_rows, vector_strides


@triton.jit
def _load(ptr, stride, n, offs_c, offs_h, offs_w, mask, W, LAYOUT: tl.constexpr, ACC: tl.constexpr):
    ptrs = coordinate_ptrs(ptr, stride, n, offs_c, offs_h, offs_w, W, LAYOUT)
    return tl.load(ptrs, mask, other=0.0).to(ACC)


@triton.jit
def _shares_of(dg, z_h, z_w, PRODUCT: tl.constexpr, GATE: tl.constexpr):
    """[BLOCK_C, BLOCK_H, BLOCK_W]: what is summed over the columns, and over the rows; of a product gate' comes last,
    a factor of every sum."""
    if PRODUCT:
        g_h, g_w = GATE.f(z_h, GATE.a, GATE.b), GATE.f(z_w, GATE.a, GATE.b)
        return dg * g_w[:, None, :], dg * g_h[:, :, None]
    else:
        dz = GATE.df(dg, z_h[:, :, None] + z_w[:, None, :], GATE.a, GATE.b)
        return dz, dz


@triton.jit
def _through(total, z, PRODUCT: tl.constexpr, GATE: tl.constexpr):
    """A sum times gate'(z), where that is still to come."""
    if PRODUCT:
        return GATE.df(total, z, GATE.a, GATE.b)
    else:
        return total


@triton.jit
def _coordinate_sums_kernel(
    dy_ptr,
    x_ptr,
    dmap_ptr,
    dx_ptr,
    z_h_ptr,
    z_w_ptr,
    rows_ptr,
    cols_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    PRODUCT: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    begin(DEPENDENT)
    dy_stride, x_stride, dmap_stride, dx_stride, z_h_stride, z_w_stride = strides
    images, H, width, each, shares, columns = sizes
    W = num_pixels(width, LAYOUT)
    n, share, first, last, column, offs_c, offs_w = share_of(H, each, shares, columns, C, BLOCK_C, BLOCK_W)
    mask_w = (offs_c < C)[:, None] & (offs_w < W)[None, :]
    z_w = load_rows(z_w_ptr, z_w_stride, n, offs_c, offs_w, mask_w, LAYOUT, ACC)
    cols = tl.zeros([BLOCK_C, BLOCK_H, BLOCK_W], ACC)
    for row in tl.range(first, last, BLOCK_H, num_stages=STAGES):
        offs_h = row + tl.arange(0, BLOCK_H)
        mask_h = (offs_c < C)[:, None] & (offs_h < last)[None, :]
        mask = mask_h[:, :, None] & mask_w[:, None, :]
        z_h = load_rows(z_h_ptr, z_h_stride, n, offs_c, offs_h, mask_h, LAYOUT, ACC)
        dy = _load(dy_ptr, dy_stride, n, offs_c, offs_h, offs_w, mask, W, LAYOUT, ACC)
        dg = dy * _load(x_ptr, x_stride, n, offs_c, offs_h, offs_w, mask, W, LAYOUT, ACC)
        if dmap_ptr is not None:
            dg += _load(dmap_ptr, dmap_stride, n, offs_c, offs_h, offs_w, mask, W, LAYOUT, ACC)
        of_rows, of_cols = _shares_of(dg, z_h, z_w, PRODUCT, GATE)
        cols += of_cols
        dz_h = _through(tl.sum(of_rows, 2), z_h, PRODUCT, GATE)
        store_rows(rows_ptr, dz_h, column, images, n, offs_c, offs_h, H, mask_h, C)
        if dx_ptr is not None:
            dx = (dy * gate_of(z_h, z_w, PRODUCT, GATE)).to(dx_ptr.dtype.element_ty)
            tl.store(coordinate_ptrs(dx_ptr, dx_stride, n, offs_c, offs_h, offs_w, W, LAYOUT), dx, mask)
    dz_w = _through(tl.sum(cols, 1), z_w, PRODUCT, GATE)
    store_rows(cols_ptr, dz_w, share, images, n, offs_c, offs_w, W, mask_w, C)


def plan_coordinate_sums(
    dy: Tensor,
    x: Tensor,
    dmap: Tensor | None,
    z_h: Tensor,
    z_w: Tensor,
    dx: Tensor | None,
    product: bool,
    gate: Activation,
) -> Plan:
    """Makes rows and cols, whose sums over their first axis are dz_h and dz_w."""
    m, width = coordinate_maps(z_h, z_w, dy=dy, x=x, dmap=dmap, dx=dx)
    loads = 2 + (dmap is not None)
    # as with dx, wanted or not: of other tiles the sums would have other bits
    live = 2.4 + loads + 0.8 * (not product) + 2.6 * m.layout.channels_last
    config, args, programs = sums_config("coordinate_sums", m, x, width, loads, live, product)
    shares, columns = args["sizes"][4:]
    vectors = vector_strides(z_h), vector_strides(z_w)
    args |= dict(
        dy_ptr=dy,
        x_ptr=x,
        dmap_ptr=dmap,
        dx_ptr=dx,
        z_h_ptr=z_h,
        z_w_ptr=z_w,
        strides=(*m.strides_of("dy", "x", "dmap", "dx"), *vectors),
        C=m.C,
        PRODUCT=product,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
    )
    traffic = dict.fromkeys(("dy_ptr", "x_ptr", "dmap_ptr"), (1, 0))
    traffic |= dict(z_h_ptr=(columns, 0), z_w_ptr=(shares, 0))
    traffic |= dict.fromkeys(("dx_ptr", "rows_ptr", "cols_ptr"), (0, 1))
    return Plan(_coordinate_sums_kernel, args, config, programs, traffic, ("rows", "cols"))
