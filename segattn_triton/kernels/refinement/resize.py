"""The mask at the image's pixels, bilinear with its corners aligned, and the gradient back: see `common.resize`.

mask (N, M, h, w) -> m (N, M, H, W), which is itself where it is of that size; dm -> dmask, gathered along one axis,
then along the other: so few loads follow each other where many pixels take from a value.
"""

from math import prod

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps
from ...runtime.plan import Plan
from ..common.dependent import begin
from ..common.resize import Resize, first_of, most_pixels, pairs, share_of, taps
from ..common.tile import chunk_of, load_tile, pixels_of, store_tile
from .choice import tile_config
from .shared import pixel_ptrs

ALIGNED = Resize(bilinear=True, align_corners=True, inverse=0.0, layout=None)


@triton.jit
def _refinement_resize_kernel(
    mask_ptr,
    m_ptr,
    strides,
    sizes,
    M: tl.constexpr,
    RESIZE: tl.constexpr,
    COARSE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    mask_stride, m_stride = strides
    H, W, h, w, tiles = sizes
    tile, offs_c = chunk_of(tl.program_id(0), M, BLOCK_C)
    n, offs_p = pixels_of(tile, tiles, BLOCK_P)
    mask = (offs_c < M)[:, None] & (offs_p < H * W)[None, :]
    top, bottom, below = taps(offs_p // W, h, H, RESIZE, ACC)
    left, right, beside = taps(offs_p % W, w, W, RESIZE, ACC)
    z = load_tile(mask_ptr, mask_stride, n, offs_c, top * w + left, mask, COARSE, ACC)
    z1 = load_tile(mask_ptr, mask_stride, n, offs_c, top * w + right, mask, COARSE, ACC)
    z2 = load_tile(mask_ptr, mask_stride, n, offs_c, bottom * w + left, mask, COARSE, ACC)
    z3 = load_tile(mask_ptr, mask_stride, n, offs_c, bottom * w + right, mask, COARSE, ACC)
    above = (1.0 - beside)[None, :] * z + beside[None, :] * z1
    under = (1.0 - beside)[None, :] * z2 + beside[None, :] * z3
    m = (1.0 - below)[None, :] * above + below[None, :] * under
    store_tile(m_ptr, m_stride, n, offs_c, offs_p, m, mask, LAYOUT)


@triton.jit
def _refinement_unsize_kernel(
    t_ptr,
    out_ptr,
    out_stride,
    sizes,
    most,
    RESIZE: tl.constexpr,
    COARSE: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Along one axis a value gathers from those that took from it: of lines (S, I) lines (T, I), `rows` a channel."""
    begin(DEPENDENT)
    lines, rows, S, T, I, chunks, tiles = sizes
    tile, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    n, offs_p = pixels_of(tile, tiles, BLOCK_P)
    offs_l = chunk * BLOCK_C + tl.arange(0, BLOCK_C)
    own = (offs_l < lines)[:, None] & (offs_p < T * I)[None, :]
    j, i = offs_p // I, offs_p % I
    line = t_ptr + (n.to(tl.int64) * lines + offs_l)[:, None] * (S * I) + i[None, :]
    first = first_of(j, T, S, RESIZE, ACC)
    total = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for k in tl.range(0, most, loop_unroll_factor=4):
        d = first + k
        takes, share = share_of(d, taps(d, T, S, RESIZE, ACC), j, S)
        total += share[None, :] * tl.load(line + (d * I)[None, :], own & takes[None, :], other=0.0)
    offs = (offs_l % rows)[:, None] * (T * I) + offs_p[None, :]
    out = pixel_ptrs(out_ptr, out_stride, n, (offs_l // rows)[:, None], offs, COARSE)
    tl.store(out, total.to(out_ptr.dtype.element_ty), own)


def plan_refinement_resize(mask: Tensor, m: Tensor) -> Plan:
    small, large, (h, w), (H, W) = maps(t=mask), maps(t=m), mask.shape[2:], m.shape[2:]
    config = tile_config("refinement_resize", m, large.C, large.P, 4, large.layout)
    chunks, tiles = -(-large.C // config.blocks["BLOCK_C"]), -(-large.P // config.blocks["BLOCK_P"])
    args = dict(mask_ptr=mask, m_ptr=m, strides=(small.stride["t"], large.stride["t"]), sizes=(H, W, h, w, tiles))
    args |= dict(M=large.C, RESIZE=ALIGNED, COARSE=small.layout, LAYOUT=large.layout)
    args |= dict(ACC=accumulator(m), DEPENDENT=config.dependent)
    traffic = dict(mask_ptr=(4 * H * W / (h * w), 0), m_ptr=(0, 1))
    return Plan(_refinement_resize_kernel, args, config, large.N * chunks * tiles, traffic)


def plan_refinement_unsize(t: Tensor, out: Tensor, axis: int) -> Plan:
    """t (N, M, *S), contiguous -> out, which has as many values along the axis as the mask."""
    m, S, T = maps(out=out), t.shape[axis], out.shape[axis]
    rows, inner = prod(t.shape[2:axis]), prod(t.shape[axis + 1 :])
    lines, pixels = m.C * rows, T * inner
    config = tile_config("refinement_unsize", out, m.C, m.P, 4, m.layout, rows=rows)
    chunks, tiles = -(-lines // config.blocks["BLOCK_C"]), -(-pixels // config.blocks["BLOCK_P"])
    args = dict(t_ptr=t, out_ptr=out, out_stride=m.stride["out"], sizes=(lines, rows, S, T, inner, chunks, tiles))
    args |= dict(most=most_pixels(T, S, ALIGNED), RESIZE=ALIGNED, COARSE=m.layout, ACC=accumulator(out))
    args |= dict(DEPENDENT=config.dependent)
    traffic = dict(t_ptr=(pairs(T, S, ALIGNED, t.dtype.itemsize == 8) / S, 0), out_ptr=(0, 1))
    return Plan(_refinement_unsize_kernel, args, config, m.N * chunks * tiles, traffic)
