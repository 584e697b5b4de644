"""Attention over windows along any axes: what its kernels share.

Tensors are views (N, Z, Y, X, heads, D) of any strides, of maps with fewer axes without Z, or Z and Y, which are then
of length 1. Each axis has a window of K pixels `dilation` apart, and may be causal. A program works on BLOCK_P
consecutive pixels of one image and head, each of which knows its own first key: keys and queries are then a fixed step
apart, at every border, and so are the entries of the relative bias. Along an axis, in *positions* within the pixel's
class (those a multiple of the dilation away), with n of them and p the query's:

    first(p) = p - K // 2, causal p - (K - 1); with the border "shift" moved to where all keys are inside, if causal
               only where it would be negative
    keys     first(p) <= j < first(p) + K, inside the image, causal j <= p

NaN and Inf: an excluded pair contributes nothing, not 0 * value, so they reach only the pixels whose window has them.
"""

import triton
import triton.language as tl

from ..common.tile import in_elements


@triton.jit
def locate(size, BLOCK_P: tl.constexpr, WINDOW: tl.constexpr):
    """The image and head of this program, and its pixels: z, y, x [BLOCK_P], and which exist.

    size = (Z, Y, X, dilations along each, heads, tiles)
    """
    heads, tiles = size[6], size[7]
    pid = tl.program_id(0)
    row = pid // heads
    z, y, x, mask = pixels_of(row % tiles, size, BLOCK_P, WINDOW)
    return row // tiles, pid % heads, z, y, x, mask


@triton.jit
def pixels_of(tile, size, BLOCK_P: tl.constexpr, WINDOW: tl.constexpr):
    """z, y, x [BLOCK_P] of a tile's pixels, and which exist; the others stand for the last one."""
    Z, Y, X = size[0], size[1], size[2]
    last = Z * Y * X - 1
    offs = (tile.to(tl.int64) if WINDOW.int64 else tile) * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = offs <= last
    offs = tl.minimum(offs, last)
    return offs // X // Y, offs // X % Y, offs % X, mask


@triton.jit
def position(i, length, dilation):
    """Along an axis: which one a pixel is of its class, and how many pixels that has."""
    p = i // dilation
    return p, (length - (i - p * dilation) + dilation - 1) // dilation


@triton.jit
def first_of(p, n, K: tl.constexpr, CAUSAL: tl.constexpr, SHIFT: tl.constexpr):
    """Along an axis: the position of the first key of the query at position p of n."""
    first = p - (K - 1 if CAUSAL else K // 2)
    if SHIFT:
        first = tl.maximum(first, 0)
        if not CAUSAL:
            first = tl.minimum(first, n - K)
    return first


@triton.jit
def keys_along(i, length, dilation, K: tl.constexpr, CAUSAL: tl.constexpr, SHIFT: tl.constexpr):
    """Along an axis: the pixel of the first key of the queries at i, the taps that are keys, low <= tap < high, and the
    first one's entry of the relative bias."""
    if K == 1:
        none = i - i
        return i, none, none + 1, none
    else:
        p, n = position(i, length, dilation)
        first = first_of(p, n, K, CAUSAL, SHIFT)
        end = (p + 1 if CAUSAL else n) - first
        return i + (first - p) * dilation, tl.maximum(-first, 0), tl.minimum(end, K), first - p + K - 1


@triton.jit
def queries_along(j, length, dilation, K: tl.constexpr, CAUSAL: tl.constexpr, SHIFT: tl.constexpr):
    """Along an axis: the pixel of the first query that has the key at j, how many have it, and the first one's entry of
    the relative bias."""
    if K == 1:
        none = j - j
        return j, none + 1, none
    else:
        p, n = position(j, length, dilation)
        first = p if CAUSAL else tl.maximum(p - K // 2, 0)
        end = tl.minimum(p + (K if CAUSAL else K // 2 + 1), n)
        if SHIFT and not CAUSAL:  # the moved windows of the outermost queries reach further
            first = tl.where(p < K, 0, first)
            end = tl.where(p >= n - K, n, end)
        return j + (first - p) * dilation, end - first, p - first + K - 1


@triton.jit
def keys_of(z, y, x, size, WINDOW: tl.constexpr):
    """Along z, y and x, what `keys_along` says of the queries there."""
    SHIFT: tl.constexpr = WINDOW.border == "shift"
    of_z = keys_along(z, size[0], size[3], WINDOW.kz, WINDOW.causal_z, SHIFT)
    of_y = keys_along(y, size[1], size[4], WINDOW.ky, WINDOW.causal_y, SHIFT)
    of_x = keys_along(x, size[2], size[5], WINDOW.kx, WINDOW.causal_x, SHIFT)
    return of_z, of_y, of_x


@triton.jit
def queries_of(z, y, x, size, WINDOW: tl.constexpr):
    """Along z, y and x, what `queries_along` says of the keys there."""
    SHIFT: tl.constexpr = WINDOW.border == "shift"
    of_z = queries_along(z, size[0], size[3], WINDOW.kz, WINDOW.causal_z, SHIFT)
    of_y = queries_along(y, size[1], size[4], WINDOW.ky, WINDOW.causal_y, SHIFT)
    of_x = queries_along(x, size[2], size[5], WINDOW.kx, WINDOW.causal_x, SHIFT)
    return of_z, of_y, of_x


@triton.jit
def taps_along(low, high, mask, K: tl.constexpr, ALL: tl.constexpr):
    """The taps along an axis that some pixel of the tile has, from and to."""
    if ALL:
        return 0, K
    else:
        return tl.min(tl.where(mask, low, K), 0), tl.max(tl.where(mask, high, 0), 0)


@triton.jit
def entry_of(z, y, x, WINDOW: tl.constexpr):
    """The entry of the relative bias, of one along each axis."""
    return (z * (2 * WINDOW.ky - 1) + y) * (2 * WINDOW.kx - 1) + x


@triton.jit
def bias_at(ptr, head, z, y, x, WINDOW: tl.constexpr):
    """Pointers [BLOCK_P] into the table of one query head, at these entries along each axis."""
    entries = (2 * WINDOW.kz - 1) * (2 * WINDOW.ky - 1) * (2 * WINDOW.kx - 1)
    return ptr + head * entries + entry_of(z, y, x, WINDOW)


@triton.jit
def rows_at(ptr, stride, n, head, z, y, x, size, WINDOW: tl.constexpr, ALIGN: tl.constexpr = 1):
    """One value per pixel: (pointers [BLOCK_P], steps of a dilation along z, y and x) for `shifted`."""
    stride_z = in_elements(stride[1], ALIGN, WINDOW.int64)
    stride_y = in_elements(stride[2], ALIGN, WINDOW.int64)
    stride_x = in_elements(stride[3], ALIGN, WINDOW.int64)
    stride_head = in_elements(stride[4], ALIGN, WINDOW.int64)
    base = ptr + n.to(tl.int64) * stride[0] * ALIGN + head * stride_head
    offs = z * stride_z + y * stride_y + x * stride_x
    return base, offs, stride_z * size[3], stride_y * size[4], stride_x * size[5]


@triton.jit
def of_pixels(row, WINDOW: tl.constexpr):
    """Values of pixels [BLOCK_P] beside vectors [BLOCK_P, BLOCK_D], or [BLOCK_D, BLOCK_P] where WINDOW.planar."""
    return row[None, :] if WINDOW.planar else row[:, None]


@triton.jit
def of_dims(values, WINDOW: tl.constexpr):
    """Values [BLOCK_D] beside vectors."""
    return values[:, None] if WINDOW.planar else values[None, :]


@triton.jit
def dot(a, b, WINDOW: tl.constexpr):
    """<a, b> [BLOCK_P] of vectors."""
    return tl.sum(a * b, 0 if WINDOW.planar else 1)


@triton.jit
def vectors_at(ptr, stride, n, head, z, y, x, size, WINDOW: tl.constexpr):
    """One vector per pixel: as `rows_at`, with offsets of vectors; strides in units of WINDOW.align."""
    base, offs, step_z, step_y, step_x = rows_at(ptr, stride, n, head, z, y, x, size, WINDOW, WINDOW.align)
    offs_d = tl.arange(0, WINDOW.block_d)
    if WINDOW.int64:
        offs_d = offs_d.to(tl.int64)
    return base, of_pixels(offs, WINDOW) + of_dims(offs_d * stride[5], WINDOW), step_z, step_y, step_x


@triton.jit
def shifted(at, tz, ty, tx):
    """Pointers to what lies so many dilations further along each axis."""
    return at[0] + (tz * at[2] + ty * at[3] + tx * at[4]) + at[1]


@triton.jit
def load_shifted(at, tz, ty, tx, mask, WINDOW: tl.constexpr, ACC: tl.constexpr):
    """Values [BLOCK_P] or vectors in the accumulator's precision, 0 where mask [BLOCK_P] is false."""
    ptrs = shifted(at, tz, ty, tx)
    if len(ptrs.shape) == 1:
        return tl.load(ptrs, mask, other=0.0).to(ACC)
    elif WINDOW.dim < WINDOW.block_d:
        wanted = of_pixels(mask, WINDOW) & of_dims(tl.arange(0, WINDOW.block_d) < WINDOW.dim, WINDOW)
        return tl.load(ptrs, wanted, other=0.0).to(ACC)
    else:
        return tl.load(ptrs, of_pixels(mask, WINDOW), other=0.0).to(ACC)


@triton.jit
def store_at(at, value, mask, WINDOW: tl.constexpr):
    """Store values [BLOCK_P] or vectors where mask [BLOCK_P] is true."""
    if len(value.shape) == 2:
        mask = of_pixels(mask, WINDOW) & of_dims(tl.arange(0, WINDOW.block_d) < WINDOW.dim, WINDOW)
    tl.store(at[0] + at[1], value.to(at[0].dtype.element_ty), mask)


@triton.jit
def within(tap, low, high, mask):
    """mask, of the pixels that have this tap along an axis."""
    return mask & (low <= tap) & (tap < high)
