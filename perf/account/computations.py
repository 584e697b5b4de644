"""What an instruction that touches no memory does to a warp's registers: a function, or None where nothing is known."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .arithmetic import CHOOSE, COMBINE, COMPARE, FUNCTIONS, MASK, halves, signed
from .floating import floating
from .registers import LANES, Registers, Value, bits, first, truths, unknown
from .sass import Instruction, is_predicate

Act = Callable[[], None]


def computation(ins: Instruction, registers: Registers, special: Mapping[str, Value]) -> Act | None:
    """`special`: a thread's own numbers, such as its place in the program."""
    name, operands = ins.name.removeprefix("U"), ins.operands
    if name in ("S2R", "S2UR"):
        value = special.get(operands[1], 0)
        return lambda: registers.set_word(operands[0], value)
    if name == "CS2R" and operands[1] == "SRZ":
        return lambda: [registers.set_word(w, 0) for w in ins.writes] and None
    if name in ("LDC", "LDCU"):
        words = registers.row(operands[1], len(ins.writes))
        return lambda: [registers.set_word(*pair) for pair in zip(ins.writes, words, strict=True)] and None
    if name in ("IADD", "IADD3", "MOV") and "64" in ins.has:
        reads = [registers.pair(o) for o in operands[1:] if not is_predicate(o)]
        return lambda: registers.set_pair(operands[0], _sum([read() for read in reads]))
    if name in ("MOV", "R2UR"):
        read = registers.word(next(o for o in operands[1:] if not is_predicate(o)))
        return lambda: registers.set_word(operands[0], read())
    if name == "HFMA2" and len(operands) == 5 and operands[1].lstrip("-") == operands[2].lstrip("-") == "RZ":
        value = halves(*operands[3:5])
        return lambda: registers.set_word(operands[0], value)
    if name == "SHFL" and "IDX" in ins.has and operands[3] == "RZ":
        read = registers.word(operands[2])
        return lambda: registers.set_word(operands[1], first(read()))
    if name == "ELECT":  # one lane
        return lambda: registers.set_truth(operands[0], LANES == 0)
    if name in OF_PREDICATES:
        return OF_PREDICATES[name](ins, registers)
    return floating(ins, registers) or _arithmetic(ins, name, registers)


def _sum(values: Sequence[Value]) -> Value:
    return None if unknown(values) else sum(values)


def _arithmetic(ins: Instruction, name: str, registers: Registers) -> Act | None:
    form = next((form for form in ("WIDE", "HI") if form in ins.has and name in ("IMAD", "LEA")), None)
    name = f"{name}.{form}" if form else name
    function = FUNCTIONS.get(name)
    if function is None or (name == "MUFU" and "RCP" not in ins.has):
        return None
    place = next(i for i, o in enumerate(ins.operands) if not is_predicate(o))
    outputs, sources = [*ins.operands[:place]], [*ins.operands[place + 1 :]]
    while sources and is_predicate(sources[0]):
        outputs.append(sources.pop(0))
    words = [o for o in sources if not is_predicate(o)]
    long = name in ("IMAD.WIDE", "IMAD.HI")  # their third operand has 64 bits
    reads = [registers.pair(o) if long and i == 2 else registers.word(o) for i, o in enumerate(words)]
    carries = [] if name == "LOP3" else [registers.truth(o) for o in sources if is_predicate(o)]
    put = registers.set_pair if name == "IMAD.WIDE" else registers.set_word

    def run() -> None:
        values, given = [read() for read in reads], [carry() for carry in carries]
        if name == "PRMT" and words[2] == ins.operands[place] and values[2] is None:
            values[2] = 0  # bytes that are kept of a register: others are put into it
        result, found = None, ()
        if not unknown(values) and not unknown(given):
            result, found = function(ins.has, values, given if name in CHOOSE else [bits(c) for c in given])
        put(ins.operands[place], result)
        for i, output in enumerate(outputs):
            registers.set_truth(output, truths(found[i]) if i < len(found) else None)

    return run


def _compare(ins: Instruction, registers: Registers) -> Act:
    """Of 64 bits, the high words come second, and the low ones' result last among the operands."""
    has, (out, _, x, y, other, *low) = ins.has, ins.operands
    word = next(word for word in COMPARE if word in has)
    combine = next(f for name, f in COMBINE.items() if name in has)
    reads = registers.word(x), registers.word(y)
    other_read, low_read = registers.truth(other), registers.truth(low[0]) if "EX" in has else None

    def run() -> None:
        values, p = [read() for read in reads], other_read()
        q = True if low_read is None else low_read()
        result: Value = None
        if not unknown([*values, q]):
            a, b = (v & MASK if "U32" in has else signed(v & MASK) for v in values)
            if low_read is None:
                result = COMPARE[word](a, b)
            elif word == "NE":
                result = (a != b) | q
            else:
                result = ((a == b) & q) | (False if word == "EQ" else COMPARE[word[0] + "T"](a, b))
        if p is False and "AND" in has:
            result = False
        elif result is not None:
            result = None if p is None else combine(truths(result), p)
        registers.set_truth(out, result)

    return run


def _logic(ins: Instruction, registers: Registers) -> Act:
    """Two truth tables of three predicates."""
    reads = [registers.truth(o) for o in ins.operands[2:5]]
    outputs = [(o, int(table, 16)) for o, table in zip(ins.operands[:2], ins.operands[5:7], strict=True)]

    def run() -> None:
        values = [read() for read in reads]
        for output, table in outputs:
            place = None if unknown(values) else sum(bits(v) << n for v, n in zip(values, (2, 1, 0), strict=True))
            registers.set_truth(output, None if place is None else truths((table >> place & 1) != 0))

    return run


def _vote(ins: Instruction, registers: Registers) -> Act:
    """Whether a predicate holds for any lane, or for all."""
    read, of = registers.truth(ins.operands[1]), np.any if "ANY" in ins.has else np.all

    def run() -> None:
        value = read()
        registers.set_truth(ins.operands[0], None if value is None else bool(of(value)))

    return run


def _pack(ins: Instruction, registers: Registers) -> Act:
    """Predicates, a thread's or the warp's, into the bits of a word."""
    reads = {i: registers.truth(f"{_kind(ins)}{i}") for i in range(7) if int(ins.operands[3], 16) >> i & 1}

    def run() -> None:
        values = [read() for read in reads.values()]
        word = None if unknown(values) else sum(bits(v) << i for i, v in zip(reads, values, strict=True))
        registers.set_word(ins.operands[0], word)

    return run


def _unpack(ins: Instruction, registers: Registers) -> Act:
    read, chosen = registers.word(ins.operands[1]), [i for i in range(7) if int(ins.operands[2], 16) >> i & 1]

    def run() -> None:
        value = read()
        for i in chosen:
            registers.set_truth(f"{_kind(ins)}{i}", None if value is None else truths((value >> i & 1) != 0))

    return run


def _kind(ins: Instruction) -> str:
    return "UP" if ins.name.startswith("U") else "P"


# those of the warp, less their U: UP2UR, UR2UP
OF_PREDICATES = {"ISETP": _compare, "PLOP3": _logic, "VOTEU": _vote}
OF_PREDICATES |= dict.fromkeys(("P2R", "P2UR"), _pack) | dict.fromkeys(("R2P", "R2UP"), _unpack)
