"""Which block sizes, warps and stages a kernel runs with. Never measured while a user's forward runs.

A kernel has a *space*: a fixed list of configs. The choice among them is a deterministic function of the problem: the
entry of the user's tuned table, of the shipped one, or the cheapest by a model of bytes in flight, registers and
occupancy.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil, log2
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from segattn_triton import tuned

SMS = 132  # the size of GPU that the model fills; a few more or fewer move no choice by much
REGISTERS = 65536  # per SM
MOST_REGISTERS = 255  # per thread
SHARED = {75: 65536, 80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}  # bytes per program
AMD = 75  # the capability that an AMD GPU counts as: one with its 64 KB of shared memory
BYTES_IN_FLIGHT = 32 * 1024  # per SM, at the latency and bandwidth of HBM3 (Little's law)
START = 1024  # bytes that an SM could have moved while one of its programs starts
STEP = 0.8  # microseconds from a load to its use, with the arithmetic and the barriers between
SM_BANDWIDTH, L2_BANDWIDTH = 0.1e6, 6e6  # bytes per microsecond that one SM and all of them read from the L2 cache


@dataclass(frozen=True)
class Config:
    blocks: Mapping[str, int]
    num_warps: int = 4
    num_stages: int = 1
    maxnreg: int | None = None  # registers that a thread may have; None: as many as the compiler finds best
    choice: "Choice | None" = field(default=None, compare=False, repr=False)  # that it came from

    @property
    def launch_options(self) -> dict[str, int]:
        most = {} if self.maxnreg is None else {"maxnreg": self.maxnreg}
        return {**self.blocks, "num_warps": self.num_warps, "num_stages": self.num_stages, **most}

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


def registers(config: Config, f: Footprint) -> float:
    """An estimate of the registers per thread: indices and masks, the live values, a quarter more for each load."""
    values = f.tile / (32 * config.num_warps)
    return 24 + values * (f.live * max(1.0, f.itemsize / 4) + f.loads / 4)


def cost(config: Config, f: Footprint) -> float:
    """Relative time. Every factor is 1 at its best, and says what is lost otherwise."""
    threads = 32 * config.num_warps
    values = f.tile / threads
    needed, limit = registers(config, f), min(232, REGISTERS // threads)
    if needed > limit:
        return 1e6 * needed / limit
    resident = max(1, min(REGISTERS // (threads * -(-int(needed) // 8) * 8), 2048 // threads, 32))
    nbytes = f.tile * f.itemsize * f.loads
    per_sm = max(f.programs, 1) / SMS
    in_flight = min(resident, per_sm) * nbytes / max(f.waste, 1.0)
    return (
        f.waste  # masked elements take issue slots and registers
        * max(1.0, 2 * BYTES_IN_FLIGHT / in_flight)  # latency shows: a program waits for loads half of its time
        * (1 + 0.2 / resident)  # one program's load, arithmetic and store do not overlap: others fill the gaps
        * (1 + START / nbytes)  # a program starts, and computes its indices
        * (1 + 0.05 * abs(log2(values * f.loads / 64)))  # about 64 loads a thread: 32 values of two maps
        * max(1.0, 16 / (values * f.itemsize))  # fewer values than fill a 128-bit access
        * max(1.0, 128 / f.row_bytes) ** 0.25  # rows shorter than a cache line share it with another program
        * max(1.0, 32 / f.row_bytes)  # a sector of 32 bytes is fetched whole
        * max(1.0, 2 / per_sm) ** 0.5  # SMs without a program, or with a single one
        * (1 + 0.3 * (ceil(per_sm) / per_sm - 1 if per_sm > 1 else 0))  # the last wave fills some SMs only
    )


def choose(configs: tuple[Config, ...], footprint: Callable[[Config], Footprint | float | None]) -> Config:
    """The cheapest config by the model, the first of equals. `footprint` returns None for one that cannot run, and
    the cost itself where a family is not bound by memory and has a model of its own."""
    found = [(f, c, i) for i, c in enumerate(configs) if (f := footprint(c)) is not None]
    return configs[min((f if isinstance(f, float) else cost(c, f), i) for f, c, i in found)[1]]


Model = Callable[[Config], Footprint | float | None]


@dataclass(frozen=True)
class Choice:
    """Why a plan has its config: the entry of a tuned table that it looks for, and what the model says."""

    kernel: str
    key: str
    pixels: int
    index: int
    tuned: bool  # by a table, not by the model
    model: Model = field(repr=False)

    @property
    def bucket(self) -> int:
        return tuned.bucket(self.pixels)

    def costs(self) -> dict[int, float]:
        """Index of every config that can run the problem -> its cost by the model, the cheapest first."""
        priced = {i: _price(c, self.model) for i, c in enumerate(SPACES[self.kernel])}
        return dict(sorted(((i, p) for i, p in priced.items() if p is not None), key=lambda item: item[1]))


SPACES: dict[str, tuple[Config, ...]] = {}  # kernel -> its space, of every kernel that was planned
MOST_CHOICES = 10_000
_chosen: dict[tuple, Config] = {}
_forced: Mapping[str, int] = {}
_tables: Sequence[tuned.Table] | None = None  # None: those of the GPU
epoch = 0  # grows whenever the same problem may get another config


class CannotRun(ValueError):
    """A config that was forced does not suit the problem."""


def config_for(
    configs: tuple[Config, ...],
    model: Model,
    kernel: str,
    like: Tensor,
    *,
    C: int,
    pixels: int,
    layout: Any = None,
    also: Sequence[Hashable] = (),
    exact: Hashable = (),
) -> Config:
    """The config of `kernel` for maps like `like`, with C channels and so many pixels in all images together.

    A table knows the problem by kernel, dtype, layout, alignment, C, `also`, and log2 of the pixels. The model may
    read `exact`, too: with the rest, it stands for all that the model reads.
    """
    problem = (kernel, like.dtype, like.device, layout, C, pixels, also, exact, _target)
    config = _chosen.get(problem)
    if config is None:
        if len(_chosen) >= MOST_CHOICES:
            _chosen.clear()
        config = _chosen[problem] = _decide(configs, model, kernel, like, C, pixels, layout, also)
    return config


def _decide(configs, model: Model, kernel: str, like: Tensor, C, pixels, layout, also) -> Config:
    SPACES[kernel] = configs
    order = [] if layout is None else ["NHWC" if layout.channels_last else "NCHW", f"a{layout.align}"]
    key = " ".join([kernel, str(like.dtype)[6:], *order, f"C{C}", *map(str, also)])
    index, known = _forced.get(key), True
    if index is None:
        index = _from_tables(configs, model, kernel, key, pixels, like.device)
    elif _price(configs[index], model) is None:
        raise CannotRun(f"{key}: config {index} of its space cannot run {pixels} pixels")
    if index is None:
        index, known = configs.index(choose(configs, model)), False
    return replace(configs[index], choice=Choice(kernel, key, pixels, index, known, model))


def _from_tables(configs, model: Model, kernel: str, key: str, pixels: int, device: torch.device) -> int | None:
    for table in tables(device):
        index = table.index(kernel, digest(configs), key, pixels)
        if index is not None and index < len(configs) and _price(configs[index], model) is not None:
            return index
    return None


def _price(config: Config, model: Model) -> float | None:
    found = model(config)
    return cost(config, found) if isinstance(found, Footprint) else found


@lru_cache
def digest(configs: tuple[Config, ...]) -> str:
    """What a tuned table knows a space by: an index means nothing in another."""
    text = repr([(dict(c.blocks), c.num_warps, c.num_stages) for c in configs])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tables(device: torch.device) -> Sequence[tuned.Table]:
    """The tuned tables for a device, in the order in which they are asked. Without a GPU, none."""
    if _tables is not None:
        return _tables
    return _tables_of(device.index or 0) if device.type == "cuda" and _target is None else ()


@lru_cache
def _tables_of(index: int) -> Sequence[tuned.Table]:
    return tuned.tables(torch.cuda.get_device_name(index), _capability_of(index))


def forget() -> None:
    """Choose anew from here on, tables read anew."""
    global epoch
    epoch += 1
    _chosen.clear()
    _tables_of.cache_clear()


@contextlib.contextmanager
def using(found: Sequence[tuned.Table] | None = None, forced: Mapping[str, int] | None = None) -> Iterator[None]:
    """Choose from these tables instead of the GPU's; for the keys of `forced`, take the config with that index."""
    global _tables, _forced
    before = _tables, _forced
    _tables, _forced = _tables if found is None else found, _forced if forced is None else forced
    forget()
    try:
        yield
    finally:
        _tables, _forced = before
        forget()


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
    return AMD if torch.version.hip else 10 * major + minor


def capability(device: torch.device) -> int:
    """10 * major + minor of the GPU that a plan is for; an H200's where there is none, AMD's is `AMD`."""
    if _target is not None:
        return _target
    return _capability_of(device.index or 0) if device.type == "cuda" else 90


def unsqueezed(config: Config, device: torch.device) -> Config:
    """All registers for the threads of a kernel with many live values, on every GPU of NVIDIA's but Hopper: its
    compiler would spill a few of them to fit one more program."""
    return config if capability(device) == 90 or torch.version.hip else replace(config, maxnreg=MOST_REGISTERS)


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may use."""
    return SHARED[max(c for c in SHARED if c <= max(capability(device), 75))]
