"""What every kernel family shares: how a feature map lies in memory, and its tiles on the device.

A map (N, C, *S) is *native* when its pixels collapse to one index p and either the pixels (NCHW) or the channels
(channels_last) are contiguous: contiguous maps, channels_last maps, channel slices of either, any batch stride.
Kernels see (N, C, P) and for each map a tuple (batch stride, stride of the axis that is not contiguous).
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_PIXELS = 2**31 - 2**16  # a pixel's index, and the end of the last tile, are int32
WHOLE, CHUNK = 1024, 256  # channels that a program with all of a pixel's holds at once; else it takes chunks
ALIGNMENTS = (8, 4, 2, 1)  # elements: 8 of a 16-bit type fill a 128-bit access


def _strides(t: Tensor, channels_last: bool) -> tuple[int, int] | None:
    """(batch stride, stride of the other axis) of a map read in this memory order, None if it does not lie so.

    The other axis is the channels, or the pixels when channels_last. An axis of length 1 fits any stride.
    """
    N, C, *S = t.shape
    stride_n, stride_c, *stride_s = t.stride()
    pixel, extent = None, 1  # stride of the pixels, number of pixels in the axes seen so far
    for size, stride in zip(reversed(S), reversed(stride_s), strict=True):
        if size == 1:
            continue
        pixel = stride if pixel is None else pixel
        if stride != pixel * extent:
            return None
        extent *= size
    channel = None if C == 1 else stride_c
    inner, outer = (channel, pixel) if channels_last else (pixel, channel)
    if inner not in (None, 1):
        return None
    unused = C if channels_last else extent
    return (0 if N == 1 else stride_n), unused if outer is None else outer


def is_channels_last(t: Tensor) -> bool:
    """Whether a native map has to be read channels_last; NCHW where both orders fit."""
    return _strides(t, False) is None


def native(t: Tensor, like: Tensor | None = None) -> Tensor:
    """`t` itself if it is native (and in the memory order of `like`), otherwise its one dense copy."""
    if t.dim() < 3:
        return t.contiguous()
    orders = (False, True) if like is None else (is_channels_last(like),)
    expanded = like is None and any(size > 1 and stride == 0 for size, stride in zip(t.shape, t.stride(), strict=True))
    if not expanded and any(_strides(t, order) for order in orders):
        return t  # of an expanded map, empty_like may lie in the other memory order
    dense = t.movedim(1, -1) if orders[0] else t
    dense = dense.clone(memory_format=torch.contiguous_format)  # an empty map counts as contiguous in any strides
    return dense.movedim(-1, 1) if orders[0] else dense


class Layout(NamedTuple):
    """How kernels address native maps of one memory order; a constexpr."""

    channels_last: bool
    align: int  # elements: divides every stride and the contiguous extent, so that accesses can be wide
    int64: bool  # an image reaches past 2^31 elements


class Maps(NamedTuple):
    """The sizes, strides and layout of some native maps of one shape and memory order."""

    N: int
    C: int
    P: int
    strides: tuple[tuple[int, int], ...]  # per map: (batch, other axis), in units of align
    layout: Layout

    @property
    def pixels(self) -> int:
        """P in the unit that `num_pixels` multiplies back on the device."""
        return self.P if self.layout.channels_last else self.P // self.layout.align


def maps(*tensors: Tensor) -> Maps:
    """The common description of native maps of one shape and memory order."""
    N, C, *S = tensors[0].shape
    P = math.prod(S)
    if P >= MOST_PIXELS:
        raise ValueError(f"x: got {P} pixels in an image, expected fewer than {MOST_PIXELS}: split the image")
    channels_last = any(map(is_channels_last, tensors))
    strides = [_strides(t, channels_last) for t in tensors]
    common = math.gcd(*(s for pair in strides for s in pair), C if channels_last else P)
    align = next(a for a in ALIGNMENTS if common % a == 0)
    far = max(stride for _, stride in strides) * (P if channels_last else C) + max(C, P)
    in_units = tuple((batch // align, stride // align) for batch, stride in strides)
    return Maps(N, C, P, in_units, Layout(channels_last, align, far >= 2**31))


def accumulator(t: Tensor):
    """Pointwise maths and sums run in fp32, of fp64 maps in fp64."""
    return tl.float64 if t.dtype == torch.float64 else tl.float32


def partials(like: Tensor, *shape: int) -> Tensor:
    """A buffer for the first stage of a reduction, in the accumulator's precision."""
    return torch.empty(shape, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))


def channels_at_once(C: int) -> int:
    """BLOCK_C of a program that has all channels of its pixels."""
    return triton.next_power_of_2(C) if C <= WHOLE else CHUNK


@triton.jit
def num_pixels(pixels, LAYOUT: tl.constexpr):
    return pixels if LAYOUT.channels_last else pixels * LAYOUT.align


@triton.jit
def tile_ptrs(ptr, stride, n, offs_c, offs_p, LAYOUT: tl.constexpr):
    """Pointers to the tile [BLOCK_C, BLOCK_P] of image n."""
    image = ptr + n.to(tl.int64) * stride[0] * LAYOUT.align
    if LAYOUT.int64:
        offs_c = offs_c.to(tl.int64)
        offs_p = offs_p.to(tl.int64)
    if LAYOUT.channels_last:
        return image + (offs_p[None, :] * (stride[1] * LAYOUT.align) + offs_c[:, None])
    else:
        return image + (offs_c[:, None] * (stride[1] * LAYOUT.align) + offs_p[None, :])


@triton.jit
def load_tile(ptr, stride, n, offs_c, offs_p, mask, LAYOUT: tl.constexpr, ACC: tl.constexpr):
    """The tile [BLOCK_C, BLOCK_P] of image n in the accumulator's precision, 0 where masked."""
    return tl.load(tile_ptrs(ptr, stride, n, offs_c, offs_p, LAYOUT), mask, other=0.0).to(ACC)


@triton.jit
def store_tile(ptr, stride, n, offs_c, offs_p, value, mask, LAYOUT: tl.constexpr):
    tl.store(tile_ptrs(ptr, stride, n, offs_c, offs_p, LAYOUT), value.to(ptr.dtype.element_ty), mask)


@triton.jit
def chunk_at(chunk, mask_p, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """The channels [BLOCK_C] from `chunk` on, and the mask [BLOCK_C, BLOCK_P] of their tile."""
    offs_c = chunk + tl.arange(0, BLOCK_C)
    return offs_c, (offs_c < C)[:, None] & mask_p[None, :]


@triton.jit
def add_chunk(sums, chunk, value):
    """Add value [BLOCK_C] to the channels from `chunk` on of sums [CHUNKS, BLOCK_C]."""
    chunk_ids = tl.arange(0, sums.shape[0])[:, None]
    return sums + tl.where(chunk_ids == chunk // sums.shape[1], value[None, :], 0.0)


@triton.jit
def store_chunks(ptr, sums, C: tl.constexpr):
    """Store sums [CHUNKS, BLOCK_C] as the vector of channels that they are."""
    chunk_ids = tl.arange(0, sums.shape[0])[:, None]
    offs_c = chunk_ids * sums.shape[1] + tl.arange(0, sums.shape[1])[None, :]
    tl.store(ptr + offs_c, sums, offs_c < C)


@triton.jit
def load_vector(ptr, offs, size, ACC: tl.constexpr):
    """A vector in the accumulator's precision, 0 past its end."""
    return tl.load(ptr + offs, offs < size, other=0.0).to(ACC)


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
