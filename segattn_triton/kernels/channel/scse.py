"""The sums that the backward of a channel gate beside a pixel gate needs, of one read of x and dy.

    y = x * gc + x * gp, or the maximum of both;    gc_c = gate(zc_c),  gp_p = gate(zp_p),  zp_p = <weight, x_p> + bias

    dgc_c = sum_p to_c dy x,    dgp_p = sum_c to_p dy x + dmap_p,    dzp = dgp gate'(zp)
    dweight_c = sum_p dzp x,    dbias = sum_p dzp

to_c, to_p (N, C, P) are 1 of the sum; of the maximum they say which of the two it is. x, dy (N, C, P); zc (N, C);
weight (C,). Program t of an image takes its tiles t, t + T, ...: dgc (N, T, C), dweight and dbias (N T, C + 1) are
partial. gp and dzp (N, P), for the pass that forms dx, come in the accumulator's precision. 2 passes up to C = 1024;
above, the tile is read again, from cache.
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
from ...tuning.target import capability, rounds_ahead, sms, stages_for
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.sums import add_chunk, by_lane, shared_time, store_chunks, sum_lanes
from ..common.tile import (
    WHOLE,
    channels_at_once,
    chunk_at,
    load_tile,
    load_vector,
    num_pixels,
    shares,
)

SPACE = looping(space(BLOCK_P=(8, 16, 32, 64, 128, 256, 512, 1024), num_warps=(2, 4, 8, 16)))
PARTIALS = 16384  # values per image that the second stage has to read, at most


@triton.jit
def _to_gates(
    dy, x, gp, zc_ptr, n, offs_c, C: tl.constexpr, REDUCE: tl.constexpr, GATE: tl.constexpr, ACC: tl.constexpr
):
    """[BLOCK_C, BLOCK_P] each: what goes to the gate of the channel and to that of the pixel."""
    both = dy * x
    if REDUCE == "max":
        gc = GATE.f(load_vector(zc_ptr + n.to(tl.int64) * C, offs_c, C, ACC), GATE.a, GATE.b)
        share_c, share_p = shares(x * gc[:, None], x * gp[None, :])
        return both * share_c, both * share_p
    else:
        return both, both


@triton.jit
def _scse_bwd_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    zc_ptr,
    weight_ptr,
    bias_ptr,
    total_ptr,
    dparam_ptr,
    gp_ptr,
    dzp_ptr,
    dy_stride,
    x_stride,
    pixels,
    tiles,
    share,
    C: tl.constexpr,
    REDUCE: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    CHUNKS: tl.constexpr,
    LANES: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    row = tl.program_id(0)  # of the partials: n * share + t
    n = row // share
    P = num_pixels(pixels, LAYOUT)
    image = n.to(tl.int64) * P
    dgc = tl.zeros([CHUNKS, BLOCK_C, LANES], ACC)
    dw = tl.zeros([CHUNKS, BLOCK_C, LANES], ACC)
    db = tl.zeros([BLOCK_P], ACC)
    for tile in tl.range(row % share, tiles, share, num_stages=STAGES):
        offs_p = tile * BLOCK_P + tl.arange(0, BLOCK_P)
        mask_p = offs_p < P
        zp = tl.zeros([BLOCK_P], ACC)
        x = tl.zeros([BLOCK_C, BLOCK_P], ACC)
        for chunk in range(0, C, BLOCK_C):
            offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
            x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
            zp += tl.sum(x * load_vector(weight_ptr, offs_c, C, ACC)[:, None], 0)
        if bias_ptr is not None:
            zp += tl.load(bias_ptr).to(ACC)
        gp = GATE.f(zp, GATE.a, GATE.b)
        dgp = tl.zeros([BLOCK_P], ACC)
        for chunk in range(0, C, BLOCK_C):
            offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
            if C > BLOCK_C:
                x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
            dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
            to_c, to_p = _to_gates(dy, x, gp, zc_ptr, n, offs_c, C, REDUCE, GATE, ACC)
            dgp += tl.sum(to_p, 0)
            if total_ptr is not None:
                dgc = add_chunk(dgc, chunk, by_lane(to_c, LANES, LAYOUT))
        if dmap_ptr is not None:
            dgp += tl.load(dmap_ptr + image + offs_p, mask_p, other=0.0).to(ACC)
        dzp = tl.where(mask_p, GATE.df(dgp, zp, GATE.a, GATE.b), 0.0)
        db += dzp
        if gp_ptr is not None:
            tl.store(gp_ptr + image + offs_p, gp, mask_p)
            tl.store(dzp_ptr + image + offs_p, dzp, mask_p)
        if dparam_ptr is not None:
            for chunk in range(0, C, BLOCK_C):
                offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
                if C > BLOCK_C:
                    x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
                dw = add_chunk(dw, chunk, by_lane(x * dzp[None, :], LANES, LAYOUT))
    if total_ptr is not None:
        store_chunks(total_ptr + row.to(tl.int64) * C, dgc, C)
    if dparam_ptr is not None:
        dparam = dparam_ptr + row.to(tl.int64) * (C + 1)
        store_chunks(dparam, dw, C)
        tl.store(dparam + C, tl.sum(db, 0))


def _blocks(m: Maps, config: Config, sms: int) -> tuple[int, int]:
    """Pixel tiles, and the programs T that share those of an image."""
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    return tiles, sharing(tiles, config, sms, m.N, PARTIALS // m.C)


def _stages(device: torch.device, itemsize: int, m: Maps, config: Config) -> int:
    """A program with all channels of its pixels has both maps on their way."""
    if m.C > WHOLE:
        return 1
    elements = 2 * channels_at_once(m.C) * config.blocks["BLOCK_P"]
    return stages_for(device, itemsize, elements, m.layout.align, config.programs)


def _config(m: Maps, x: Tensor, block_c: int, reduce: str) -> Config:
    itemsize, device, size = x.element_size(), x.device, sms(x.device)
    scattered = m.layout.align == 1  # every element has its own address and mask
    live = 6.2 if m.C > WHOLE or scattered else (1.5 if m.layout.channels_last else 1.8) + 2 * (reduce == "max")
    live += capability(x.device) >= 100  # Blackwell keeps less, and spills

    def footprint(config: Config) -> Footprint:
        block_p, (tiles, share) = config.blocks["BLOCK_P"], _blocks(m, config, size)
        waste = -(-tiles // share) * share * block_p / m.P
        row = (block_c if m.layout.channels_last else block_p) * itemsize
        ahead = rounds_ahead(_stages(device, itemsize, m, config))
        shared = shared_time(m, block_c, config, itemsize, sums=2, loads=2, passes=2)
        return Footprint(
            block_c * block_p, itemsize, 2, live, m.N * share, waste, row, ahead=ahead, shared=shared, sms=size
        )

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(reduce,), exact=m.N)
    return config_for(SPACE, footprint, "scse_bwd", x, **how)


def plan_scse_bwd(
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    zc: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    with_total: bool,
    with_dparam: bool,
    with_pixels: bool,
    reduce: str,
    gate: Activation,
) -> Plan:
    """Makes, where wanted, total (N, T, C), dparam (N T, C + 1), gp and dzp (N, P)."""
    m = maps(dy=dy, x=x)
    block_c = channels_at_once(m.C)
    config = _config(m, x, block_c, reduce)
    tiles, share = _blocks(m, config, sms(x.device))
    args = dict(
        dy_ptr=dy,
        dmap_ptr=dmap,
        x_ptr=x,
        zc_ptr=zc if reduce == "max" else None,
        weight_ptr=weight,
        bias_ptr=bias,
        total_ptr=partials(x, m.N, share, m.C) if with_total else None,
        dparam_ptr=partials(x, m.N * share, m.C + 1) if with_dparam else None,
        gp_ptr=partials(x, m.N, m.P) if with_pixels else None,
        dzp_ptr=partials(x, m.N, m.P) if with_pixels else None,
        **m.strides,
        pixels=m.pixels,
        tiles=tiles,
        share=share,
        C=m.C,
        REDUCE=reduce,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
        CHUNKS=triton.next_power_of_2(-(-m.C // block_c)),
        LANES=sum_lanes(m, block_c, config, x.element_size()),
        STAGES=_stages(x.device, x.element_size(), m, config),
        BLOCK_C=block_c,
    )
    each, again = m.N * tiles, 1 if block_c >= m.C else 2 + with_dparam
    read = dict(dy_ptr=1, dmap_ptr=1, x_ptr=again, zc_ptr=tiles, weight_ptr=each, bias_ptr=each)
    traffic = {name: (times, 0) for name, times in read.items()}
    traffic |= dict.fromkeys(("total_ptr", "dparam_ptr", "gp_ptr", "dzp_ptr"), (0, 1))
    return Plan(_scse_bwd_kernel, args, config, m.N * share, traffic, ("total", "dparam", "gp", "dzp"))
