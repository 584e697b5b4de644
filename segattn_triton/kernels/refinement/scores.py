"""From the mask's maps back to the image: the gradient of the scores, and what of it belongs to each pixel.

    da_k    = a_k (g_k - sum_j a_j g_j),   g_k = sum_tc dm_tc m_tc at neighbour k + dmap_k       (of the scores, by a)
    rate    = r_c / C,   mean = of e_c with the pixel itself,   r_c, e_c and sigma_c as of `affinity`
    slope   = 0.1 r_c^2 sum_k da_k |e_kc| / (C (9 D - 1) sigma_c),   0 where sigma_c is
    own     = rate sum_k da_k sign(e_kc) - D slope mean                                          (the pixel itself)

m, dm (T, N, M, P): the mask before each step, and the gradient after it; a, da (N, K, P); x (N, C, P); rate, slope,
mean, own (N, C, P). `gather` takes from them what neighbours get.
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
from .shared import NEIGHBOURS, around, differences, plane, planes, sign, spread_of


@triton.jit
def _refinement_scores_kernel(
    m_ptr,
    dm_ptr,
    a_ptr,
    dmap_ptr,
    da_ptr,
    sizes,
    dilations,
    M: tl.constexpr,
    COUNT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    H, W, images, steps, tiles = sizes
    n, offs_p = pixels_of(tl.program_id(0), tiles, BLOCK_P)
    offs_k = tl.arange(0, BLOCK_K)
    mask_p = offs_p < H * W
    mask = (offs_k < 8 * COUNT)[:, None] & mask_p[None, :]
    near = around(offs_k, offs_p, H, W, dilations, COUNT)
    g = tl.zeros([BLOCK_K, BLOCK_P], ACC)
    if dmap_ptr is not None:
        g += tl.load(planes(dmap_ptr, n, offs_k, offs_p, 8 * COUNT, H * W), mask, other=0.0).to(ACC)
    for t in range(0, steps * M):
        image = t // M * images + n
        dm = tl.load(plane(dm_ptr, image, t % M, M, H * W) + offs_p, mask_p, other=0.0)
        g += dm[None, :] * tl.load(plane(m_ptr, image, t % M, M, H * W) + near, mask, other=0.0)
    a = tl.load(planes(a_ptr, n, offs_k, offs_p, 8 * COUNT, H * W), mask, other=0.0)
    da = a * (g - tl.sum(a * g, 0)[None, :])
    tl.store(planes(da_ptr, n, offs_k, offs_p, 8 * COUNT, H * W), da, mask)


@triton.jit
def _refinement_own_kernel(
    x_ptr,
    da_ptr,
    rate_ptr,
    slope_ptr,
    mean_ptr,
    own_ptr,
    x_stride,
    sizes,
    dilations,
    C: tl.constexpr,
    COUNT: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
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
    da = tl.load(planes(da_ptr, n, offs_k, offs_p, 8 * COUNT, H * W), mask, other=0.0)
    for c in range(0, C):
        e = differences(x_ptr, x_stride, n, c, offs_p, near, mask_p, mask, LAYOUT, ACC)
        mean, sigma = spread_of(e, mask, COUNT)
        r = 1.0 / (1e-8 + 0.1 * sigma)
        rate = r / C
        slope = 0.1 * r * rate * tl.sum(da * tl.abs(e), 0) / ((9 * COUNT - 1) * tl.where(sigma > 0.0, sigma, 1.0))
        slope = tl.where(sigma == 0.0, 0.0, slope)
        own = rate * tl.sum(da * sign(e), 0) - COUNT * slope * mean
        tl.store(plane(rate_ptr, n, c, C, H * W) + offs_p, rate, mask_p)
        tl.store(plane(slope_ptr, n, c, C, H * W) + offs_p, slope, mask_p)
        tl.store(plane(mean_ptr, n, c, C, H * W) + offs_p, mean, mask_p)
        tl.store(plane(own_ptr, n, c, C, H * W) + offs_p, own, mask_p)


def plan_refinement_scores(m: Tensor, dm: Tensor, a: Tensor, dmap: Tensor | None, dilations: Sequence[int]) -> Plan:
    """Makes da (N, K, H, W)."""
    (steps, N, M, H, W), near = m.shape, NEIGHBOURS * len(dilations)
    config, block_k = near_config("refinement_scores", maps(a=a), a, len(dilations), M * max(steps, 1))
    tiles = -(-H * W // config.blocks["BLOCK_P"])
    args = dict(m_ptr=m, dm_ptr=dm, a_ptr=a, dmap_ptr=dmap, da_ptr=partials(a, N, near, H, W))
    args |= dict(sizes=(H, W, N, steps, tiles), M=M, dilations=tuple(dilations), COUNT=len(dilations))
    args |= dict(ACC=accumulator(a), DEPENDENT=config.dependent, BLOCK_K=block_k)
    traffic = dict(m_ptr=(near, 0), dm_ptr=(1, 0), a_ptr=(1, 0), dmap_ptr=(1, 0), da_ptr=(0, 1))
    return Plan(_refinement_scores_kernel, args, config, N * tiles, traffic, ("da",))


def plan_refinement_own(image: Tensor, da: Tensor, dilations: Sequence[int]) -> Plan:
    """Makes rate, slope, mean and own (N, C, H, W)."""
    m, (H, W) = maps(x=image), image.shape[2:]
    config, block_k = near_config("refinement_own", m, image, len(dilations), m.C)
    tiles, made = -(-m.P // config.blocks["BLOCK_P"]), ("rate", "slope", "mean", "own")
    args = dict(x_ptr=image, da_ptr=da, x_stride=m.stride["x"], sizes=(H, W, tiles), C=m.C)
    args |= {f"{name}_ptr": partials(image, *image.shape) for name in made}
    args |= dict(dilations=tuple(dilations), COUNT=len(dilations), LAYOUT=m.layout, ACC=accumulator(image))
    args |= dict(DEPENDENT=config.dependent, BLOCK_K=block_k)
    traffic = dict(x_ptr=(1 + NEIGHBOURS * len(dilations), 0), da_ptr=(1, 0)) | {f"{name}_ptr": (0, 1) for name in made}
    return Plan(_refinement_own_kernel, args, config, m.N * tiles, traffic, made)
