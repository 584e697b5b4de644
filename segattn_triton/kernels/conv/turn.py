"""A map in the other memory order: y = x, or y = y + x where y has values. x and y (N, C, H, W).

2 passes, or 3 with the sum: the library's convolution is some times as fast in channels_last as in NCHW, which pays for
the passes. A tile turns from rows of pixels to rows of channels on its way through shared memory.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import Config, Footprint, space
from ..common.dependent import begin
from ..common.tile import load_tile, num_pixels, store_tile

SPACE = space(BLOCK_C=(16, 32, 64, 128), BLOCK_P=(16, 32, 64, 128), num_warps=(4, 8))


@triton.jit
def _turn_kernel(
    x_ptr,
    y_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    ADDS: tl.constexpr,
    LAYOUT: tl.constexpr,
    LAYOUT_Y: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    x_stride, y_stride = strides
    pixels, tiles = sizes
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    n = tl.program_id(0) // blocks // tiles
    offs_c = tl.program_id(0) // tiles % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    offs_p = tl.program_id(0) % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = (offs_c < C)[:, None] & (offs_p < num_pixels(pixels, LAYOUT))[None, :]
    y = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
    if ADDS:
        y += load_tile(y_ptr, y_stride, n, offs_c, offs_p, mask, LAYOUT_Y, ACC)
    store_tile(y_ptr, y_stride, n, offs_c, offs_p, y, mask, LAYOUT_Y)


def plan_turn(x: Tensor, y: Tensor, *, adds: bool = False) -> Plan:
    """x into y, or added to it."""
    m, my = maps(x=x), maps(y=y)
    itemsize = x.element_size()

    def footprint(config: Config) -> Footprint:
        p, c = config.blocks["BLOCK_P"], config.blocks["BLOCK_C"]
        tiles = -(-m.P // p) * -(-m.C // c)
        row = min(c, m.C, p, m.P) * itemsize  # the shorter of a row of pixels and one of channels
        return Footprint(p * c, itemsize, 1 + adds, 1.5, m.N * tiles, tiles * p * c / (m.P * m.C), row)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(f"adds{adds:d}",), exact=m.N)
    config = config_for(SPACE, footprint, "turn", x, **how)
    tiles, blocks = -(-m.P // config.blocks["BLOCK_P"]), -(-m.C // config.blocks["BLOCK_C"])
    args = dict(
        x_ptr=x,
        y_ptr=y,
        strides=(m.stride["x"], my.stride["y"]),
        sizes=(m.pixels, tiles),
        C=m.C,
        ADDS=adds,
        LAYOUT=m.layout,
        LAYOUT_Y=my.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
    )
    return Plan(_turn_kernel, args, config, m.N * tiles * blocks, dict(x_ptr=(1, 0), y_ptr=(adds, 1)))
