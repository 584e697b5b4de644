"""Tiles [BLOCK_C, BLOCK_H, BLOCK_W] of a map (N, C, H, W), and vectors that have one value for each row, or column.

z_h is (N, C, H), z_w (N, C, W), in any strides. g is gate(z_h) gate(z_w), or gate(z_h + z_w) where PRODUCT is false.
Rows of a contiguous map have to be as wide as its accesses: W is a multiple of the layout's `align`.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import ALIGNMENTS, Maps, maps
from ..common.tile import in_elements

MOST = 1024  # channels, rows or columns of a tile


@triton.jit
def coordinate_ptrs(ptr, stride, n, offs_c, offs_h, offs_w, W, LAYOUT: tl.constexpr):
    """Pointers to the tile [BLOCK_C, BLOCK_H, BLOCK_W] of image n."""
    offs_p = (offs_h[:, None] * W + offs_w[None, :])[None, :, :]
    offs_c = offs_c[:, None, None]
    if LAYOUT.int64:
        offs_c = offs_c.to(tl.int64)
        offs_p = offs_p.to(tl.int64)
    image = ptr + n.to(tl.int64) * stride[0] * LAYOUT.align
    step = in_elements(stride[1], LAYOUT.align, LAYOUT.int64)
    if LAYOUT.channels_last:
        return image + (offs_p * step + offs_c)
    else:
        return image + (offs_c * step + offs_p)


@triton.jit
def load_rows(ptr, stride, n, offs_c, offs, mask, LAYOUT: tl.constexpr, ACC: tl.constexpr):
    """[BLOCK_C, BLOCK]: the values of some rows, or of some columns, 0 where masked."""
    if LAYOUT.int64:
        offs_c = offs_c.to(tl.int64)
        offs = offs.to(tl.int64)
    ptrs = ptr + n.to(tl.int64) * stride[0] + offs_c[:, None] * stride[1] + offs[None, :] * stride[2]
    return tl.load(ptrs, mask, other=0.0).to(ACC)


@triton.jit
def gate_of(z_h, z_w, PRODUCT: tl.constexpr, GATE: tl.constexpr):
    """g [BLOCK_C, BLOCK_H, BLOCK_W] of z_h [BLOCK_C, BLOCK_H] and z_w [BLOCK_C, BLOCK_W]."""
    if PRODUCT:
        return GATE.f(z_h, GATE.a, GATE.b)[:, :, None] * GATE.f(z_w, GATE.a, GATE.b)[:, None, :]
    else:
        return GATE.f(z_h[:, :, None] + z_w[:, None, :], GATE.a, GATE.b)


@triton.jit
def share_of(H, each, shares, columns, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr):
    """Of a program: its image, its share of the rows and the first and last of them, its block of columns, and the
    channels [BLOCK_C] and columns [BLOCK_W]."""
    CHUNKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    offs_c = pid % CHUNKS * BLOCK_C + tl.arange(0, BLOCK_C)
    column = pid // CHUNKS % columns
    share = pid // CHUNKS // columns % shares
    offs_w = column * BLOCK_W + tl.arange(0, BLOCK_W)
    first = share * each
    return pid // CHUNKS // columns // shares, share, first, tl.minimum(first + each, H), column, offs_c, offs_w


@triton.jit
def store_rows(ptr, value, block, images, n, offs_c, offs, size, mask, C: tl.constexpr):
    """value [BLOCK_C, BLOCK] into the partial sums (blocks, N, C, size)."""
    image = ptr + (block.to(tl.int64) * images + n) * C * size
    tl.store(image + offs_c.to(tl.int64)[:, None] * size + offs[None, :], value, mask)


def reaches_far(*vectors: Tensor | None) -> bool:
    """Whether an image's values of rows or columns, or those masked behind them, lie 2^31 elements apart."""
    given = (zip(v.shape[1:], v.stride()[1:], strict=True) for v in vectors if v is not None)
    return any(sum((size + MOST) * step for size, step in axes) >= 2**31 for axes in given)


def coordinate_maps(*vectors: Tensor | None, **tensors: Tensor | None) -> tuple[Maps, int]:
    """The description of the maps, with accesses as wide as their rows allow, and W in its unit; `vectors` are beside
    them."""
    m = maps(**tensors)
    m = m._replace(layout=m.layout._replace(int64=m.layout.int64 or reaches_far(*vectors)))
    W = next(t.shape[3] for t in tensors.values() if t is not None)
    if m.layout.channels_last:
        return m, W
    align = next(a for a in ALIGNMENTS if math.gcd(m.layout.align, W) % a == 0)
    times = m.layout.align // align
    strides = {name: (batch * times, other * times) for name, (batch, other) in m.stride.items()}
    return m._replace(stride=strides, layout=m.layout._replace(align=align)), W // align


def vector_strides(z: Tensor | None) -> tuple[int, int, int]:
    """Of (N, C, H), (N, C, H, 1) or (N, C, 1, W)."""
    if z is None:
        return 0, 0, 0
    n, c, *rest = z.stride()
    last = rest[0] if len(rest) == 1 or z.shape[3] == 1 else rest[1]
    return n, c, last
