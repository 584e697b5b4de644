"""Which block sizes, warps and stages a kernel runs with. Never measured while a user's forward runs.

A kernel has a *space*: a fixed list of configs. The choice among them is a deterministic function of the problem: the
entry of the user's tuned table, of the shipped one, or the cheapest by a model of bytes in flight, registers and
occupancy.
"""

import contextlib
import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import tables as tuned
from . import target
from .model import Config, Footprint, Model, choose, cost


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
    problem = (kernel, like.dtype, like.device, layout, C, pixels, also, exact, target.aimed, target.sms(like.device))
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
    made = Choice(kernel, key, pixels, index, known, model)
    most = target.registers_of(configs[index], like.device)
    return replace(configs[index], choice=made, maxnreg=most, dependent=_is_dependent(kernel, like.device))


def _is_dependent(kernel: str, device: torch.device) -> bool:
    """Only where a tuned table of this GPU says so, and the GPU can."""
    said = (table.dependent[kernel] for table in tables(device) if kernel in table.dependent)
    return next(said, False) and target.takes_dependent_launches(device)


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
    numbers = [(dict(c.blocks), c.num_warps, c.num_stages, *([c.programs] if c.programs else [])) for c in configs]
    return hashlib.sha256(repr(numbers).encode()).hexdigest()[:16]


def tables(device: torch.device) -> Sequence[tuned.Table]:
    """The tuned tables for a device, in the order in which they are asked. Without a GPU, none."""
    if _tables is not None:
        return _tables
    return _tables_of(device.index or 0) if device.type == "cuda" and target.aimed is None else ()


@lru_cache
def _tables_of(index: int) -> Sequence[tuned.Table]:
    if target.is_capturing(torch.device("cuda", index)):
        raise target.too_early("the tuned tables of the GPU have not been read")
    return tuned.tables(torch.cuda.get_device_name(index), target.capability_of(index))


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
