"""The sums over the pixels of every image and channel that a scale by channel needs, first stage.

x, dy (N, C, P); partials (N, T, C) in the accumulator's precision.

    forward   squares = sum_p x^2                               (1 pass)
    backward  product = sum_p dy x,  total = sum_p dy           (2 passes)

Program t of an image takes the pixel blocks t, t + T, t + 2 T, ..., in order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps, accumulator, maps, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.grids import sharing
from ...tuning.model import Config, Footprint, looping, space
from ...tuning.target import sms, stages_for
from ..common.dependent import begin
from ..common.tile import chunk_of, load_tile, num_pixels

TILES = space(BLOCK_C=(1, 2, 4, 8, 16, 32, 64, 128, 256), BLOCK_P=(4096, 1024, 256, 64, 16), num_warps=(4, 8))
SPACE = looping(tuple(c for c in TILES if 512 <= c.blocks["BLOCK_C"] * c.blocks["BLOCK_P"] <= 512 * c.num_warps))
PARTIALS = 16384  # values per image that the second stage has to read, at most
LEAST = 256  # pixels that a partial stands for, where an image has so many: the second stage has to wait for them all


@triton.jit
def _response_sums_kernel(
    x_ptr,
    dy_ptr,
    product_ptr,
    total_ptr,
    x_stride,
    dy_stride,
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
    """product of x and dy, or of x with itself without dy."""
    begin(DEPENDENT)
    row, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)  # of the partials: n * tiles + t
    n = row // tiles
    P = num_pixels(pixels, LAYOUT)
    product = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    total = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for block in tl.range(row % tiles, blocks, tiles, num_stages=STAGES):
        offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
        x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
        if dy_ptr is None:
            product += x * x
        else:
            dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
            product += dy * x
            total += dy
    offs = row.to(tl.int64) * C + offs_c
    tl.store(product_ptr + offs, tl.sum(product, 1), offs_c < C)
    if total_ptr is not None:
        tl.store(total_ptr + offs, tl.sum(total, 1), offs_c < C)


def shares(m: Maps, config: Config, size: int) -> tuple[int, int, int]:
    """Channel blocks, pixel blocks, and the programs that share the latter of an image."""
    chunks, blocks = -(-m.C // config.blocks["BLOCK_C"]), -(-m.P // config.blocks["BLOCK_P"])
    return chunks, blocks, sharing(blocks, config, size, m.N * chunks, min(PARTIALS // m.C, m.P // LEAST))


def stages(device: torch.device, itemsize: int, m: Maps, config: Config, loads: int) -> int:
    elements = loads * config.blocks["BLOCK_C"] * config.blocks["BLOCK_P"]
    return stages_for(device, itemsize, elements, m.layout.align, config.programs)


def sums_config(kernel: str, m: Maps, x: Tensor, loads: int, live: float) -> Config:
    """Of a kernel that sums over the pixels of every channel, with so many float32 values alive for each element."""
    device, itemsize, size = x.device, x.element_size(), sms(x.device)

    def footprint(config: Config) -> Footprint:
        block_c, block_p = config.blocks["BLOCK_C"], config.blocks["BLOCK_P"]
        chunks, _, tiles = shares(m, config, size)
        rounds = -(-m.P // (block_p * max(tiles, 1)))
        waste = chunks * block_c / m.C * rounds * tiles * block_p / m.P
        row = (block_c if m.layout.channels_last else block_p) * itemsize
        ahead = max(stages(device, itemsize, m, config, loads) - 1, 0.25)
        grid = m.N * chunks * tiles
        return Footprint(block_c * block_p, itemsize, loads, live, grid, waste, row, ahead=ahead, sms=size)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads,), exact=m.N)
    return config_for(SPACE, footprint, kernel, x, **how)


def plan_response_sums(x: Tensor, dy: Tensor | None = None) -> Plan:
    """Makes product (N, T, C), the sum of squares without dy; and total, the sum of dy."""
    m = maps(x=x, dy=dy)
    loads = 1 + (dy is not None)
    config = sums_config("response_sums", m, x, loads, 1.2 if dy is None else 2.2)
    chunks, blocks, tiles = shares(m, config, sms(x.device))
    args = dict(
        x_ptr=x,
        dy_ptr=dy,
        product_ptr=partials(x, m.N, tiles, m.C),
        total_ptr=None if dy is None else partials(x, m.N, tiles, m.C),
        **m.strides,
        pixels=m.pixels,
        blocks=blocks,
        tiles=tiles,
        C=m.C,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        STAGES=stages(x.device, x.element_size(), m, config, loads),
        DEPENDENT=config.dependent,
    )
    traffic = dict(x_ptr=(1, 0), dy_ptr=(1, 0), product_ptr=(0, 1), total_ptr=(0, 1))
    return Plan(_response_sums_kernel, args, config, m.N * tiles * chunks, traffic, ("product", "total"))
