"""The verbs of an operator's forward and backward, and the programs that they write.

A description seen once costs what planning it costs; at its second sight the run writes its program down, and from the
third on the program runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..tuning import target
from .known import REFUSED, SEEN, programs, remember
from .maps import native
from .plan import Plan, launch
from .program import Place, Program, Stale, Step, allocation, calling, launching, results


class Run:
    """What one call of an operator does: `empty`, `laid`, `call` and `launch`. One that writes notes each as a step."""

    def __init__(self, given: Sequence[Tensor | None], writes: bool = False):
        self.tensors = [*given]  # kept until the end, so that no other tensor takes the place of one
        self.steps: list | None = [] if writes else None
        self.calls = False
        self.refused = False
        self.follows = False  # what is next comes directly after a launch of ours

    def empty(self, made: Tensor) -> Tensor:
        """`made`, which is new, and has no values yet."""
        if self.steps is not None:
            self.steps.append(allocation(made))
            self.tensors.append(made)
        return made

    def call(self, func: Callable, *args: Any) -> Any:
        """func(*args): a function of torch, whose results' layouts follow from those of its arguments."""
        out, self.follows = func(*args), False
        if self.steps is not None:
            self._note(self._called, func, args, out)
        return out

    def laid(self, func: Callable, t: Tensor, *args: Any) -> Tensor:
        """func(t, *args), which is t itself where that lies as it should."""
        out = func(t, *args)
        self.follows = self.follows and out is t
        if out is not t and self.steps is not None:
            self._note(self._called, func, (t, *args), out)
        return out

    def native(self, t: Tensor | None, like: Tensor | None = None) -> Tensor | None:
        """The map as kernels take it, in the memory order of `like`; see `maps.native`."""
        return None if t is None else self.laid(native, t, like)

    def launch(self, plan: Plan) -> SimpleNamespace:
        """Launch it; the buffers that the plan made, by name."""
        for made in plan.made.values():
            if made is not None:
                self.empty(made)
        plan = replace(plan, follows=self.follows) if plan.args.get("DEPENDENT") else plan
        self.follows = self.follows or plan.grid > 0
        compiled = launch(plan)
        self._launched(plan, compiled)
        return SimpleNamespace(**plan.made)

    def _launched(self, plan: Plan, compiled: Any) -> None:
        if self.steps is not None and plan.grid:
            self._note(launching, plan, compiled, self._place)

    def program(self, outputs: Sequence[Tensor | None]) -> Program | str:
        """What was written down; REFUSED where it cannot be repeated."""
        try:
            places = [None if o is None else self._place(o) for o in outputs]
        except LookupError:
            return REFUSED
        return REFUSED if self.refused else Program(self.steps, places, _device(self.tensors), self.calls)

    def _note(self, step: Callable, *args: Any) -> None:
        """What cannot be repeated costs the program, not the call."""
        try:
            self.steps.append(step(*args))
        except LookupError:
            self.refused = True

    def _called(self, func: Callable, args: Sequence, out: Any) -> Step:
        places = {i: self._place(a) for i, a in enumerate(args) if isinstance(a, Tensor)}
        made = results(out)
        self.tensors += made
        self.calls = True
        return calling(func, args, places, [t.stride() for t in made])

    def _place(self, t: Tensor) -> Place:
        for i, known in enumerate(self.tensors):
            if known is t:
                return Place(i)
        storage = t.untyped_storage()._cdata
        for i, known in enumerate(self.tensors):
            if known is not None and known.dtype == t.dtype and known.untyped_storage()._cdata == storage:
                offset = t.storage_offset() - known.storage_offset()
                return Place(i, (tuple(t.shape), t.stride(), offset), offset * t.element_size())
        raise LookupError(f"a tensor {tuple(t.shape)} that no step made")


def repeated(key: tuple | None, given: Sequence[Tensor | None]) -> list[Tensor | None] | None:
    """The outputs of the program of a description; None if it has none."""
    if isinstance(program := programs.get(key), Program):
        try:
            return program(given)
        except Stale:
            programs.pop(key, None)  # another thread may have been here
    return None


def perform(key: tuple | None, given: Sequence[Tensor | None], work: Callable[[Run], list]) -> list[Tensor | None]:
    """work(run), which returns its outputs; at the second sight of the description a program is written."""
    known = None if key is None else programs.get(key)
    run = Run(given, writes=known == SEEN and not target.is_capturing(_device(given)))
    outputs = work(run)
    if key is not None and known != REFUSED:
        remember(key, SEEN if run.steps is None else run.program(outputs))
    return outputs


def _device(given: Sequence[Tensor | None]) -> torch.device:
    return next(t.device for t in given if t is not None)
