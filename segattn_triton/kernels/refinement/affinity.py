"""How alike a pixel and its neighbours are, forward.

    a_k = softmax_k(mean_c -|e_kc| r_c),  e_kc = x_c at neighbour k - x_c,  r_c = 1 / (1e-8 + 0.1 sigma_c)

x (N, C, P); sigma_c the unbiased deviation of the pixel, once a dilation, and its neighbours; a (N, K, P), and in the
dtype of x into a map. Read x once from memory, at a pixel and its neighbours from the cache; write a.
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps, partials
from ...runtime.plan import Plan
from ..common.dependent import begin
from ..common.tile import pixels_of
from .choice import near_config
from .shared import NEIGHBOURS, around, differences, planes, spread_of

CHANNELS = 8  # whose scores are added up before they are added to the others': of many, less rounding


@triton.jit
def _refinement_affinity_kernel(
    x_ptr,
    a_ptr,
    map_ptr,
    x_stride,
    sizes,
    dilations,
    C: tl.constexpr,
    COUNT: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    TOGETHER: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    H, W, tiles = sizes
    n, offs_p = pixels_of(tl.program_id(0), tiles, BLOCK_P)
    offs_k = tl.arange(0, BLOCK_K)
    mask_p = offs_p < H * W
    mask = (offs_k < 8 * COUNT)[:, None] & mask_p[None, :]
    near = around(offs_k, offs_p, H, W, dilations, COUNT)
    score = tl.zeros([BLOCK_K, BLOCK_P], ACC)
    for first in range(0, C, TOGETHER):
        part = tl.zeros([BLOCK_K, BLOCK_P], ACC)
        for c in range(first, tl.minimum(first + TOGETHER, C)):
            e = differences(x_ptr, x_stride, n, c, offs_p, near, mask_p, mask, LAYOUT, ACC)
            _, sigma = spread_of(e, mask, COUNT)
            part -= tl.abs(e) * (1.0 / (1e-8 + 0.1 * sigma))[None, :]
        score += part
    score = tl.where((offs_k < 8 * COUNT)[:, None], score / C, float("-inf"))
    a = tl.exp(score - tl.max(score, 0)[None, :])
    a = a / tl.sum(a, 0)[None, :]
    tl.store(planes(a_ptr, n, offs_k, offs_p, 8 * COUNT, H * W), a, mask)
    if map_ptr is not None:
        tl.store(planes(map_ptr, n, offs_k, offs_p, 8 * COUNT, H * W), a.to(map_ptr.dtype.element_ty), mask)


def plan_refinement_affinity(image: Tensor, dilations: Sequence[int], gate_map: Tensor | None) -> Plan:
    """Makes a (N, K, H, W)."""
    m, (H, W) = maps(x=image), image.shape[2:]
    config, block_k = near_config("refinement_affinity", m, image, len(dilations), m.C)
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    args = dict(
        x_ptr=image,
        a_ptr=partials(image, m.N, NEIGHBOURS * len(dilations), H, W),
        map_ptr=gate_map,
        x_stride=m.stride["x"],
        sizes=(H, W, tiles),
        C=m.C,
        dilations=tuple(dilations),
        COUNT=len(dilations),
        LAYOUT=m.layout,
        ACC=accumulator(image),
        DEPENDENT=config.dependent,
        TOGETHER=CHANNELS,
        BLOCK_K=block_k,
    )
    traffic = dict(x_ptr=(1 + NEIGHBOURS * len(dilations), 0), a_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_refinement_affinity_kernel, args, config, m.N * tiles, traffic, ("a",))
