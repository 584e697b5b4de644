"""One weight per value, from its 3x3 neighbours in its own channel: y = x * gate(z).

    z = sum_k weight_ck x_k + bias_c  (dot),    the mean (avg) or the maximum (max) of the neighbours in the image

x, y, map (N, C, H, W); weight (C, 1, 3, 3); bias (C,). A program rolls down a strip of rows and holds one row of
BLOCK_C channels at a time, so that every value is loaded once, but for the rows and columns that neighbouring tiles
share. Passes over the map: forward 2 (read x, write y); backward 3 (read x and dy, write dx), z and dz recomputed.

Backward, with dz = (dy x + dmap) gate'(z): dx = dy gate(z) + sum over the windows that hold x of dz dz/dx;
dweight_c,ij = sum_nhw dz(h, w) x(h+i-1, w+j-1), dbias_c = sum_nhw dz.
"""

from math import ceil
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from segattn_triton.kernels.activations import Activation
from segattn_triton.kernels.tile import (
    ALIGNMENTS,
    Maps,
    accumulator,
    load_tile,
    load_vector,
    maps,
    partials,
    store_tile,
)
from segattn_triton.kernels.window import accumulate, around, inverse_count, load_taps, roll, route, settle
from segattn_triton.launch import Plan
from segattn_triton.tuning import BYTES_IN_FLIGHT, REGISTERS, SMS, Config, config_for, space

# NCHW first: one warp holds whole rows of its tile; then channels_last, where a row is BLOCK_C channels of a pixel
SPACE = tuple(
    config
    for block_c, block_w, num_warps in (
        *((2, 64, 1), (4, 32, 1), (8, 16, 1)),
        *((1, 256, 1), (2, 128, 1), (4, 64, 1), (8, 32, 1), (16, 16, 1)),
        *((1, 512, 1), (2, 256, 1), (4, 128, 1), (8, 64, 1), (16, 32, 1)),
        *((32, 32, 4), (32, 16, 2), (64, 16, 4)),
    )
    for config in space(
        BLOCK_C=(block_c,), BLOCK_W=(block_w,), BLOCK_H=(8, 16, 32, 64), STAGES=(3, 2), num_warps=(num_warps,)
    )
)
INSTRUCTIONS = {"dot": 66, "avg": 50, "first": 85, "split": 85}  # per element, backward; 30 forward
LIVE = {"dot": 7, "avg": 8, "first": 14, "split": 15}  # registers per element, backward; 5 forward


@triton.jit
def _place(
    H, W, C: tl.constexpr, HALO: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_H: tl.constexpr
):
    """The tile of this program: its image, first row, columns and channels."""
    blocks_c: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    step: tl.constexpr = BLOCK_W - 2 * HALO
    tile = tl.program_id(0) // blocks_c
    tiles_w = tl.cdiv(W, step)
    strip = tile // tiles_w
    strips = tl.cdiv(H, BLOCK_H)
    offs_w = tile % tiles_w * step - HALO + tl.arange(0, BLOCK_W)
    offs_c = tl.program_id(0) % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    return strip // strips, strip % strips * BLOCK_H, offs_w, offs_c


@triton.jit
def _stencil_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    map_ptr,
    x_stride,
    y_stride,
    map_stride,
    H,
    w_units,
    C: tl.constexpr,
    STENCIL: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    W_ALIGN: tl.constexpr,
    VEC: tl.constexpr,
    HALO: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_H: tl.constexpr,
    STAGES: tl.constexpr,
):
    W = w_units * W_ALIGN
    n, h0, offs_w, offs_c = _place(H, W, C, HALO, BLOCK_C, BLOCK_W, BLOCK_H)
    mask_c = (offs_c < C)[:, None]
    mask_w = ((offs_w >= 0) & (offs_w < W))[None, :]
    lanes = tl.arange(0, BLOCK_W)
    mask_own = mask_c & mask_w & ((lanes >= HALO) & (lanes < BLOCK_W - HALO))[None, :]
    w = load_taps(weight_ptr, offs_c, C, ACC) if STENCIL == "dot" else None
    b = load_vector(bias_ptr, offs_c, C, ACC)[:, None] if bias_ptr is not None else 0.0
    zero = tl.zeros([BLOCK_C, BLOCK_W], ACC)
    x1, window = zero, (zero, zero)
    for row in tl.range(h0 - 1, tl.minimum(h0 + BLOCK_H, H) + 1, num_stages=STAGES):
        mask = mask_c & mask_w & ((row >= 0) & (row < H))
        x2 = load_tile(x_ptr, x_stride, n, offs_c, row * W + offs_w, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_W]
        if STENCIL == "max":
            x2 = tl.where(mask, x2, float("-inf"))
        z, _, window = roll(x2, row, offs_w, w, b, window, STENCIL, VEC)
        if STENCIL == "avg":
            z *= inverse_count(row - 1, offs_w, H, W, ACC)
        g = GATE.f(z, GATE.a, GATE.b)
        mask = mask_own & (row > h0)
        offs_p = (row - 1) * W + offs_w
        store_tile(y_ptr, y_stride, n, offs_c, offs_p, x1 * g, mask, LAYOUT)
        if map_ptr is not None:
            store_tile(map_ptr, map_stride, n, offs_c, offs_p, g, mask, LAYOUT)
        x1 = x2


@triton.jit
def _stencil_bwd_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    weight_ptr,
    bias_ptr,
    dx_ptr,
    dweight_ptr,
    dbias_ptr,
    dy_stride,
    dmap_stride,
    x_stride,
    dx_stride,
    row_stride,
    H,
    w_units,
    C: tl.constexpr,
    STENCIL: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    W_ALIGN: tl.constexpr,
    VEC: tl.constexpr,
    HALO: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_H: tl.constexpr,
    STAGES: tl.constexpr,
):
    W = w_units * W_ALIGN
    n, h0, offs_w, offs_c = _place(H, W, C, HALO, BLOCK_C, BLOCK_W, BLOCK_H)
    h1 = tl.minimum(h0 + BLOCK_H, H)
    mask_c = (offs_c < C)[:, None]
    mask_w = ((offs_w >= 0) & (offs_w < W))[None, :]
    lanes = tl.arange(0, BLOCK_W)
    own_w = ((lanes >= HALO) & (lanes < BLOCK_W - HALO))[None, :]
    w = load_taps(weight_ptr, offs_c, C, ACC) if STENCIL == "dot" else None
    b = load_vector(bias_ptr, offs_c, C, ACC)[:, None] if bias_ptr is not None else 0.0
    tagged: tl.constexpr = STENCIL == "first" or STENCIL == "split"
    zero = tl.zeros([BLOCK_C, BLOCK_W], ACC)
    no_tag = tl.zeros([BLOCK_C, BLOCK_W], tl.int32)
    window = (zero, no_tag, zero) if tagged else (zero, zero)
    x0, x1 = zero, zero  # the last two rows of x, and of dx as far as they have come
    dx0, dx1 = zero, zero
    db = tl.zeros([BLOCK_C, BLOCK_W // VEC], ACC)
    dw = (db, db, db, db, db, db, db, db, db)
    for row in tl.range(h0 - 2, h1 + 2, num_stages=STAGES):
        offs_p = row * W + offs_w
        mask = mask_c & mask_w & ((row >= 0) & (row < H))
        x2 = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_W]
        if tagged:
            x2 = tl.where(mask_w & ((row >= 0) & (row < H)), x2, float("-inf"))
        z, tag, window = roll(x2, row, offs_w, w, b, window, STENCIL, VEC)
        # from here on the row above; dy is loaded after the shifts, or the compiler changes layouts around them
        mask = mask_c & mask_w & ((row >= 1) & (row <= H))
        dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p - W, mask, LAYOUT, ACC)
        if W_ALIGN == 1 and not LAYOUT.channels_last:
            dy = settle(dy, VEC)  # narrow loads have a layout of their own, which the arithmetic would take on
        if STENCIL == "avg":
            share = inverse_count(row - 1, offs_w, H, W, ACC)
            z *= share
        ds = dy * x1
        if dmap_ptr is not None:
            ds += load_tile(dmap_ptr, dmap_stride, n, offs_c, offs_p - W, mask, LAYOUT, ACC)
        dz = GATE.df(ds, z, GATE.a, GATE.b)
        dx1 += dy * GATE.f(z, GATE.a, GATE.b)
        if STENCIL == "avg":
            dz *= share
        if STENCIL == "split":
            dz = tl.where(z == z, dz / tag.to(ACC), float("nan"))
        dz = tl.where(mask_w & ((row >= 1) & (row <= H)), dz, 0.0)
        dzs = around(dz, 0.0, VEC)
        if dx_ptr is not None:
            zs = around(z, float("nan"), VEC) if STENCIL == "split" else None
            tags = around(tag, 0, VEC) if STENCIL == "first" else None
            dx = route(dx0, dzs, zs, tags, x0, w, 0, STENCIL)
            dx0 = route(dx1, dzs, zs, tags, x1, w, 1, STENCIL)
            dx1 = route(zero, dzs, zs, tags, x2, w, 2, STENCIL)
            mask = mask_c & mask_w & own_w & (row - 2 >= h0)
            store_tile(dx_ptr, dx_stride, n, offs_c, offs_p - 2 * W, dx, mask, LAYOUT)
        own = (row > h0) & (row <= h1)
        if HALO:
            dzs = tl.where(own_w, dzs[0], 0.0), tl.where(own_w, dzs[1], 0.0), tl.where(own_w, dzs[2], 0.0)
        if dbias_ptr is not None:
            db += tl.where(own, tl.sum(tl.reshape(dzs[1], [BLOCK_C, BLOCK_W // VEC, VEC]), 2), 0.0)
        if dweight_ptr is not None:
            dw = (
                accumulate(dw, x0, dzs, own, 0, VEC)
                + accumulate(dw, x1, dzs, own, 1, VEC)
                + accumulate(dw, x2, dzs, own, 2, VEC)
            )
        x0, x1 = x1, x2
    tile = tl.program_id(0) // tl.cdiv(C, BLOCK_C)
    out = tile.to(tl.int64) * row_stride
    if dweight_ptr is not None:
        for k in tl.static_range(9):
            tl.store(dweight_ptr + out + offs_c * 9 + k, tl.sum(dw[k], 1), offs_c < C)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + out + offs_c, tl.sum(db, 1), offs_c < C)


class Geometry(NamedTuple):
    """What the choice of a config depends on."""

    N: int
    C: int
    H: int
    W: int
    itemsize: int
    channels_last: bool

    @property
    def vec(self) -> int:
        """Neighbouring columns in one thread: in NCHW a 128-bit access."""
        return 8 if self.channels_last else 16 // self.itemsize

    def halo(self, config: Config) -> int:
        """Columns that a tile shares with its neighbour, on each side: none where one tile holds the row."""
        if config.blocks["BLOCK_W"] >= self.W:
            return 0
        return 2 if self.channels_last else self.vec

    def tiles(self, config: Config) -> tuple[int, int, int]:
        """Blocks of channels, tiles in a row, strips of rows."""
        block_c, block_w, block_h = (config.blocks[k] for k in ("BLOCK_C", "BLOCK_W", "BLOCK_H"))
        step = block_w - 2 * self.halo(config)
        return -(-self.C // block_c), -(-self.W // step), -(-self.H // block_h)

    def rows(self, config: Config, margin: int) -> float:
        """Times that each row is loaded, where a strip reads `margin` rows above and below its own."""
        block_h = config.blocks["BLOCK_H"]
        starts = range(0, self.H, block_h)
        loaded = (min(h + block_h + margin, self.H) - max(h - margin, 0) for h in starts)
        return sum(loaded) / self.H

    def columns(self, config: Config) -> float:
        """Times that each column is loaded."""
        block_w, halo = config.blocks["BLOCK_W"], self.halo(config)
        step = block_w - 2 * halo
        starts = range(-halo, self.W - halo, step)
        return sum(min(w + block_w, self.W) - max(w, 0) for w in starts) / self.W


def _geometry(x: Tensor, m: Maps) -> Geometry:
    return Geometry(*x.shape, x.element_size(), m.layout.channels_last)


def _config(x: Tensor, m: Maps, geometry: Geometry, stencil: str, backward: bool) -> Config:
    """By a model of its own: the loop over rows issues about as long as memory takes. Times in ps per element."""
    maps_read = 2 if backward else 1
    instructions, live = (INSTRUCTIONS[stencil], LIVE[stencil]) if backward else (30, 5)
    if geometry.channels_last:
        live += 2 * maps_read

    def time(config: Config) -> float | None:
        block_c, block_w = config.blocks["BLOCK_C"], config.blocks["BLOCK_W"]
        values = block_c * block_w / (32 * config.num_warps)
        lanes = block_w // geometry.vec  # that hold one row
        taps = 9 * maps_read * values / geometry.vec if stencil == "dot" else 0  # weights, and their sums
        registers = 24 + (values * live + taps) * max(1.0, geometry.itemsize / 4)
        if (
            lanes > (64 if config.num_warps == 1 else 32)
            or values < geometry.vec
            or block_w <= 2 * geometry.halo(config)
        ):
            return None
        blocks_c, tiles_w, strips = geometry.tiles(config)
        warps = max(geometry.N, 1) * blocks_c * tiles_w * strips * config.num_warps / SMS
        resident = max(1.0, min(REGISTERS / (32 * registers), 64, 32 * config.num_warps))
        active = min(warps, resident)
        rows = (geometry.H + (2 * maps_read + 1) * strips) / geometry.H  # one more for the start
        padding = blocks_c * block_c * tiles_w * block_w / (geometry.C * geometry.W)
        shuffles = 4 * 2 * maps_read * max(1.0, lanes / 32) / geometry.vec  # a shuffle takes four issue slots
        issue = (instructions * (1 + 0.5 / values) + shuffles) * padding * rows / 29.6 * max(1.0, 12 / active)
        loaded = geometry.rows(config, maps_read) * geometry.columns(config)
        in_flight = active * 32 * values * geometry.itemsize * maps_read * (config.blocks["STAGES"] - 1) / padding
        row_bytes = geometry.itemsize * (block_c if geometry.channels_last else block_w)
        memory = geometry.itemsize * (maps_read * (1 + 0.2 * (loaded - 1)) + 1) / 4.3  # what is loaded again is in L2
        memory *= max(1.0, BYTES_IN_FLIGHT / in_flight) * max(1.0, 128 / row_bytes) ** 0.25 * max(1.0, 32 / row_bytes)
        waves = warps / resident
        tail = (ceil(waves) / waves) ** 0.3 if waves > 1 else 1.0
        # where the GPU is not full padding costs little, but not nothing
        spills = max(1.0, registers / 200) ** 8
        return (max(issue, memory) + 0.3 * min(issue, memory)) * tail * spills * padding**0.1

    kernel = "stencil_bwd" if backward else "stencil_fwd"
    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(stencil,), exact=geometry)
    return config_for(SPACE, time, kernel, x, **how)


def _common(x: Tensor, m: Maps, geometry: Geometry, config: Config, stencil: str, gate: Activation) -> dict:
    H, W = x.shape[2:]
    w_align = next(a for a in ALIGNMENTS if W % a == 0)
    return dict(
        H=H,
        w_units=W // w_align,
        C=m.C,
        STENCIL=stencil,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        W_ALIGN=w_align,
        VEC=geometry.vec,
        HALO=geometry.halo(config),
    )


def plan_stencil_fwd(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor,
    gate_map: Tensor | None,
    stencil: str,
    gate: Activation,
) -> Plan:
    m = maps(*(t for t in (x, y, gate_map) if t is not None))
    geometry = _geometry(x, m)
    config = _config(x, m, geometry, stencil, backward=False)
    args = dict(
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        y_ptr=y,
        map_ptr=gate_map,
        x_stride=m.strides[0],
        y_stride=m.strides[1],
        map_stride=m.strides[-1],
        **_common(x, m, geometry, config, stencil, gate),
    )
    blocks_c, tiles_w, strips = geometry.tiles(config)
    tiles = m.N * tiles_w * strips
    reads = geometry.rows(config, 1) * geometry.columns(config)
    traffic = dict(x_ptr=(reads, 0), weight_ptr=(tiles, 0), bias_ptr=(tiles, 0), y_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_stencil_fwd_kernel, args, config, tiles * blocks_c, traffic)


def plan_stencil_bwd(
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dx: Tensor | None,
    with_dweight: bool,
    with_dbias: bool,
    stencil: str,
    gate: Activation,
) -> tuple[Plan, Tensor]:
    """The plan, and the partial sums that it fills: (tiles, 9 C and C more), columns only for what is wanted."""
    m = maps(*(t for t in (dy, x, dx, dmap) if t is not None))
    geometry = _geometry(x, m)
    config = _config(x, m, geometry, stencil, backward=True)
    blocks_c, tiles_w, strips = geometry.tiles(config)
    tiles, head = m.N * tiles_w * strips, 9 * m.C * with_dweight
    partial = partials(x, tiles, head + m.C * with_dbias)
    args = dict(
        dy_ptr=dy,
        dmap_ptr=dmap,
        x_ptr=x,
        weight_ptr=weight,
        bias_ptr=bias,
        dx_ptr=dx,
        dweight_ptr=partial[:, :head] if with_dweight else None,
        dbias_ptr=partial[:, head:] if with_dbias else None,
        dy_stride=m.strides[0],
        dmap_stride=m.strides[-1],
        x_stride=m.strides[1],
        dx_stride=m.strides[2 if dx is not None else 1],
        row_stride=partial.stride(0),
        **_common(x, m, geometry, config, stencil, gate),
    )
    columns = geometry.columns(config)
    once = geometry.rows(config, 1) * columns
    traffic = dict(
        dy_ptr=(once, 0),
        dmap_ptr=(once, 0),
        x_ptr=(geometry.rows(config, 2) * columns, 0),
        weight_ptr=(tiles, 0),
        bias_ptr=(tiles, 0),
        dx_ptr=(0, 1),
        dweight_ptr=(0, 1),
        dbias_ptr=(0, 1),
    )
    return Plan(_stencil_bwd_kernel, args, config, tiles * blocks_c, traffic), partial
