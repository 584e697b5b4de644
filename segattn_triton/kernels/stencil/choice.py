"""Which tiles a stencil runs with: its spaces, what a tile loads twice, and a model of the time of its loops.

A program of NCHW, and of the backward, rolls down BLOCK_H rows of a tile BLOCK_C x BLOCK_W. The forward in
channels_last walks along BLOCK_W columns of a tile BLOCK_C x BLOCK_H.
"""

from dataclasses import replace
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from ...runtime.maps import Maps
from ...tuning.choice import config_for
from ...tuning.model import BYTES_IN_FLIGHT, REGISTERS, SMS, Config, space
from ...tuning.target import capability, with_all_registers
from .walk import ROWS

STAGES = (3, 2)
# NCHW: one warp holds whole rows of its tile
DOWN = tuple(
    config
    for block_c, block_w in (
        *((2, 64), (4, 32), (8, 16)),
        *((1, 256), (2, 128), (4, 64), (8, 32), (16, 16)),
        *((1, 512), (2, 256), (4, 128), (8, 64), (16, 32)),
    )
    for config in space(
        BLOCK_C=(block_c,), BLOCK_W=(block_w,), BLOCK_H=(8, 16, 32, 64, 128), STAGES=STAGES, num_warps=(1,)
    )
)
# channels_last: a row is BLOCK_C channels of a pixel
WALK = tuple(
    config
    for block_c, block_h, num_warps in (
        *((64, 32, 4), (64, 16, 2), (64, 8, 1), (32, 64, 4), (32, 32, 2), (32, 16, 1), (16, 128, 4), (16, 32, 1)),
        *((64, 16, 4), (64, 8, 2), (64, 4, 1), (32, 32, 4), (32, 8, 1), (16, 64, 4), (16, 16, 1)),
    )
    for config in space(
        BLOCK_C=(block_c,), BLOCK_W=(16, 32, 64, 128), BLOCK_H=(block_h,), STAGES=STAGES, num_warps=(num_warps,)
    )
)
LAST = tuple(
    config
    for block_c, block_w, num_warps in ((32, 32, 4), (32, 16, 2), (64, 16, 4), (64, 32, 4), (32, 64, 4))
    for config in space(
        BLOCK_C=(block_c,), BLOCK_W=(block_w,), BLOCK_H=(8, 16, 32, 64, 128), STAGES=STAGES, num_warps=(num_warps,)
    )
)
FORWARD, BACKWARD = DOWN + WALK, DOWN + LAST

BACKWARD_INSTRUCTIONS = {"dot": 57, "avg": 35, "first": 70, "split": 70}  # per element
LIVE = {"dot": 7, "avg": 7, "first": 14, "split": 15}  # registers per element, backward
SLOTS = 29.6  # elements of an instruction that all SMs issue in a picosecond, on an H200
THREE_PROGRAMS = REGISTERS // (3 * 128) // 8 * 8  # registers of a thread where an SM holds three of four warps
BANDWIDTH = 4.2  # bytes that a copy moves in a picosecond


class Geometry(NamedTuple):
    """What the choice of a config depends on."""

    N: int
    C: int
    H: int
    W: int
    itemsize: int
    channels_last: bool
    stencil: str
    backward: bool

    @property
    def walks(self) -> bool:
        """Whether a program walks along rows, not down them."""
        return self.channels_last and not self.backward

    @property
    def maps_read(self) -> int:
        return 2 if self.backward else 1

    @property
    def vec(self) -> int:
        """Columns of one access in NCHW, of 128 bits."""
        return 16 // self.itemsize

    def side_by_side(self, config: Config) -> int:
        """Columns that a thread holds side by side: in NCHW so many that a warp's lanes hold a row of the tile, in
        channels_last those of one channel."""
        if self.channels_last:
            return 1 if self.walks else max(8, int(self.values(config)))
        return max(self.vec, config.blocks["BLOCK_W"] // 32)

    def halo(self, config: Config) -> int:
        """Columns that a tile shares with its neighbour, on each side: none where one tile holds the row."""
        if self.walks or config.blocks["BLOCK_W"] >= self.W:
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
        step, end = (ROWS.value, -(-self.H // block_h) * block_h) if self.walks else (block_h, self.H)
        loaded = (min(h + step + margin, self.H) - max(h - margin, 0) for h in range(0, end, step))
        return sum(max(n, 0) for n in loaded) / self.H

    def columns(self, config: Config) -> float:
        """Times that each column is loaded."""
        block_w, halo = config.blocks["BLOCK_W"], self.halo(config)
        margin = 1 if self.walks else 0
        starts = range(-halo, self.W - halo, block_w - 2 * halo)
        return sum(min(w + block_w + margin, self.W) - max(w - margin, 0) for w in starts) / self.W

    def values(self, config: Config) -> float:
        """Elements that a thread holds of a map, and computes in a step of its loop."""
        across = config.blocks["BLOCK_H" if self.walks else "BLOCK_W"]
        return config.blocks["BLOCK_C"] * across / (32 * config.num_warps)

    def registers(self, config: Config) -> float:
        values, wide = self.values(config), max(1.0, self.itemsize / 4)
        live, taps = 5.0, 9 / ROWS.value  # of the forward in channels_last
        if not self.walks:
            live = LIVE[self.stencil] + 2 * self.channels_last if self.backward else 4.0
            taps = 9 * self.maps_read / self.side_by_side(config)  # weights, and their sums
        return 24 + values * (live + taps * (self.stencil == "dot")) * wide

    def instructions(self, config: Config) -> float:
        """Per element that is computed."""
        each = BACKWARD_INSTRUCTIONS[self.stencil] if self.backward else 22
        step = 110 if self.backward else 140 if self.walks else 70  # of a step of the loop, whatever it holds
        return each + step / self.values(config)

    def fits(self, config: Config) -> bool:
        if config not in (WALK if self.walks else LAST if self.channels_last else DOWN):
            return False
        if self.walks:
            return True
        fewest = 8 if self.channels_last else self.vec
        return self.values(config) >= fewest and config.blocks["BLOCK_W"] > 2 * self.halo(config)


def time(geometry: Geometry, config: Config) -> float | None:
    """Picoseconds an element: the loop issues about as long as memory takes."""
    g, blocks = geometry, config.blocks
    if not g.fits(config):
        return None
    blocks_c, tiles_w, strips = g.tiles(config)
    programs = max(g.N, 1) * blocks_c * tiles_w * strips / SMS
    fit = REGISTERS // (32 * config.num_warps * (-(-int(g.registers(config)) // 8) * 8))
    resident = max(1, min(fit, 32, 64 // config.num_warps))
    active = min(programs, resident) * config.num_warps
    # what is computed over what is wanted: the tile's edges, and the steps before its first row or column
    steps = (g.W + 2 * tiles_w) / g.W if g.walks else (g.H + 2 * g.maps_read * strips) / g.H
    padding = blocks_c * blocks["BLOCK_C"] / g.C
    padding *= strips * blocks["BLOCK_H"] / g.H if g.walks else tiles_w * blocks["BLOCK_W"] / g.W
    issue = g.instructions(config) * padding * steps / SLOTS * max(1.0, 12 / active) ** 0.5
    in_flight = active * 32 * g.values(config) * g.itemsize * g.maps_read * (blocks["STAGES"] - 1) / padding
    again = g.rows(config, g.maps_read) * g.columns(config) - 1  # from the L2 cache
    in_flight *= (ROWS.value + 2) / ROWS.value if g.walks else 1.0
    row_bytes = g.itemsize * (blocks["BLOCK_C"] if g.channels_last else blocks["BLOCK_W"])
    memory = g.itemsize * (g.maps_read * (1 + 0.2 * again) + 1) / BANDWIDTH
    memory *= max(1.0, BYTES_IN_FLIGHT / in_flight) * max(1.0, 128 / row_bytes) ** 0.25 * max(1.0, 32 / row_bytes)
    waves = programs / resident
    tail = (ceil(waves) / waves) ** 0.3 if waves > 1 else 1.0
    spills = max(1.0, g.registers(config) / 232) ** 8
    return (max(issue, memory) + 0.3 * min(issue, memory)) * tail * spills


def stencil_config(x: Tensor, m: Maps, geometry: Geometry) -> Config:
    kernel, configs = ("stencil_bwd", BACKWARD) if geometry.backward else ("stencil_fwd", FORWARD)
    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(geometry.stencil,), exact=geometry)
    config = config_for(configs, lambda c: time(geometry, c), kernel, x, **how)
    if not (geometry.backward and geometry.channels_last):
        return config
    if capability(x.device) >= 100:
        return with_all_registers(config, x.device)
    # the compiler would take 198, and leave an SM two programs of three
    three = geometry.stencil == "avg" and geometry.itemsize == 2 and geometry.values(config) == 16
    return replace(config, maxnreg=THREE_PROGRAMS) if three and not torch.version.hip else config


def geometry_of(x: Tensor, m: Maps, stencil: str, backward: bool) -> Geometry:
    return Geometry(*x.shape, x.element_size(), m.layout.channels_last, stencil, backward)
