"""What one call of an operator did, kept to be done again: planning takes longer than a small kernel runs.

A *tape* is a list of steps: allocations, calls of torch, launches. It is played when the operator is called with
tensors of the same shapes, strides, dtypes, alignment and options, which all steps follow from. In a step a tensor
is its place: among those given, then those that the steps before made.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from triton.tools.tensor_descriptor import TensorDescriptor

from segattn_triton import tuning
from segattn_triton.launch import INTERPRETED, Plan, is_recording, listening

MOST_TAPES = 4096
_aten = torch.ops.aten
_ALLOCATIONS = {
    _aten.empty.memory_format,
    _aten.empty_like.default,
    _aten.empty_strided.default,
    _aten.new_empty.default,
    _aten.new_empty_strided.default,
}
_VIEWS = {
    _aten._unsafe_view.default,
    _aten.alias.default,
    _aten.as_strided.default,
    _aten.detach.default,
    _aten.expand.default,
    _aten.permute.default,
    _aten.promote_types.default,
    _aten.select.int,
    _aten.slice.Tensor,
    _aten.squeeze.dim,
    _aten.transpose.int,
    _aten.unsqueeze.default,
    _aten.view.default,
}
_OPTIONS = {type(None), str, float, int, bool}
Step = Callable[[list, int], None]  # (tensors by place, stream)

_tapes: dict[tuple, "Tape | None"] = {}
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


def _allocation(out: Tensor) -> Step:
    make = torch.empty(0, dtype=out.dtype, device=out.device).new_empty_strided
    shape, stride = tuple(out.shape), out.stride()

    def allocate(tensors: list, stream: int) -> None:
        tensors.append(make(shape, stride))

    return allocate


def _skip(tensors: list, stream: int) -> None:
    """For an allocation of what nobody uses."""
    tensors.append(None)


def _call(func: Callable, args: list, kwargs: dict, places: list[tuple[int, Place]], made: list[tuple]) -> Step:
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


def _launch(plan: Plan, compiled: Any, constants: list, places: list[tuple[int, Place]]) -> Step:
    """A launch of the compiled kernel with pointers; in the interpreter, with tensors."""
    if INTERPRETED:
        names, options = plan.kernel.arg_names, {"num_warps": plan.config.num_warps}

        def interpret(tensors: list, stream: int) -> None:
            arguments = constants.copy()
            for i, place in places:
                arguments[i] = place.tensor(tensors)
            plan.kernel[(plan.grid,)](**dict(zip(names, arguments, strict=True)), **options)

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


class Recording(TorchDispatchMode):
    """Watches one call of an operator. `refusal` says why it cannot be repeated, if it cannot."""

    def __init__(self, given: Sequence[Tensor | None]):
        super().__init__()
        self.tensors = [*given]  # kept until the end, so that no other tensor takes the id of one
        self.steps: list[Step] = []
        self.allocated: dict[int, int] = {}  # step that allocates a tensor, by place, as long as nothing uses it
        self.places: list[Place | None] = []
        self.device = next(t.device for t in given if t is not None)
        self.refusal: str | None = "modes are off here"
        self.calls = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in _ALLOCATIONS:
            self.steps.append(_allocation(out))
            self.allocated[len(self.tensors)] = len(self.steps) - 1
            self.tensors.append(out)
        elif func not in _VIEWS:
            self._attempt(self._record_call, func, args, kwargs or {}, out)
        return out

    def __enter__(self):
        super().__enter__()
        torch.empty(0)
        if self.steps:  # this mode sees what happens
            self.refusal = None
            self.steps.clear()
            self.allocated.clear()
            self.tensors.pop()
        return self

    def launched(self, plan: Plan, compiled: Any) -> None:
        self._attempt(self._record_launch, plan, compiled)

    def tape(self, outputs: Sequence[Tensor | None]) -> Tape | None:
        """The tape of all that was recorded; None if it cannot be repeated."""
        self._attempt(self._record_outputs, outputs)
        for step in self.allocated.values():
            self.steps[step] = _skip
        return None if self.refusal else Tape(self.steps, self.places, self.device, self.calls)

    def _attempt(self, record: Callable, *args) -> None:
        try:
            record(*args)
        except LookupError as error:
            self.refusal = self.refusal or str(error)

    def _record_call(self, func: Callable, args: Sequence, kwargs: dict, out: Any) -> None:
        outs = out if isinstance(out, tuple | list) else (out,)
        if not all(isinstance(o, Tensor) for o in outs if o is not None):
            raise LookupError(f"what follows {func} may depend on values")
        nested = [v for a in args if isinstance(a, list | tuple) for v in a]
        if any(isinstance(a, Tensor) for a in (*kwargs.values(), *nested)):
            raise LookupError(f"{func} takes a list of tensors, or one by name")
        places = [(i, self._place(a)) for i, a in enumerate(args) if isinstance(a, Tensor)]
        constants = [None if isinstance(a, Tensor) else a for a in args]
        fresh = [i for i, o in enumerate(outs) if o is not None and not self._owners(o)]
        self.tensors += [outs[i] for i in fresh]
        self.calls = True
        self.steps.append(_call(func, constants, kwargs, places, [(i, outs[i].stride()) for i in fresh]))

    def _record_launch(self, plan: Plan, compiled: Any) -> None:
        values = {**plan.args, **plan.config.blocks}
        constants, places = [], []
        for i, name in enumerate(plan.kernel.arg_names):
            value = values[name]
            if isinstance(value, Tensor):
                places.append((i, self._place(value)))
                value = None
            elif isinstance(value, TensorDescriptor):
                places.append((i, self._place(value.base)))
                value = copy.copy(value)
                value.base = None  # a tape keeps no tensor alive
            constants.append(value)
        self.steps.append(_launch(plan, compiled, constants, places))

    def _record_outputs(self, outputs: Sequence[Tensor | None]) -> None:
        self.places = [None if o is None else self._place(o) for o in outputs]

    def _place(self, t: Tensor) -> Place:
        place = self._find(t)
        self.allocated.pop(place.index, None)
        return place

    def _find(self, t: Tensor) -> Place:
        for i, known in enumerate(self.tensors):
            if known is t:
                return Place(i)
        owners = self._owners(t)
        if len(owners) != 1 or self.tensors[owners[0]].dtype != t.dtype:
            raise LookupError("a tensor of unknown origin")
        known = self.tensors[owners[0]]
        offset = t.storage_offset() - known.storage_offset()
        if (t.shape, t.stride(), offset) == (known.shape, known.stride(), 0):
            return Place(owners[0])  # an output that were a view of it could not be changed in place
        return Place(owners[0], (tuple(t.shape), t.stride(), offset), offset * t.element_size())

    def _owners(self, t: Tensor) -> list[int]:
        """Which of the known tensors share their memory with t."""
        storage = t.untyped_storage()._cdata
        known = enumerate(self.tensors)
        return [i for i, one in known if one is not None and one.untyped_storage()._cdata == storage]


def signature(name: Any, arguments: Sequence[Any], with_grad: bool = False) -> tuple | None:
    """What the steps of an operator follow from: shapes and strides, so that all integers are the same, dtypes, how
    far each pointer is from a multiple of 16 bytes, options and their types, and `with_grad` who requires one. None
    where the call has to be planned, or torch has to see it: a tensor of a class of its own, or without its values in
    memory."""
    if is_recording():
        return None
    known = [name, tuning.epoch]
    for a in arguments:
        kind = type(a)
        if kind is Tensor or kind is Parameter:
            if a.is_neg() or a._is_zerotensor() or a.is_meta:
                return None
            grad = with_grad and a.requires_grad
            known.append((a.shape, a.stride(), a.dtype, a.data_ptr() & 15, a.get_device(), grad))
        elif kind in _OPTIONS:
            known += kind, a
        elif kind is list or kind is tuple:
            if not _OPTIONS.issuperset(map(type, a)):
                return None
            known += kind, tuple(a)
        else:
            return None
    return tuple(known)


def kept(key: tuple) -> Tape | None:
    return _tapes.get(key)


def played(key: tuple | None, given: Sequence[Tensor | None]) -> list[Tensor | None] | None:
    """The outputs of the tape of `key`; None if there is none to play."""
    if (tape := _tapes.get(key)) is not None:
        try:
            return tape.play(given)
        except Stale:
            del _tapes[key]
    return None


@contextlib.contextmanager
def recording(key: tuple | None, given: Sequence[Tensor | None], outputs: list) -> Iterator[None]:
    """Keep a tape of what happens inside with these tensors; `outputs` are appended to inside."""
    if key is None or key in _tapes or repeats(given):
        yield
        return
    with Recording(given) as mode, listening(mode.launched):
        yield
    if len(_tapes) >= MOST_TAPES:
        _tapes.clear()
    _tapes[key] = mode.tape(outputs)


def repeats(given: Sequence[Tensor | None]) -> bool:
    """Whether one tensor has two places: then a tape could not tell them apart."""
    tensors = [id(t) for t in given if t is not None and t.numel() > 0]
    return len(set(tensors)) < len(tensors)
