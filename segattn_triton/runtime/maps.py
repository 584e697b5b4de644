"""How a feature map lies in memory.

A map (N, C, *S) is *native* when its pixels collapse to one index p and either the pixels (NCHW) or the channels
(channels_last) are contiguous: contiguous maps, channels_last maps, channel slices of either, any batch stride.
Kernels see (N, C, P) and for each map a tuple (batch stride, stride of the axis that is not contiguous).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

MOST_PIXELS = 2**31 - 2**16  # a pixel's index, and the end of the last tile, are int32
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


def _is_expanded(t: Tensor) -> bool:
    return any(size > 1 and stride == 0 for size, stride in zip(t.shape, t.stride(), strict=True))


def is_channels_last_natively(t: Tensor) -> bool:
    """`is_channels_last` of `native(t)`, for any map."""
    return not _is_expanded(t) and _strides(t, False) is None and _strides(t, True) is not None


def native(t: Tensor, like: Tensor | None = None) -> Tensor:
    """`t` itself if it is native (and in the memory order of `like`), otherwise its one dense copy."""
    if t.dim() < 3:
        return t.contiguous()
    orders = (False, True) if like is None else (is_channels_last(like),)
    expanded = like is None and _is_expanded(t)
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
    stride: Mapping[str, tuple[int, int]]  # of a map by its name: (batch, other axis), in units of align
    layout: Layout

    @property
    def strides(self) -> dict[str, tuple[int, int]]:
        """As kernels name them: `x_stride` of a map x."""
        return {f"{name}_stride": stride for name, stride in self.stride.items()}

    def strides_of(self, *names: str) -> tuple[tuple[int, int], ...]:
        """As a kernel takes them together: `strides`."""
        return tuple([self.stride[name] for name in names])

    @property
    def pixels(self) -> int:
        """P in the unit that `num_pixels` multiplies back on the device."""
        return self.P if self.layout.channels_last else self.P // self.layout.align


def maps(**tensors: Tensor | None) -> Maps:
    """The common description of native maps of one shape and memory order, by name. One that is None has the stride
    of the first of the others, which kernels ignore."""
    given = {name: t for name, t in tensors.items() if t is not None}
    first = next(iter(given))
    N, C, *S = given[first].shape
    P = math.prod(S)
    if P >= MOST_PIXELS:
        raise ValueError(f"x: got {P} pixels in an image, expected fewer than {MOST_PIXELS}: split the image")
    channels_last = any(map(is_channels_last, given.values()))
    strides = {name: _strides(t, channels_last) for name, t in given.items()}
    common = math.gcd(*(s for pair in strides.values() for s in pair), C if channels_last else P)
    align = next(a for a in ALIGNMENTS if common % a == 0)
    far = max(stride for _, stride in strides.values()) * (P if channels_last else C) + max(C, P)
    in_units = {name: (batch // align, stride // align) for name, (batch, stride) in strides.items()}
    by_name = {name: in_units.get(name, in_units[first]) for name in tensors}
    return Maps(N, C, P, by_name, Layout(channels_last, align, far >= 2**31))


def accumulator(t: Tensor):
    """Pointwise maths and sums run in fp32, of fp64 maps in fp64."""
    return tl.float64 if t.dtype == torch.float64 else tl.float32


def partials(like: Tensor, *shape: int) -> Tensor:
    """A buffer for the first stage of a reduction, in the accumulator's precision."""
    return torch.empty(shape, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
