"""The first stage of a reduction over the pixels of every image and channel: sums, maxima and where they lie.

x, dy (N, C, P); partials (N, T, C) in the accumulator's precision, at (N, T, C) int32. Program t of an image takes the
pixel blocks t, t + T, t + 2 T, ...: all images advance through their pixels together, so what is read last is the end
of every image, and a second pass that starts there finds it in the L2 cache.

    forward   total = sum_p x,  peak = max_p x,  at = the first pixel of the maximum, or how many reach it   (1 pass)
    backward  total = sum_p x du                                                                             (2 passes)

du is dy; of y = out(x g + s) it is dy out'(x g + s), which is written for the pass that follows: it is the gradient of
s, too. Of a map that another one gates, dx = du g is complete, and written. A NaN is the maximum, the first of several
as in torch.
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
from ..common.tile import chunk_of, is_peak, load_tile, load_vector, nan_max, num_pixels, store_tile, tile_ptrs

TILES = space(BLOCK_C=(1, 2, 4, 8, 16, 32, 64, 128, 256), BLOCK_P=(4096, 1024, 256, 64, 16), num_warps=(4, 8))
SPACE = looping(tuple(c for c in TILES if 512 <= c.blocks["BLOCK_C"] * c.blocks["BLOCK_P"] <= 8192))
PARTIALS = 16384  # values per image that the second stage has to read, at most
PEAK_ENDS = 2.5  # rounds of a loop that the search for the maximum of its lanes is worth, behind it


@triton.jit
def _load_again(ptr, stride, n, offs_c, offs_p, mask, LAYOUT: tl.constexpr, ACC: tl.constexpr):
    """A tile that a later pass reads again: it is the last to leave the cache."""
    ptrs = tile_ptrs(ptr, stride, n, offs_c, offs_p, LAYOUT)
    return tl.load(ptrs, mask, other=0.0, eviction_policy="evict_last").to(ACC)


@triton.jit
def _climb(x, offs_p, mask, peak, at, SPLIT: tl.constexpr):
    """Take a tile into the running maxima of its lanes, and into their first pixels or counts."""
    x = tl.where(mask, x, float("-inf"))
    higher = ((x > peak) | (x != x)) & (peak == peak)
    if SPLIT:
        at = tl.where(higher, 1, at + (is_peak(x, peak) & mask).to(tl.int32))
    else:
        at = tl.where(higher, offs_p[None, :], at)
    return tl.where(higher, x, peak), at


@triton.jit
def _pool_fwd_kernel(
    x_ptr,
    total_ptr,
    peak_ptr,
    at_ptr,
    x_stride,
    pixels,
    blocks,
    tiles,
    C: tl.constexpr,
    SPLIT: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    row, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)  # of the partials: n * tiles + t
    n = row // tiles
    P = num_pixels(pixels, LAYOUT)
    total = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    peak = tl.full([BLOCK_C, BLOCK_P], float("-inf"), ACC)
    offs_first = row % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    at = tl.zeros([BLOCK_C, BLOCK_P], tl.int32) + (0 if SPLIT else offs_first[None, :])
    for block in tl.range(row % tiles, blocks, tiles, num_stages=STAGES):
        offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
        x = _load_again(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
        if total_ptr is not None:
            total += x
        if peak_ptr is not None:
            peak, at = _climb(x, offs_p, mask, peak, at, SPLIT)
    offs = row.to(tl.int64) * C + offs_c
    if total_ptr is not None:
        tl.store(total_ptr + offs, tl.sum(total, 1), offs_c < C)
    if peak_ptr is not None:
        highest = nan_max(peak, 1)
        here = is_peak(peak, highest[:, None])
        found = tl.sum(tl.where(here, at, 0), 1) if SPLIT else tl.min(tl.where(here, at, 2**31 - 1), 1)
        tl.store(peak_ptr + offs, highest, offs_c < C)
        tl.store(at_ptr + offs, found, offs_c < C)


@triton.jit
def _pool_bwd_kernel(
    dy_ptr,
    x_ptr,
    z_ptr,
    shortcut_ptr,
    total_ptr,
    du_ptr,
    dx_ptr,
    dy_stride,
    x_stride,
    shortcut_stride,
    du_stride,
    dx_stride,
    pixels,
    blocks,
    tiles,
    C: tl.constexpr,
    GATE: tl.constexpr,
    OUT: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    row, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    n = row // tiles
    P = num_pixels(pixels, LAYOUT)
    total = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    if z_ptr is not None:
        g = GATE.f(load_vector(z_ptr + n.to(tl.int64) * C, offs_c, C, ACC), GATE.a, GATE.b)[:, None]
    for block in tl.range(row % tiles, blocks, tiles, num_stages=STAGES):
        offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
        du = _load_again(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
        if x_ptr is not None:
            x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        if OUT is not None:
            u = x * g
            if shortcut_ptr is not None:
                u += load_tile(shortcut_ptr, shortcut_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
            du = OUT.df(du, u, OUT.a, OUT.b)
        if du_ptr is not None:
            store_tile(du_ptr, du_stride, n, offs_c, offs_p, du, mask, LAYOUT)
        if dx_ptr is not None:
            store_tile(dx_ptr, dx_stride, n, offs_c, offs_p, du * g, mask, LAYOUT)
        if total_ptr is not None:
            total += du * x
    if total_ptr is not None:
        tl.store(total_ptr + row.to(tl.int64) * C + offs_c, tl.sum(total, 1), offs_c < C)


def _blocks(m: Maps, config: Config, sms: int) -> tuple[int, int, int]:
    """Channel blocks, pixel blocks, and the programs T that share the pixel blocks of an image."""
    chunks, blocks = -(-m.C // config.blocks["BLOCK_C"]), -(-m.P // config.blocks["BLOCK_P"])
    return chunks, blocks, sharing(blocks, config, sms, m.N * chunks, PARTIALS // m.C)


def _stages(device: torch.device, itemsize: int, m: Maps, config: Config, loads: int) -> int:
    elements = loads * config.blocks["BLOCK_C"] * config.blocks["BLOCK_P"]
    return stages_for(device, itemsize, elements, m.layout.align, config.programs)


def _config(kernel: str, m: Maps, x: Tensor, loads: int, live: float, ends: float = 0.0) -> Config:
    itemsize, size, device = x.element_size(), sms(x.device), x.device
    blackwell = kernel == "pool_bwd" and capability(x.device) >= 100  # keeps less, and spills
    few = blackwell and itemsize >= 4
    alive = live + (0.75 if few else 0.5 if blackwell and live >= 2 and not m.layout.channels_last else 0.0)

    def footprint(config: Config) -> Footprint | None:
        block_c, block_p = config.blocks["BLOCK_C"], config.blocks["BLOCK_P"]
        if few and block_c * block_p > 4096:
            return None
        chunks, _, tiles = _blocks(m, config, size)
        rounds = -(-m.P // (block_p * tiles))
        behind = ends * (config.num_warps / 4 if m.layout.channels_last else 1)  # pixels lie across warps
        waste = chunks * block_c / m.C * (rounds + behind) * tiles * block_p / m.P
        waste *= 1 + ends / (config.programs * config.num_warps)  # comparisons wait for comparisons
        waste += 4 / itemsize * tiles * size / max(m.N * m.P, 1)  # the second stage, one program an image
        row = (block_c if m.layout.channels_last else block_p) * itemsize
        ahead = rounds_ahead(_stages(device, itemsize, m, config, loads))
        return Footprint(
            block_c * block_p, itemsize, loads, alive, m.N * chunks * tiles, waste, row, ahead=ahead, sms=size
        )

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads, f"{live:g}"), exact=m.N)
    return config_for(SPACE, footprint, kernel, x, **how)


def plan_pool_fwd(x: Tensor, mean: bool, peak: bool, split: bool) -> Plan:
    """Makes total, peak and at (N, T, C), of what is asked for."""
    m = maps(x=x)
    config = _config("pool_fwd", m, x, loads=1, live=0.2 + mean + 3 * peak, ends=PEAK_ENDS * peak)
    chunks, blocks, tiles = _blocks(m, config, sms(x.device))
    args = dict(
        x_ptr=x,
        total_ptr=partials(x, m.N, tiles, m.C) if mean else None,
        peak_ptr=partials(x, m.N, tiles, m.C) if peak else None,
        at_ptr=x.new_empty((m.N, tiles, m.C), dtype=torch.int32) if peak else None,
        **m.strides,
        pixels=m.pixels,
        blocks=blocks,
        tiles=tiles,
        C=m.C,
        SPLIT=split,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
        STAGES=_stages(x.device, x.element_size(), m, config, 1),
    )
    traffic = dict(x_ptr=(1, 0), total_ptr=(0, 1), peak_ptr=(0, 1), at_ptr=(0, 1))
    return Plan(_pool_fwd_kernel, args, config, m.N * tiles * chunks, traffic, ("total", "peak", "at"))


def plan_pool_bwd(
    dy: Tensor,
    x: Tensor,
    z: Tensor | None = None,
    gate: Activation | None = None,
    shortcut: Tensor | None = None,
    out: Activation | None = None,
    du: Tensor | None = None,
    dx: Tensor | None = None,
    with_total: bool = True,
) -> Plan:
    """z (N, C). Makes total (N, T, C), if asked for."""
    needed = dict(dy=dy, x=x if with_total or out else None, shortcut=shortcut if out else None, du=du, dx=dx)
    given = {name for name, t in needed.items() if t is not None}
    m = maps(**needed)
    loads = len(given & {"dy", "x", "shortcut"})
    live = 1.2 + (loads - 1 if out else 0) + 0.8 * ((du is not None) + (dx is not None))
    if m.layout.align == 1:  # every element has its own address in each of the maps
        live = 3.5 * len(given) if len(given) > 2 else live + 1
    config = _config("pool_bwd", m, x, loads, live)
    chunks, blocks, tiles = _blocks(m, config, sms(x.device))
    args = {f"{name}_ptr": t for name, t in needed.items()} | dict(
        z_ptr=z if out or dx is not None else None,
        total_ptr=partials(x, m.N, tiles, m.C) if with_total else None,
        **m.strides,
        pixels=m.pixels,
        blocks=blocks,
        tiles=tiles,
        C=m.C,
        GATE=gate,
        OUT=out,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
        STAGES=_stages(x.device, x.element_size(), m, config, loads),
    )
    traffic = dict.fromkeys(("dy_ptr", "x_ptr", "shortcut_ptr"), (1, 0)) | {"z_ptr": (tiles, 0)}
    traffic |= dict.fromkeys(("total_ptr", "du_ptr", "dx_ptr"), (0, 1))
    return Plan(_pool_bwd_kernel, args, config, m.N * tiles * chunks, traffic, ("total",))
