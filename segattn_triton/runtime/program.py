"""What an operator does with tensors of one description, to be done again: allocations, calls of torch, launches.

A *program* is a list of steps, and runs on tensors of the same shapes, strides, dtypes, alignment and options, which
all steps follow from. In a step a tensor is its place: among those given, then those that the steps before made.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .plan import INTERPRETED, Plan

Step = Callable[[list, int], None]  # (tensors by place, stream)

_handles: dict[int, Any] = {}  # compiled kernels, for good: unloading one would break a CUDA graph's capture


class Stale(Exception):
    """A call of torch gave another layout than when it was written down."""


class Place(NamedTuple):
    """Where a step finds a tensor: a known one, or a view of one."""

    index: int
    view: tuple[Sequence[int], Sequence[int], int] | None = None  # shape, strides, offset in elements
    byte: int = 0  # that offset

    def tensor(self, tensors: Sequence[Tensor]) -> Tensor:
        known = tensors[self.index]
        if self.view is None:
            return known
        shape, stride, offset = self.view
        return known.as_strided(shape, stride, known.storage_offset() + offset)


class Program:
    """Called with tensors, it gives the outputs, None for each that nobody wants; raises Stale."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[Place | None], device: torch.device, calls: bool):
        self.steps, self.outputs, self.calls = steps, outputs, calls  # calls: some steps are calls of torch
        self.views = any(place is not None and place.view is not None for place in outputs)
        self.indices = [None if place is None else place.index for place in outputs]
        self.device, self.on_gpu = device, device.type == "cuda"
        self.stream = None if INTERPRETED else triton.runtime.driver.active.get_current_stream

    def __call__(self, given: Sequence[Tensor | None]) -> list[Tensor | None]:
        if self.on_gpu and torch.cuda.current_device() != self.device.index:
            with torch.cuda.device(self.device):
                return self(given)
        if self.calls:
            with torch._C._AutoDispatchBelowAutograd(), torch._C._DisableAutocast():
                return self._run([*given])
        return self._run([*given])

    def _run(self, tensors: list[Tensor | None]) -> list[Tensor | None]:
        stream = self.stream(self.device.index or 0) if self.stream else 0
        for step in self.steps:
            step(tensors, stream)
        if self.views:
            return [None if place is None else place.tensor(tensors) for place in self.outputs]
        return [None if i is None else tensors[i] for i in self.indices]


def allocation(made: Tensor) -> Step:
    make = torch.empty(0, dtype=made.dtype, device=made.device).new_empty_strided
    shape, stride = tuple(made.shape), made.stride()

    def allocate(tensors: list, stream: int) -> None:
        tensors.append(make(shape, stride))

    return allocate


def calling(func: Callable, args: Sequence, places: Mapping[int, Place], strides: Sequence[Sequence[int]]) -> Step:
    """`places` of the tensors among the arguments, by position; `strides` of the tensors that it gives."""
    constants = [None if i in places else arg for i, arg in enumerate(args)]

    def call(tensors: list, stream: int) -> None:
        arguments = constants.copy()
        for i, place in places.items():
            arguments[i] = place.tensor(tensors)
        made = results(func(*arguments))
        if [t.stride() for t in made] != strides:
            raise Stale
        tensors += made

    return call


def results(out: Tensor | Sequence[Tensor | None] | None) -> list[Tensor]:
    """The tensors that a call of torch gives."""
    return [t for t in (out if isinstance(out, tuple | list) else (out,)) if t is not None]


def launching(plan: Plan, compiled: Any, place_of: Callable[[Tensor], Place]) -> Step:
    """A launch of the compiled kernel with pointers; in the interpreter, with tensors."""
    values = {**plan.args, **plan.config.blocks}
    constants, places = [], []
    for i, name in enumerate(plan.kernel.arg_names):
        value = values[name]
        if isinstance(value, Tensor):
            places.append((i, place_of(value)))
            value = None
        elif isinstance(value, TensorDescriptor):
            places.append((i, place_of(value.base)))
            value = copy.copy(value)
            value.base = None  # a program keeps no tensor alive
        constants.append(value)
    if INTERPRETED:
        return _interpreting(plan, constants, places)
    if compiled is None:
        raise LookupError("a hook of Triton's kept the kernel from being compiled")
    return _launching(plan.grid, compiled, constants, places)


def _interpreting(plan: Plan, constants: list, places: list[tuple[int, Place]]) -> Step:
    kernel, grid = plan.kernel, (plan.grid,)  # not the plan, which holds tensors
    options = {"num_warps": plan.config.num_warps}

    def interpret(tensors: list, stream: int) -> None:
        arguments = constants.copy()
        for i, place in places:
            arguments[i] = place.tensor(tensors)
        kernel[grid](**dict(zip(kernel.arg_names, arguments, strict=True)), **options)

    return interpret


def _launching(grid: int, compiled: Any, constants: list, places: list[tuple[int, Place]]) -> Step:
    _handles[id(compiled)] = compiled
    run, function, packed, knobs = compiled.run, compiled.function, compiled.packed_metadata, triton.knobs.runtime
    described = [(i, place) for i, place in places if constants[i] is not None]
    pointers = [(i, place.index, place.byte) for i, place in places if constants[i] is None]

    def launch(tensors: list, stream: int) -> None:
        arguments = constants.copy()
        for i, index, byte in pointers:
            arguments[i] = tensors[index].data_ptr() + byte
        for i, place in described:
            arguments[i] = copy.copy(arguments[i])
            arguments[i].base = place.tensor(tensors)
        if _has_hooks(knobs):
            compiled[(grid, 1, 1)](*arguments, stream=stream)
        else:
            run(grid, 1, 1, stream, function, packed, None, None, None, *arguments)

    return launch


def _has_hooks(knobs: Any) -> bool:
    """Whether a profiler listens to Triton's launches."""
    enter, leave = knobs.launch_enter_hook, knobs.launch_exit_hook
    return bool(getattr(enter, "calls", enter)) or bool(getattr(leave, "calls", leave))
