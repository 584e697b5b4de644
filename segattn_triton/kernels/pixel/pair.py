"""The mean and the maximum over the channels of every pixel, of x or of x times a gate of every channel.

    mean_p = sum_c x_cp gc_c / C,    peak_p = max_c x_cp gc_c,    gc = gate(sum_k zc)

x (N, C, P); zc (N, K, C), partial logits, summed in order; their sum and the gate (N, C) are written for later passes.
pools (N, 2, P) is "max,mean" or "mean,max"; with "half", (N, 1, P), half the sum of both. found (N, P) is the first
channel of the maximum, or how many channels reach it. In the accumulator's precision. 1 pass over the map.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps
from ...runtime.plan import Plan
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import channels_at_once, chunk_at, load_sum, load_tile, num_pixels, pixels_of
from .shared import chain_config, nothing_yet, squeeze


@triton.jit
def d_pair(dpools_ptr, n, offs_p, mask_p, P, C: tl.constexpr, POOL: tl.constexpr):
    """[BLOCK_P] each: what the mean gives to every channel of the pixel, and the maximum to where it is reached."""
    if POOL == "half":
        half = 0.5 * tl.load(dpools_ptr + n.to(tl.int64) * P + offs_p, mask_p, other=0.0)
        return half / C, half
    else:
        image = dpools_ptr + n.to(tl.int64) * 2 * P
        first = tl.load(image + offs_p, mask_p, other=0.0)
        second = tl.load(image + P + offs_p, mask_p, other=0.0)
        if POOL == "max,mean":
            return second / C, first
        else:
            return first / C, second


@triton.jit
def _pair_kernel(
    x_ptr,
    zc_ptr,
    logit_ptr,
    gc_ptr,
    pools_ptr,
    peak_ptr,
    found_ptr,
    x_stride,
    sizes,
    C: tl.constexpr,
    K: tl.constexpr,
    POOL: tl.constexpr,
    SPLIT: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    pixels, tiles = sizes
    n, offs_p = pixels_of(tl.program_id(0), tiles, BLOCK_P)
    P = num_pixels(pixels, LAYOUT)
    mask_p = offs_p < P
    total, peak, first, count = nothing_yet(C, ACC, BLOCK_P)
    for chunk in range(0, C, BLOCK_C):
        offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
        x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
        if zc_ptr is not None:
            zc = load_sum(zc_ptr, n, offs_c, C, K, ACC)
            gc = GATE.f(zc, GATE.a, GATE.b)
            if tl.program_id(0) % tiles == 0:
                tl.store(logit_ptr + n.to(tl.int64) * C + offs_c, zc, offs_c < C)
                tl.store(gc_ptr + n.to(tl.int64) * C + offs_c, gc, offs_c < C)
            x *= gc[:, None]
        total, peak, first, count = squeeze(x, offs_c, offs_c, total, peak, first, count, C, "meanmax")
    mean = total / C
    image = n.to(tl.int64) * P
    tl.store(found_ptr + image + offs_p, count if SPLIT else first, mask_p)
    if peak_ptr is not None:
        tl.store(peak_ptr + image + offs_p, peak, mask_p)
    if POOL == "half":
        tl.store(pools_ptr + image + offs_p, 0.5 * (mean + peak), mask_p)
    else:
        both = pools_ptr + 2 * image
        tl.store(both + offs_p, peak if POOL == "max,mean" else mean, mask_p)
        tl.store(both + P + offs_p, mean if POOL == "max,mean" else peak, mask_p)


def plan_pair(
    x: Tensor,
    zc: Tensor | None,
    logit: Tensor | None,
    gc: Tensor | None,
    pools: Tensor,
    peak: Tensor | None,
    found: Tensor,
    pool: str,
    split: bool,
    gate: Activation,
) -> Plan:
    """Fills pools (N, 1 or 2, P), found (N, P) and, with a split, peak (N, P); of zc also logit and gc (N, C)."""
    m, block_c = maps(x=x), channels_at_once(x.shape[1])
    live = 2.3 if block_c < m.C or m.layout.align == 1 else 1.6
    config = chain_config("pair", m, x, loads=1, live=live, sums=3)
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    args = dict(
        x_ptr=x,
        zc_ptr=zc,
        logit_ptr=logit,
        gc_ptr=gc,
        pools_ptr=pools,
        peak_ptr=peak,
        found_ptr=found,
        x_stride=m.stride["x"],
        sizes=(m.pixels, tiles),
        C=m.C,
        K=1 if zc is None else zc.shape[1],
        POOL=pool,
        SPLIT=split,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
        BLOCK_C=block_c,
    )
    traffic = dict(x_ptr=(1, 0), zc_ptr=(tiles, 0))
    traffic |= dict.fromkeys(("logit_ptr", "gc_ptr", "pools_ptr", "peak_ptr", "found_ptr"), (0, 1))
    return Plan(_pair_kernel, args, config, m.N * tiles, traffic)
