"""What floating-point instructions compute of numbers that are known: sizes, constants, and places in a map that follow
from them. What memory held is unknown, and with it all that is computed of it.

A word holds the bits of a number of 32 bits, a pair of words those of 64. All is rounded to nearest; a reciprocal is
numpy's, whose last bits need not be a GPU's.
"""

from collections.abc import Callable

import numpy as np

from .arithmetic import COMBINE, COMPARE, MASK, ROUND, signed
from .registers import Read, Registers, Value, truths, unknown
from .sass import Instruction, is_predicate

COMPUTE: dict[str, Callable] = {
    "ADD": lambda a, b: a + b,
    "MUL": lambda a, b: a * b,
    "FMA": lambda a, b, c: np.float64(a) * b + c,
    "MNMX": lambda a, b, least: np.where(least, np.fmin(a, b), np.fmax(a, b)),
    "SEL": lambda a, b, chosen: np.where(chosen, a, b),
    "F2F": lambda a: a,
    "I2F": lambda a: a,
}


def floating(ins: Instruction, registers: Registers) -> Callable[[], None] | None:
    """What it does to the registers; None: it is none of these, or one whose result nothing follows from."""
    name, kinds = ins.name, [word for word in ins.opcode.split(".") if word in ("F32", "F64")]
    if name in ("FSETP", "DSETP"):
        return _comparison(ins, registers)
    if "RCP64H" in ins.has:
        return _reciprocal(ins, registers)
    compute = COMPUTE.get(name) or (COMPUTE.get(name[1:]) if name[0] in "FD" else None)
    if name == "FRND":
        compute = next((f for word, f in ROUND.items() if word in ins.has), np.rint)
    if compute is None or (name == "I2F" and kinds != ["F64"]):
        return None
    is_wide = name[0] == "D" or kinds[:1] == ["F64"]
    number = _integer if name == "I2F" else _wide if name[0] == "D" or kinds[-1:] == ["F64"] else _narrow
    reads = [registers.truth(o) if is_predicate(o) else number(o, registers) for o in ins.operands[1:]]
    put = registers.set_pair if is_wide else registers.set_word

    def run() -> None:
        values, result = [read() for read in reads], None
        if not unknown(values):
            with np.errstate(all="ignore"):
                result = np.asarray(compute(*values), np.float64 if is_wide else np.float32)
            result = _bits(np.clip(np.nan_to_num(result), 0, 1).astype(result.dtype) if "SAT" in ins.has else result)
        put(ins.operands[0], result)

    return run


def _comparison(ins: Instruction, registers: Registers) -> Callable[[], None]:
    """False of a NaN, or true where the name ends in U."""
    out, _, *operands, other = ins.operands
    word = next(w for w in ins.opcode.split(".")[1:] if w.removesuffix("U") in COMPARE or w in ("NAN", "NUM"))
    combine = next(f for name, f in COMBINE.items() if name in ins.has)
    reads = [(_wide if ins.name[0] == "D" else _narrow)(o, registers) for o in operands]
    given = registers.truth(other)

    def run() -> None:
        values, p, result = [read() for read in reads], given(), None
        if p is False and combine is COMBINE["AND"]:
            result = False
        elif not unknown([*values, p]):
            nan = np.isnan(values[0]) | np.isnan(values[1])
            found = nan if word in ("NAN", "NUM") else COMPARE[word.removesuffix("U")](*values)
            found = ~nan if word == "NUM" else found if word == "NAN" else np.where(nan, word[-1] == "U", found)
            result = combine(truths(found if found.ndim else found.item()), p)
        registers.set_truth(out, result)

    return run


def _reciprocal(ins: Instruction, registers: Registers) -> Callable[[], None]:
    """The high word of a number's reciprocal, of its high word."""
    read = registers.word(ins.operands[1])

    def run() -> None:
        high = read()
        if high is not None:
            with np.errstate(all="ignore"):
                high = _bits(1 / (np.asarray(signed(high), np.int64) << 32).view(np.float64)) >> 32 & MASK
        registers.set_word(ins.operands[0], high)

    return run


def _narrow(text: str, registers: Registers) -> Read:
    return _number(text, registers.word, np.uint32, np.float32)


def _wide(text: str, registers: Registers) -> Read:
    return _number(text, registers.pair, np.int64, np.float64)


def _number(text: str, read: Callable[[str], Read], whole: type, kind: type) -> Read:
    """A register, a word of the constants, or a number as it is written: 0.5, +INF, -QNAN; -|R4| has both signs."""
    bare = text.lstrip("-+").strip("|").lstrip("-+")
    is_word = bare[0] in "URc" or bare.startswith("0x")  # bits, in a selection
    found = read(bare) if is_word else None
    constant = None if is_word else kind(float(bare.removeprefix("Q")))

    def run() -> Value:
        value = constant
        if found is not None:
            if (word := found()) is None:
                return None
            value = np.asarray(word, np.int64).astype(whole).view(kind)
        value = np.abs(value) if "|" in text else value
        return -value if text[0] == "-" else value

    return run


def _integer(text: str, registers: Registers) -> Read:
    read = registers.word(text)
    return lambda: None if (v := read()) is None else signed(v & MASK)


def _bits(number: np.ndarray) -> Value:
    """As registers hold it: words without a sign, pairs with one."""
    found = number.view(np.uint32 if number.dtype == np.float32 else np.int64).astype(np.int64)
    return found if found.ndim else found.item()
