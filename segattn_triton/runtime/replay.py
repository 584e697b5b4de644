"""When a call repeats an earlier one, and the tapes of those that were."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from ..tuning import choice as tuning
from .plan import is_recording, listening
from .recorder import Recording
from .tape import Stale, Tape

MOST_TAPES = 4096
_NUMBERS = {float, int, bool}
_CONSTANTS = {str, *_NUMBERS}
_tapes: dict[tuple, Tape | None] = {}  # None: what cannot be repeated


def signature(name: Any, arguments: Sequence[Any], with_grad: bool = False) -> tuple | None:
    """What the steps of an operator follow from: shapes and strides, so that all integers are the same, dtypes, how
    far each pointer is from a multiple of 16 bytes, options and their types, and `with_grad` who requires one. None
    where the call has to be planned, or torch has to see it: a tensor of a class of its own, or without its values in
    memory."""
    try:
        return None if is_recording() else _signature(name, arguments, with_grad)
    except RuntimeError:  # a tensor that has no storage, or no strides: batched, sparse, nested
        return None


def _signature(name: Any, arguments: Sequence[Any], with_grad: bool) -> tuple | None:
    known = [name, tuning.epoch]
    for a in arguments:
        kind = type(a)
        if kind is Tensor or kind is Parameter:
            if a.is_neg() or a._is_zerotensor() or a.is_meta:
                return None
            grad = with_grad and a.requires_grad
            known.append((a.shape, a.stride(), a.dtype, a.data_ptr() & 15, a.get_device(), grad))
        elif kind is str or a is None:
            known.append(a)
        elif kind in _NUMBERS:
            known += kind, a  # 3 is not 3.0
        elif kind is list or kind is tuple:
            if not _CONSTANTS.issuperset(map(type, a)):
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
            _tapes.pop(key, None)  # another thread may have been here
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
    tensors = [id(t) for t in given if t is not None]
    return len(set(tensors)) < len(tensors)
