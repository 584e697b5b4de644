"""A public function, called again with tensors of the same description, goes straight to its operator.

Its checks, the choice of a backend and the arguments of the operator follow from the description alone. They take as
long as launching two kernels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

from .autograd import watched
from .description import describe
from .known import SEEN, programs, remember
from .operator import Call, DifferentiableOp
from .program import Program, Stale


class Known(NamedTuple):
    """What a public function handed to its operator, without its tensors."""

    op: DifferentiableOp
    key: tuple  # of the operator's program
    program: Program | None  # to run where no gradient is wanted
    places: Sequence[int | None]  # of the operator's tensors among the arguments
    options: Sequence[Any]
    both: bool | tuple[int, ...]
    single: bool  # y alone

    def __call__(self, given: Sequence[Any]) -> Any:
        tensors = [None if i is None else given[i] for i in self.places]
        if self.program is None:
            outputs = self.op.run(self.key, [*tensors, *self.options], True)
            return outputs[0] if self.single and type(outputs) is tuple else self.op.chosen(outputs, self.both)
        outputs = self.program(tensors)
        return outputs[0] if self.single else self.op.chosen(self.op.first(outputs), self.both)


def call(function: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> Any:
    """function(*args, **kwargs), which is one of `functional`: a result of the reference, or the `Call` to make."""
    given = (*args, *kwargs.values())
    key = None if _transformed() else describe((function, *kwargs), given, torch.is_grad_enabled())
    known = None if key is None else programs.get(key)
    if isinstance(known, Known):
        try:
            return known(given)
        except Stale:
            programs.pop(key, None)
    made = function(*args, **kwargs)
    if not isinstance(made, Call):
        return made
    if key is None:
        return made()
    op_key, wants_grad = made.op.describe(made.args), made.op.wants_grad(made.args)
    outputs = made.op.run(op_key, made.args, wants_grad)
    remember(key, SEEN if known is None else _known(made, op_key, wants_grad, given) or SEEN)
    return made.op.chosen(outputs, made.both)


def _known(made: Call, key: tuple | None, wants_grad: bool, given: Sequence[Any]) -> Known | None:
    """None as long as there is no program, and where the operator got a tensor that the function did not."""
    num, program = made.op.num_tensors, programs.get(key)
    places = [None if t is None else _place(t, given) for t in made.args[:num]]
    if -1 in places or not isinstance(program, Program):
        return None
    single = not made.both or made.op.returned == 1
    return Known(made.op, key, None if wants_grad else program, places, made.args[num:], made.both, single)


def _place(t: torch.Tensor, given: Sequence[Any]) -> int:
    return next((i for i, g in enumerate(given) if g is t), -1)


def _transformed() -> bool:
    return (
        torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or watched()
    )
