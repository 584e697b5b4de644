"""What one call of an operator did, kept to be done again: planning takes longer than a small kernel runs.

A *tape* is a list of steps: allocations, calls of torch, launches. It is played with tensors of the same shapes,
strides, dtypes, alignment and options, which all steps follow from. In a step a tensor is its place: among those given,
then those that the steps before made.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .plan import INTERPRETED, Plan

Step = Callable[[list, int], None]  # (tensors by place, stream)

_handles: dict[int, Any] = {}  # compiled kernels, for good: unloading one would break a CUDA graph's capture


class Stale(Exception):
    """A call of torch gave another layout than when it was recorded."""


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


class Tape:
    """`play` does what was recorded, with other tensors of the same description."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[Place | None], device: torch.device, calls: bool):
        self.steps, self.outputs, self.calls = steps, outputs, calls  # calls: some steps are calls of torch
        self.device, self.on_gpu = device, device.type == "cuda"
        self.stream = None if INTERPRETED else triton.runtime.driver.active.get_current_stream

    def play(self, given: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The outputs, None for each that nobody wants; raises Stale."""
        if self.on_gpu and torch.cuda.current_device() != self.device.index:
            with torch.cuda.device(self.device):
                return self.play(given)
        if self.calls:
            with torch._C._AutoDispatchBelowAutograd(), torch._C._DisableAutocast():
                return self._play([*given])
        return self._play([*given])

    def _play(self, tensors: list[Tensor | None]) -> list[Tensor | None]:
        stream = self.stream(self.device.index or 0) if self.stream else 0
        for step in self.steps:
            step(tensors, stream)
        return [None if place is None else place.tensor(tensors) for place in self.outputs]


def allocation(out: Tensor) -> Step:
    make = torch.empty(0, dtype=out.dtype, device=out.device).new_empty_strided
    shape, stride = tuple(out.shape), out.stride()

    def allocate(tensors: list, stream: int) -> None:
        tensors.append(make(shape, stride))

    return allocate


def skip(tensors: list, stream: int) -> None:
    """For an allocation of what nobody uses."""
    tensors.append(None)


def calling(func: Callable, args: list, kwargs: dict, places: list[tuple[int, Place]], made: list[tuple]) -> Step:
    """`places` among the arguments by position; `made`: of each new output its position and strides."""

    def call(tensors: list, stream: int) -> None:
        arguments = args.copy()
        for i, place in places:
            arguments[i] = place.tensor(tensors)
        out = func(*arguments, **kwargs)
        out = out if isinstance(out, tuple | list) else (out,)
        for i, stride in made:
            if out[i].stride() != stride:
                raise Stale
            tensors.append(out[i])

    return call


def launching(plan: Plan, compiled: Any, constants: list, places: list[tuple[int, Place]]) -> Step:
    """A launch of the compiled kernel with pointers; in the interpreter, with tensors."""
    if INTERPRETED:
        kernel, grid = plan.kernel, (plan.grid,)  # not the plan, which holds tensors
        options = {"num_warps": plan.config.num_warps}

        def interpret(tensors: list, stream: int) -> None:
            arguments = constants.copy()
            for i, place in places:
                arguments[i] = place.tensor(tensors)
            kernel[grid](**dict(zip(kernel.arg_names, arguments, strict=True)), **options)

        return interpret
    if compiled is None:
        raise LookupError("a hook of Triton's kept the kernel from being compiled")
    _handles[id(compiled)] = compiled
    run, function, packed, knobs = compiled.run, compiled.function, compiled.packed_metadata, triton.knobs.runtime
    grid, described = plan.grid, [(i, place) for i, place in places if constants[i] is not None]
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
