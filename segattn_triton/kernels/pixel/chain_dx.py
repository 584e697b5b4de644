"""The backward of a gate of every pixel after one of every channel, its last pass. See `chain_bwd`.

    dx' = dy gp + dmean / C + dmax at the maximum
    dx = dx' gc + what the pool over the pixels gives, plus dy if residual

Reads dy and writes dx; shared ties compare x with the maximum, and x is read, too.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps
from ...runtime.plan import Plan
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import (
    WHOLE,
    channels_at_once,
    chunk_at,
    d_pool,
    load_tile,
    load_vector,
    num_pixels,
    pixels_of,
    store_tile,
)
from .pair import d_pair
from .shared import at_peak, chain_config


@triton.jit
def _chain_dx_kernel(
    dy_ptr,
    x_ptr,
    gc_ptr,
    z_ptr,
    dpools_ptr,
    peak_ptr,
    found_ptr,
    dpooled_ptr,
    highest_ptr,
    place_ptr,
    dx_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    K: tl.constexpr,
    POOL: tl.constexpr,
    MEAN: tl.constexpr,
    BOTH: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    dy_stride, x_stride, dx_stride = strides
    pixels, tiles = sizes
    n, offs_p = pixels_of(tl.num_programs(0) - 1 - tl.program_id(0), tiles, BLOCK_P)
    P = num_pixels(pixels, LAYOUT)
    image = n.to(tl.int64) * P
    mask_p = offs_p < P
    gp = GATE.f(tl.load(z_ptr + image + offs_p, mask_p, other=0.0), GATE.a, GATE.b)
    dmean, dmax = d_pair(dpools_ptr, n, offs_p, mask_p, P, C, POOL)
    found = tl.load(found_ptr + image + offs_p, mask_p, other=1)
    peak = dmax
    if peak_ptr is not None:
        peak = tl.load(peak_ptr + image + offs_p, mask_p, other=0.0)
    for chunk in range(0, C, BLOCK_C):
        offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
        dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
        x = dy
        if x_ptr is not None:
            x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        scaled = x
        g = gp[None, :]
        if gc_ptr is not None:
            gc = load_vector(gc_ptr + n.to(tl.int64) * C, offs_c, C, ACC)[:, None]
            scaled = x * gc
            g *= gc
        here = at_peak(scaled, offs_c, peak, found, peak_ptr is not None)
        dx = dmean[None, :] + dmax[None, :] * here
        if gc_ptr is not None:
            dx *= gc
        dx += dy * g
        if dpooled_ptr is not None:
            dx += d_pool(x, dpooled_ptr, highest_ptr, place_ptr, n, offs_c, offs_p, P, C, K, MEAN, BOTH, ACC)
        if RESIDUAL:
            dx += dy
        store_tile(dx_ptr, dx_stride, n, offs_c, offs_p, dx, mask, LAYOUT)


def plan_chain_dx(
    dy: Tensor,
    x: Tensor,
    gc: Tensor | None,
    z: Tensor,
    dpools: Tensor,
    peak: Tensor | None,
    found: Tensor,
    pool: str,
    dpooled: Tensor | None,
    mean: bool,
    both: bool,
    highest: Tensor | None,
    place: Tensor | None,
    dx: Tensor,
    residual: bool,
    gate: Activation,
) -> Plan:
    """dpooled (N, K, C) of the pool over the pixels, or (N, 2 K, C) of both; highest, place (N, C) as in `d_pool`."""
    reads_x = peak is not None or highest is not None
    m = maps(dy=dy, x=x if reads_x else None, dx=dx)
    live = 2.2 + 1.5 * reads_x + (dpooled is not None) + (2 if m.C > WHOLE else 0)
    if m.layout.align == 1:  # every element has its own address in each of the maps
        live = max(live, 3.5 * (2 + reads_x))
    config = chain_config("chain_dx", m, x, loads=1 + reads_x, live=live)
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    pools = 2 if both else 1
    args = dict(
        dy_ptr=dy,
        x_ptr=x if reads_x else None,
        gc_ptr=gc,
        z_ptr=z,
        dpools_ptr=dpools,
        peak_ptr=peak,
        found_ptr=found,
        dpooled_ptr=dpooled,
        highest_ptr=highest,
        place_ptr=place,
        dx_ptr=dx,
        strides=m.strides_of("dy", "x", "dx"),
        sizes=(m.pixels, tiles),
        C=m.C,
        K=1 if dpooled is None else dpooled.shape[1] // pools,
        POOL=pool,
        MEAN=mean,
        BOTH=both,
        RESIDUAL=residual,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
        BLOCK_C=channels_at_once(m.C),
    )
    traffic = dict.fromkeys(("dy_ptr", "x_ptr", "z_ptr", "dpools_ptr", "peak_ptr", "found_ptr"), (1, 0))
    traffic |= dict.fromkeys(("gc_ptr", "dpooled_ptr", "highest_ptr", "place_ptr"), (tiles, 0)) | {"dx_ptr": (0, 1)}
    return Plan(_chain_dx_kernel, args, config, m.N * tiles, traffic)
