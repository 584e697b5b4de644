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

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from . import assumptions as assumed
from .accesses import Access
from .launch import Launch
from .sass import Instruction
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

    def at(self, round_trip: float) -> "Account":
        """The same launch, with another round trip."""
        return Account(self.launch, self.path, self.work, round_trip)

    @cached_property
    def warp(self) -> Played:
        return played(self.path, self._trip)

    def _trip(self, access: Access, place: int) -> float:
        if place in self.work.hits:
            return assumed.L1_CYCLES / assumed.CLOCK
        owner = self.launch.owner(access.address)
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
        return self.launch.programs / (assumed.SMS * self.launch.resident)

    @cached_property
    def _waves(self) -> list[dict[str, float]]:
        """What each limit takes: of the full waves together, and of the last one."""
        held = assumed.SMS * self.launch.resident
        full, left = divmod(self.launch.programs, held)
        each = [(full, held)] * (full > 0) + [(1, left)] * (left > 0)
        return [{limit: count * t for limit, t in self._wave(programs).items()} for count, programs in each]

    def _wave(self, programs: int) -> dict[str, float]:
        most = -(-programs // assumed.SMS)  # programs of the fullest SM
        nbytes = assumed.SECTOR * self.work.sectors
        return {
            "DRAM": self.dram_bytes * programs / self.launch.programs / assumed.DRAM,
            "L2": max(nbytes * programs / assumed.L2, nbytes * most / assumed.SM_BYTES),
            **{limit: cycles * most / assumed.CLOCK for limit, cycles in self.work.cycles.items()},
            "latency": self.warp.cycles / assumed.CLOCK,
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
    loaded, stored, sectors = Counter(), Counter(), 0
    near: set[int] = set()  # sectors in the L1 cache
    hits = set()
    for place, access in path.accesses.items():
        if access.kind == "shared":
            continue
        count = -(-access.nbytes // assumed.SECTOR) if access.sectors is None else len(access.sectors)
        if access.kind == "load" and access.sectors is not None:
            count = len(access.sectors - near)
            near |= access.sectors
            hits |= set() if count else {place}
        sectors += count
        if owner := launch.owner(access.address):
            to = stored if access.kind == "store" else loaded
            to[owner.place] += min(access.nbytes, count * assumed.SECTOR)
    moved = {place: (loaded[place] * launch.warps, stored[place] * launch.warps) for place in launch.buffers}
    return Work(moved, sectors * launch.warps, _cycles(launch, path), frozenset(hits))


def _cycles(launch: Launch, path: Path) -> dict[str, float]:
    executed = Counter(path.steps)
    names = Counter()
    for i, n in executed.items():
        names[path.code[i].name] += n
    fronts = sum(access.wavefronts for access in path.accesses.values()) + names["SHFL"]
    return {
        "issue": (len(path.steps) - names["NOP"]) * launch.warps / assumed.SCHEDULERS,
        "shared": fronts * launch.warps,
        "special": sum(names[name] for name in SPECIAL) * launch.warps * 32 / assumed.SPECIAL_LANES,
        "matrix": sum(n * _products(path.code[i]) for i, n in executed.items()) * launch.warps,
    }


def _products(ins: Instruction) -> float:
    """Cycles of an SM for a warp's share of a product of matrices: m x n x k, of a warpgroup's a quarter."""
    rate = assumed.MATRIX.get(ins.name)
    if rate is None:
        return 0.0
    shape = next(m for m in ins.opcode.split(".") if m[:1].isdigit())
    if ins.name == "HGMMA":
        m, n, k = (int(size) for size in shape.split("x"))
        return m * n * k / 4 / rate
    m, n, k = 16, 8, int(shape[len("168") :])
    return m * n * k / rate
