"""Logits at another resolution than the map, brought to its pixels where they are read: see `common.resize`."""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps, maps
from ..common.resize import Resize, taps
from ..common.tile import load_tile
from .shared import load_logits

RESIZING = 12.0  # fp32 values more that are alive for each element of a tile


@triton.jit
def _tap(ptr, stride, n, offs_c, offs, mask, size, C: tl.constexpr, RESIZE: tl.constexpr, ACC: tl.constexpr):
    LAYOUT: tl.constexpr = RESIZE.layout
    if LAYOUT is None:
        return tl.load(ptr + n.to(tl.int64) * size + offs[None, :], mask, other=0.0).to(ACC)
    else:
        return load_tile(ptr, stride, n, offs_c, offs, mask, LAYOUT, ACC)


@triton.jit
def logits_at(ptr, stride, n, offs_c, rows, cols, mask, h, w, C: tl.constexpr, RESIZE: tl.constexpr, ACC: tl.constexpr):
    """[BLOCK_C or 1, BLOCK_P]: the logits of pixels whose taps along both axes are known."""
    top, bottom, below = rows
    left, right, beside = cols
    z = _tap(ptr, stride, n, offs_c, top * w + left, mask, h * w, C, RESIZE, ACC)
    if RESIZE.bilinear:
        z1 = _tap(ptr, stride, n, offs_c, top * w + right, mask, h * w, C, RESIZE, ACC)
        z2 = _tap(ptr, stride, n, offs_c, bottom * w + left, mask, h * w, C, RESIZE, ACC)
        z3 = _tap(ptr, stride, n, offs_c, bottom * w + right, mask, h * w, C, RESIZE, ACC)
        above = (1.0 - beside)[None, :] * z + beside[None, :] * z1
        under = (1.0 - beside)[None, :] * z2 + beside[None, :] * z3
        z = (1.0 - below)[None, :] * above + below[None, :] * under
    return z


@triton.jit
def logits_of(
    ptr,
    stride,
    extents,
    n,
    offs_c,
    offs_p,
    P,
    C: tl.constexpr,
    AXES: tl.constexpr,
    RESIZE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
):
    """The logits of a tile, [BLOCK_C or 1, BLOCK_P or 1]; `extents` are H, W of the map and h, w of the logits."""
    if RESIZE is None:
        return load_logits(ptr, stride, n, offs_c, offs_p, P, C, AXES, LAYOUT, ACC)
    else:
        mask = (offs_p < P)[None, :]
        if RESIZE.layout is not None:
            mask = mask & (offs_c < C)[:, None]
        H, W, h, w = extents
        rows = taps(offs_p // W, h, H, RESIZE, ACC)
        cols = taps(offs_p % W, w, W, RESIZE, ACC)
        return logits_at(ptr, stride, n, offs_c, rows, cols, mask, h, w, C, RESIZE, ACC)


@triton.jit
def logits_around(ptr, stride, n, offs_c, row, cols, mask, w, RESIZE: tl.constexpr, ACC: tl.constexpr):
    """(before, own, after) [BLOCK_C, BLOCK_P]: of a row the logits at `cols`, and beside where a rule takes two."""
    LAYOUT: tl.constexpr = RESIZE.layout
    own = load_tile(ptr, stride, n, offs_c, row * w + cols, mask, LAYOUT, ACC)
    before, after = own, own
    if RESIZE.bilinear:
        before = load_tile(ptr, stride, n, offs_c, row * w + tl.maximum(cols - 1, 0), mask, LAYOUT, ACC)
        after = load_tile(ptr, stride, n, offs_c, row * w + tl.minimum(cols + 1, w - 1), mask, LAYOUT, ACC)
    return before, own, after


@triton.jit
def logits_beside(around, taps_of_pixels, cols):
    """Those of pixels which take from the logits `cols` and from one beside, as `logits_at` brings them there."""
    before, own, after = around
    left, right, part = taps_of_pixels
    z = tl.where((left == cols)[None, :], own, before)
    z1 = tl.where((right == cols)[None, :], own, after)
    return (1.0 - part)[None, :] * z + part[None, :] * z1


def rule_of(mode: str, align_corners: bool, scale_factor: float, z: Tensor, x: Tensor) -> Resize:
    """`scale_factor` 0: by sizes."""
    layout = maps(z=z).layout if z.shape[1] == x.shape[1] else None
    return Resize(mode == "bilinear", align_corners, 1 / scale_factor if scale_factor else 0.0, layout)


def resized(m: Maps, z: Tensor, x: Tensor, rule: Resize | None) -> tuple[Maps, tuple[int, ...]]:
    """Of a kernel that reads logits through `logits_of`: the maps with how the logits lie, and its `extents`."""
    if rule is None:
        return m, (1, 1, 1, 1)
    stride = (0, 0) if rule.layout is None else maps(z=z).stride["z"]
    return m._replace(stride={**m.stride, "z": stride}), (*x.shape[2:], *z.shape[2:])


def reads_of(z: Tensor, x: Tensor, rule: Resize | None) -> float:
    """How often a logit is read where every pixel reads its own."""
    if rule is None:
        return 1
    return (4 if rule.bilinear else 1) * x.shape[2:].numel() / z.shape[2:].numel()
