"""The map scaled by its channels' responses, forward, and the last pass of its backward.

x, y, dy, dx (N, C, P); response, pull (N, C); weight, bias (C,).

    forward   y = x (1 + weight response) + bias        (read x, write y)
    backward  dx = dy (1 + weight response) + pull x    (read dy and x, write dx)

Backward, some programs more finish what the gradients of weight and bias are summed of; the first ones, as the map's
blocks come last first.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps, accumulator, maps
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import Config, Footprint
from ..common.dependent import begin
from ..common.finish import COLS, finish_args, finish_columns, finish_traffic, rows_at_once
from ..common.tile import last_first, load_tile, load_vector, num_pixels, store_tile
from .sums import TILES

SPACE = tuple(c for c in TILES if 512 <= c.blocks["BLOCK_C"] * c.blocks["BLOCK_P"] <= 1024 * c.num_warps)


@triton.jit
def _response_apply(
    pointers,
    strides,
    sizes,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    t_ptr, x_ptr, response_ptr, pull_ptr, weight_ptr, bias_ptr, y_ptr = pointers
    t_stride, x_stride, y_stride = strides
    pixels, images = sizes
    n, block, offs_c = last_first(images, C, BLOCK_C)
    offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = (offs_c < C)[:, None] & (offs_p < num_pixels(pixels, LAYOUT))[None, :]
    image = n.to(tl.int64) * C
    t = load_tile(t_ptr, t_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
    scale = load_vector(weight_ptr, offs_c, C, ACC) * load_vector(response_ptr + image, offs_c, C, ACC)
    y = t + t * scale[:, None]
    if bias_ptr is not None:
        y += load_vector(bias_ptr, offs_c, C, ACC)[:, None]
    if pull_ptr is not None:
        x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        y += load_vector(pull_ptr + image, offs_c, C, ACC)[:, None] * x
    store_tile(y_ptr, y_stride, n, offs_c, offs_p, y, mask, LAYOUT)


@triton.jit
def _response_apply_kernel(
    t_ptr,
    x_ptr,
    response_ptr,
    pull_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    partial_ptr,
    out_ptr,
    tail_ptr,
    strides,
    sizes,
    extent,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """y = t (1 + weight response) + bias + pull x"""
    begin(DEPENDENT)
    pixels, images, programs = sizes
    pointers = (t_ptr, x_ptr, response_ptr, pull_ptr, weight_ptr, bias_ptr, y_ptr)
    if partial_ptr is None:
        _response_apply(pointers, strides, (pixels, images), C, LAYOUT, ACC, BLOCK_C, BLOCK_P)
    else:
        spare = tl.num_programs(0) - 1 - tl.program_id(0) - programs
        if spare < 0:
            _response_apply(pointers, strides, (pixels, images), C, LAYOUT, ACC, BLOCK_C, BLOCK_P)
        else:
            finish_columns(partial_ptr, out_ptr, tail_ptr, extent, spare, ACC, ROWS, COLS)


def apply_config(kernel: str, m: Maps, x: Tensor, loads: int, live: float) -> Config:
    """Of a kernel with a program for every tile, with so many float32 values alive for each element."""
    itemsize = x.element_size()

    def footprint(config: Config) -> Footprint:
        block_c, block_p = config.blocks["BLOCK_C"], config.blocks["BLOCK_P"]
        chunks, blocks = -(-m.C // block_c), -(-m.P // block_p)
        waste = chunks * block_c / m.C * blocks * block_p / m.P
        row = (block_c if m.layout.channels_last else block_p) * itemsize
        return Footprint(block_c * block_p, itemsize, loads, live, m.N * chunks * blocks, waste, row)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads,), exact=m.N)
    return config_for(SPACE, footprint, kernel, x, **how)


def plan_response_apply(
    t: Tensor,
    response: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    x: Tensor | None = None,
    pull: Tensor | None = None,
    partial: Tensor | None = None,
    sums: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Plan:
    """y = t (1 + weight response) + bias, plus pull x; and `partial` (rows, columns) is summed into `sums`."""
    m = maps(t=t, x=x, y=y)
    loads = 1 + (x is not None)
    config = apply_config("response_apply", m, t, loads, 1.2 * loads)
    chunks, blocks = -(-m.C // config.blocks["BLOCK_C"]), -(-m.P // config.blocks["BLOCK_P"])
    programs, finish = m.N * chunks * blocks, finish_args(partial, *sums)
    rows, cols, *_ = finish["extent"]
    args = finish | dict(
        t_ptr=t,
        x_ptr=x,
        response_ptr=response,
        pull_ptr=pull,
        weight_ptr=weight,
        bias_ptr=bias,
        y_ptr=y,
        strides=m.strides_of("t", "x", "y"),
        sizes=(m.pixels, m.N, programs),
        C=m.C,
        LAYOUT=m.layout,
        ACC=accumulator(t),
        DEPENDENT=config.dependent,
        ROWS=rows_at_once(rows, config.num_warps),
        COLS=COLS,
    )
    traffic = dict.fromkeys(("t_ptr", "x_ptr"), (1, 0)) | dict.fromkeys(("response_ptr", "pull_ptr"), (blocks, 0))
    traffic |= dict.fromkeys(("weight_ptr", "bias_ptr"), (m.N * blocks, 0)) | dict(y_ptr=(0, 1))
    return Plan(_response_apply_kernel, args, config, programs + -(-cols // COLS), traffic | finish_traffic(finish))
