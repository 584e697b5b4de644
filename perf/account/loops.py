"""What a loop over a map has in flight, and how full its last wave is: the two things that a streaming loop loses by.

Read from the schedule in the machine code, without a play: of loads, the bytes that are asked for before the first one
is waited for; of asynchronous copies, those of the groups that a round leaves unwaited, and of the next one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil

from ...compiled import Compiled
from ...tuning.target import SIZES
from .sass import Instruction, parse

# bytes of an SM: its share of DRAM's bandwidth times a round trip of 0.7 microseconds (Little's law), of an H200, which
# copies 4.3 TB/s, an A100 (80 GB, 1.8 TB/s) and a T4 (0.25 TB/s)
IN_FLIGHT = {90: 24 * 1024, 80: 13 * 1024, 75: 5 * 1024}
FILLED = 0.9  # waves over their number rounded up


@dataclass(frozen=True)
class Loop:
    in_flight: int  # bytes of an SM
    waves: float
    arch: int = 90

    @property
    def faults(self) -> list[str]:
        """What a looping kernel loses time by."""
        filled = self.waves / ceil(self.waves)
        found = {
            f"{self.in_flight} bytes in flight": self.in_flight < IN_FLIGHT[self.arch],
            f"{self.waves:.2f} waves": self.waves > 1 and filled < FILLED,
        }
        return [fault for fault, present in found.items() if present]


def loop_of(compiled: Compiled, sizes: Collection[int]) -> Loop | None:
    """The loop that loads most, of a kernel that loads a map in a loop."""
    maps = compiled.maps(sizes).keys()
    if not any(a.op != "store" and a.args & maps for a in compiled.accesses) or "bra" not in compiled.asm["ptx"]:
        return None
    bodies = _bodies(parse(compiled.sass))
    body = max(bodies, key=lambda body: sum(_bytes(i) for i in body), default=[])
    if not any(map(_bytes, body)):
        return None
    resident = compiled.programs_per_sm
    each = 32 * compiled.plan.config.num_warps * resident
    waves = compiled.plan.grid / (SIZES[compiled.arch] * resident)
    return Loop(each * (_loaded(body) + _copied(body)), waves, compiled.arch)


def faults(compiled: Compiled, sizes: Collection[int]) -> list[str]:
    """Of the loop over a map, if there is one."""
    loop = loop_of(compiled, sizes)
    return [] if loop is None else loop.faults


def _bodies(code: Sequence[Instruction]) -> list[Sequence[Instruction]]:
    """Of every innermost loop: from where a branch goes back to, up to it."""
    places = {ins.address: i for i, ins in enumerate(code)}
    spans = [(places[ins.target], i) for i, ins in enumerate(code) if ins.name == "BRA" and ins.target < ins.address]
    inner = [(a, b) for a, b in spans if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in spans)]
    return [code[a : b + 1] for a, b in inner]


def _bytes(ins: Instruction) -> int:
    """That a thread loads."""
    return ins.bits // 8 if ins.name in ("LDG", "LDGSTS") else 0


def _loaded(body: Sequence[Instruction]) -> int:
    """The most bytes of loads that a thread has asked for and not waited for; a round begins where the last ended."""
    most, pending = 0, [0] * 8
    for ins in (*body, *body):
        for barrier in ins.waits:
            pending[barrier] = 0
        if ins.name == "LDG":
            pending[ins.sets[0]] += _bytes(ins)
            most = max(most, sum(pending[:6]))
    return most


def _copied(body: Sequence[Instruction]) -> float:
    """Bytes of a round times the rounds that are on their way: those left unwaited, and the one asked for next."""
    a_round = sum(_bytes(ins) for ins in body if ins.name == "LDGSTS")
    groups = sum(ins.name == "LDGDEPBAR" for ins in body)
    kept = [int(ins.operands[1], 0) for ins in body if ins.name == "DEPBAR" and ins.operands[:1] == ("SB0",)]
    return a_round * (min(kept, default=0) // groups + 1) if groups else a_round
