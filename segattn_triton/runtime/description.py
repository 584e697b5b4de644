"""When two calls are the same but for values: the key of all that is kept of a call."""

from collections.abc import Sequence
from math import copysign
from typing import Any

import torch
from torch import Tensor

from ..tuning import choice
from . import known
from .plan import is_recording


def describe(name: Any, arguments: Sequence[Any], with_grad: bool = False) -> tuple | None:
    """What the steps of an operator follow from: shapes and strides, so that all integers are the same, dtypes, how
    far each pointer is from a multiple of 16 bytes, which tensors are one, options and their types, `with_grad` who
    requires one, and torch's flags. None where the call has to be planned, or torch has to see it: a tensor of a class
    of its own, or without its values in memory."""
    try:
        return None if not known.enabled or is_recording() else _describe(name, arguments, with_grad)
    except RuntimeError:  # a tensor that has no storage, or no strides: batched, sparse, nested
        return None


def _describe(name: Any, arguments: Sequence[Any], with_grad: bool) -> tuple | None:
    found, tensors = [name, choice.epoch, _flags()], []
    for a in arguments:
        kind = type(a)
        if kind is Tensor or kind is torch.nn.Parameter:
            if a.is_neg() or a._is_zerotensor() or a.is_meta:
                return None
            grad = with_grad and a.requires_grad
            found.append((a.shape, a.stride(), a.dtype, a.data_ptr() & 15, a.get_device(), grad))
            tensors.append(id(a))
        elif kind is str or a is None:
            found.append(a)
        elif kind in _NUMBERS:
            found.append(_number(a))
        elif kind is list or kind is tuple:
            if not _CONSTANTS.issuperset(map(type, a)):
                return None
            found += kind, tuple(v if type(v) is str else _number(v) for v in a)
        else:
            return None
    if len(set(tensors)) < len(tensors):
        found.append(tuple(map(tensors.index, tensors)))
    return tuple(found)


_NUMBERS = {float, int, bool}
_CONSTANTS = {str, *_NUMBERS}


def _number(a: float | int | bool) -> tuple:
    """3 is not 3.0, and 0.0 is not -0.0."""
    return (float, a, copysign(1.0, a)) if type(a) is float else (type(a), a)


def _flags() -> tuple:
    """What torch is told, and a choice or a library may follow: TF32, determinism, benchmarks."""
    c = torch._C
    return (
        _fp32_precision("cuda", "conv"),
        _fp32_precision("cuda", "matmul"),
        c._get_deterministic_algorithms(),
        c._get_cudnn_deterministic(),
        c._get_cudnn_benchmark(),
    )


_fp32_precision = torch._C._get_fp32_precision_getter
