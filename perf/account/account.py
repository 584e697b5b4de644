"""The account of a launch: what each limit alone would take, and what they take together.

The first warp of one program is played (`warp`), and stands for all. From its path come, for a program:

    DRAM      bytes of each buffer, each byte at most once over the launch
    L2        sectors that loads, copies and stores touch; what one warp loads again it finds in the L1 cache
    issue     instructions on the executed path, of all warps
    shared    wavefronts of shared memory, and shuffles
    special   reciprocals, exponentials, conversions
    matrix    products of matrices
    latency   the time of one warp alone (`scoreboard`): round trips and dependences that nothing hides

An SM holds `resident` programs at a time. A launch is so many full waves, and a last one with fewer programs; a wave
takes as long as its slowest limit, a launch as long as its waves. *Predicted* from machine code, not measured.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import assumptions as assumed
from .accesses import Access
from .launch import Launch
from .products import operands, products
from .scoreboard import SPECIAL, Played, played
from .warp import Path, play


@dataclass(frozen=True)
class Work:
    """Of one program, whatever the round trip."""

    moved: Mapping[int, tuple[int, int]]  # place of a buffer -> bytes loaded from it, and stored
    sectors: int
    cycles: Mapping[str, float]  # limit -> of an SM
    hits: frozenset[int]  # places of accesses whose lines are in the L1 cache


class Account:
    """Times in microseconds, for a round trip to DRAM."""

    def __init__(self, launch: Launch, path: Path, work: Work, round_trip: float):
        self.launch, self.path, self.work, self.round_trip = launch, path, work, round_trip
        self.machine = launch.machine

    def at(self, round_trip: float) -> "Account":
        """The same launch, with another round trip."""
        return Account(self.launch, self.path, self.work, round_trip)

    @cached_property
    def warp(self) -> Played:
        return played(self.path, self._trip, self.machine)

    def _trip(self, access: Access, place: int) -> float:
        if place in self.work.hits:
            return assumed.L1_CYCLES / self.machine.clock
        box = self.launch.box(access.address) if access.kind == "box" else None
        owner = box.buffer if box else self.launch.owner(access.address)
        if owner is None:
            return self.round_trip
        loaded = self.work.moved[owner.place][0] * self.launch.programs
        return assumed.L2_TRIP if loaded >= assumed.SHARED_BY * owner.nbytes else self.round_trip

    @property
    def dram_bytes(self) -> float:
        """Of the launch. What is loaded again is found in a cache; of a buffer that is moved nearly whole, programs at
        the edges move what this one lacks."""
        total = 0
        for place, both in self.work.moved.items():
            size = self.launch.buffers[place].nbytes
            for each in both:
                nbytes = each * self.launch.programs
                total += size if nbytes >= assumed.WHOLE * size else nbytes
        return total

    @property
    def waves(self) -> float:
        return self.launch.programs / (self.machine.sms * self.launch.resident)

    @cached_property
    def _waves(self) -> list[dict[str, float]]:
        """What each limit takes: of the full waves together, and of the last one."""
        held = self.machine.sms * self.launch.resident
        full, left = divmod(self.launch.programs, held)
        each = [(full, held)] * (full > 0) + [(1, left)] * (left > 0)
        return [{limit: count * t for limit, t in self._wave(programs).items()} for count, programs in each]

    def _wave(self, programs: int) -> dict[str, float]:
        most = -(-programs // self.machine.sms)  # programs of the fullest SM
        nbytes = assumed.SECTOR * self.work.sectors
        return {
            "DRAM": self.dram_bytes * programs / self.launch.programs / self.machine.dram,
            "L2": max(nbytes * programs / self.machine.l2, nbytes * most / assumed.SM_BYTES / self.machine.clock),
            **{limit: cycles * most / self.machine.clock for limit, cycles in self.work.cycles.items()},
            "latency": self.warp.cycles / self.machine.clock,
        }

    @property
    def limits(self) -> dict[str, float]:
        """What each limit alone would take."""
        return {limit: sum(times[limit] for times in self._waves) for limit in self._waves[0]}

    @property
    def time(self) -> float:
        return sum(max(times.values()) for times in self._waves)

    @property
    def limit(self) -> str:
        """The largest of the limits."""
        return max(self.limits, key=self.limits.__getitem__)

    @property
    def floor(self) -> float:
        """That of DRAM's bandwidth alone."""
        return self.limits["DRAM"]


def account_of(launch: Launch, round_trip: float = assumed.ROUND_TRIP, share: float = assumed.TYPICAL) -> Account:
    """share: where along the grid's first axis the program is that stands for all."""
    program = [int(where * n) for where, n in zip((share, assumed.TYPICAL, assumed.TYPICAL), launch.grid, strict=False)]
    path = play(launch.code, launch.constants, program, known=launch.known)
    return Account(launch, path, _work(launch, path), round_trip)


def _work(launch: Launch, path: Path) -> Work:
    loaded, stored, sectors = defaultdict(list), defaultdict(list), 0
    near: set[int] = set()  # sectors in the L1 cache
    hits = set()
    boxes = Counter()  # of a program, whose first warp loads them
    for place, access in path.accesses.items():
        if access.kind == "box" and (box := launch.box(access.address)):
            boxes[box.buffer.place] += box.nbytes
        if access.kind in ("shared", "box", "wait"):
            continue
        count = -(-access.nbytes // assumed.SECTOR) if access.sectors is None else len(access.sectors)
        if access.kind == "load" and access.sectors is not None:
            count = len(access.sectors - near)
            near |= access.sectors
            hits |= set() if count else {place}
        sectors += count
        if owner := launch.owner(access.address):
            to = stored if access.kind == "store" else loaded
            to[owner.place].append(access)
    moved = {
        place: (_distinct(loaded[place]) * launch.warps + boxes[place], _distinct(stored[place]) * launch.warps)
        for place in launch.buffers
    }
    copied = sum(boxes.values())
    cycles = _cycles(launch, path)
    cycles["shared"] += copied / assumed.WAVEFRONT
    return Work(moved, sectors * launch.warps + copied // assumed.SECTOR, cycles, frozenset(hits))


def _distinct(accesses: Sequence[Access]) -> int:
    """Bytes that they touch, each once."""
    if not accesses:
        return 0
    starts = np.concatenate([a.starts for a in accesses])
    ends = starts + np.repeat([a.width for a in accesses], [len(a.starts) for a in accesses])
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    return int(ends[0] - starts[0] + np.maximum(ends[1:] - np.maximum(starts[1:], ends[:-1]), 0).sum())


def _cycles(launch: Launch, path: Path) -> dict[str, float]:
    executed = Counter(path.steps)
    names = Counter()
    for i, n in executed.items():
        names[path.code[i].name] += n
    fronts = sum(access.wavefronts for access in path.accesses.values()) + names["SHFL"]
    fronts += sum(n * operands(path.code[i]) / assumed.WAVEFRONT for i, n in executed.items())
    return {
        "issue": (len(path.steps) - names["NOP"]) * launch.warps / assumed.SCHEDULERS,
        "shared": fronts * launch.warps,
        "special": sum(names[name] for name in SPECIAL) * launch.warps * 32 / assumed.SPECIAL_LANES,
        "matrix": sum(n * products(path.code[i], launch.machine) for i, n in executed.items()) * launch.warps,
    }
