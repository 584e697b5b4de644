"""A map at another resolution, by torch's index rule: what a pixel takes, and which pixels take from a value.

Along an axis of T values and S pixels, with scale = T / S, or 1 / scale_factor where that is given:

    nearest    pixel d takes value floor(scale d)
    bilinear   src = max(scale (d + 1/2) - 1/2, 0); (1 - l) of value i = floor(src) and l = src - i of value i + 1
               align_corners: src = d (T - 1) / (S - 1)

The rule's numbers are float32, of a bilinear map in float64 those of float64, as in torch. Backward a value gathers
from the pixels that take from it: each pixel of a range that holds them all is asked by the same rule.
"""

import struct
from math import ceil
from typing import NamedTuple

import triton
import triton.language as tl

from ...runtime.maps import Layout


class Resize(NamedTuple):
    """A constexpr: the rule, and how the logits lie, None where one stands for all channels."""

    bilinear: bool
    align_corners: bool
    inverse: float  # of the scale factor; 0 where sizes make the scale
    layout: Layout | None


@triton.jit
def scale_of(T, S, RESIZE: tl.constexpr, ACC: tl.constexpr):
    """Logits a pixel; one division, in float64, so that it is rounded once."""
    if RESIZE.bilinear and RESIZE.align_corners:
        ratio = (T - 1).to(tl.float64) / tl.maximum(S - 1, 1).to(tl.float64)
        ratio = tl.where(S > 1, ratio, 0.0)
    elif RESIZE.inverse > 0.0:
        ratio = tl.full([], RESIZE.inverse, tl.float64)
    else:
        ratio = T.to(tl.float64) / S.to(tl.float64)
    return ratio.to(ACC if RESIZE.bilinear else tl.float32)


@triton.jit
def taps(d, T, S, RESIZE: tl.constexpr, ACC: tl.constexpr):
    """(i, j, l): pixels d take 1 - l of the logits i, and l of j."""
    scale = scale_of(T, S, RESIZE, ACC)
    if RESIZE.bilinear:
        if RESIZE.align_corners:
            src = scale * d.to(ACC)
        else:
            src = tl.maximum(scale * (d.to(ACC) + 0.5) - 0.5, 0.0)
        src = tl.where(T == S, d.to(ACC), src)
        i = tl.minimum(src.to(tl.int32), T - 1)
        part = tl.minimum(tl.maximum(src - i.to(ACC), 0.0), 1.0)
        return i, tl.where(T == S, i, tl.minimum(i + 1, T - 1)), part
    else:
        i = tl.where(T == S, d, tl.minimum((d.to(tl.float32) * scale).to(tl.int32), T - 1))
        return i, i, tl.zeros(d.shape, ACC)


@triton.jit
def first_of(j, T, S, RESIZE: tl.constexpr, ACC: tl.constexpr):
    """A pixel at or before the first that takes from the logits j."""
    scale = scale_of(T, S, RESIZE, ACC)
    before = tl.maximum(j.to(ACC) - 1.0, 0.0) if RESIZE.bilinear else j.to(ACC)
    if RESIZE.bilinear and not RESIZE.align_corners:
        d = (before + 0.5) / scale.to(ACC) - 0.5
        d = tl.where(j == 0, 0.0, d)
    else:
        d = before / tl.where(scale > 0.0, scale, 1.0).to(ACC)
        d = tl.where(scale > 0.0, d, 0.0)
    first = tl.maximum(d, 0.0).to(tl.int32)
    return tl.where(T == S, j, tl.maximum(first - 1, 0))


@triton.jit
def share_of(d, own, j, S):
    """(whether pixels d take from the logits j, how much of them), of the taps `own` of d"""
    a, b, part = own
    share = tl.where(a == j, 1.0 - part, 0.0) + tl.where(b == j, part, 0.0)
    return ((a == j) | (b == j)) & (d < S), share


@triton.jit
def takers_of(j, most, T, S, RESIZE: tl.constexpr, ACC: tl.constexpr):
    """(the first, how many) of the pixels that take from the values j: side by side, in `most` from `first_of` on."""
    start = first_of(j, T, S, RESIZE, ACC)
    first, last = start + most, start - 1
    for k in range(0, most):
        d = start + k
        takes = share_of(d, taps(d, T, S, RESIZE, ACC), j, S)[0]
        first = tl.where(takes, tl.minimum(first, d), first)
        last = tl.where(takes, d, last)
    return first, tl.where(j < T, last - first + 1, 0)


def scale_on_host(T: int, S: int, rule: Resize) -> float:
    if rule.bilinear and rule.align_corners:
        return (T - 1) / (S - 1) if S > 1 else 0.0
    return rule.inverse or T / S


def most_pixels(T: int, S: int, rule: Resize) -> int:
    """That take from one logit, from `first_of` on."""
    scale = scale_on_host(T, S, rule)
    if T == S:
        return 1
    return min(S, ceil((2 if rule.bilinear else 1) / scale) + 3) if scale else S


def pairs(T: int, S: int, rule: Resize, wide: bool) -> int:
    """Of a pixel and a logit that it takes from. `wide`: in float64."""
    if not rule.bilinear or T == S:
        return S

    def narrow(v: float) -> float:
        return v if wide else struct.unpack("f", struct.pack("f", v))[0]

    scale, last = narrow(scale_on_host(T, S, rule)), S
    while last:
        d = last - 1
        src = narrow(scale * d) if rule.align_corners else narrow(narrow(scale * (d + 0.5)) - 0.5)
        if int(max(src, 0.0)) < T - 1:
            break
        last -= 1
    return S + last
