"""Every channel of an image shifted by a number of its own: y = x + sum_k z_k. x, y (N, C, P); z (N, K, C).

2 passes over the map: read x, write y. The last pixels come first: the pass before this one read them last.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps
from ...runtime.plan import Plan
from ..common.dependent import begin
from ..common.tile import last_first, load_sum, load_tile, num_pixels, only_when, store_tile
from .apply import apply_config, tiles_of


@triton.jit
def _shift_kernel(
    x_ptr,
    z_ptr,
    y_ptr,
    logit_ptr,
    map_ptr,
    x_stride,
    y_stride,
    pixels,
    images,
    C: tl.constexpr,
    K: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    n, block, offs_c = last_first(images, C, BLOCK_C)
    offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = (offs_c < C)[:, None] & (offs_p < num_pixels(pixels, LAYOUT))[None, :]
    x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
    z = load_sum(z_ptr, n, offs_c, C, K, ACC)
    offs = n.to(tl.int64) * C + offs_c
    mine = only_when(block == 0, offs_c < C)
    tl.store(logit_ptr + offs, z, mine)
    if map_ptr is not None:
        tl.store(map_ptr + offs, z.to(map_ptr.dtype.element_ty), mine)
    store_tile(y_ptr, y_stride, n, offs_c, offs_p, x + z[:, None], mask, LAYOUT)


def plan_shift(x: Tensor, z: Tensor, y: Tensor, logit: Tensor, shift_map: Tensor | None) -> Plan:
    """The sum of z also fills `logit` (N, C), and the map."""
    m = maps(x=x, y=y)
    config = apply_config("shift", m, x, loads=1, live=1.2)
    chunks, blocks = tiles_of(m, config)
    args = dict(x_ptr=x, z_ptr=z, y_ptr=y, logit_ptr=logit, map_ptr=shift_map, **m.strides, pixels=m.pixels)
    args |= dict(images=m.N, C=m.C, K=z.shape[1], LAYOUT=m.layout, ACC=accumulator(x), DEPENDENT=config.dependent)
    traffic = dict(x_ptr=(1, 0), z_ptr=(blocks, 0)) | dict.fromkeys(("y_ptr", "logit_ptr", "map_ptr"), (0, 1))
    return Plan(_shift_kernel, args, config, m.N * chunks * blocks, traffic)
