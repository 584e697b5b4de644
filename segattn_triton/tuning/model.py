"""Spaces of configs, and a model of their time: by bytes in flight, registers and occupancy."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil, log2
from types import MappingProxyType
from typing import Any

SMS = 132  # the size of GPU that the model fills; a few more or fewer move no choice by much
REGISTERS = 65536  # per SM
BYTES_IN_FLIGHT = 32 * 1024  # per SM, at the latency and bandwidth of HBM3 (Little's law)
START = 1024  # bytes that an SM could have moved while one of its programs starts
SPILLS = 1e6  # cost of a config whose threads need more registers than there are
ALONE = 40  # values that a thread of a program without others loads and uses in a round trip to DRAM
STEP = 0.8  # microseconds from a load to its use, with the arithmetic and the barriers between
DRAM_BANDWIDTH = 4.3e6  # bytes per microsecond that a copy moves on an H200
SM_BANDWIDTH, L2_BANDWIDTH = 0.1e6, 6e6  # bytes per microsecond that one SM and all of them read from the L2 cache


@dataclass(frozen=True)
class Config:
    blocks: Mapping[str, int]
    num_warps: int = 4
    num_stages: int = 1
    programs: int = 0  # on an SM at a time, of a kernel that loops; 0 of one with a program for every tile
    maxnreg: int | None = None  # registers that a thread may have; None: as many as the compiler finds best
    dependent: bool = False  # whether the kernel may start before what it follows has ended, by a tuned table
    choice: Any = field(default=None, compare=False, repr=False)  # the `choice.Choice` that it came from

    @property
    def launch_options(self) -> dict[str, int]:
        most = {} if self.maxnreg is None else {"maxnreg": self.maxnreg}
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages, **most}

    def __hash__(self) -> int:
        return hash((*self.blocks.items(), self.num_warps, self.num_stages, self.programs))


def space(*, num_warps: tuple[int, ...] = (4,), num_stages: tuple[int, ...] = (1,), **blocks) -> tuple[Config, ...]:
    """Every combination, in a fixed order: a config is known by its index."""
    names = list(blocks)
    return tuple(
        Config(MappingProxyType(dict(zip(names, values, strict=True))), warps, stages)
        for *values, warps, stages in itertools.product(*blocks.values(), num_warps, num_stages)
    )


def looping(configs: tuple[Config, ...]) -> tuple[Config, ...]:
    """Each config with the numbers of programs that an SM may have at a time: 8 to 20 warps together; of more, the
    threads have too few registers for the tiles of any named problem."""
    return tuple(
        replace(c, programs=warps // c.num_warps)
        for c in configs
        for warps in (8, 12, 16, 20)
        if not warps % c.num_warps
    )


@dataclass(frozen=True)
class Footprint:
    """What one program of a config costs: the model's only input."""

    tile: int  # elements of one loaded map tile
    itemsize: int
    loads: int  # map tiles that are in flight together
    live: float  # fp32 values alive per tile element
    programs: int
    waste: float = 1.0  # elements computed over elements wanted
    row_bytes: int = 128  # contiguous bytes of one tile row
    side: float = 0.0  # bytes of other operands, from the L2 cache, for each element of the tile
    shared: float = 0.0  # time of shared memory over that of DRAM
    ahead: float = 1  # rounds of a loop that are on their way together
    sms: int = SMS  # of the GPU, where `programs` follows from them


Model = Callable[[Config], Footprint | float | None]


def registers(config: Config, f: Footprint) -> float:
    """An estimate of the registers per thread: indices and masks, the live values, a quarter more for each load; of a
    loop its counters, too, and the addresses of its copies, or what it loads, where no copies are ahead of it."""
    values = f.tile / (32 * config.num_warps)
    fixed, each = (34, f.itemsize / (8 if f.ahead >= 1 else 4)) if config.programs else (24, 1 / 4)
    return fixed + values * (f.live * max(1.0, f.itemsize / 4) + f.loads * each)


def cost(config: Config, f: Footprint) -> float:
    """Relative time. Every factor is 1 at its best, and says what is lost otherwise."""
    threads = 32 * config.num_warps
    values = f.tile / threads
    needed, limit = registers(config, f), min(232, REGISTERS // (threads * max(config.programs, 1)) // 8 * 8)
    if needed > limit:
        return SPILLS * needed / limit
    fit = max(1, min(REGISTERS // (threads * -(-int(needed) // 8) * 8), 2048 // threads, 32))
    resident = config.programs or fit
    nbytes = f.tile * f.itemsize * f.loads * f.ahead
    per_sm = max(f.programs, 1) / f.sms
    waves = per_sm / config.programs if config.programs else 0.0
    moved = 1 + f.side / (f.itemsize * (f.loads + 1))  # bytes from the L2 cache, of the map's own
    in_flight = min(resident, per_sm) * nbytes / max(f.waste, 1.0)
    # of the programs that an SM could have: where there are no others, a program's own work shows
    full = 1.0 if config.programs else min(1.0, per_sm / resident)
    return (
        f.waste  # masked elements take issue slots and registers
        * max(1.0, 2 * BYTES_IN_FLIGHT / in_flight)  # latency shows: a program waits for loads half of its time
        * (1 + 0.2 / resident)  # one program's load, arithmetic and store do not overlap: others fill the gaps
        * ((1 + values * f.loads / ALONE) * (1 + config.num_warps / 16)) ** (1 - full)  # warps wait for each other
        * (1 + START / nbytes) ** full  # a program starts, and computes its indices
        * (1 + 0.05 * abs(log2(values * f.loads / 64))) ** full  # about 64 loads a thread: 32 values of two maps
        * max(1.0, 16 / (values * f.itemsize))  # fewer values than fill a 128-bit access
        * max(1.0, f.shared)
        * max(1.0, moved * DRAM_BANDWIDTH / L2_BANDWIDTH)  # the L2 cache moves what is beside the map, too
        * max(1.0, 128 / f.row_bytes) ** 0.25  # rows shorter than a cache line share it with another program
        * max(1.0, 32 / f.row_bytes)  # a sector of 32 bytes is fetched whole
        * max(1.0, 2 / per_sm) ** 0.5  # SMs without a program, or with a single one
        * (1 + 0.5 / waves if waves > 1 else 1.0)  # of a loop's waves, the last may be half empty
        * (1 + 0.3 * (ceil(per_sm) / per_sm - 1 if per_sm > 1 else 0))  # the last wave fills some SMs only
    )


def choose(configs: tuple[Config, ...], footprint: Callable[[Config], Footprint | float | None]) -> Config:
    """The cheapest config by the model, of equals the largest tile, then the first.

    `footprint` returns None for one that cannot run, and the cost itself where a family is not bound by memory and has
    a model of its own.
    """
    found = [(f, c, i) for i, c in enumerate(configs) if (f := footprint(c)) is not None]
    return configs[min((f, 0, i) if isinstance(f, float) else (cost(c, f), -f.tile, i) for f, c, i in found)[2]]
