"""Which tiles a stencil runs with: its spaces, what a tile loads twice, and a model of the time of its loops.

A program of NCHW, and of the backward, rolls down BLOCK_H rows of a tile BLOCK_C x BLOCK_W. The forward in
channels_last walks along BLOCK_W columns of a tile BLOCK_C x BLOCK_H where neighbours are 3 x 3. Wider windows have
more rows, weights and sums in registers, and tiles of fewer values a thread; all they do is about K K times as much.
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
from .window import HELD, Window

STAGES = (3, 2)
FURTHEST = 16  # columns from a value, of a window that is read as the rows lie in NCHW
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
        BLOCK_C=(block_c,), BLOCK_W=(4, 8, 16, 32, 64, 128), BLOCK_H=(block_h,), STAGES=STAGES, num_warps=(num_warps,)
    )
)
LAST = tuple(
    config
    for block_c, block_w, num_warps in ((32, 32, 4), (32, 16, 2), (64, 16, 4), (64, 32, 4), (32, 64, 4))
    for config in space(
        BLOCK_C=(block_c,), BLOCK_W=(block_w,), BLOCK_H=(8, 16, 32, 64, 128), STAGES=STAGES, num_warps=(num_warps,)
    )
)
# windows wider than 3 x 3
DOWN_WIDE = tuple(
    config
    for block_c, block_w in ((1, 128), (1, 64), (2, 32), (4, 16), (8, 8))
    for config in space(
        BLOCK_C=(block_c,), BLOCK_W=(block_w,), BLOCK_H=(16, 32, 64, 128), STAGES=(*STAGES, 1), num_warps=(1,)
    )
)
LAST_WIDE = tuple(
    config
    for block_c, block_w, num_warps in (
        *((32, 16, 4), (16, 32, 4), (8, 64, 4), (32, 8, 4), (16, 16, 4), (8, 32, 4)),
        *((8, 32, 2), (8, 16, 1)),
    )
    for config in space(
        BLOCK_C=(block_c,), BLOCK_W=(block_w,), BLOCK_H=(16, 32, 64, 128), STAGES=(*STAGES, 1), num_warps=(num_warps,)
    )
)
FORWARD = tuple(dict.fromkeys(DOWN + WALK + DOWN_WIDE + LAST + LAST_WIDE))  # some walk, and roll down, too
BACKWARD = DOWN + LAST + DOWN_WIDE + LAST_WIDE

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
    window: Window

    @property
    def wide(self) -> bool:
        return self.window != Window()

    @property
    def walks(self) -> bool:
        """Whether a program walks along rows, not down them."""
        return self.channels_last and not self.backward and not self.wide

    @property
    def also(self) -> tuple[str, ...]:
        """What a tuned table knows the problem by, beside the map."""
        size, dilation, _ = self.window
        return (self.stencil, *([f"{size}x{size}", f"d{dilation}"] if self.wide else []))

    @property
    def taps(self) -> int:
        return self.window.size**2

    @property
    def held(self) -> bool:
        return is_held(self.window.size, self.maps_read)

    @property
    def reach(self) -> int:
        """Rows above and below a value, of its class, that it depends on: a window, backward two."""
        return self.window.size // 2 * self.maps_read

    @property
    def class_rows(self) -> list[int]:
        """Rows of each class, the most first."""
        d = self.window.dilation
        return [-(-(self.H - first) // d) for first in range(d)]

    @property
    def class_columns(self) -> list[int]:
        step = self.window.step
        return [-(-(self.W - first) // step) for first in range(step)]

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
        values = int(self.values(config))
        if self.channels_last:
            return 1 if self.walks else values
        return min(values, max(self.vec, config.blocks["BLOCK_W"] // 32))

    def halo(self, config: Config) -> int:
        """Columns that a tile shares with its neighbour, on each side: none where one tile holds the row."""
        if self.walks or config.blocks["BLOCK_W"] >= self.class_columns[0]:
            return 0
        columns = self.reach * self.window.dilation // self.window.step
        unit = 1 if self.channels_last else min(self.vec, self.side_by_side(config))
        return -(-columns // unit) * unit

    def tiles(self, config: Config) -> tuple[int, int, int]:
        """Blocks of channels, tiles in a row, strips of rows in all classes of an image."""
        block_c, block_w, block_h = (config.blocks[k] for k in ("BLOCK_C", "BLOCK_W", "BLOCK_H"))
        step, classes = block_w - 2 * self.halo(config), self.window.dilation * self.window.step
        strips = -(-self.class_rows[0] // block_h) * classes
        return -(-self.C // block_c), -(-self.class_columns[0] // step), strips

    def rows(self, config: Config, margin: int) -> float:
        """Times that each row is loaded, where a strip reads `margin` rows above and below its own."""
        block_h, most = config.blocks["BLOCK_H"], self.class_rows[0]
        step, end = (ROWS.value, -(-most // block_h) * block_h) if self.walks else (block_h, most)
        loaded = (min(h + step + margin, H) - max(h - margin, 0) for H in self.class_rows for h in range(0, end, step))
        return sum(max(n, 0) for n in loaded) / self.H

    def columns(self, config: Config) -> float:
        """Times that each column is loaded."""
        block_w, halo, most = config.blocks["BLOCK_W"], self.halo(config), self.class_columns[0]
        margin = 1 if self.walks else 0
        starts = range(-halo, most - halo, block_w - 2 * halo)
        loaded = (min(w + block_w + margin, W) - max(w - margin, 0) for W in self.class_columns for w in starts)
        return sum(max(n, 0) for n in loaded) / self.W

    def times_of_weights(self, config: Config, of_a_row: int = 1) -> float:
        """Times that a program loads the weights: so often at each row, where there are too many for its registers."""
        if self.held:
            return 1
        block_h, most, around = config.blocks["BLOCK_H"], self.class_rows[0], 2 * self.reach
        strips = [max(min(block_h, H - h) + around, 0) for H in self.class_rows for h in range(0, most, block_h)]
        return of_a_row * sum(strips) / len(strips)

    def values(self, config: Config) -> float:
        """Elements that a thread holds of a map, and computes in a step of its loop."""
        across = config.blocks["BLOCK_H" if self.walks else "BLOCK_W"]
        return config.blocks["BLOCK_C"] * across / (32 * config.num_warps)

    def registers(self, config: Config) -> float:
        values, wide, more = self.values(config), max(1.0, self.itemsize / 4), self.window.size // 2 - 1
        live, taps = 5.0, 9 / ROWS.value  # of the forward in channels_last
        if not self.walks:
            live = LIVE[self.stencil] + 2 * self.channels_last + 6 * more if self.backward else 4.0 + 3 * more
            live += self.wide * (12 if self.channels_last else 2)
            taps = self.taps * (self.backward + self.held) / self.side_by_side(config)  # weights, and their sums
        return 24 + values * (live + taps * (self.stencil == "dot")) * wide

    def instructions(self, config: Config) -> float:
        """Per element that is computed."""
        each = BACKWARD_INSTRUCTIONS[self.stencil] + 3 * (self.taps - 9) if self.backward else 22 + self.taps - 9
        step = 110 if self.backward else 140 if self.walks else 70  # of a step of the loop, whatever it holds
        return each + step / self.values(config)

    def fits(self, config: Config) -> bool:
        if not self.wide and config not in (WALK if self.walks else LAST if self.channels_last else DOWN):
            return False
        if self.wide and config not in ((*LAST, *LAST_WIDE) if self.channels_last else (*DOWN, *DOWN_WIDE)):
            return False
        if self.walks:
            return True
        if (config.blocks["STAGES"] == 1) == self.held:  # or weights would be loaded ahead, too
            return False
        fewest = 2 if self.wide else 8 if self.channels_last else self.vec
        most = 8 if self.wide else 16
        return fewest <= self.values(config) <= most and config.blocks["BLOCK_W"] > 2 * self.halo(config)


def is_held(K: int, maps_read: int) -> bool:
    """Whether the weights stay in registers, and backward their sums beside them."""
    return K * K * maps_read <= HELD.value


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
    steps = (g.W + 2 * tiles_w) / g.W if g.walks else (g.H + 2 * g.reach * strips / g.window.step) / g.H
    if g.wide and g.channels_last:  # the last strip of a class counts as a whole one: it waits for those
        steps = (blocks["BLOCK_H"] + 2 * g.reach) * strips / g.window.step / g.H
    padding = blocks_c * blocks["BLOCK_C"] / g.C
    across = tiles_w * blocks["BLOCK_W"] * g.window.step
    padding *= strips * blocks["BLOCK_H"] / g.H if g.walks else across / g.W
    issue = g.instructions(config) * padding * steps / SLOTS * max(1.0, 12 / active) ** 0.5
    in_flight = active * 32 * g.values(config) * g.itemsize * g.maps_read * max(blocks["STAGES"] - 1, 0.5) / padding
    again = g.rows(config, g.reach) * g.columns(config) - 1  # from the L2 cache
    in_flight *= (ROWS.value + 2) / ROWS.value if g.walks else 1.0
    row_bytes = g.itemsize * (blocks["BLOCK_C"] if g.channels_last else blocks["BLOCK_W"])
    memory = g.itemsize * (g.maps_read * (1 + 0.2 * again) + 1) / BANDWIDTH
    memory *= max(1.0, BYTES_IN_FLIGHT / in_flight) * max(1.0, 128 / row_bytes) ** 0.25
    memory *= 1.0 if g.wide else max(1.0, 32 / row_bytes)  # of wide windows the L2 cache has the rest of a sector
    if not g.held:  # nothing is loaded ahead, and at a row the warps of a program wait for each other
        memory, issue = 0.0, issue * max(1.0, config.num_warps / 2) ** 0.5
    waves = programs / resident
    if waves < 1:  # all run at once: warps of one program wait for each other
        issue *= 1 + config.num_warps / 100
    tail = (ceil(waves) / waves) ** 0.3 if waves > 1 else 1.0
    spills = max(1.0, g.registers(config) / 232) ** 8
    return (max(issue, memory) + 0.3 * min(issue, memory)) * tail * spills


def stencil_config(x: Tensor, m: Maps, geometry: Geometry) -> Config:
    kernel, configs = ("stencil_bwd", BACKWARD) if geometry.backward else ("stencil_fwd", FORWARD)
    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=geometry.also, exact=geometry)
    config = config_for(configs, lambda c: time(geometry, c), kernel, x, **how)
    if not (geometry.backward and geometry.channels_last):
        return config
    if capability(x.device) >= 100:
        return with_all_registers(config, x.device)
    # the compiler would take 198, and leave an SM two programs of three
    three = geometry.stencil == "avg" and geometry.itemsize == 2 and geometry.values(config) == 16
    return replace(config, maxnreg=THREE_PROGRAMS) if three and not torch.version.hip else config


def geometry_of(x: Tensor, m: Maps, stencil: str, weight: Tensor | None, dilation: int, backward: bool) -> Geometry:
    K = 3 if weight is None else weight.shape[2]
    last, (H, W) = m.layout.channels_last, x.shape[2:]
    dilation = min(dilation, max(H, W))  # from there on a window has nothing but its middle in the image
    apart = last or (K // 2 * dilation > FURTHEST and W > FURTHEST)  # columns of one class make the tile
    window = Window(K, dilation, dilation if apart else 1)
    return Geometry(*x.shape, x.element_size(), last, stencil, backward, window)
