"""A step of a refinement: every pixel of the mask becomes the weighted sum of its neighbours.

    y_c = sum_k a_k m_c at neighbour k

m, y (N, M, P), a (N, K, P), see `shared`. Read m once from memory, at all neighbours from the cache, read a, write y.
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps
from ...runtime.plan import Plan
from ..common.dependent import begin
from ..common.tile import chunk_of, load_tile, pixels_of, store_tile
from .choice import tile_config
from .shared import NEIGHBOURS, dilation_at, pixel_at, plane


@triton.jit
def _refinement_step_kernel(
    m_ptr,
    a_ptr,
    y_ptr,
    strides,
    sizes,
    dilations,
    M: tl.constexpr,
    COUNT: tl.constexpr,
    FROM: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    m_stride, y_stride = strides
    H, W, tiles = sizes
    tile, offs_c = chunk_of(tl.program_id(0), M, BLOCK_C)
    n, offs_p = pixels_of(tile, tiles, BLOCK_P)
    mask_p = offs_p < H * W
    mask = (offs_c < M)[:, None] & mask_p[None, :]
    row, col = offs_p // W, offs_p % W
    total = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for i in range(0, COUNT):
        d = dilation_at(i, dilations, COUNT)
        for place in tl.static_range(9):
            if place != 4:
                near = pixel_at(row + (place // 3 - 1) * d, col + (place % 3 - 1) * d, H, W)
                a_k = plane(a_ptr, n, 8 * i + place - (place > 4), 8 * COUNT, H * W)
                a = tl.load(a_k + offs_p, mask_p, other=0.0)
                total += a[None, :] * load_tile(m_ptr, m_stride, n, offs_c, near, mask, FROM, ACC)
    store_tile(y_ptr, y_stride, n, offs_c, offs_p, total, mask, LAYOUT)


def plan_refinement_step(mask: Tensor, a: Tensor, dilations: Sequence[int], y: Tensor) -> Plan:
    given, made, (H, W) = maps(m=mask), maps(y=y), y.shape[2:]
    config = tile_config("refinement_step", mask, made.C, made.P, NEIGHBOURS * len(dilations), given.layout)
    chunks, tiles = -(-made.C // config.blocks["BLOCK_C"]), -(-made.P // config.blocks["BLOCK_P"])
    args = dict(
        m_ptr=mask,
        a_ptr=a,
        y_ptr=y,
        strides=(given.stride["m"], made.stride["y"]),
        sizes=(H, W, tiles),
        M=made.C,
        dilations=tuple(dilations),
        COUNT=len(dilations),
        FROM=given.layout,
        LAYOUT=made.layout,
        ACC=accumulator(mask),
        DEPENDENT=config.dependent,
    )
    traffic = dict(m_ptr=(NEIGHBOURS * len(dilations), 0), a_ptr=(chunks, 0), y_ptr=(0, 1))
    return Plan(_refinement_step_kernel, args, config, made.N * chunks * tiles, traffic)
