"""One warp plays its machine code: its path, each instruction in turn, and what every access to memory touches.

Integers have values (parameters, the program's number, what is computed of them), so that loops turn as often as they
will, branches go where they will, and addresses are those of the launch. What memory holds is unknown, but for tensors
whose values are given. Where unknown values decide a branch (a NaN, a maximum), the warp goes past what is ahead, to
the end where nothing else follows. Where they decide whether it goes back, a compare-and-swap has succeeded at once;
of any other loop the warp is lost. Where lanes part each goes its way with registers of its own; those behind go first,
until all meet.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .accesses import KINDS, Access, access, place_of
from .computations import computation
from .registers import LANES, Registers, Saved, Value, first, holds, unknown
from .sass import Instruction, is_predicate
from .shared import Shared

MOST = 1_000_000  # instructions that a warp may execute
LEFT = object()  # of a warp that has no more turns
MEETINGS = ("BSYNC", "WARPSYNC", "BAR")  # where lanes wait for others


@dataclass
class Path:
    code: Sequence[Instruction]
    steps: list[int] = field(default_factory=list)  # places in the code
    accesses: dict[int, Access] = field(default_factory=dict)  # place in the path -> what is touched there


@dataclass(eq=False)
class _Group:
    """Lanes that go on later, from where, and what they have."""

    place: int
    lanes: np.ndarray
    saved: Saved


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
    (path,) = _played([_Warp(code, constants, program, warp, known or {})])
    return path


def play_all(
    code: Sequence[Instruction], constants: Mapping[int, int], program: Sequence[int], warps: int
) -> list[Path]:
    """Those of all warps of a program, which meet at barriers and find in shared memory what others stored."""
    shared = Shared()
    return _played([_Warp(code, constants, program, warp, {}, shared) for warp in range(warps)])


def _played(warps: list["_Warp"]) -> list[Path]:
    turns = [warp.turns() for warp in warps]
    while turns:
        turns = [turn for turn in turns if next(turn, LEFT) is not LEFT]
    return [warp.path for warp in warps]


class _Warp:
    def __init__(
        self, code, constants, program: Sequence[int], warp: int, known: Mapping, shared: Shared | None = None
    ):
        self.registers, self.path, self.known, self.shared = Registers(constants), Path(code), known, shared
        self.live: Value = True  # lanes that go on
        self.waiting: list[_Group] = []
        self.places = {ins.address: i for i, ins in enumerate(code)}
        special = {"SR_TID.X": LANES + 32 * warp, "SR_LANEID": LANES}
        special |= {f"SR_CTAID.{axis}": n for axis, n in zip("XYZ", program, strict=False)}
        self.acts = [self._act(ins, special) for ins in code]

    def turns(self) -> Iterator[None]:
        """From one barrier of the program to the next."""
        place, steps, acts = 0, self.path.steps, self.acts
        barriers = {i for i, ins in enumerate(self.path.code) if ins.name == "BAR"}
        while place is not None:
            if place in barriers:
                yield
            steps.append(place)
            act = acts[place]
            place = place + 1 if act is None else act(place)
            if self.waiting:
                place = self._turn(place)
            if len(steps) > MOST:
                raise Lost(f"more than {MOST} instructions")

    def _turn(self, place: int | None) -> int:
        """Whose turn it is, after lanes have come to a place: those who wait there go on with them."""
        for group in [group for group in self.waiting if group.place == place]:
            self.waiting.remove(group)
            self.registers.join(group.lanes, group.saved)
            self.live = self.live | group.lanes
        behind = min(self.waiting, key=lambda group: self._order(group.place), default=None)
        if behind is None or (place is not None and self._order(place) < self._order(behind.place)):
            return place
        if place is not None:
            self._wait(place, self.live)
        self.waiting.remove(behind)
        self.live = behind.lanes
        self.registers.restore(behind.saved)
        return self._turn(behind.place)

    def _order(self, place: int) -> tuple[bool, int]:
        return self.path.code[place].name in MEETINGS, place

    def _wait(self, place: int, lanes: np.ndarray) -> None:
        self.waiting.append(_Group(place, lanes, self.registers.saved()))

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
        past = ins.name == "EXIT" or (ins.name == "BRA" and ins.target > ins.address)
        body = range(self.places.get(ins.target, 0), self.places[ins.address]) if ins.name == "BRA" and not past else ()
        loops = body and not any("CAS" in self.path.code[i].has for i in body)
        back = self.registers.word(ins.operands[0].split()[0]) if ins.name == "RET" else lambda: ins.target

        def run(place: int) -> int | None:
            values, taken = [condition() for condition in conditions], True
            if loops and unknown(values):
                raise Lost(f"whether {ins.opcode} at {ins.address:#x} goes back is unknown")
            for value in values:
                taken = taken & (past if value is None else value)
            live = np.broadcast_to(self.live, 32)
            left = live & ~np.broadcast_to(taken, 32)
            if ins.name == "EXIT":
                self.live = left
                return place + 1 if left.any() else None
            going = live & taken
            if not going.any():
                return place + 1
            goal = self.places.get(first(back()))
            if goal is None:
                raise Lost(f"{ins.opcode} at {ins.address:#x} goes to an unknown place")
            if left.any():
                self._wait(place + 1, left)
                self.live = going
            return goal

        return run

    def _touch(self, ins: Instruction) -> Callable:
        touch, read = access(ins, self.registers), self._read(ins)
        share = None if self.shared is None else self.shared.act(ins, self.registers)

        def run(on: Value) -> None:
            lanes = np.broadcast_to(True if on is None else on, 32) & self.live
            found = touch(on if self.live is True else lanes)
            words = [read()] * len(ins.writes) if share is None else share(lanes)
            for name, word in zip(ins.writes, words, strict=True):
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
