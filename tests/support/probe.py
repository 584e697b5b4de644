"""A memory checker for kernels in Triton's interpreter: every access of every program, element by element.

    with probe() as launches:
        functional.spatial_gate(x, weight, backend="triton")
    assert not faults(launches)

Pinned to the interpreter of the Triton in constraints.txt; test_probe.py plants faults that must be found.

OOB         an access outside every tensor argument
GAP         inside the extent of a strided argument, between its elements
UNWRITTEN   an element of an argument that the plan says is stored, never stored
DUP-STORE   one store instruction writes an element twice
RACE        an element touched by two programs, at least once by a store
TRAFFIC     loads or stores per element of an argument differ from what the plan states
OVERFLOW    int32 arithmetic that overflows (raised by the interpreter itself)
Masked lanes of a load without `other` are NaN inside the probe, so that using one shows in the result; so does what
depends on the order of the programs, in another one.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle
from triton.tools.tensor_descriptor import TensorDescriptor

from segattn_triton.runtime.plan import Plan, recorded

NOBODY, MANY = -1, -2
LARGEST_TRACKED = 2**26


class Argument:
    """A tensor argument, which of the elements in its extent are its own, and who touched them.

    One that spans more than the memory is not tracked: only its extent is known. Arguments in the same memory, such as
    a map beside a descriptor of it, are one: nobody can tell which of them an access means.
    """

    def __init__(self, names: Sequence[str], t: Tensor):
        self.names, self.start, self.itemsize = names, t.data_ptr(), t.element_size()
        strides = zip(t.shape, t.stride(), strict=True)
        self.extent = 0 if t.numel() == 0 else 1 + sum((size - 1) * stride for size, stride in strides)
        self.tracked = self.extent < LARGEST_TRACKED
        if not self.tracked:
            return
        own = torch.zeros(self.extent, dtype=torch.bool)
        if self.extent:
            own.as_strided(t.shape, t.stride())[...] = True
        self.own = own.numpy()
        self.loads, self.stores = np.zeros(self.extent, np.int64), np.zeros(self.extent, np.int64)
        self.reader, self.writer = (np.full(self.extent, NOBODY, np.int64) for _ in range(2))

    @property
    def name(self) -> str:
        return " and ".join(self.names)

    def index_of(self, addresses: np.ndarray) -> np.ndarray:
        """Element offset of each address, -1 outside the extent."""
        offset = addresses.astype(np.int64) - self.start
        inside = (offset >= 0) & (offset < self.extent * self.itemsize)
        return np.where(inside, offset // self.itemsize, -1)


@dataclass
class Launch:
    plan: Plan
    arguments: list[Argument]
    faults: Counter = field(default_factory=Counter)

    def access(self, addresses: np.ndarray, program: int, store: bool) -> None:
        rest = addresses
        for arg in self.arguments:
            index = arg.index_of(rest)
            mine = index >= 0
            if arg.tracked and arg.extent:
                mine &= arg.own[np.maximum(index, 0)]
                self._touch(arg, index[mine], program, store)
            rest = rest[~mine]
            if not len(rest):
                return
        inside_some = np.zeros(len(rest), bool)
        for arg in self.arguments:
            inside_some |= arg.index_of(rest) >= 0
        kind = "store" if store else "load"
        self.faults[f"GAP: {kind}"] += int(inside_some.sum())
        self.faults[f"OOB: {kind}"] += int((~inside_some).sum())

    def _touch(self, arg: Argument, index: np.ndarray, program: int, store: bool) -> None:
        if store:
            if len(np.unique(index)) != len(index):
                self.faults[f"DUP-STORE: {arg.name}"] += 1
            others = ~np.isin(arg.reader[index], (NOBODY, program)) | ~np.isin(arg.writer[index], (NOBODY, program))
            arg.writer[index] = program
            np.add.at(arg.stores, index, 1)
        else:
            others = ~np.isin(arg.writer[index], (NOBODY, program))
            arg.reader[index] = np.where(np.isin(arg.reader[index], (NOBODY, program)), program, MANY)
            np.add.at(arg.loads, index, 1)
        if others.any():
            self.faults[f"RACE: {arg.name}"] += int(others.sum())

    def finish(self) -> None:
        """The faults that only the whole launch shows."""
        for arg in filter(lambda arg: arg.tracked, self.arguments):
            loads, stores = map(sum, zip(*(self.plan.traffic.get(name, (0, 0)) for name in arg.names), strict=True))
            count = int(arg.own.sum())
            if not count:
                continue
            if stores and (unwritten := int((arg.own & (arg.stores == 0)).sum())):
                self.faults[f"UNWRITTEN: {arg.name}"] += unwritten
            for label, stated, seen in (("loads", loads, arg.loads), ("stores", stores, arg.stores)):
                if abs(seen.sum() - stated * count) > 1e-6 * count:
                    self.faults[f"TRAFFIC: {arg.name} {label} {seen.sum() / count:.6g}, stated {stated:.6g}"] += 1
        self.faults = Counter({fault: n for fault, n in self.faults.items() if n})


def faults(launches: list[Launch]) -> list[str]:
    return [f"{launch.plan.name}: {fault} ({n})" for launch in launches for fault, n in launch.faults.items()]


def _arguments(plan: Plan) -> list[Argument]:
    memory: dict[tuple, tuple[list[str], Tensor]] = {}
    for name, value in plan.args.items():
        t = value.base if isinstance(value, TensorDescriptor) else value
        if isinstance(t, Tensor):
            memory.setdefault((t.data_ptr(), t.shape, t.stride(), t.dtype), ([], t))[0].append(name)
    return [Argument(names, t) for names, t in memory.values()]


def _addresses(ptrs: TensorHandle, mask: np.ndarray) -> np.ndarray:
    return np.broadcast_to(ptrs.data, np.broadcast_shapes(ptrs.data.shape, mask.shape))[
        np.broadcast_to(mask, np.broadcast_shapes(ptrs.data.shape, mask.shape)).astype(bool)
    ].ravel()


@contextlib.contextmanager
def probe(order: int | None = None, only_last: bool = False) -> Iterator[list[Launch]]:
    """Watch every launch inside. `order` seeds a random order of the programs.

    With `only_last` just the last program of each launch runs, and only its extents are checked.
    """
    launches: list[Launch] = []
    current: list = [None, 0]  # the launch under way, the program that runs
    saved = {
        (owner, name): getattr(owner, name)
        for owner, name in (
            (InterpreterBuilder, "create_masked_load"),
            (InterpreterBuilder, "create_masked_store"),
            (InterpreterBuilder, "set_grid_idx"),
            (GridExecutor, "__call__"),
        )
    }

    def load(builder, ptrs, mask, other, *args, **kwargs):
        current[0].access(_addresses(ptrs, mask.data), current[1], store=False)
        if other is None and ptrs.data.size > 1:  # of one value, Triton's interpreter takes an `other` of 0 for none
            dtype = interpreter._get_np_dtype(ptrs.get_element_ty())
            poison = np.nan if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
            other = TensorHandle(np.full(ptrs.data.shape, poison, dtype), ptrs.get_element_ty())
        safe = TensorHandle(_inside(current[0], ptrs.data, mask.data), tl.int1)
        return saved[InterpreterBuilder, "create_masked_load"](builder, ptrs, safe, other, *args, **kwargs)

    def store(builder, ptrs, value, mask, *args, **kwargs):
        current[0].access(_addresses(ptrs, mask.data), current[1], store=True)
        safe = TensorHandle(_inside(current[0], ptrs.data, mask.data), tl.int1)
        return saved[InterpreterBuilder, "create_masked_store"](builder, ptrs, value, safe, *args, **kwargs)

    def set_grid_idx(builder, x, y, z):
        if order is not None:
            x = int(np.random.default_rng(order).permutation(builder.grid_dim[0])[x])
        if only_last:
            x = current[0].plan.grid - 1
            builder.grid_dim = (x + 1, 1, 1)
        current[1] = x
        return saved[InterpreterBuilder, "set_grid_idx"](builder, x, y, z)

    def call(executor, *args, **kwargs):
        plan = plans[-1]
        current[0] = Launch(plan, _arguments(plan))
        launches.append(current[0])
        if only_last:
            executor.grid = (1,)
        result = saved[GridExecutor, "__call__"](executor, *args, **kwargs)
        if not only_last:
            current[0].finish()
        return result

    options = interpreter.interpreter_builder.options
    InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store = load, store
    InterpreterBuilder.set_grid_idx, GridExecutor.__call__ = set_grid_idx, call
    interpreter.interpreter_builder.options = dataclasses.replace(options, debug=True, sanitize_overflow=True)
    try:
        with recorded() as plans:
            yield launches
    finally:
        for (owner, name), value in saved.items():
            setattr(owner, name, value)
        interpreter.interpreter_builder.options = options


def _inside(launch: Launch, addresses: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask without the lanes that point outside every argument: the fault is noted, the process lives on."""
    shape = np.broadcast_shapes(addresses.shape, mask.shape)
    flat = np.broadcast_to(addresses, shape).ravel()
    inside = np.zeros(flat.shape, bool)
    for arg in launch.arguments:
        inside |= arg.index_of(flat) >= 0
    return np.broadcast_to(mask, shape).astype(bool) & inside.reshape(shape)
