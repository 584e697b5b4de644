"""The means of every row and of every column of a map, first stage: one read of the map.

x (N, C, H, W); rows (J, N C H), the sums over W of J blocks of columns, divided by W; cols (T, N C W), the sums over H
of T shares of the rows, divided by H; in the accumulator's precision.

A program has some channels of an image, some columns and a share of the rows, which it takes one tile after the other:
the sums of its columns stay with their threads until the end.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ..common.dependent import begin
from ..common.tile import num_pixels
from .choice import sums_config
from .shared import coordinate_maps, coordinate_ptrs, share_of, store_rows


@triton.jit
def _coordinate_mean_kernel(
    x_ptr,
    rows_ptr,
    cols_ptr,
    x_stride,
    sizes,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    begin(DEPENDENT)
    images, H, width, each, shares, columns = sizes
    W = num_pixels(width, LAYOUT)
    n, share, first, last, column, offs_c, offs_w = share_of(H, each, shares, columns, C, BLOCK_C, BLOCK_W)
    mask_w = (offs_c < C)[:, None] & (offs_w < W)[None, :]
    cols = tl.zeros([BLOCK_C, BLOCK_H, BLOCK_W], ACC)
    for row in tl.range(first, last, BLOCK_H, num_stages=STAGES):
        offs_h = row + tl.arange(0, BLOCK_H)
        mask_h = (offs_c < C)[:, None] & (offs_h < last)[None, :]
        ptrs = coordinate_ptrs(x_ptr, x_stride, n, offs_c, offs_h, offs_w, W, LAYOUT)
        x = tl.load(ptrs, mask_h[:, :, None] & mask_w[:, None, :], other=0.0).to(ACC)
        cols += x
        store_rows(rows_ptr, tl.sum(x, 2) / W, column, images, n, offs_c, offs_h, H, mask_h, C)
    store_rows(cols_ptr, tl.sum(cols, 1) / H, share, images, n, offs_c, offs_w, W, mask_w, C)


def plan_coordinate_mean(x: Tensor) -> Plan:
    """Makes rows and cols, whose sums over their first axis are the means."""
    m, width = coordinate_maps(x=x)
    config, args, programs = sums_config("coordinate_mean", m, x, width, 1, 1.2)
    args |= dict(x_ptr=x, **m.strides, C=m.C, LAYOUT=m.layout, ACC=accumulator(x), DEPENDENT=config.dependent)
    traffic = dict(x_ptr=(1, 0), rows_ptr=(0, 1), cols_ptr=(0, 1))
    return Plan(_coordinate_mean_kernel, args, config, programs, traffic, ("rows", "cols"))
