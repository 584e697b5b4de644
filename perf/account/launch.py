"""One launch as the account takes it: machine code, arguments, grid. Of a plan of ours; a rival's is made alike."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

from torch import Tensor

from ...compiled import Compiled, source_of
from .assumptions import H200, MACHINES, Machine
from .sass import Instruction, parse

WINDOW, HERE = 0x198, 1 << 39  # where the constants say at which address the parameters are, and one for them
SIZES = {"i1": 1, "i8": 1, "u8": 1, "i16": 2, "i32": 4, "u32": 4, "fp32": 4, "i64": 8, "u64": 8, "fp64": 8}


@dataclass(frozen=True)
class Buffer:
    """A tensor among the arguments, at an address of its own."""

    name: str
    nbytes: int
    place: int
    values: Any = field(default=None, compare=False, repr=False)  # integers of 32 bits that decide a path, in order

    @property
    def address(self) -> int:
        return (self.place + 1) << 40


@dataclass(frozen=True)
class Box:
    """What a load through a tensor's descriptor brings: of 128 bytes among the parameters."""

    buffer: Buffer
    nbytes: int


@dataclass(frozen=True)
class Launch:
    name: str
    sass: str
    arguments: Sequence[tuple[str, Any]]  # (type, Buffer, Box or number), in the order of the kernel's parameters
    grid: Sequence[int]
    warps: int
    resident: int  # programs that an SM holds, by registers, threads and shared memory
    machine: Machine = H200

    @property
    def programs(self) -> int:
        return prod(self.grid)

    @cached_property
    def buffers(self) -> dict[int, Buffer]:
        """By place."""
        tensors = [v.buffer if isinstance(v, Box) else v for _, v in self.arguments]
        return {value.place: value for value in tensors if isinstance(value, Buffer)}

    @cached_property
    def code(self) -> list[Instruction]:
        return parse(self.sass)

    @property
    def digest(self) -> str:
        """Of the machine code, and of what the launch gives it."""
        text = f"{[(i.opcode, i.operands, i.control) for i in self.code]}{self.constants}{self.resident}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def constants(self) -> dict[int, int]:
        """Offset in the constant bank -> word: the sizes of a program and of the grid, and the parameters."""
        program, grid, _ = self.machine.places
        found = {program + 4 * i: n for i, n in enumerate((32 * self.warps, 1, 1))}
        found |= {grid + 4 * i: n for i, n in enumerate(self.grid)}
        found |= {WINDOW: HERE % 2**32, WINDOW + 4: HERE >> 32}
        for offset, (kind, value) in zip(self._offsets, self.arguments, strict=True):
            if isinstance(value, Box):
                continue
            number = (value.address if isinstance(value, Buffer) else int(value)) % 2**64
            found[offset] = number % 2**32
            if isinstance(value, Buffer) or SIZES[kind] == 8:
                found[offset + 4] = number >> 32
        return found

    @property
    def known(self) -> dict[int, Any]:
        """Place of a buffer -> its values, where they are given."""
        return {place: b.values for place, b in self.buffers.items() if b.values is not None}

    @cached_property
    def _offsets(self) -> list[int]:
        """Of the arguments in the constant bank."""
        found, offset = [], self.machine.places[-1]
        for kind, value in self.arguments:
            size, align = (128, 64) if isinstance(value, Box) else [8 if isinstance(value, Buffer) else SIZES[kind]] * 2
            found.append(offset + -offset % align)
            offset = found[-1] + size
        return found

    def box(self, address: int | None) -> Box | None:
        """That of the descriptor at this address."""
        places = {
            HERE + at - self.machine.places[-1]: v for at, (_, v) in zip(self._offsets, self.arguments, strict=True)
        }
        found = places.get(address)
        return found if isinstance(found, Box) else None

    def owner(self, address: int | None) -> Buffer | None:
        """The buffer that an address lies in."""
        return None if address is None else self.buffers.get((address >> 40) - 1)


def launch_of(compiled: Compiled) -> Launch:
    plan, known = compiled.plan, {}
    arguments = []
    for name, kind, value in _leaves(compiled):
        tensor = getattr(value, "base", value)
        if isinstance(tensor, Tensor):  # two arguments may be one tensor
            size = tensor.element_size()
            buffer = known.setdefault(id(tensor), Buffer(name, tensor.numel() * size, len(known)))
            value = buffer if value is tensor else Box(buffer, prod(value.block_shape) * size)
        arguments.append((kind, value))
    grid = (plan.grid, 1, 1)
    resident, machine = compiled.programs_per_sm, MACHINES[compiled.arch]
    return Launch(plan.name, compiled.sass, arguments, grid, plan.config.num_warps, resident, machine)


def _leaves(compiled: Compiled) -> Iterator[tuple[str, str, Any]]:
    """(argument, type, value) of every runtime parameter, tuples flattened, in order."""
    values = {**compiled.plan.args, **compiled.plan.config.blocks}

    def walk(name: str, kind: Any, value: Any) -> Iterator[tuple[str, str, Any]]:
        if isinstance(kind, tuple):
            for part, each in zip(kind, value, strict=True):
                yield from walk(name, part, each)
        elif kind.startswith("tensordesc"):  # then its shape and its strides
            yield name, kind, value
            yield from ((name, "i32", size) for size in value.shape)
            yield from ((name, "i64", stride) for stride in value.strides)
        elif kind != "constexpr":
            yield name, kind, value

    for name, kind in source_of(compiled.plan).signature.items():
        yield from walk(name, kind, values[name])
