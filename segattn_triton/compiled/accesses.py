"""Accesses to global memory, read from the PTX, which names the kernel's parameters.

An address is followed back to the parameters it was computed from, so that every access is known by its argument.
ptxas keeps their widths.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from ..runtime.plan import Plan
from .source import source_of


class GlobalAccess(NamedTuple):
    """One load, store or asynchronous copy of global memory in the code of a thread."""

    op: str
    bits: int
    args: frozenset[str]  # the arguments that its address is computed from


_INSTRUCTION = re.compile(r"^\s*(?:@!?%\w+\s+)?([a-z][\w.:]*)\s+(.*?);")
_PARAM = re.compile(r"_param_(\d+)\b")


def _parameters(plan: Plan) -> dict[int, str]:
    """The arguments behind the pointer parameters of the PTX, by their place."""
    names, place = {}, 0
    for name, kind in _leaves(plan):
        if kind[0] == "*":
            names[place] = name
        if kind.startswith("tensordesc"):
            names[place] = name
            place += 2 * (kind.count(",") + 1)  # its shape and its strides follow
        place += 1
    return names


def _leaves(plan: Plan) -> Iterator[tuple[str, str]]:
    """(argument, type) of every runtime parameter, tuples flattened, in order."""

    def walk(name, kind):
        if isinstance(kind, tuple):
            for part in kind:
                yield from walk(name, part)
        elif kind != "constexpr":
            yield name, kind

    for name, kind in source_of(plan).signature.items():
        yield from walk(name, kind)


def accesses(ptx: str, plan: Plan) -> Iterator[GlobalAccess]:
    names = _parameters(plan)
    code = [m.groups() for line in ptx.splitlines() if (m := _INSTRUCTION.match(line))]
    origin: dict[str, frozenset[str]] = {}  # 64-bit register -> arguments

    def origins(text: str) -> frozenset[str]:
        found = [origin.get(r, frozenset()) for r in re.findall(r"%rd\d+", text)]
        direct = [names[int(p)] for p in _PARAM.findall(text) if int(p) in names]
        return frozenset(direct).union(*found)

    changed = True
    while changed:  # a loop carries pointers back
        changed = False
        for opcode, operands in code:
            target, _, sources = operands.partition(",")
            if not target.startswith("%rd") or re.match(r"(ld|atom|cp|shfl)\.(?!param)", opcode):
                continue
            both = origins(sources) | origin.get(target, frozenset())
            changed |= both != origin.get(target, frozenset())
            origin[target] = both
    for opcode, operands in code:
        if m := re.match(r"(ld|st)\.global.*?(?:\.v(\d))?\.[busf](\d+)$", opcode):
            address = re.search(r"\[([^]]*)\]", operands)[1]
            yield GlobalAccess("load" if m[1] == "ld" else "store", int(m[2] or 1) * int(m[3]), origins(address))
        elif opcode.startswith("cp.async.bulk"):
            yield GlobalAccess("copy", 1024, origins(operands))
        elif re.match(r"cp\.async\.c[ag]\.", opcode):
            _, address, size, *_ = re.split(r"\]\s*,|,", operands)
            yield GlobalAccess("copy", 8 * int(size, 0), origins(address))
