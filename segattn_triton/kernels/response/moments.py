"""The mean of every channel of an image over its pixels, and its squares about it, first stage.

x (N, C, P); mean, squares (N, T, C) in the accumulator's precision, of the pixels that program t takes: the blocks t,
t + T, t + 2 T, ..., in order. One pass.

Every lane of a tile goes on by Welford 1962 (mean += (x - mean) / k), and lanes are merged by Chan, Golub and LeVeque
1979: of channels far from zero no digit is lost, as it would be in a difference of squares.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps, partials
from ...runtime.plan import Plan
from ...tuning.target import sms
from ..common.dependent import begin
from ..common.tile import chunk_of, load_tile, num_pixels
from .sums import shares, stages, sums_config


@triton.jit
def merged(mean, squares, count, axis: tl.constexpr):
    """Means and squares about them of so many values each, taken together along an axis."""
    whole = tl.sum(mean * count, axis, keep_dims=True) / tl.sum(count, axis, keep_dims=True)
    apart = mean - whole
    return tl.sum(whole, axis), tl.sum(squares + count * apart * apart, axis)


@triton.jit
def moments_of(
    x_ptr,
    x_stride,
    n,
    offs_c,
    span,
    P,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Mean and squares about it [BLOCK_C], of the blocks of pixels `first`, `first` + `tiles`, ... below `blocks`."""
    first, blocks, tiles = span
    mean = tl.zeros([offs_c.shape[0], BLOCK_P], ACC)
    squares = tl.zeros([offs_c.shape[0], BLOCK_P], ACC)
    for block in tl.range(first, blocks, tiles, num_stages=STAGES):
        offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
        x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
        apart = tl.where(mask, x - mean, 0.0)
        mean += apart * (1.0 / tl.full([], block // tiles + 1, ACC))
        squares += apart * tl.where(mask, x - mean, 0.0)
    rounds = (blocks - 1 - first) // tiles + 1
    offs_p = (first + (rounds - 1) * tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
    count = (rounds - (offs_p >= P).to(tl.int32)).to(ACC)  # of a lane
    return merged(mean, squares, count[None, :], 1)


@triton.jit
def _response_moments_kernel(
    x_ptr,
    mean_ptr,
    squares_ptr,
    x_stride,
    pixels,
    blocks,
    tiles,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    row, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)  # of the partials: n * tiles + t
    span, P = (row % tiles, blocks, tiles), num_pixels(pixels, LAYOUT)
    mean, squares = moments_of(x_ptr, x_stride, row // tiles, offs_c, span, P, C, LAYOUT, ACC, STAGES, BLOCK_P)
    offs = row.to(tl.int64) * C + offs_c
    tl.store(mean_ptr + offs, mean, offs_c < C)
    tl.store(squares_ptr + offs, squares, offs_c < C)


def plan_response_moments(x: Tensor) -> Plan:
    """Makes mean and squares (N, T, C)."""
    m = maps(x=x)
    config = sums_config("response_moments", m, x, 1, 3.2)
    chunks, blocks, tiles = shares(m, config, sms(x.device))
    args = dict(
        x_ptr=x,
        mean_ptr=partials(x, m.N, tiles, m.C),
        squares_ptr=partials(x, m.N, tiles, m.C),
        **m.strides,
        pixels=m.pixels,
        blocks=blocks,
        tiles=tiles,
        C=m.C,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        STAGES=stages(x.device, x.element_size(), m, config, 1),
        DEPENDENT=config.dependent,
    )
    traffic = dict(x_ptr=(1, 0), mean_ptr=(0, 1), squares_ptr=(0, 1))
    return Plan(_response_moments_kernel, args, config, m.N * tiles * chunks, traffic, ("mean", "squares"))
