"""One warp plays its machine code: its path, each instruction in turn, and what every access to memory touches.

Integers have values (parameters, the program's number, what is computed of them), so that loops turn as often as they
will, branches go where they will, and addresses are those of the launch. What memory holds is unknown, but for tensors
whose values are given. Where unknown values decide a branch (a NaN, a maximum), the warp goes past what is ahead, and
never back; where lanes part, the way of the first, and those that leave touch no more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .accesses import KINDS, Access, access, place_of
from .computations import computation
from .registers import LANES, Registers, Value, first, holds
from .sass import Instruction, is_predicate

MOST = 1_000_000  # instructions that a warp may execute


@dataclass
class Path:
    code: Sequence[Instruction]
    steps: list[int] = field(default_factory=list)  # places in the code
    accesses: dict[int, Access] = field(default_factory=dict)  # place in the path -> what is touched there


class Lost(RuntimeError):
    """The path of a warp cannot be followed."""


def play(
    code: Sequence[Instruction],
    constants: Mapping[int, int],
    program: Sequence[int],
    warp: int = 0,
    known: Mapping[int, np.ndarray] | None = None,
) -> Path:
    """`constants`: offset in the constant bank -> word. `program`: its place in the grid. `known`: place of a buffer ->
    the words that it holds."""
    return _Warp(code, constants, program, warp, known or {}).play()


class _Warp:
    def __init__(self, code, constants, program: Sequence[int], warp: int, known: Mapping[int, np.ndarray]):
        self.registers, self.path, self.known = Registers(constants), Path(code), known
        self.live: Value = True  # lanes that have not left
        self.places = {ins.address: i for i, ins in enumerate(code)}
        special = {"SR_TID.X": LANES + 32 * warp, "SR_LANEID": LANES}
        special |= {f"SR_CTAID.{axis}": n for axis, n in zip("XYZ", program, strict=False)}
        self.acts = [self._act(ins, special) for ins in code]

    def play(self) -> Path:
        place, steps, acts = 0, self.path.steps, self.acts
        while place is not None:
            steps.append(place)
            act = acts[place]
            place = place + 1 if act is None else act(place)
            if len(steps) > MOST:
                raise Lost(f"more than {MOST} instructions")
        return self.path

    def _act(self, ins: Instruction, special: Mapping[str, Value]) -> Callable | None:
        """place of the instruction -> of the next one; None: the warp goes on, and nothing changes."""
        if ins.name in ("EXIT", "BRA", "CALL", "RET"):
            return self._branch(ins)
        if ins.name in KINDS:
            return self._guarded(ins, self._touch(ins))
        act = computation(ins, self.registers, special)
        return self._guarded(ins, None if act is None else lambda on: act()) if act or ins.writes else None

    def _guarded(self, ins: Instruction, act: Callable | None) -> Callable:
        """Where the guard is false nothing happens; where some lanes have it, the others keep what they had."""
        registers, guard = self.registers, self.registers.truth(ins.guard or "PT")

        def run(place: int) -> int:
            on = guard()
            if not holds(on):
                return place + 1
            kept = {} if on is True else {name: registers.get(name) for name in ins.writes}
            if act is None:
                for name in ins.writes:
                    registers.set(name, None)
            else:
                act(on)
            for name, old in kept.items():
                registers.set(name, _merged(on, registers.get(name), old))
            return place + 1

        return run

    def _branch(self, ins: Instruction) -> Callable:
        conditions = [self.registers.truth(o) for o in (ins.guard, *ins.operands) if is_predicate(o)]
        forward = ins.name == "BRA" and ins.target > ins.address
        back = self.registers.word(ins.operands[0].split()[0]) if ins.name == "RET" else lambda: ins.target

        def run(place: int) -> int | None:
            values = [forward if (v := condition()) is None else v for condition in conditions]
            taken = np.logical_and.reduce(values) if values else True
            if ins.name == "EXIT":
                self.live = self.live & ~np.broadcast_to(taken, 32)
                return place + 1 if self.live.any() else None
            if not np.broadcast_to(taken, 32)[np.argmax(self.live)]:
                return place + 1
            goal = self.places.get(first(back()))
            if goal is None:
                raise Lost(f"{ins.opcode} at {ins.address:#x} goes to an unknown place")
            return goal

        return run

    def _touch(self, ins: Instruction) -> Callable:
        touch, read = access(ins, self.registers), self._read(ins)

        def run(on: Value) -> None:
            found = touch(on if self.live is True else np.broadcast_to(on is None or on, 32) & self.live)
            word = read()
            for name in ins.writes:
                self.registers.set(name, word)
            if found is not None:
                self.path.accesses[len(self.path.steps) - 1] = found

        return run

    def _read(self, ins: Instruction) -> Callable[[], Value]:
        """What a load of one word finds, where that is known; of a barrier that what is waited for has come."""
        if ins.name == "SYNCS":
            return lambda: True
        if ins.name != "LDG" or ins.bits != 32 or not self.known:
            return lambda: None
        where = place_of([o for o in ins.operands if "[" in o][-1], self.registers)

        def read() -> Value:
            address = where()
            words = None if address is None else self.known.get((first(address) >> 40) - 1)
            if words is None:
                return None
            found = words[np.clip(address % 2**40 // 4, 0, len(words) - 1)]
            return found if isinstance(found, np.ndarray) else int(found)

        return read


def _merged(on: Value, new: Value, old: Value) -> Value:
    """Where a lane's value is unknown, that of the others stands for it."""
    if on is None or new is None:
        return None
    return new if old is None or not isinstance(on, np.ndarray) else np.where(on, new, old)
