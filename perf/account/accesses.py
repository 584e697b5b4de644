"""What an instruction of a warp touches in memory: sectors of global memory, wavefronts of shared memory."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from . import assumptions as assumed
from .registers import LANES, Read, Registers, Value, holds, unknown
from .sass import Instruction, is_predicate, matrices

KINDS = {"LDG": "load", "LDGSTS": "copy", "STG": "store"} | dict.fromkeys(("LDS", "LDSM", "STS", "STSM"), "shared")
KINDS |= {"UTMALDG": "box", "SYNCS": "wait"}


@dataclass(frozen=True)
class Access:
    kind: (
        str  # load; copy, to shared memory; store; shared; box, of a descriptor, by one lane of a program; wait for it
    )
    address: int | None  # of the first lane, or of the descriptor; None: unknown
    nbytes: int  # that the lanes ask for
    sectors: frozenset[int] | None = None  # of global memory; None: unknown
    starts: np.ndarray | None = field(default=None, repr=False, compare=False)  # of each lane's bytes there
    width: int = 0  # bytes of a lane
    wavefronts: int = 0  # of shared memory
    barrier: int | None = None  # in shared memory, that a box sets and a wait waits for


def access(ins: Instruction, registers: Registers) -> Callable[[Value], Access | None]:
    """`on` -> what these lanes touch. A copy has a predicate among its operands, too."""
    if ins.name in ("UTMALDG", "SYNCS"):
        return _asynchronous(ins, registers)
    kind, width = KINDS[ins.name], ins.bits // 8
    address = place_of([o for o in ins.operands if "[" in o][-1], registers)
    wanted = registers.truth(ins.operands[-1] if ins.name == "LDGSTS" and is_predicate(ins.operands[-1]) else "PT")

    def run(on: Value) -> Access | None:
        both = _and(on, wanted())
        if not holds(both):
            return None
        where, lanes = address(), LANES[both] if isinstance(both, np.ndarray) else LANES
        if where is not None:
            where = np.broadcast_to(where, 32)[lanes]
        start, nbytes = None if where is None else int(where[0]), len(lanes) * width
        if kind == "shared":
            fronts = matrices(ins) if ins.name in ("LDSM", "STSM") else _wavefronts(where, width)
            return Access(kind, start, nbytes, wavefronts=fronts)
        ends = None if where is None else np.concatenate([where, where + width - 1]) // assumed.SECTOR
        return Access(
            kind,
            start,
            nbytes,
            None if ends is None else frozenset(ends.tolist()),
            where,
            width,
            -(-nbytes // assumed.WAVEFRONT) if kind == "copy" else 0,
        )

    return run


def _asynchronous(ins: Instruction, registers: Registers) -> Callable[[Value], Access | None]:
    """A box goes where the first register says, and sets the barrier that the next one says."""
    if ins.name == "SYNCS":
        barrier = place_of(ins.operands[1], registers) if "PHASECHK" in ins.has else None
        return lambda on: None if barrier is None else Access("wait", None, 0, barrier=barrier())
    into, source = (re.findall(r"UR(\d+)", o)[0] for o in ins.operands[:2])
    barrier, descriptor = registers.word(f"UR{int(into) + 1}"), registers.pair(f"UR{source}")
    return lambda on: Access("box", descriptor(), 0, barrier=barrier())


def _and(p: Value, q: Value) -> Value:
    """What is unknown holds."""
    p, q = (True if v is None else v for v in (p, q))
    return p & q


def place_of(text: str, registers: Registers) -> Read:
    """The sum in the brackets: of 64 bits, in global memory, are a uniform register and what says so."""
    inside, is_global = re.findall(r"\[([^\]]*)\]", text)[-1], text.startswith("desc")
    reads = []
    for term in inside.split("+"):
        if re.fullmatch(r"-?0x[0-9a-f]+", term):
            reads.append(partial(int, term, 0))
        elif ".64" in term or (is_global and term.startswith("UR")):
            reads.append(registers.pair(term))
        else:
            reads.append(_scaled(registers.word(term), int(m[1]) if (m := re.search(r"\.X(\d+)", term)) else 1))

    def run() -> Value:
        values = [read() for read in reads]
        return None if unknown(values) else sum(values)

    return run


def _scaled(read: Read, scale: int) -> Read:
    return lambda: None if (v := read()) is None else v * scale


def _wavefronts(where: np.ndarray | None, width: int) -> int:
    """Of 32 banks of a word each: lanes that ask for different words of one bank come one after the other, and 8 or 16
    bytes a lane in 2 or 4 shares."""
    shares = max(1, width // 4)
    if where is None:
        return shares
    total = 0
    for share in np.array_split(where // 4, shares):
        if len(share):
            words = np.unique(np.concatenate([share + i for i in range(shares)]))
            total += int(np.bincount(words % 32).max())
    return total
