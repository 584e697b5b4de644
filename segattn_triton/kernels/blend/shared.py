"""One weight per value, from logits that are given: what the kernels of products and blends share.

    y = out(x g + s)   or   y = g x + (1 - g) s,    g = gate(z)

x, s, y (N, C, P). z has the axes of x that it *keeps*, and one value along each of the others: as x in its memory
order where it keeps channels and pixels, else (N, C), (N, P) or (N), with N = 1 where it is one of all images.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps, accumulator, maps
from ...tuning.choice import config_for
from ...tuning.grids import sharing
from ...tuning.model import Config, Footprint, looping, space
from ...tuning.target import sms, stages_for
from ..common.tile import load_tile, only_when, store_tile

TILES = space(BLOCK_C=(1, 2, 4, 8, 16, 32, 64, 128, 256), BLOCK_P=(4096, 1024, 256, 64, 16), num_warps=(4, 8))
SPACE = tuple(c for c in TILES if 512 <= c.blocks["BLOCK_C"] * c.blocks["BLOCK_P"] <= 512 * c.num_warps)
LOOPING = looping(SPACE)
PARTIALS = 16384  # values per image that the second stage of a sum has to read, at most


class Axes(NamedTuple):
    """Which of the images, channels and pixels a tensor keeps; a constexpr."""

    n: bool
    c: bool
    p: bool


def axes_of(z: Tensor, x: Tensor, resized: bool = False) -> Axes:
    """Of z, each axis of which is x's or 1; its pixels are all there, or will be, or one stands for all."""
    return Axes(z.shape[0] == x.shape[0], z.shape[1] == x.shape[1], resized or z.shape[2:] == x.shape[2:])


def place_of(z: Tensor | None, x: Tensor) -> Tensor | None:
    """z, where it is a map as x is; the strides of other logits follow from their axes."""
    return z if z is not None and z.shape[1:] == x.shape[1:] else None


@triton.jit
def load_logits(ptr, stride, n, offs_c, offs_p, P, C: tl.constexpr, AXES: tl.constexpr, LAYOUT: tl.constexpr, ACC):
    """What belongs to a tile, in the accumulator's precision: [BLOCK_C or 1, BLOCK_P or 1]."""
    if not AXES.n:
        n = n * 0
    mask_c = (offs_c < C)[:, None]
    mask_p = (offs_p < P)[None, :]
    image = n.to(tl.int64)
    if AXES.c and AXES.p:
        return load_tile(ptr, stride, n, offs_c, offs_p, mask_c & mask_p, LAYOUT, ACC)
    elif AXES.c:
        return tl.load(ptr + image * C + offs_c[:, None], mask_c, other=0.0).to(ACC)
    elif AXES.p:
        return tl.load(ptr + image * P + offs_p[None, :], mask_p, other=0.0).to(ACC)
    else:
        return tl.load(ptr + image + tl.zeros([1, 1], tl.int32)).to(ACC)


@triton.jit
def store_logits(ptr, stride, n, offs_c, offs_p, P, value, C: tl.constexpr, AXES: tl.constexpr, LAYOUT: tl.constexpr):
    """The reverse, by the first of the programs that share a value."""
    mask = (offs_c < (C if AXES.c else 1))[:, None] & (offs_p < (P if AXES.p else 1))[None, :]
    if not AXES.n:
        mask = only_when(n == 0, mask)
    value = tl.broadcast_to(value, mask.shape)
    if AXES.c and AXES.p:
        store_tile(ptr, stride, n * (1 if AXES.n else 0), offs_c, offs_p, value, mask, LAYOUT)
    else:
        image = n.to(tl.int64) * ((C if AXES.c else 1) * (P if AXES.p else 1))
        offs = tl.broadcast_to(offs_c[:, None] if AXES.c else offs_p[None, :], mask.shape)
        tl.store(ptr + image + offs, value.to(ptr.dtype.element_ty), mask)


@triton.jit
def load_if(ptr, stride, n, offs_c, offs_p, mask, LAYOUT: tl.constexpr, ACC: tl.constexpr):
    """The tile; zeros of a map that is not needed."""
    if ptr is None:
        return tl.zeros(mask.shape, ACC)
    else:
        return load_tile(ptr, stride, n, offs_c, offs_p, mask, LAYOUT, ACC)


@triton.jit
def gradients(
    pointers,
    strides,
    z,
    n,
    offs_c,
    offs_p,
    mask,
    BLEND: tl.constexpr,
    GATE: tl.constexpr,
    OUT: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
):
    """dg [BLOCK_C, BLOCK_P] of a tile, whose dx and ds are written; the maps dy, x, s, dx and ds."""
    dy_ptr, x_ptr, s_ptr, dx_ptr, ds_ptr = pointers
    dy_stride, x_stride, s_stride, dx_stride, ds_stride = strides
    du = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
    x = load_if(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
    s = load_if(s_ptr, s_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
    g = GATE.f(z, GATE.a, GATE.b)
    if OUT is not None:
        du = OUT.df(du, x * g + s, OUT.a, OUT.b)
    if dx_ptr is not None:
        store_tile(dx_ptr, dx_stride, n, offs_c, offs_p, du * g, mask, LAYOUT)
    if ds_ptr is not None:
        ds = du * (1.0 - g) if BLEND else du
        store_tile(ds_ptr, ds_stride, n, offs_c, offs_p, ds, mask, LAYOUT)
    return du * (x - s) if BLEND else du * x


def logits_traffic(axes: Axes, N: int, chunks: int, tiles: int) -> int:
    """How often each logit is read where every tile reads its own."""
    return (1 if axes.n else N) * (1 if axes.c else chunks) * (1 if axes.p else tiles)


def blocks(m: Maps, config: Config) -> tuple[int, int]:
    """Of channels, and of pixels."""
    return -(-m.C // config.blocks["BLOCK_C"]), -(-m.P // config.blocks["BLOCK_P"])


def blend_config(kernel: str, m: Maps, x: Tensor, loads: int, live: float, rounds: tuple[bool, bool]) -> Config:
    """Of a program for every tile, or for the same tile of all images, of all channels: `rounds` says which."""
    itemsize, (images, channels) = x.element_size(), rounds

    def footprint(config: Config) -> Footprint:
        block_c, block_p = config.blocks["BLOCK_C"], config.blocks["BLOCK_P"]
        chunks, tiles = blocks(m, config)
        programs = tiles * (1 if images else m.N) * (1 if channels else chunks)
        waste = chunks * block_c / m.C * tiles * block_p / m.P
        row = (block_c if m.layout.channels_last else block_p) * itemsize
        return Footprint(block_c * block_p, itemsize, loads, live, programs, waste, row)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads, f"{live:g}"), exact=(m.N, rounds))
    return config_for(SPACE, footprint, kernel, x, **how)


def shares_of(m: Maps, config: Config, size: int) -> tuple[int, int, int]:
    """Blocks of channels and of pixels, and the programs that share the latter of an image."""
    chunks, tiles = blocks(m, config)
    return chunks, tiles, sharing(tiles, config, size, m.N * chunks, PARTIALS // m.C)


def sum_stages(device: torch.device, itemsize: int, m: Maps, config: Config, loads: int) -> int:
    elements = loads * config.blocks["BLOCK_C"] * config.blocks["BLOCK_P"]
    return stages_for(device, itemsize, elements, m.layout.align, config.programs)


def sum_config(kernel: str, m: Maps, x: Tensor, loads: int, live: float) -> Config:
    """Of programs that share the pixels of an image."""
    device, itemsize, size = x.device, x.element_size(), sms(x.device)

    def footprint(config: Config) -> Footprint:
        block_c, block_p = config.blocks["BLOCK_C"], config.blocks["BLOCK_P"]
        chunks, _, programs = shares_of(m, config, size)
        rounds = -(-m.P // (block_p * max(programs, 1)))
        waste = chunks * block_c / m.C * rounds * programs * block_p / m.P
        row = (block_c if m.layout.channels_last else block_p) * itemsize
        ahead = max(sum_stages(device, itemsize, m, config, loads) - 1, 0.25)
        tile, grid = block_c * block_p, m.N * chunks * programs
        return Footprint(tile, itemsize, loads, live, grid, waste, row, ahead=ahead, sms=size)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads, f"{live:g}"), exact=m.N)
    return config_for(LOOPING, footprint, kernel, x, **how)


def backward_args(dy, x, logits, s, dx, ds, with_dg: bool, blend: bool, gate, out, **others) -> tuple[Maps, int, dict]:
    """The maps, how many of them are read, and the arguments of both kernels; of x and s only what is needed."""
    reads_x, reads_s = with_dg or out is not None, out is not None or (blend and with_dg)
    given = dict(dy=dy, x=x if reads_x else None, s=s if reads_s else None, dx=dx, ds=ds)
    m = maps(**given, **{name: place_of(t, x) for name, t in others.items()})
    args = {f"{name}_ptr": t for name, t in (given | others).items()} | dict(z_ptr=logits)
    constants = dict(C=m.C, BLEND=blend, GATE=gate, OUT=out, LAYOUT=m.layout, ACC=accumulator(x))
    return m, sum(given[name] is not None for name in ("dy", "x", "s")), args | constants
