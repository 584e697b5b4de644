"""How a tape comes to be: one call of an operator, watched."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.tools.tensor_descriptor import TensorDescriptor

from .plan import Plan
from .tape import Place, Step, Tape, allocation, calling, launching, skip

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
            self.steps.append(allocation(out))
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
            self.steps[step] = skip
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
        self.steps.append(calling(func, constants, kwargs, places, [(i, outs[i].stride()) for i in fresh]))

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
        self.steps.append(launching(plan, compiled, constants, places))

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
