"""One weight per value, from its 3x3 neighbours in its own channel: what the kernels of y = x * gate(z) share.

    z = sum_k weight_ck x_k + bias_c  (dot),    the mean (avg) or the maximum (max) of the neighbours in the image

x, y, map (N, C, H, W); weight (C, 1, 3, 3); bias (C,). A program rolls down a strip of rows and holds one row of
BLOCK_C channels at a time, so that every value is loaded once, but for the rows and columns that neighbouring tiles
share. The rows themselves are in `window`.
"""

from math import ceil
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import ALIGNMENTS, Maps, accumulator
from ...tuning.choice import config_for
from ...tuning.model import BYTES_IN_FLIGHT, REGISTERS, SMS, Config, space
from ...tuning.target import capability, with_all_registers
from ..common.activations import Activation

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
def place(
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
def own_columns(HALO: tl.constexpr, BLOCK_W: tl.constexpr):
    """[1, BLOCK_W]: the columns that no neighbouring tile writes."""
    lanes = tl.arange(0, BLOCK_W)
    return ((lanes >= HALO) & (lanes < BLOCK_W - HALO))[None, :]


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
    def loads_triples(self) -> bool:
        """Whether a program loads the columns before and after its own, too, instead of moving what it has."""
        return self.channels_last and self.stencil != "dot" and not self.backward

    @property
    def vec(self) -> int:
        """Neighbouring columns in one thread: in NCHW a 128-bit access."""
        return 8 if self.channels_last else 16 // self.itemsize

    def halo(self, config: Config) -> int:
        """Columns that a tile shares with its neighbour, on each side: none where one tile holds the row."""
        if self.loads_triples or config.blocks["BLOCK_W"] >= self.W:
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
        if self.loads_triples:
            return 3 - 2 / self.W
        block_w, halo = config.blocks["BLOCK_W"], self.halo(config)
        step = block_w - 2 * halo
        starts = range(-halo, self.W - halo, step)
        return sum(min(w + block_w, self.W) - max(w, 0) for w in starts) / self.W


def geometry_of(x: Tensor, m: Maps, stencil: str, backward: bool) -> Geometry:
    return Geometry(*x.shape, x.element_size(), m.layout.channels_last, stencil, backward)


def stencil_config(x: Tensor, m: Maps, geometry: Geometry) -> Config:
    """By a model of its own: the loop over rows issues about as long as memory takes. Times in ps per element."""
    stencil, backward, triples = geometry.stencil, geometry.backward, geometry.loads_triples
    maps_read = 2 if backward else 1
    instructions, live = (INSTRUCTIONS[stencil], LIVE[stencil]) if backward else (30, 5)
    warps_wanted = 24 if triples else 12  # of an SM, which issue while others wait for a row
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
        moved = 0 if triples else 2 * maps_read * max(1.0, lanes / 32) / geometry.vec
        shuffles = 4 * moved  # that is how many issue slots one takes
        issue = (instructions * (1 + 0.5 / values) + shuffles) * padding * rows / 29.6 * max(1.0, warps_wanted / active)
        loaded = geometry.rows(config, maps_read) * (1.2 if triples else geometry.columns(config))
        ahead = 1 if triples else config.blocks["STAGES"] - 1
        in_flight = active * 32 * values * geometry.itemsize * maps_read * ahead / padding
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
    config = config_for(SPACE, time, kernel, x, **how)
    squeezed = backward and geometry.channels_last and capability(x.device) >= 100
    return with_all_registers(config, x.device) if squeezed else config


def common_args(x: Tensor, m: Maps, geometry: Geometry, config: Config, stencil: str, gate: Activation) -> dict:
    H, W = x.shape[2:]
    w_align = next(a for a in ALIGNMENTS if W % a == 0)
    return dict(
        sizes=(H, W // w_align),
        C=m.C,
        STENCIL=stencil,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
        W_ALIGN=w_align,
        VEC=geometry.vec,
        HALO=geometry.halo(config),
    )
