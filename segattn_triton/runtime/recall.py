"""A public function, called again with tensors of the same description, goes straight to its operator.

Its checks, the choice of a backend and the arguments of the operator follow from shapes, strides, dtypes, devices and
options alone. They take as long as launching two kernels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .operator import DifferentiableOp, noting, watched
from .replay import MOST_TAPES, kept, repeats, signature
from .tape import Stale, Tape


class Call(NamedTuple):
    """What a public function handed to its operator."""

    op: DifferentiableOp
    key: tuple  # of the operator's tape
    tape: Tape | None  # to play where no gradient is wanted
    places: Sequence[int | None]  # of the operator's tensors among the arguments
    options: Sequence[Any]
    wants_grad: bool
    single: bool  # it returned the operator's first output alone


_calls: dict[tuple, Call] = {}


def recall(function: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> Any:
    """function(*args, **kwargs), which is one of `segattn_triton.functional`."""
    given = (*args, *kwargs.values())
    key = None if _transformed() else signature((function, *kwargs), given, torch.is_grad_enabled())
    if key is None:
        return function(*args, **kwargs)
    call = _calls.get(key)
    if call is None:
        return _first(key, given, function, args, kwargs)
    op, op_key, tape, places, options, wants_grad, single = call
    tensors = [None if i is None else given[i] for i in places]
    if tape is not None:
        try:
            outputs = tape.play(tensors)
        except Stale:
            _calls.pop(key, None)
            return function(*args, **kwargs)
        return outputs[0] if single or op.differentiable == 1 else tuple(outputs[: op.differentiable])
    outputs = op.run(op_key, [*tensors, *options], wants_grad)
    return outputs[0] if single else outputs


def _transformed() -> bool:
    return (
        torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or watched()
    )


def _first(key: tuple, given: Sequence, function: Callable, args: Sequence, kwargs: Mapping[str, Any]) -> Any:
    with noting() as calls:
        returned = function(*args, **kwargs)
    if len(calls) != 1 or repeats([g for g in given if isinstance(g, Tensor)]):
        return returned
    op, op_key, arguments, wants_grad, outputs = calls[0]
    places = [_place(t, given) for t in arguments[: op.num_tensors]]
    single = isinstance(returned, Tensor) and op.differentiable > 1
    if op_key is not None and _same(outputs[0] if single else outputs, returned) and _MISSING not in places:
        if len(_calls) >= MOST_TAPES:
            _calls.clear()
        tape = None if wants_grad else kept(op_key)
        _calls[key] = Call(op, op_key, tape, places, arguments[op.num_tensors :], wants_grad, single)
    return returned


_MISSING = -1


def _place(t: Tensor | None, given: Sequence) -> int | None:
    return None if t is None else next((i for i, g in enumerate(given) if g is t), _MISSING)


def _same(a: Tensor | tuple, b: Tensor | tuple) -> bool:
    """Whether both are the same tensor, or tuples of the same."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(u is v for u, v in zip(a, b, strict=True))
    return a is b
