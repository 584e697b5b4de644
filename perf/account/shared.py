"""What shared memory holds while the warps of a program play together: bytes that are known, and those that are not."""

from collections.abc import Callable, Sequence

import numpy as np

from .accesses import place_of
from .registers import REGISTER, Registers, Value
from .sass import Instruction

SIZE = 2**18  # bytes of an SM, and what the system keeps of them
UNKNOWN = -1


class Shared:
    def __init__(self):
        self.bytes = np.full(SIZE, UNKNOWN, np.int16)

    def act(self, ins: Instruction, registers: Registers) -> Callable[[np.ndarray], Sequence[Value]] | None:
        """lanes -> the words that they load, after what they store; None: it does neither."""
        if ins.name not in ("LDS", "STS", "STSM", "LDGSTS"):
            return None
        where, width = place_of(next(o for o in ins.operands if "[" in o), registers), ins.bits // 8
        if ins.name == "LDS":
            signed = bool({"S8", "S16"} & ins.has)
            return lambda lanes: [None] * len(ins.writes) if signed else self._load(lanes, where(), width)
        words = [lambda: None] * 4
        if ins.name == "STS":
            kind, number = REGISTER.match(ins.operands[1]).groups()
            words = [registers.word(f"{kind}{number if number == 'Z' else int(number) + i}") for i in range(4)]
        width = 16 if ins.name == "STSM" else width
        return lambda lanes: self._store(lanes, where(), width, [word() for word in words[: -(-width // 4)]])

    def _load(self, lanes: np.ndarray, where: Value, width: int) -> list[Value]:
        if where is None or not lanes.any():
            return [None] * max(1, width // 4)
        where = np.broadcast_to(where, 32)
        where = np.where(lanes, where, where[np.argmax(lanes)])  # the others' addresses may be none
        found: list[Value] = []
        for first in range(0, width, 4):
            parts = [self.bytes[where + i].astype(np.int64) for i in range(first, min(first + 4, width))]
            known = all((part != UNKNOWN).all() for part in parts)
            found.append(sum(part << 8 * i for i, part in enumerate(parts)) if known else None)
        return found

    def _store(self, lanes: np.ndarray, where: Value, width: int, words: Sequence[Value]) -> list[Value]:
        if where is None:
            self.bytes[:] = UNKNOWN
            return []
        where = np.broadcast_to(where, 32)[lanes]
        for i in range(width):
            word = words[i // 4]
            byte = UNKNOWN if word is None else np.broadcast_to(word >> 8 * (i % 4) & 0xFF, 32)[lanes]
            self.bytes[where + i] = byte
        return []
