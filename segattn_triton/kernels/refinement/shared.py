"""The neighbours of a pixel: eight at every dilation, where the border is replicated.

Of D dilations there are K = 8 D, those of a dilation row by row. What has a value for each is (N, K, H, W), contiguous,
in the accumulator's precision, as are all maps between the kernels.
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ..common.tile import in_elements

NEIGHBOURS = 8  # neighbours at a dilation


@triton.jit
def dilation_at(i, dilations, COUNT: tl.constexpr):
    """Of the places i; 0 past the last."""
    d = i * 0
    for j in tl.static_range(COUNT):
        d = tl.where(i == j, dilations[j], d)
    return d


@triton.jit
def offsets_of(offs_k, dilations, COUNT: tl.constexpr):
    """Rows and columns to the neighbours [BLOCK_K]."""
    d = dilation_at(offs_k // 8, dilations, COUNT)
    place = offs_k % 8 + (offs_k % 8 >= 4).to(tl.int32)  # of nine, without the one in the middle
    return (place // 3 - 1) * d, (place % 3 - 1) * d


@triton.jit
def pixel_at(row, col, H, W):
    """The pixel there, or at the border nearest to it."""
    return tl.minimum(tl.maximum(row, 0), H - 1) * W + tl.minimum(tl.maximum(col, 0), W - 1)


@triton.jit
def around(offs_k, offs_p, H, W, dilations, COUNT: tl.constexpr):
    """[BLOCK_K, BLOCK_P]: the neighbours of pixels."""
    rows, cols = offsets_of(offs_k, dilations, COUNT)
    return pixel_at(rows[:, None] + (offs_p // W)[None, :], cols[:, None] + (offs_p % W)[None, :], H, W)


@triton.jit
def pixel_ptrs(ptr, stride, n, c, offs, LAYOUT: tl.constexpr):
    """To channels c of the pixels `offs`, of any shape, of image n."""
    if LAYOUT.int64:
        offs = offs.to(tl.int64)
    image = ptr + n.to(tl.int64) * stride[0] * LAYOUT.align
    step = in_elements(stride[1], LAYOUT.align, LAYOUT.int64)
    if LAYOUT.channels_last:
        return image + (offs * step + c)
    else:
        return image + (c * step + offs)


@triton.jit
def load_pixels(ptr, stride, n, c, offs, mask, LAYOUT: tl.constexpr, ACC: tl.constexpr):
    """Of these, 0 where masked."""
    return tl.load(pixel_ptrs(ptr, stride, n, c, offs, LAYOUT), mask, other=0.0).to(ACC)


@triton.jit
def plane(ptr, n, k, K: tl.constexpr, P):
    """Where plane k of image n of (N, K, P) begins."""
    return ptr + (n.to(tl.int64) * K + k) * P


@triton.jit
def planes(ptr, n, offs_k, offs_p, K: tl.constexpr, P):
    """[BLOCK_K, BLOCK_P] of (N, K, P)"""
    return plane(ptr, n, offs_k, K, P)[:, None] + offs_p[None, :]


@triton.jit
def differences(x_ptr, x_stride, n, c, offs_p, near, mask_p, mask, LAYOUT: tl.constexpr, ACC: tl.constexpr):
    """e [BLOCK_K, BLOCK_P]: channel c of the neighbours less that of the pixel itself."""
    x = load_pixels(x_ptr, x_stride, n, c, offs_p, mask_p, LAYOUT, ACC)
    return tl.where(mask, load_pixels(x_ptr, x_stride, n, c, near, mask, LAYOUT, ACC) - x[None, :], 0.0)


@triton.jit
def spread_of(e, mask, COUNT: tl.constexpr):
    """The mean of a pixel, once a dilation, and its neighbours, less the pixel itself, and their deviation."""
    mean = tl.sum(e, 0) / (9 * COUNT)
    d = tl.where(mask, e - mean[None, :], 0.0)
    return mean, tl.sqrt((tl.sum(d * d, 0) + COUNT * mean * mean) / (9 * COUNT - 1))


@triton.jit
def sign(e):
    return (e > 0.0).to(e.dtype) - (e < 0.0).to(e.dtype)


def reached(dilations: Sequence[int], image: Tensor) -> tuple[int, ...]:
    """Dilations that find the same pixels: past the image all neighbours are at its border."""
    return tuple(min(d, max(image.shape[2:])) for d in dilations)
