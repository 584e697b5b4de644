"""The mean of every channel over the pixels, weighted by a softmax of one logit per pixel, and its backward.

    s_p = <w, x_p>,   lse = log sum_p exp(s_p),   a_p = exp(s_p - lse),   context_c = sum_p a_p x_cp
    backward of y = x g + ... with dcontext:   ds_p = a_p (<dcontext, x_p> - <dcontext, context>)
        dx_cp = dy_cp g_c + a_p dcontext_c + ds_p w_c,    dw_c = sum_np ds_p x_cp

x, dy, dx (N, C, P); w (1, C); context, dcontext (N, C); lse, inner (N,). One pass forward, by an online softmax over
the tiles; 3 backward, the logits computed again. Program t of an image takes its tiles t, t + T, ...; what it has of
the forward is a row (C + 2) of partials: sums by exp(s - highest), `highest`, and the sum of those weights.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps, accumulator, maps, partials
from ...runtime.plan import Plan
from ...tuning.model import Config
from ...tuning.target import sms
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.sums import add_chunk, by_lane, store_chunks, sum_lanes
from ..common.tile import WHOLE, channels_at_once, chunk_at, load_tile, load_vector, num_pixels, store_tile
from .shared import blocks, chain_stages, looping_config


@triton.jit
def finite(highest):
    """What is taken off logits before exp: nothing where all are -inf, whose weights are 0 then."""
    return tl.where(highest == float("-inf"), 0.0, highest)


@triton.jit
def _context_fwd_kernel(
    x_ptr,
    weight_ptr,
    partial_ptr,
    x_stride,
    sizes,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    CHUNKS: tl.constexpr,
    LANES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    pixels, tiles, share = sizes
    n = tl.program_id(0) // share
    P = num_pixels(pixels, LAYOUT)
    highest = tl.full([], float("-inf"), ACC)
    total = tl.zeros([], ACC)
    context = tl.zeros([CHUNKS, BLOCK_C, LANES], ACC)
    for tile in tl.range(tl.program_id(0) % share, tiles, share, num_stages=STAGES):
        offs_p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
        mask_p = offs_p < P
        s = tl.zeros([BLOCK_P], ACC)
        x = tl.zeros([BLOCK_C, BLOCK_P], ACC)
        for chunk in range(0, C, BLOCK_C):
            offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
            x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
            s += tl.sum(x * load_vector(weight_ptr, offs_c, C, ACC)[:, None], 0)
        s = tl.where(mask_p, s, float("-inf"))
        top = tl.maximum(highest, tl.max(s, 0))
        a = tl.exp(s - finite(top))
        kept = tl.exp(highest - finite(top))
        total = total * kept + tl.sum(a, 0)
        context *= kept
        for chunk in range(0, C, BLOCK_C):
            offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
            if C > BLOCK_C:
                x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
            context = add_chunk(context, chunk, by_lane(x * a[None, :], LANES, LAYOUT))
        highest = top
    row = partial_ptr + tl.program_id(0).to(tl.int64) * (C + 2)
    store_chunks(row, context, C)
    tl.store(row + C, highest)
    tl.store(row + C + 1, total)


@triton.jit
def _context_bwd_kernel(
    dy_ptr,
    x_ptr,
    z_ptr,
    dcontext_ptr,
    inner_ptr,
    lse_ptr,
    weight_ptr,
    dx_ptr,
    dw_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    CHUNKS: tl.constexpr,
    LANES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Without z, g is 1."""
    begin(DEPENDENT)
    dy_stride, x_stride, dx_stride = strides
    pixels, tiles, share = sizes
    n = tl.program_id(0) // share
    image = n.to(tl.int64) * C
    P = num_pixels(pixels, LAYOUT)
    inner = tl.load(inner_ptr + n)
    lse = tl.load(lse_ptr + n)
    dw = tl.zeros([CHUNKS, BLOCK_C, LANES], ACC)
    for tile in tl.range(tl.program_id(0) % share, tiles, share, num_stages=STAGES):
        offs_p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
        mask_p = offs_p < P
        s = tl.zeros([BLOCK_P], ACC)
        da = tl.zeros([BLOCK_P], ACC)
        x = tl.zeros([BLOCK_C, BLOCK_P], ACC)
        dy = x
        for chunk in range(0, C, BLOCK_C):
            offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
            x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
            s += tl.sum(x * load_vector(weight_ptr, offs_c, C, ACC)[:, None], 0)
            if dx_ptr is not None and C <= BLOCK_C:
                dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
            da += tl.sum(x * load_vector(dcontext_ptr + image, offs_c, C, ACC)[:, None], 0)
        a = tl.where(mask_p, tl.exp(s - lse), 0.0)
        ds = a * (da - inner)
        for chunk in range(0, C, BLOCK_C):
            offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
            if C > BLOCK_C:
                x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
            if dx_ptr is not None:
                if C > BLOCK_C:
                    dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
                dx = dy
                if z_ptr is not None:
                    dx *= GATE.f(load_vector(z_ptr + image, offs_c, C, ACC), GATE.a, GATE.b)[:, None]
                dx += load_vector(dcontext_ptr + image, offs_c, C, ACC)[:, None] * a[None, :]
                dx += load_vector(weight_ptr, offs_c, C, ACC)[:, None] * ds[None, :]
                store_tile(dx_ptr, dx_stride, n, offs_c, offs_p, dx, mask, LAYOUT)
            if dw_ptr is not None:
                dw = add_chunk(dw, chunk, by_lane(x * ds[None, :], LANES, LAYOUT))
    if dw_ptr is not None:
        store_chunks(dw_ptr + tl.program_id(0).to(tl.int64) * C, dw, C)


def _of_all_channels(m: Maps, x: Tensor, config: Config) -> tuple[dict, int, int]:
    """What both kernels are given of a program that has all channels of its pixels; the tiles of an image, and the
    programs that share them."""
    block_c = channels_at_once(m.C)
    tiles, share = blocks(m, config, sms(x.device))
    args = dict(
        sizes=(m.pixels, tiles, share),
        C=m.C,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        CHUNKS=triton.next_power_of_2(-(-m.C // block_c)),
        LANES=sum_lanes(m, block_c, config, x.element_size()),
        DEPENDENT=config.dependent,
        BLOCK_C=block_c,
    )
    return args, tiles, share


def plan_context_fwd(x: Tensor, weight: Tensor) -> Plan:
    """Makes partial (N, T, C + 2): see `plan_context_merge`."""
    m = maps(x=x)
    config = looping_config("context_fwd", m, x, 1, 4.0 if m.C > WHOLE or m.layout.align == 1 else 3.0)
    args, tiles, share = _of_all_channels(m, x, config)
    args |= dict(x_ptr=x, weight_ptr=weight, x_stride=m.stride["x"], partial_ptr=partials(x, m.N, share, m.C + 2))
    args |= dict(STAGES=chain_stages(x.device, x.element_size(), m, config, 1))
    reads = 1 if m.C <= WHOLE else 2
    traffic = dict(x_ptr=(reads, 0), weight_ptr=(m.N * tiles, 0), partial_ptr=(0, 1))
    return Plan(_context_fwd_kernel, args, config, m.N * share, traffic, ("partial",))


def plan_context_bwd(
    dy: Tensor,
    x: Tensor,
    z: Tensor | None,
    dcontext: Tensor,
    inner: Tensor,
    lse: Tensor,
    weight: Tensor,
    dx: Tensor | None,
    with_dw: bool,
    gate: Activation | None,
) -> Plan:
    """Makes dw (N * T, C), if asked for."""
    dy, z = (dy, z) if dx is not None else (None, None)
    m = maps(dy=dy, x=x, dx=dx)
    config = looping_config("context_bwd", m, x, 2, 6.2 if m.C > WHOLE or m.layout.align == 1 else 3.2)
    args, tiles, share = _of_all_channels(m, x, config)
    args |= dict(dy_ptr=dy, x_ptr=x, z_ptr=z, dcontext_ptr=dcontext, inner_ptr=inner)
    args |= dict(lse_ptr=lse, weight_ptr=weight, dx_ptr=dx, strides=m.strides_of("dy", "x", "dx"), GATE=gate)
    grid = m.N * share
    args |= dict(dw_ptr=partials(x, grid, m.C) if with_dw else None)
    args |= dict(STAGES=chain_stages(x.device, x.element_size(), m, config, 2))
    again = 1 if m.C <= WHOLE else 2
    every, vector = m.N * tiles, tiles * (1 + (dx is not None))
    traffic = dict(dy_ptr=(1, 0), x_ptr=(again, 0), z_ptr=(tiles, 0), dcontext_ptr=(vector, 0))
    traffic |= dict(inner_ptr=(share, 0), lse_ptr=(share, 0), dx_ptr=(0, 1), dw_ptr=(0, 1))
    traffic |= dict(weight_ptr=(every * (1 + (dx is not None)), 0))
    return Plan(_context_bwd_kernel, args, config, grid, traffic, ("dw",))
