"""Machine code of a kernel as text (`cuobjdump -sass`), parsed: instructions, what they write, how they are scheduled.

Since Volta the compiler schedules: with each instruction stand the cycles to the next one, the barrier (of six) that
is down until its result has come or its operands are read, and the barriers that it waits for. The fields are where
Jia et al., Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking, arXiv:1804.06826, found them.
"""

import itertools
import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

_HIGH = re.compile(r"^\s*/\* 0x([0-9a-f]{16}) \*/")
_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_REGISTER = re.compile(r"(?<![\w.])(U?R)(\d+)((?:\.\w+)*)")
_PREDICATE = re.compile(r"(?<![\w.])(U?P)(\d)\b")
STORES = {"STG", "STS", "STL", "RED", "BAR", "BRA", "LDGSTS", "STSM", "EXIT", "WARPSYNC", "RET", "BSYNC", "DEPBAR"}
STORES |= {"UTMALDG", "WARPGROUP"}


@dataclass(frozen=True, eq=False)
class Instruction:
    address: int
    guard: str  # "P0", "!UP1", or nothing
    opcode: str
    operands: tuple[str, ...]
    control: int = 0  # how the compiler schedules it
    name: str = field(init=False)  # the opcode without its modifiers

    def __post_init__(self):
        object.__setattr__(self, "name", self.opcode.split(".")[0])

    @property
    def stall(self) -> int:
        """Cycles until the next instruction of the warp may issue."""
        return self.control & 0xF

    @property
    def sets(self) -> tuple[int, int]:
        """The barriers that are down until the result has come, and until the operands are read; 7: none."""
        return self.control >> 5 & 7, self.control >> 8 & 7

    @property
    def waits(self) -> list[int]:
        """The barriers that it waits for."""
        return [i for i in range(6) if self.control >> 11 + i & 1]

    @property
    def has(self) -> frozenset[str]:
        return frozenset(self.opcode.split(".")[1:])

    @cached_property
    def bits(self) -> int:
        """Of one thread's access to memory."""
        found = re.search(r"\.(?:[US](8|16)|(64|128))\b", self.opcode)
        return int(found[1] or found[2]) if found else 32

    @cached_property
    def target(self) -> int | None:
        """Where a branch, or the call of a subroutine, goes."""
        found = [o for o in self.operands if re.fullmatch(r"0x[0-9a-f]+", o)]
        return int(found[-1], 16) if found and self.name in ("BRA", "CALL") else None

    @cached_property
    def writes(self) -> tuple[str, ...]:
        if self.name in STORES or not self.operands:
            return ()
        place = next((i for i, o in enumerate(self.operands) if not is_predicate(o)), 0)
        if "SETP" in self.name or "PLOP3" in self.name:
            found, outputs = [], self.operands[:2]
        elif self.name == "SYNCS":
            found, outputs = [], self.operands[:1]
        elif self.name == "R2P":
            found, outputs = [], [f"P{i}" for i in range(7)]
        else:
            found, outputs = _numbers(self.operands[place], self._words), self.operands[:place]
            outputs += tuple(itertools.takewhile(is_predicate, self.operands[place + 1 :]))
        return tuple(found) + tuple(p + n for o in outputs for p, n in _PREDICATE.findall(o) if o[0] != "!")

    @property
    def _words(self) -> int:
        """Registers of the result."""
        if self.name == "HMMA":
            return 4
        if self.name == "LDSM":
            return matrices(self)
        pair = "WIDE" in self.has or (self.name == "CS2R" and "32" not in self.has)
        return max(1, self.bits // 32, 2 * pair)


def matrices(instruction: Instruction) -> int:
    """Of 8 x 8 values, that a warp loads from shared memory or stores to it."""
    last = instruction.opcode[-2:]
    return int(last[1]) if last in (".2", ".4") else 1


def is_predicate(text: str) -> bool:
    return re.fullmatch(r"!?U?P[\dT]", text) is not None


def _numbers(text: str, count: int = 0) -> list[str]:
    """The registers that an operand names: so many from each, or a pair where it says 64."""
    return [
        f"{kind}{int(number) + i}"
        for kind, number, modifiers in _REGISTER.findall(text)
        for i in range(count or (2 if ".64" in modifiers or (text.startswith("desc") and kind == "UR") else 1))
    ]


@lru_cache(64)
def parse(text: str) -> list[Instruction]:
    """The instructions, subroutines included. The high half of an encoding, on a line of its own, holds the control."""
    found: list[tuple] = []
    control: list[int] = []
    for line in text.splitlines():
        if match := _LINE.match(line):
            address, guard, opcode, operands = match.groups()
            parts = tuple(part.strip() for part in operands.split(",")) if operands else ()
            found.append((int(address, 16), guard or "", opcode, parts))
        elif match := _HIGH.match(line):
            control.append(int(match[1], 16) >> 41 & 0x1FFFFF)
    return [Instruction(*parts, word) for parts, word in zip(found, control, strict=True)]
