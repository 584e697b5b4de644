"""The tiles of a feature map on the device: what every family shares. See `runtime.maps` for how a map lies."""

import math

import triton
import triton.language as tl

LOG2E = tl.constexpr(math.log2(math.e))
LN2 = tl.constexpr(math.log(2.0))
WHOLE, CHUNK = 1024, 256  # channels that a program with all of a pixel's holds at once; else it takes chunks


def channels_at_once(C: int) -> int:
    """BLOCK_C of a program that has all channels of its pixels."""
    return triton.next_power_of_2(C) if C <= WHOLE else CHUNK


@triton.jit
def num_pixels(pixels, LAYOUT: tl.constexpr):
    return pixels if LAYOUT.channels_last else pixels * LAYOUT.align


@triton.jit
def in_elements(stride, ALIGN: tl.constexpr, INT64: tl.constexpr):
    """A stride, which comes in units of ALIGN elements, widened first where an image reaches past 2^31 of them."""
    return (tl.full([], stride, tl.int64) if INT64 else stride) * ALIGN


@triton.jit
def tile_ptrs(ptr, stride, n, offs_c, offs_p, LAYOUT: tl.constexpr):
    """Pointers to the tile [BLOCK_C, BLOCK_P] of image n."""
    image = ptr + n.to(tl.int64) * stride[0] * LAYOUT.align
    if LAYOUT.int64:
        offs_c = offs_c.to(tl.int64)
        offs_p = offs_p.to(tl.int64)
    step = in_elements(stride[1], LAYOUT.align, LAYOUT.int64)
    if LAYOUT.channels_last:
        return image + (offs_p[None, :] * step + offs_c[:, None])
    else:
        return image + (offs_c[:, None] * step + offs_p[None, :])


@triton.jit
def load_tile(ptr, stride, n, offs_c, offs_p, mask, LAYOUT: tl.constexpr, ACC: tl.constexpr):
    """The tile [BLOCK_C, BLOCK_P] of image n in the accumulator's precision, 0 where masked."""
    return tl.load(tile_ptrs(ptr, stride, n, offs_c, offs_p, LAYOUT), mask, other=0.0).to(ACC)


@triton.jit
def store_tile(ptr, stride, n, offs_c, offs_p, value, mask, LAYOUT: tl.constexpr):
    tl.store(tile_ptrs(ptr, stride, n, offs_c, offs_p, LAYOUT), value.to(ptr.dtype.element_ty), mask)


@triton.jit
def chunk_of(pid, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """(row, channels [BLOCK_C]) of a program, where those that share the channels of a row are next to each other."""
    CHUNKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    return pid // CHUNKS, pid % CHUNKS * BLOCK_C + tl.arange(0, BLOCK_C)


@triton.jit
def pixels_of(tile, tiles, BLOCK_P: tl.constexpr):
    """(image, pixels [BLOCK_P]) of a tile, where every image has so many."""
    return tile // tiles, tile % tiles * BLOCK_P + tl.arange(0, BLOCK_P)


@triton.jit
def last_first(images, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """The image, block of pixels and channels [BLOCK_C] of this program; the last block of every image comes first:
    the launch before read it last."""
    row, offs_c = chunk_of(tl.num_programs(0) - 1 - tl.program_id(0), C, BLOCK_C)
    return row % images, row // images, offs_c


@triton.jit
def chunk_at(chunk, mask_p, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """The channels [BLOCK_C] from `chunk` on, and the mask [BLOCK_C, BLOCK_P] of their tile."""
    offs_c = chunk + tl.arange(0, BLOCK_C)
    return offs_c, (offs_c < C)[:, None] & mask_p[None, :]


@triton.jit
def load_vector(ptr, offs, size, ACC: tl.constexpr):
    """A vector in the accumulator's precision, 0 past its end."""
    return tl.load(ptr + offs, offs < size, other=0.0).to(ACC)


@triton.jit
def only_when(condition, mask):
    """The mask where a scalar condition holds, else nothing. Triton 3.9.0's interpreter refuses to join them by &."""
    return mask & (tl.zeros_like(mask) | condition)


@triton.jit
def nan_max(x, axis: tl.constexpr):
    """Maximum along an axis; NaN where there is one, as torch's."""
    peak = tl.max(tl.where(x != x, float("inf"), x), axis)
    any_nan = tl.max((x != x).to(tl.int32), axis) > 0
    return tl.where(any_nan, float("nan"), peak)


@triton.jit
def is_peak(x, peak):
    """Whether x is one of the maxima: equal, or NaN where the maximum is NaN."""
    return (x == peak) | ((x != x) & (peak != peak))


@triton.jit
def load_sum(ptr, n, offs_c, C: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr):
    """[BLOCK_C]: the sum over k of partials (N, K, C) of image n."""
    ptr += n.to(tl.int64) * (K * C)
    if K == 1:
        return load_vector(ptr, offs_c, C, ACC)
    else:
        BLOCK_K: tl.constexpr = triton.next_power_of_2(K)
        offs_k = tl.arange(0, BLOCK_K)
        mask = (offs_k < K)[:, None] & (offs_c < C)[None, :]
        return tl.sum(tl.load(ptr + offs_k[:, None] * C + offs_c[None, :], mask, other=0.0).to(ACC), 0)


@triton.jit
def d_pool(
    x,
    dpooled_ptr,
    highest_ptr,
    found_ptr,
    n,
    offs_c,
    offs_p,
    P,
    C: tl.constexpr,
    K: tl.constexpr,
    MEAN: tl.constexpr,
    BOTH: tl.constexpr,
    ACC: tl.constexpr,
):
    """What the pool over the pixels of image n gives to x [BLOCK_C, BLOCK_P].

    dpooled (N, K, C) is partial: a P-th of a mean, all of a maximum at the pixel `found`, or shared by the `found`
    pixels that equal `highest`; of half the sum of both pools half of each. BOTH: (N, 2, K, C), of each its own.
    """
    if BOTH:
        dmean = load_sum(dpooled_ptr, 2 * n, offs_c, C, K, ACC)
        dpeak = load_sum(dpooled_ptr, 2 * n + 1, offs_c, C, K, ACC)
    else:
        dmean = load_sum(dpooled_ptr, n, offs_c, C, K, ACC)
        if MEAN and found_ptr is not None:
            dmean *= 0.5
        dpeak = dmean
    dx = tl.zeros([offs_c.shape[0], offs_p.shape[0]], ACC)
    if MEAN:
        dx += (dmean / P)[:, None]
    if found_ptr is not None:
        image = n.to(tl.int64) * C
        found = tl.load(found_ptr + image + offs_c, offs_c < C, other=1)
        if highest_ptr is None:
            dx += tl.where(offs_p[None, :] == found[:, None], dpeak[:, None], 0.0)
        else:
            highest = load_vector(highest_ptr + image, offs_c, C, ACC)
            dx += is_peak(x, highest[:, None]).to(ACC) * (dpeak / found)[:, None]
    return dx


@triton.jit
def finish_sum(ptr, n, offs_c, tiles, C: tl.constexpr, ACC: tl.constexpr, BLOCK_T: tl.constexpr):
    """[BLOCK_C]: the sum over the tiles of image n of partials (N, T, C)."""
    total = tl.zeros([BLOCK_T, offs_c.shape[0]], ACC)
    for tile in range(0, tiles, BLOCK_T):
        offs_t = tile + tl.arange(0, BLOCK_T)
        offs = (n.to(tl.int64) * tiles + offs_t)[:, None] * C + offs_c[None, :]
        total += tl.load(ptr + offs, (offs_t < tiles)[:, None] & (offs_c < C)[None, :], other=0.0)
    return tl.sum(total, 0)


@triton.jit
def d_logit(
    ds_ptr,
    dmap_ptr,
    z_ptr,
    n,
    offs_c,
    tiles,
    C: tl.constexpr,
    GATE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """dz = (sum over the tiles of ds + dmap) gate'(z) [BLOCK_C], 0 past the last channel."""
    ds = finish_sum(ds_ptr, n, offs_c, tiles, C, ACC, BLOCK_T)
    if dmap_ptr is not None:
        ds += load_vector(dmap_ptr + n.to(tl.int64) * C, offs_c, C, ACC)
    z = load_vector(z_ptr + n.to(tl.int64) * C, offs_c, C, ACC)
    return tl.where(offs_c < C, GATE.df(ds, z, GATE.a, GATE.b), 0.0)


@triton.jit
def shares(a, b):
    """What of the gradient of maximum(a, b) goes to a and to b: a half each of equals, all of a NaN, as torch's."""
    half = tl.where(a == b, tl.zeros_like(a) + 0.5, tl.zeros_like(a) + 1.0)
    return tl.where(a < b, 0.0, half), tl.where(a > b, 0.0, half)


@triton.jit
def maximum(a, b):
    """The larger, NaN where there is one."""
    return tl.where((a > b) | (a != a), a, b)
