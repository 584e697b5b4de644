"""The gate of a 3x3 convolution z that is there already: y = x * gate(z + b), and its backward. See `conv`.

All maps (N, C, H, W), bias (C,). What the library's convolution gives and takes, z, dz and its x, may lie in another
memory order than the others: their tiles turn on their way.

Forward, 3 passes, of the library's z: read x and z, write y.

Backward, 5 passes: read x, z, dy, write dz and the direct term of dx; 6 where it writes x as the library takes it, too:
    dz = (dy x + dmap) gate'(z + b),    direct = dy gate(z + b),    db_c = sum_np dz
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
from ...tuning.target import rounds_ahead, sms, stages_for
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import load_tile, load_vector, num_pixels, store_tile
from .shared import fwd_args, gate_tile

POINTWISE = space(BLOCK_C=(1, 4, 16, 64, 256), BLOCK_P=(1, 4, 16, 64, 256, 1024), num_warps=(4, 8))
LOOPING = looping(tuple(c for c in POINTWISE if 512 <= c.blocks["BLOCK_C"] * c.blocks["BLOCK_P"] <= 8192))


@triton.jit
def _conv_library_fwd_kernel(
    x_ptr,
    z_ptr,
    bias_ptr,
    y_ptr,
    map_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    LAYOUT_Z: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    x_stride, y_stride, z_stride = strides
    pixels, tiles = sizes
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    n = tl.program_id(0) // blocks // tiles
    offs_c = tl.program_id(0) // tiles % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    offs_p = tl.program_id(0) % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = (offs_c < C)[:, None] & (offs_p < num_pixels(pixels, LAYOUT))[None, :]
    z = load_tile(z_ptr, z_stride, n, offs_c, offs_p, mask, LAYOUT_Z, ACC)
    gate_tile(z, x_ptr, bias_ptr, y_ptr, map_ptr, x_stride, y_stride, n, offs_c, offs_p, mask, C, GATE, LAYOUT, ACC)


@triton.jit
def _conv_bwd_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    z_ptr,
    bias_ptr,
    dz_ptr,
    direct_ptr,
    turned_ptr,
    db_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    LAYOUT_Z: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    dy_stride, dmap_stride, x_stride, direct_stride, z_stride, dz_stride = strides
    pixels, tiles, all_tiles, programs = sizes
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    first = tl.program_id(0) // blocks
    offs_c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    db = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for tile in tl.range(first, all_tiles, programs, num_stages=STAGES):
        n = tile // tiles
        offs_p = tile % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (offs_c < C)[:, None] & (offs_p < num_pixels(pixels, LAYOUT))[None, :]
        dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        z = load_tile(z_ptr, z_stride, n, offs_c, offs_p, mask, LAYOUT_Z, ACC)
        if bias_ptr is not None:
            z += load_vector(bias_ptr, offs_c, C, ACC)[:, None]
        if direct_ptr is not None:
            store_tile(direct_ptr, direct_stride, n, offs_c, offs_p, dy * GATE.f(z, GATE.a, GATE.b), mask, LAYOUT)
        x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        if turned_ptr is not None:
            store_tile(turned_ptr, dz_stride, n, offs_c, offs_p, x, mask, LAYOUT_Z)
        dg = dy * x
        if dmap_ptr is not None:
            dg += load_tile(dmap_ptr, dmap_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        dz = tl.where(mask, GATE.df(dg, z, GATE.a, GATE.b), 0.0)
        if dz_ptr is not None:
            store_tile(dz_ptr, dz_stride, n, offs_c, offs_p, dz, mask, LAYOUT_Z)
        if db_ptr is not None:
            db += dz
    if db_ptr is not None:
        tl.store(db_ptr + first * C + offs_c, tl.sum(db, 1), offs_c < C)


def _row_bytes(config: Config, m: Maps, mz: Maps, itemsize: int) -> int:
    """Of a tile: the shorter one, where rows of pixels and of channels are both moved."""
    rows = {True: min(config.blocks["BLOCK_C"], m.C), False: min(config.blocks["BLOCK_P"], m.P)}
    return min(rows[each.layout.channels_last] for each in (m, mz)) * itemsize


def _other_order(m: Maps, mz: Maps) -> tuple[str, ...]:
    return ("turned",) if m.layout.channels_last != mz.layout.channels_last else ()


def _fwd_config(x: Tensor, m: Maps, mz: Maps) -> Config:
    itemsize = x.element_size()

    def footprint(config: Config) -> Footprint:
        p, c = config.blocks["BLOCK_P"], config.blocks["BLOCK_C"]
        tiles = -(-m.P // p) * -(-m.C // c)
        row = _row_bytes(config, m, mz, itemsize)
        return Footprint(p * c, itemsize, 2, 1.5, m.N * tiles, tiles * p * c / (m.P * m.C), row)

    also = ("1.5", *_other_order(m, mz))
    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=also, exact=m.N)
    return config_for(POINTWISE, footprint, "conv_library_fwd", x, **how)


def _grid(m: Maps, config: Config, sms: int) -> tuple[int, int, int]:
    """The tiles of an image, the blocks of channels, and the programs that share the tiles of all images in each."""
    tiles, blocks = -(-m.P // config.blocks["BLOCK_P"]), -(-m.C // config.blocks["BLOCK_C"])
    return tiles, blocks, sharing(m.N * tiles, config, sms, blocks)


def _stages(device: torch.device, itemsize: int, m: Maps, mz: Maps, config: Config, loads: int) -> int:
    """1 where tiles turn: with loads ahead the compiler turns others, and they may change no operation's threads."""
    if _other_order(m, mz):
        return 1
    elements = loads * config.blocks["BLOCK_C"] * config.blocks["BLOCK_P"]
    return stages_for(device, itemsize, elements, m.layout.align, config.programs)


def _bwd_config(x: Tensor, m: Maps, mz: Maps, loads: int, live: float) -> Config:
    itemsize, device, size = x.element_size(), x.device, sms(x.device)

    def footprint(config: Config) -> Footprint:
        p, c, (tiles, blocks, programs) = *(config.blocks[b] for b in ("BLOCK_P", "BLOCK_C")), _grid(m, config, size)
        rounds = -(-m.N * tiles // programs)
        row = _row_bytes(config, m, mz, itemsize)
        waste = rounds * programs * p * blocks * c / (m.N * m.P * m.C)
        ahead = rounds_ahead(_stages(device, itemsize, m, mz, config, loads))
        return Footprint(p * c, itemsize, 3, live, programs * blocks, waste, row, ahead=ahead, sms=size)

    also = (f"{live:g}", *_other_order(m, mz))
    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=also, exact=(m.N, loads))
    return config_for(LOOPING, footprint, "conv_bwd", x, **how)


def plan_conv_library_fwd(
    x: Tensor, z: Tensor, bias: Tensor | None, y: Tensor, gate_map: Tensor | None, gate: Activation
) -> Plan:
    """y and the map lie alike."""
    m, mz = maps(x=x, y=y), maps(z=z)
    config = _fwd_config(x, m, mz)
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    blocks = -(-m.C // config.blocks["BLOCK_C"])
    args = fwd_args(x, bias, y, gate_map, z, m, config, gate)
    args |= dict(strides=(*args["strides"], mz.stride["z"]), sizes=(m.pixels, tiles), LAYOUT_Z=mz.layout)
    each = m.N * tiles
    traffic = dict(x_ptr=(1, 0), z_ptr=(1, 0), bias_ptr=(each, 0), y_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_conv_library_fwd_kernel, args, config, each * blocks, traffic)


def plan_conv_bwd(
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    z: Tensor,
    bias: Tensor | None,
    dz: Tensor | None,
    direct: Tensor | None,
    turned: Tensor | None,
    *,
    with_db: bool,
    gate: Activation,
) -> Plan:
    """z, dz and `turned`, which gets x, lie alike, as the other maps do. Makes db (programs, C), partial sums, if asked
    for."""
    m, mz = maps(dy=dy, x=x, dmap=dmap, direct=direct), maps(z=z, dz=dz)
    loads = 3 if dmap is None else 4
    config = _bwd_config(x, m, mz, loads, live=3 + with_db)
    tiles, blocks, programs = _grid(m, config, sms(x.device))
    args = dict(
        dy_ptr=dy,
        dmap_ptr=dmap,
        x_ptr=x,
        z_ptr=z,
        bias_ptr=bias,
        dz_ptr=dz,
        direct_ptr=direct,
        turned_ptr=turned,
        db_ptr=partials(x, programs, m.C) if with_db else None,
        strides=(*m.strides_of("dy", "dmap", "x", "direct"), *mz.strides_of("z", "dz")),
        sizes=(m.pixels, tiles, m.N * tiles, programs),
        C=m.C,
        GATE=gate,
        LAYOUT=m.layout,
        LAYOUT_Z=mz.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
        STAGES=_stages(x.device, x.element_size(), m, mz, config, loads),
    )
    traffic = dict(dy_ptr=(1, 0), dmap_ptr=(1, 0), x_ptr=(1, 0), z_ptr=(1, 0), bias_ptr=(m.N * tiles, 0))
    traffic |= dict(dz_ptr=(0, 1), direct_ptr=(0, 1), turned_ptr=(0, 1), db_ptr=(0, 1))
    return Plan(_conv_bwd_kernel, args, config, programs * blocks, traffic, ("db",))
