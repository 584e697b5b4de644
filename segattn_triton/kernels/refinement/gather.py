"""What the pixels give back to their neighbours, gathered where it arrives: at the pixels of an image with a border.

    of the mask    d_c(q) = sum_k a_k(p) dy_c(p)                                p = q - the way to neighbour k
    of the image   d_c(q) = sum_k slope_c(p) (e - mean_c(p)) - rate_c(p) da_k(p) sign(e),   e = x_c(q) - x_c(p)

over those p that lie in the image. A pixel q of the border, which is as wide as the largest dilation, stands for the
nearest one of the image: `fold` adds it there. dy, x (N, C, P); a, da (N, K, P); rate, slope, mean (N, C, P); d
(N, C, H + 2 R, W + 2 R). No atomics, in one order.
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import MOST_PIXELS, accumulator, maps, partials
from ...runtime.plan import Plan
from ..common.dependent import begin
from ..common.tile import chunk_of, load_tile, pixels_of
from .choice import tile_config
from .shared import NEIGHBOURS, dilation_at, pixel_at, plane, sign


@triton.jit
def _of_image(pointers, x, x_stride, n, offs_c, offs, mask, a, P, C: tl.constexpr, LAYOUT: tl.constexpr, ACC):
    """[BLOCK_C, BLOCK_P]: what neighbours at which the image is x get from the pixels `offs`."""
    x_ptr, rate_ptr, slope_ptr, mean_ptr = pointers
    e = x - load_tile(x_ptr, x_stride, n, offs_c, offs, mask, LAYOUT, ACC)
    places = ((n.to(tl.int64) * C + offs_c) * P)[:, None] + offs[None, :]
    rate = tl.load(rate_ptr + places, mask, other=0.0)
    slope = tl.load(slope_ptr + places, mask, other=0.0)
    mean = tl.load(mean_ptr + places, mask, other=0.0)
    return slope * (e - mean) - rate * a[None, :] * sign(e)


@triton.jit
def _refinement_gather_kernel(
    t_ptr,
    a_ptr,
    rate_ptr,
    slope_ptr,
    mean_ptr,
    d_ptr,
    t_stride,
    sizes,
    dilations,
    C: tl.constexpr,
    COUNT: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """t is dy; or x, where rate, slope and mean are given, and a is da."""
    begin(DEPENDENT)
    H, W, R, tiles = sizes
    tile, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    n, offs_q = pixels_of(tile, tiles, BLOCK_P)
    row, col = offs_q // (W + 2 * R) - R, offs_q % (W + 2 * R) - R
    mask_c, mask_q = (offs_c < C)[:, None], offs_q < (H + 2 * R) * (W + 2 * R)
    total = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    if rate_ptr is not None:
        x = load_tile(t_ptr, t_stride, n, offs_c, pixel_at(row, col, H, W), mask_c & mask_q[None, :], LAYOUT, ACC)
    for i in range(0, COUNT):
        away = dilation_at(i, dilations, COUNT)
        for place in tl.static_range(9):
            if place != 4:
                row_p, col_p = row - (place // 3 - 1) * away, col - (place % 3 - 1) * away
                inside = mask_q & (row_p >= 0) & (row_p < H) & (col_p >= 0) & (col_p < W)
                offs = row_p * W + col_p
                mask = mask_c & inside[None, :]
                a_k = plane(a_ptr, n, 8 * i + place - (place > 4), 8 * COUNT, H * W)
                a = tl.load(a_k + offs, inside, other=0.0)
                if rate_ptr is not None:
                    pointers = (t_ptr, rate_ptr, slope_ptr, mean_ptr)
                    total += _of_image(pointers, x, t_stride, n, offs_c, offs, mask, a, H * W, C, LAYOUT, ACC)
                else:
                    total += a[None, :] * load_tile(t_ptr, t_stride, n, offs_c, offs, mask, LAYOUT, ACC)
    out = ((n.to(tl.int64) * C + offs_c) * ((H + 2 * R) * (W + 2 * R)))[:, None] + offs_q[None, :]
    tl.store(d_ptr + out, total, mask_c & mask_q[None, :])


def with_border(t: Tensor, dilations: Sequence[int]) -> Tensor:
    """d for a map t (N, C, H, W)."""
    (N, C, H, W), R = t.shape, max(dilations)
    wide = H + 2 * R, W + 2 * R
    if wide[0] * wide[1] >= MOST_PIXELS:
        raise ValueError(
            f"dilations: got {R}, which makes {wide[0] * wide[1]} pixels of an image of {H} x {W} with its border, "
            f"expected fewer than {MOST_PIXELS}: split the image"
        )
    return partials(t, N, C, *wide)


def plan_refinement_gather(
    t: Tensor,
    a: Tensor,
    dilations: Sequence[int],
    d: Tensor,
    rate: Tensor | None = None,
    slope: Tensor | None = None,
    mean: Tensor | None = None,
) -> Plan:
    """Of dy and a, or of x, da and what `own` made of them."""
    m, (H, W), wide = maps(t=t), t.shape[2:], d.shape[2:]
    near = NEIGHBOURS * len(dilations)
    config = tile_config("refinement_gather", t, m.C, wide[0] * wide[1], near, m.layout, 1 if rate is None else 4)
    chunks, tiles = -(-m.C // config.blocks["BLOCK_C"]), -(-wide[0] * wide[1] // config.blocks["BLOCK_P"])
    args = dict(t_ptr=t, a_ptr=a, rate_ptr=rate, slope_ptr=slope, mean_ptr=mean, d_ptr=d)
    args |= dict(t_stride=m.stride["t"], sizes=(H, W, (wide[0] - H) // 2, tiles), C=m.C, dilations=tuple(dilations))
    args |= dict(COUNT=len(dilations), LAYOUT=m.layout, ACC=accumulator(t), DEPENDENT=config.dependent)
    given = rate is not None
    traffic = dict.fromkeys(("rate_ptr", "slope_ptr", "mean_ptr"), (near, 0)) | dict(a_ptr=(chunks, 0), d_ptr=(0, 1))
    traffic |= dict(t_ptr=(near + given * wide[0] * wide[1] / (H * W), 0))
    return Plan(_refinement_gather_kernel, args, config, m.N * chunks * tiles, traffic)
