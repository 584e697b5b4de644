"""One weight per pixel: y = x * gate(z), z_p a dot product, mean or maximum over the channels of pixel p.

x, y (N, C, P); map (N, P); weight (C,); bias (1,). Up to C = 1024 a program holds all channels of its pixels, so
the forward makes 2 passes over the map (read x, write y) and the backward 3 (read x and dy, write dx). Above, the
tile is read a second time, from cache.

Backward, with ds_p = sum_c dy_cp x_cp + dmap_p and dz = ds * gate'(z):
    dx = dy * g + dz * dz/dx,    dweight_c = sum_p dz_p x_cp,    dbias = sum_p dz_p

The forward also applies a gate of every channel beside it: y = x * gc + x * g, or the maximum of both, gc = gate(sum_k
zc) of partial logits zc (N, K, C).
"""

import triton
import triton.language as tl
from torch import Tensor

from segattn_triton.kernels.activations import Activation
from segattn_triton.kernels.tile import (
    Maps,
    accumulator,
    is_peak,
    load_sum,
    load_tile,
    load_vector,
    maps,
    maximum,
    nan_max,
    num_pixels,
    partials,
    store_tile,
)
from segattn_triton.launch import Plan
from segattn_triton.tuning import SMS, Config, Footprint, config_for, space

SPACE = space(BLOCK_P=(8, 16, 32, 64, 128, 256, 512, 1024, 2048), num_warps=(2, 4, 8, 16))
WHOLE = 1024  # channels that one program holds at once; of more it loops over chunks
CHUNK = 256


@triton.jit
def _weights(weight_ptr, offs_c, C: tl.constexpr, ACC: tl.constexpr):
    if weight_ptr is None:
        return tl.zeros_like(offs_c).to(ACC)
    else:
        return load_vector(weight_ptr, offs_c, C, ACC)


@triton.jit
def _squeeze(x, w, offs_c, total, peak, first, count, C: tl.constexpr, POOL: tl.constexpr):
    """Take a chunk of channels x [BLOCK_C, BLOCK_P] into the running sum, maximum, its first channel and count."""
    if POOL == "dot":
        total += tl.sum(x * w[:, None], 0)
    if POOL == "mean" or POOL == "meanmax":
        total += tl.sum(x, 0)
    if POOL == "max" or POOL == "meanmax":
        x = tl.where((offs_c < C)[:, None], x, float("-inf"))
        chunk_peak = nan_max(x, 0)
        here = is_peak(x, chunk_peak[None, :]) & (offs_c < C)[:, None]
        chunk_first = tl.min(tl.where(here, offs_c[:, None], C), 0)
        chunk_count = tl.sum(here.to(tl.int32), 0)
        higher = (chunk_peak > peak) | ((chunk_peak != chunk_peak) & (peak == peak)) | (first == C)
        count = tl.where(higher, chunk_count, count + tl.where(is_peak(chunk_peak, peak), chunk_count, 0))
        first = tl.where(higher, chunk_first, first)
        peak = tl.where(higher, chunk_peak, peak)
    return total, peak, first, count


@triton.jit
def _logit(total, peak, bias_ptr, C: tl.constexpr, POOL: tl.constexpr):
    z = total
    if POOL == "mean":
        z = total / C
    elif POOL == "max":
        z = peak
    elif POOL == "meanmax":
        z = 0.5 * (total / C + peak)
    if bias_ptr is not None:
        z += tl.load(bias_ptr).to(z.dtype)
    return z


@triton.jit
def _at_peak(x, offs_c, peak, first, count, SPLIT: tl.constexpr):
    """d max / dx [BLOCK_C, BLOCK_P]: 1 at the first maximum, or shared by all of them."""
    if SPLIT:
        return tl.where(is_peak(x, peak[None, :]), 1.0 / count[None, :].to(x.dtype), 0.0)
    else:
        return (offs_c[:, None] == first[None, :]).to(x.dtype)


@triton.jit
def _d_logit(x, w, offs_c, peak, first, count, C: tl.constexpr, POOL: tl.constexpr, SPLIT: tl.constexpr):
    """dz/dx [BLOCK_C, BLOCK_P]"""
    mean = tl.full([1, 1], 1.0, x.dtype) / C
    if POOL == "dot":
        return w[:, None]
    elif POOL == "mean":
        return mean
    elif POOL == "max":
        return _at_peak(x, offs_c, peak, first, count, SPLIT)
    else:
        return 0.5 * (mean + _at_peak(x, offs_c, peak, first, count, SPLIT))


@triton.jit
def _spatial_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    zc_ptr,
    y_ptr,
    logit_ptr,
    map_ptr,
    x_stride,
    y_stride,
    pixels,
    tiles,
    C: tl.constexpr,
    K: tl.constexpr,
    POOL: tl.constexpr,
    REDUCE: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    n = tl.program_id(0) // tiles
    P = num_pixels(pixels, LAYOUT)
    offs_p = tl.program_id(0) % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    mask_p = offs_p < P
    total = tl.zeros([BLOCK_P], ACC)
    peak = tl.full([BLOCK_P], float("-inf"), ACC)
    first = tl.full([BLOCK_P], C, tl.int32)
    count = tl.zeros([BLOCK_P], tl.int32)
    x = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for chunk in range(0, C, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        mask = (offs_c < C)[:, None] & mask_p[None, :]
        x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
        w = _weights(weight_ptr, offs_c, C, ACC)
        total, peak, first, count = _squeeze(x, w, offs_c, total, peak, first, count, C, POOL)
    g = GATE.f(_logit(total, peak, bias_ptr, C, POOL), GATE.a, GATE.b)
    if map_ptr is not None:
        tl.store(map_ptr + n.to(tl.int64) * P + offs_p, g.to(map_ptr.dtype.element_ty), mask_p)
    for chunk in range(0, C, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        mask = (offs_c < C)[:, None] & mask_p[None, :]
        if C > BLOCK_C:
            x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        y = x * g[None, :]
        if zc_ptr is not None:
            zc = load_sum(zc_ptr, n, offs_c, C, K, ACC)
            mine = (offs_c < C) & (tl.program_id(0) % tiles == 0)
            tl.store(logit_ptr + n.to(tl.int64) * C + offs_c, zc, mine)
            by_channel = x * GATE.f(zc, GATE.a, GATE.b)[:, None]
            y = maximum(by_channel, y) if REDUCE == "max" else by_channel + y
        store_tile(y_ptr, y_stride, n, offs_c, offs_p, y, mask, LAYOUT)


@triton.jit
def _spatial_bwd_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    dx_ptr,
    dparam_ptr,
    dy_stride,
    x_stride,
    dx_stride,
    pixels,
    tiles,
    all_tiles,
    programs,
    C: tl.constexpr,
    POOL: tl.constexpr,
    SPLIT: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    P = num_pixels(pixels, LAYOUT)
    chunk_ids = tl.arange(0, CHUNKS)[:, None]
    dw = tl.zeros([CHUNKS, BLOCK_C], ACC)
    db = tl.zeros([BLOCK_P], ACC)
    for tile in range(tl.program_id(0), all_tiles, programs):
        n = tile // tiles
        offs_p = tile % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
        mask_p = offs_p < P
        total = tl.zeros([BLOCK_P], ACC)
        ds = tl.zeros([BLOCK_P], ACC)
        peak = tl.full([BLOCK_P], float("-inf"), ACC)
        first = tl.full([BLOCK_P], C, tl.int32)
        count = tl.zeros([BLOCK_P], tl.int32)
        x = tl.zeros([BLOCK_C, BLOCK_P], ACC)
        dy = tl.zeros([BLOCK_C, BLOCK_P], ACC)
        w = tl.zeros([BLOCK_C], ACC)
        for chunk in range(0, C, BLOCK_C):
            offs_c = chunk + tl.arange(0, BLOCK_C)
            mask = (offs_c < C)[:, None] & mask_p[None, :]
            x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
            dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
            w = _weights(weight_ptr, offs_c, C, ACC)
            total, peak, first, count = _squeeze(x, w, offs_c, total, peak, first, count, C, POOL)
            ds += tl.sum(dy * x, 0)
        if dmap_ptr is not None:
            ds += tl.load(dmap_ptr + n.to(tl.int64) * P + offs_p, mask_p, other=0.0).to(ACC)
        z = _logit(total, peak, bias_ptr, C, POOL)
        g = GATE.f(z, GATE.a, GATE.b)
        dz = tl.where(mask_p, GATE.df(ds, z, GATE.a, GATE.b), 0.0)
        db += dz
        for chunk in range(0, C, BLOCK_C):
            offs_c = chunk + tl.arange(0, BLOCK_C)
            mask = (offs_c < C)[:, None] & mask_p[None, :]
            if C > BLOCK_C:
                x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
                dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
                w = _weights(weight_ptr, offs_c, C, ACC)
            if dx_ptr is not None:
                dx = dy * g[None, :] + dz[None, :] * _d_logit(x, w, offs_c, peak, first, count, C, POOL, SPLIT)
                store_tile(dx_ptr, dx_stride, n, offs_c, offs_p, dx, mask, LAYOUT)
            if dparam_ptr is not None:
                dw += tl.where(chunk_ids == chunk // BLOCK_C, tl.sum(x * dz[None, :], 1)[None, :], 0.0)
    if dparam_ptr is not None:
        offs_c = chunk_ids * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        row = dparam_ptr + tl.program_id(0) * (C + 1)
        tl.store(row + offs_c, dw, offs_c < C)
        tl.store(row + C, tl.sum(db, 0))


def _block_c(C: int) -> int:
    return triton.next_power_of_2(C) if C <= WHOLE else CHUNK


def _live(m: Maps, pool: str, backward: bool) -> float:
    """fp32 values alive per tile element, read off compiled kernels."""
    chunks, peak = m.C > WHOLE, "max" in pool
    scattered = m.layout.align == 1  # every element has its own address and mask
    if backward:
        return 6.2 if chunks or scattered else 4.0 if peak else 2.7
    return 4.0 if chunks and peak else 2.3 if scattered else 1.6 if chunks or peak else 1.2


def _config(m: Maps, x: Tensor, pool: str, backward: bool) -> Config:
    kernel, itemsize = "spatial_bwd" if backward else "spatial_fwd", x.element_size()
    block_c, live = _block_c(m.C), _live(m, pool, backward)

    def footprint(config: Config) -> Footprint:
        block_p = config.blocks["BLOCK_P"]
        tiles = -(-m.P // block_p)
        row = (block_c if m.layout.channels_last else block_p) * itemsize
        waste = tiles * block_p / max(m.P, 1)
        return Footprint(block_c * block_p, itemsize, 1 + backward, live, m.N * tiles, waste, row)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(pool,), exact=m.N)
    return config_for(SPACE, footprint, kernel, x, **how)


def plan_spatial_fwd(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    gate_map: Tensor | None,
    pool: str,
    gate: Activation,
    zc: Tensor | None = None,
    logit: Tensor | None = None,
    reduce: str = "sum",
) -> Plan:
    """With zc, the channels' logits of which `logit` (N, C) takes the sum, y is the sum or maximum of both gates' x."""
    m, block_c = maps(x, y), _block_c(x.shape[1])
    config = _config(m, x, pool, backward=False)
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    args = dict(
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        zc_ptr=zc,
        y_ptr=y,
        logit_ptr=logit,
        map_ptr=gate_map,
        x_stride=m.strides[0],
        y_stride=m.strides[1],
        pixels=m.pixels,
        tiles=tiles,
        C=m.C,
        K=1 if zc is None else zc.shape[1],
        POOL=pool,
        REDUCE=reduce,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        BLOCK_C=block_c,
    )
    grid = m.N * tiles
    reads = 1 if block_c >= m.C else 2
    traffic = dict(x_ptr=(reads, 0), weight_ptr=(grid, 0), bias_ptr=(grid, 0), zc_ptr=(tiles, 0))
    traffic |= dict.fromkeys(("y_ptr", "logit_ptr", "map_ptr"), (0, 1))
    return Plan(_spatial_fwd_kernel, args, config, grid, traffic)


def plan_spatial_bwd(
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dx: Tensor | None,
    with_dparam: bool,
    pool: str,
    split: bool,
    gate: Activation,
) -> Plan:
    """With dparam, the plan's `dparam_ptr` is a new buffer (programs, C + 1) of partial dweight and dbias."""
    m, block_c = maps(*(t for t in (dy, x, dx) if t is not None)), _block_c(x.shape[1])
    config = _config(m, x, pool, backward=True)
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    grid = min(m.N * tiles, 8 * SMS)  # enough for every SM; few, so that the partial sums stay small
    args = dict(
        dy_ptr=dy,
        dmap_ptr=dmap,
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        dx_ptr=dx,
        dparam_ptr=partials(x, grid, m.C + 1) if with_dparam else None,
        dy_stride=m.strides[0],
        x_stride=m.strides[1],
        dx_stride=m.strides[-1],
        pixels=m.pixels,
        tiles=tiles,
        all_tiles=m.N * tiles,
        programs=grid,
        C=m.C,
        POOL=pool,
        SPLIT=split,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        CHUNKS=triton.next_power_of_2(-(-m.C // block_c)),
        BLOCK_C=block_c,
    )
    reads = 1 if block_c >= m.C else 2
    each = m.N * tiles
    traffic = dict(
        dy_ptr=(reads, 0),
        x_ptr=(reads, 0),
        weight_ptr=(reads * each, 0),
        bias_ptr=(each, 0),
        dmap_ptr=(1, 0),
        dx_ptr=(0, 1),
        dparam_ptr=(0, 1),
    )
    return Plan(_spatial_bwd_kernel, args, config, grid, traffic)
