"""Which block sizes, warps and stages a kernel runs with. Never measured while a user's forward runs.

A kernel family has a *space*: a fixed list of configs. The choice among them is a deterministic function of the
problem, from a model of bytes in flight, registers and occupancy.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import torch

SMS = 132  # the size of GPU that the model fills; a few more or fewer move no choice by much
REGISTERS = 65536  # per SM
SHARED = {75: 65536, 80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}  # bytes per program
BYTES_IN_FLIGHT = 32 * 1024  # per SM, at the latency and bandwidth of HBM3 (Little's law)


@dataclass(frozen=True)
class Config:
    blocks: Mapping[str, int]
    num_warps: int = 4
    num_stages: int = 1

    @property
    def launch_options(self) -> dict[str, int]:
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages}

    def __hash__(self) -> int:
        return hash((*self.blocks.items(), self.num_warps, self.num_stages))


def space(*, num_warps: tuple[int, ...] = (4,), num_stages: tuple[int, ...] = (1,), **blocks) -> tuple[Config, ...]:
    """Every combination, in a fixed order: a config is known by its index."""
    names = list(blocks)
    return tuple(
        Config(MappingProxyType(dict(zip(names, values, strict=True))), warps, stages)
        for *values, warps, stages in itertools.product(*blocks.values(), num_warps, num_stages)
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


def cost(config: Config, f: Footprint) -> float:
    """Relative time: below 1 nothing, plus what is lost to too few bytes in flight, spills, short rows and tails."""
    threads = 32 * config.num_warps
    values = f.tile / threads
    registers = 24 + values * f.live + f.loads * values * f.itemsize / 4
    if registers > 232:
        return 1e3 * registers
    resident = max(1, min(REGISTERS // (threads * -(-int(registers) // 8) * 8), 2048 // threads, 32))
    slots = SMS * resident
    occupied = min(resident, -(-f.programs // SMS))
    in_flight = occupied * f.tile * f.itemsize * f.loads
    waves = f.programs / slots
    tail = -(-f.programs // slots) / waves if waves > 0 else 1.0
    return (
        f.waste
        * max(1.0, BYTES_IN_FLIGHT / max(in_flight, 1))
        * max(1.0, 64 / f.row_bytes) ** 0.5
        * (1 + 0.3 * (min(tail, 2.0) - 1))
        * (1 + max(0.0, registers - 168) / 200)
        * (1 + 0.02 * max(0.0, 16 - values))
    )


def choose(configs: tuple[Config, ...], footprint: Callable[[Config], Footprint | None]) -> Config:
    """The cheapest config by the model, the first of equals. `footprint` returns None for one that cannot run."""
    priced = [(cost(c, f), i) for i, c in enumerate(configs) if (f := footprint(c)) is not None]
    return configs[min(priced)[1]]


_target: int | None = None


class planning_for:
    """`with planning_for(75): ...` chooses for that compute capability: for ahead-of-time compilation."""

    def __init__(self, capability: int):
        self.capability = capability

    def __enter__(self):
        global _target
        self.before, _target = _target, self.capability

    def __exit__(self, *_):
        global _target
        _target = self.before


@lru_cache
def _capability_of(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def capability(device: torch.device) -> int:
    """10 * major + minor of the GPU that a plan is for; an H200's where there is none."""
    if _target is not None:
        return _target
    return _capability_of(device.index or 0) if device.type == "cuda" else 90


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may use."""
    return SHARED[max(c for c in SHARED if c <= max(capability(device), 75))]
