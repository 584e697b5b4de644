"""What a warp knows while it plays: registers and predicates, and what an operand of the machine code stands for.

A value is a number where all lanes have the same, an array of 32 where they differ, None where it is unknown.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from .arithmetic import MASK, signed, wide

Value = Any  # int, bool, array of 32, None
Read = Callable[[], Value]
Saved = tuple[list[Value], list[Value]]  # registers and predicates of some lanes, while others go on

LANES = np.arange(32, dtype=np.int64)
REGISTER = re.compile(r"(U?R)(\d+|Z)\b")
_CONSTANT = re.compile(r"c\[0x0\]\[(0x[0-9a-f]+)\]")
_NUMBER = re.compile(r"-?0x[0-9a-f]+|-?\d+")


class Registers:
    def __init__(self, constants: Mapping[int, int]):
        self.constants = constants  # offset -> word: parameters, and sizes of the launch
        self.words = {"R": [0] * 256, "UR": [0] * 64}  # of one never written single bits are set, and no other is read
        self.truths = {"P": [None] * 7 + [True], "UP": [None] * 7 + [True]}

    def word(self, text: str) -> Read:
        """Of an operand of 32 bits, which may be negated or inverted."""
        bare = text.lstrip("-~|!")
        sign, read = text[: len(text) - len(bare)], self._plain(bare.rstrip("|"))
        if "-" in sign:  # one bit more than a word, so that a sum carries as the difference does
            return lambda: None if (v := read()) is None else 2**32 - v
        if "~" in sign:
            return lambda: None if (v := read()) is None else v ^ MASK
        return read

    def _plain(self, text: str) -> Read:
        if m := REGISTER.match(text):
            words, number = self.words[m[1]], -1 if m[2] == "Z" else int(m[2])
            return lambda: words[number]
        if m := _CONSTANT.match(text):
            word = self.constants.get(int(m[1], 16))
            return lambda: word
        number = int(text, 0) & MASK if _NUMBER.fullmatch(text) else None
        return lambda: number

    def row(self, text: str, count: int) -> list[Value]:
        """Words of the constants, from a place on."""
        m = _CONSTANT.match(text)
        return [self.constants.get(int(m[1], 16) + 4 * i) if m else None for i in range(count)]

    def pair(self, text: str) -> Read:
        """Of an operand of 64 bits: a register and the next one, or two words of the constants; it may be negated."""
        if text[0] == "-":
            read = self.pair(text[1:])
            return lambda: None if (v := read()) is None else -v
        if (m := REGISTER.match(text)) and m[2] != "Z":
            words, n = self.words[m[1]], int(m[2])
            return lambda: None if unknown(words[n : n + 2]) else wide(words[n], words[n + 1])
        if m := _CONSTANT.match(text):
            both = self.row(text, 2)
            value = None if unknown(both) else wide(*both)
            return lambda: value
        read = self.word(text)
        return lambda: None if (v := read()) is None else signed(v & MASK)

    def truth(self, text: str) -> Read:
        bare = text.lstrip("!")
        truths, number = self._truth(bare)
        if bare == text:
            return lambda: truths[number]
        return lambda: None if (v := truths[number]) is None else ~v if isinstance(v, np.ndarray) else not v

    def _truth(self, text: str) -> tuple[list, int]:
        return self.truths[text[:-1]], -1 if text[-1] == "T" else int(text[-1])

    def set_word(self, text: str, value: Value) -> None:
        kind, number = REGISTER.match(text).groups()
        if number != "Z":
            self.words[kind][int(number)] = first(value) if kind == "UR" else value

    def set_pair(self, text: str, value: Value) -> None:
        kind, number = REGISTER.match(text).groups()
        if number != "Z":
            self.set_word(text, None if value is None else value & MASK)
            self.set_word(f"{kind}{int(number) + 1}", None if value is None else (value >> 32) & MASK)

    def set_truth(self, text: str, value: Value) -> None:
        if text[-1] != "T":
            truths, number = self._truth(text)
            truths[number] = first(value) if text[0] == "U" else value

    def get(self, name: str) -> Value:
        """Of a register or predicate by its name alone: R12, UP0."""
        return self.truth(name)() if "P" in name else self._plain(name)()

    def set(self, name: str, value: Value) -> None:
        (self.set_truth if "P" in name else self.set_word)(name, value)

    def saved(self) -> Saved:
        """What each lane has of its own: uniform registers are of all."""
        return list(self.words["R"]), list(self.truths["P"])

    def restore(self, saved: Saved) -> None:
        self.words["R"][:], self.truths["P"][:] = saved

    def join(self, lanes: np.ndarray, saved: Saved) -> None:
        """These lanes have what was saved; what is unknown of either is unknown of all."""
        for own, theirs in zip((self.words["R"], self.truths["P"]), saved, strict=True):
            for i, (a, b) in enumerate(zip(own, theirs, strict=True)):
                if a is not b:
                    own[i] = None if unknown((a, b)) else np.where(lanes, b, a)


def unknown(values: Iterable[Value]) -> bool:
    return any(v is None for v in values)


def first(value: Value) -> Value:
    """That of the first lane."""
    return value[0].item() if isinstance(value, np.ndarray) else value


def bits(truth: Value) -> Value:
    """0 or 1."""
    return truth.astype(np.int64) if isinstance(truth, np.ndarray) else int(truth)


def truths(value: Value) -> Value:
    return value if isinstance(value, np.ndarray) else bool(value)


def holds(truth: Value) -> bool:
    """For any lane; what is unknown may hold."""
    return truth is None or bool(np.any(truth))
