"""What integer instructions of the machine code compute, and conversions, by opcode: of numbers, or of arrays with one
for each lane.

Values are words of 32 bits, without a sign. A function is given the instruction's modifiers, its values and the
predicates among its operands, and returns the result and the carries or predicates that it sets. What is neither
here nor in `floating`, such as what memory holds, is unknown.
"""

import struct
from collections.abc import Callable

import numpy as np

MASK = 0xFFFFFFFF


def signed(v):
    return (v ^ 0x80000000) - 0x80000000


def wide(low, high):
    """The 64-bit number of two words, with its sign."""
    return signed(high) * 0x100000000 + low


def _iadd3(has, a, carries):
    total = a[0] + a[1] + a[2] + sum(carries)
    return total & MASK, (total > MASK, total > 2 * MASK)


def _viadd(has, a, carries):
    if "16x2" in has:  # two sums of 16 bits
        low = (a[0] & 0xFFFF) + (a[1] & 0xFFFF)
        return (low & 0xFFFF) | ((a[0] >> 16) + (a[1] >> 16) << 16) & MASK, ()
    return (a[0] + a[1]) & MASK, ()


def _imad(has, a, carries):
    x, y, z = a[0], a[1], a[2]
    return ((x * y & MASK) + z + sum(carries)) & MASK, ()


def _imad_wide(has, a, carries):
    """z is a pair of words: a 64-bit number. Products and sums wrap around as those of int64 do."""
    x, y = a[0] & MASK, a[1] & MASK
    x, y = (x, y) if "U32" in has else (signed(x), signed(y))
    return _wrapped(x * y + a[2]), ()


def _wrapped(v):
    return v if isinstance(v, np.ndarray) else (v + 2**63) % 2**64 - 2**63


def _imad_hi(has, a, carries):
    total, _ = _imad_wide(has, a, carries)
    return (total >> 32) & MASK, ()


def _lea(has, a, carries):
    total = ((a[0] << a[2]) & MASK) + a[1]
    return total & MASK, (total > MASK,)


def _lea_hi(has, a, carries):
    """((high:low) << shift) >> 32, plus what is added."""
    if "SX32" in has:
        value, shift = signed(a[0]), a[2]
    else:
        value, shift = wide(a[0], a[2]), a[3]
    return (((value << shift) >> 32) + a[1] + sum(carries)) & MASK, ()


def _shf(has, a, carries):
    low, shift, high = a
    limit = 63 if "U64" in has or "S64" in has else 31
    shift = shift & 0x3F if "W" not in has else shift & limit
    if "L" in has:
        if "HI" in has:
            return ((wide(low, high) << shift) >> 32) & MASK, ()
        return (low << shift) & MASK, ()
    if "HI" in has:
        return ((signed(high) if {"S32", "S64"} & has else high) >> shift) & MASK, ()
    return (wide(low, high) >> shift) & MASK, ()


def _lop3(has, a, carries):
    """The last value is the truth table, by the bits of the first three."""
    x, y, z, table = a
    result = 0
    for i in range(8):
        if table >> i & 1:
            result = result | ((x if i & 4 else ~x) & (y if i & 2 else ~y) & (z if i & 1 else ~z))
    return result & MASK, (result & MASK != 0,)


def _prmt(has, a, carries):
    x, selector, y = a
    both, result = wide(x, y), 0
    for i in range(4):
        nibble = selector >> 4 * i & 0xF
        byte = both >> 8 * (nibble & 7) & 0xFF
        if nibble & 8:
            byte = (byte >> 7) * 0xFF
        result = result | byte << 8 * i
    return result & MASK, ()


def _least(has, x, y, smallest):
    x, y = x & MASK, y & MASK
    if "U32" not in has:
        x, y = signed(x), signed(y)
    return _chosen(smallest, np.minimum(x, y), np.maximum(x, y)) & MASK


def _chosen(truth, x, y):
    if isinstance(truth, np.ndarray):
        return np.where(truth, x, y)
    return _plain(x if truth else y)


def _plain(v):
    return v if isinstance(v, np.ndarray) else int(v)


def _vimnmx(has, a, carries):
    found = _least(has, a[0], a[1], carries[0])
    return found * (signed(found) > 0) if "RELU" in has else found, ()


def _vimnmx3(has, a, carries):
    return _least(has, _least(has, a[0], a[1], carries[0]), a[2], carries[0]), ()


def _viaddmnmx(has, a, carries):
    return _least(has, (a[0] + a[1]) & MASK, a[2], carries[0]), ()


def _select(has, a, carries):
    return _chosen(carries[0], a[0], a[1]), ()


def _sgxt(has, a, carries):
    low = a[0] & ((1 << a[1]) - 1)
    sign = 0 if "U32" in has else (low >> (a[1] - 1) & 1) * (MASK ^ ((1 << a[1]) - 1))
    return low | sign, ()


def _float(v) -> np.ndarray:
    return np.asarray(v, np.uint32).view(np.float32)


def _bits(v, like):
    found = np.asarray(v, np.float32).view(np.uint32).astype(np.int64)
    return found if isinstance(like, np.ndarray) else int(found)


def _i2f(has, a, carries):
    number = np.asarray(a[0] if "U32" in has or "RP" in has else signed(a[0]), np.float64)
    near = number.astype(np.float32)
    up = np.where((near < number) & ("RP" in has), np.nextafter(near, np.float32(np.inf)), near)
    return _bits(up, a[0]), ()


def _mufu(has, a, carries):
    with np.errstate(all="ignore"):
        return _bits(np.float32(1) / _float(a[0]), a[0]), ()


def _f2i(has, a, carries):
    least, most = (0, 2.0**32 - 1) if "U32" in has else (-(2.0**31), 2.0**31 - 1)
    number = np.clip(np.nan_to_num(_float(a[0]).astype(np.float64)), least, most)
    rounded = next((f for name, f in ROUND.items() if name in has), np.rint)(number)
    whole = rounded.astype(np.int64) & MASK
    return whole if isinstance(a[0], np.ndarray) else int(whole), ()


def halves(high: str, low: str) -> int | None:
    """Two numbers of 16 bits as they stand in an instruction: how small constants come into registers."""
    try:
        return int.from_bytes(struct.pack("<ee", float(low), float(high)), "little")
    except ValueError:  # a register
        return None


ROUND: dict[str, Callable] = {"TRUNC": np.trunc, "FLOOR": np.floor, "CEIL": np.ceil}
CHOOSE = ("SEL", "VIMNMX", "VIMNMX3", "IMNMX", "VIADDMNMX")  # by a predicate, which is no carry
COMPARE: dict[str, Callable] = {
    "LT": lambda x, y: x < y,
    "LE": lambda x, y: x <= y,
    "GT": lambda x, y: x > y,
    "GE": lambda x, y: x >= y,
    "EQ": lambda x, y: x == y,
    "NE": lambda x, y: x != y,
}
COMBINE: dict[str, Callable] = {"AND": lambda p, q: p & q, "OR": lambda p, q: p | q, "XOR": lambda p, q: p ^ q}
FUNCTIONS: dict[str, Callable] = {
    "IADD3": _iadd3,
    "VIADD": _viadd,
    "IADD": _viadd,
    "IMAD": _imad,
    "IMAD.WIDE": _imad_wide,
    "IMAD.HI": _imad_hi,
    "LEA": _lea,
    "LEA.HI": _lea_hi,
    "SHF": _shf,
    "LOP3": _lop3,
    "PRMT": _prmt,
    "SEL": _select,
    "SGXT": _sgxt,
    "VIMNMX": _vimnmx,
    "IMNMX": _vimnmx,
    "VIMNMX3": _vimnmx3,
    "VIADDMNMX": _viaddmnmx,
    "IABS": lambda has, a, carries: (abs(signed(a[0])) & MASK, ()),
    "MOV": lambda has, a, carries: (a[0], ()),
    "I2F": _i2f,
    "I2FP": _i2f,
    "MUFU": _mufu,
    "F2I": _f2i,
}
