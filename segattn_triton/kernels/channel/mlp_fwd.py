"""The perceptron of a gate, forward, and the second stage of the pool before it. See `mlp` for the sizes.

    v = pooled (mean, maximum, or half their sum),  z1 = W1 v + b1,  z = W2 act(z1) + b2;   one layer: z = W1 v + b1
    BOTH: the mean and the maximum by themselves, with the sum of both z

Of the pool's partials (N, T, CIN); z (N, K, C) is partial itself, z1 is whole: one program has all inputs of its rows.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import finish_sum, is_peak, load_vector, nan_max, only_when
from .mlp import load_weight, mlp_config, splits, tiles_at_once


@triton.jit
def _finish_peak(
    peak_ptr, at_ptr, n, offs_c, tiles, C: tl.constexpr, SPLIT: tl.constexpr, ACC: tl.constexpr, BLOCK_T: tl.constexpr
):
    """[BLOCK_C]: the maximum over the tiles of image n, and its first pixel or its count."""
    peak = tl.full([BLOCK_T, offs_c.shape[0]], float("-inf"), ACC)
    at = tl.full([BLOCK_T, offs_c.shape[0]], 0 if SPLIT else 2**31 - 1, tl.int32)
    for tile in range(0, tiles, BLOCK_T):
        offs_t = tile + tl.arange(0, BLOCK_T)
        offs = (n.to(tl.int64) * tiles + offs_t)[:, None] * C + offs_c[None, :]
        mask = (offs_t < tiles)[:, None] & (offs_c < C)[None, :]
        p = tl.load(peak_ptr + offs, mask, other=float("-inf"))
        a = tl.load(at_ptr + offs, mask, other=0 if SPLIT else 2**31 - 1)
        both = at + a if SPLIT else tl.minimum(at, a)
        higher = ((p > peak) | (p != p)) & (peak == peak)
        at = tl.where(higher, a, tl.where(is_peak(p, peak), both, at))
        peak = tl.where(higher, p, peak)
    highest = nan_max(peak, 0)
    here = is_peak(peak, highest[None, :])
    return highest, tl.sum(tl.where(here, at, 0), 0) if SPLIT else tl.min(tl.where(here, at, 2**31 - 1), 0)


@triton.jit
def _pooled(
    total_ptr,
    peak_ptr,
    at_ptr,
    n,
    offs_c,
    tiles,
    pixels,
    CIN: tl.constexpr,
    SPLIT: tl.constexpr,
    BOTH: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """v [BLOCK_C] of image n, its maximum and the place of it; v in their stead of a mean alone."""
    v = tl.zeros([offs_c.shape[0]], ACC)
    if total_ptr is not None:
        v = finish_sum(total_ptr, n, offs_c, tiles, CIN, ACC, BLOCK_T) / pixels
    if peak_ptr is None:
        return v, v, v
    else:
        peak, at = _finish_peak(peak_ptr, at_ptr, n, offs_c, tiles, CIN, SPLIT, ACC, BLOCK_T)
        if total_ptr is None:
            v = peak
        elif not BOTH:
            v = 0.5 * (v + peak)
        return v, peak, at


@triton.jit
def _mlp_fwd_kernel(
    total_ptr,
    peak_ptr,
    at_ptr,
    w1_ptr,
    b1_ptr,
    w2_ptr,
    b2_ptr,
    pooled_ptr,
    highest_ptr,
    found_ptr,
    z1_ptr,
    z_ptr,
    sizes,
    CIN: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    ACT: tl.constexpr,
    SPLIT: tl.constexpr,
    BOTH: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    begin(DEPENDENT)
    tiles, pixels = sizes
    K: tl.constexpr = (R + BLOCK_R - 1) // BLOCK_R
    k = tl.program_id(0) % K
    n = tl.program_id(0) // K
    image = n.to(tl.int64) * C
    source = n.to(tl.int64) * CIN
    POOLS: tl.constexpr = 2 if BOTH else 1
    offs_r = k * BLOCK_R + tl.arange(0, BLOCK_R)
    z1 = tl.zeros([BLOCK_R, BLOCK_C], ACC)
    z1_peak = tl.zeros([BLOCK_R, BLOCK_C], ACC)
    for chunk in range(0, CIN, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        mine = only_when(k == 0, offs_c < CIN)
        w = load_weight(w1_ptr, offs_r, offs_c, R, CIN, ACC)  # [BLOCK_R, BLOCK_C]
        v, peak, at = _pooled(total_ptr, peak_ptr, at_ptr, n, offs_c, tiles, pixels, CIN, SPLIT, BOTH, ACC, BLOCK_T)
        if peak_ptr is not None:
            tl.store(found_ptr + source + offs_c, at, mine)
            if highest_ptr is not None:
                tl.store(highest_ptr + source + offs_c, peak, mine)
        tl.store(pooled_ptr + source * POOLS + offs_c, v, mine)
        z1 += w * tl.where(offs_c < CIN, v, 0.0)[None, :]
        if BOTH:
            tl.store(pooled_ptr + source * POOLS + CIN + offs_c, peak, mine)
            z1_peak += w * tl.where(offs_c < CIN, peak, 0.0)[None, :]
    hidden = tl.sum(z1, 1)
    hidden_peak = tl.sum(z1_peak, 1)
    if b1_ptr is not None:
        b1 = load_vector(b1_ptr, offs_r, R, ACC)
        hidden += b1
        hidden_peak += b1
    if w2_ptr is None:
        tl.store(z_ptr + image + offs_r, hidden + hidden_peak if BOTH else hidden, offs_r < R)
    else:
        z1_image = z1_ptr + n.to(tl.int64) * (POOLS * R)
        tl.store(z1_image + offs_r, hidden, offs_r < R)
        h = ACT.f(hidden, ACT.a, ACT.b)
        if BOTH:
            tl.store(z1_image + R + offs_r, hidden_peak, offs_r < R)
            h += ACT.f(hidden_peak, ACT.a, ACT.b)
        h = tl.where(offs_r < R, h, 0.0)
        for chunk in range(0, C, BLOCK_C):
            offs_c = chunk + tl.arange(0, BLOCK_C)
            w = load_weight(w2_ptr, offs_c, offs_r, C, R, ACC)  # [BLOCK_C, BLOCK_R]
            z = tl.sum(w * h[None, :], 1)
            if b2_ptr is not None:
                z += POOLS * tl.load(b2_ptr + offs_c, only_when(k == 0, offs_c < C), other=0.0).to(ACC)
            tl.store(z_ptr + (image * K + k * C) + offs_c, z, offs_c < C)


def plan_mlp_fwd(
    total: Tensor | None,
    peak: Tensor | None,
    at: Tensor | None,
    pixels: int,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    pooled: Tensor,
    highest: Tensor | None,
    found: Tensor | None,
    z1: Tensor | None,
    act: Activation,
    split: bool,
    both: bool = False,
) -> Plan:
    """Of partials (N, T, CIN): pooled, the maximum and its place (N, CIN), z1 (N, R). Makes z (N, K, C).

    Of both pools, pooled (N, 2 CIN) and z1 (N, 2 R): first of the mean, then of the maximum.
    """
    N, tiles, inputs = (peak if total is None else total).shape
    R = w1.shape[0]
    C = R if w2 is None else w2.shape[0]
    config = mlp_config("mlp_fwd", N, inputs if w2 is None else max(inputs, C), R, pixels, tiles, w1, 1 + both)
    K = splits(R, config)
    args = dict(
        total_ptr=total,
        peak_ptr=peak,
        at_ptr=at,
        w1_ptr=w1,
        b1_ptr=b1,
        w2_ptr=w2,
        b2_ptr=b2,
        pooled_ptr=pooled,
        highest_ptr=highest,
        found_ptr=found,
        z1_ptr=z1,
        z_ptr=pooled.new_empty((N, 1 if w2 is None else K, C)),
        sizes=(tiles, pixels),
        CIN=inputs,
        C=C,
        R=R,
        ACT=act,
        SPLIT=split,
        BOTH=both,
        ACC=accumulator(pooled),
        DEPENDENT=config.dependent,
        BLOCK_T=tiles_at_once(tiles, config),
    )
    read = dict(total_ptr=K, peak_ptr=K, at_ptr=K, w1_ptr=N, b1_ptr=N, w2_ptr=N, b2_ptr=N)
    written = ("pooled_ptr", "highest_ptr", "found_ptr", "z1_ptr", "z_ptr")
    traffic = {name: (times, 0) for name, times in read.items()} | {name: (0, 1) for name in written}
    return Plan(_mlp_fwd_kernel, args, config, N * K, traffic, ("z",))
