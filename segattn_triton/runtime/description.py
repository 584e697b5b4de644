"""When two calls are the same but for values: the key of all that is kept of a call."""

from collections.abc import Sequence
from math import copysign
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ..tuning import choice
from . import known, plan


def describe(name: Any, arguments: Sequence[Any], with_grad: bool = False) -> tuple | None:
    """What the steps of an operator follow from: shapes and strides, so that all integers are the same, dtypes, how
    far each pointer is from a multiple of 16 bytes, which tensors are one, options and their types, `with_grad` who
    requires one, and torch's flags. None where the call has to be planned, or torch has to see it: a tensor of a class
    of its own, or without its values in memory."""
    if not known.enabled or plan.collected is not None:
        return None
    found, tensors = [name, choice.epoch, _fp32_precision("cuda", "conv"), _is_deterministic()], []
    try:
        for a in arguments:
            kind = type(a)
            if kind is Tensor or kind is Parameter:
                if a.is_neg() or a._is_zerotensor() or a.is_meta:
                    return None
                grad = with_grad and a.requires_grad
                found.append((a.shape, a.stride(), a.dtype, a.data_ptr() & 15, a.get_device(), grad))
                tensors.append(id(a))
            elif kind is str or a is None:
                found.append(a)
            elif kind is float:
                found += kind, a, copysign(1.0, a)  # 0.0 is not -0.0
            elif kind is int or kind is bool:
                found += kind, a  # 3 is not 3.0
            elif kind is list or kind is tuple:
                types = tuple(map(type, a))
                if not _CONSTANTS.issuperset(types):
                    return None
                found += types, tuple(a)
                if float in types:
                    found.append(tuple(copysign(1.0, v) for v in a if type(v) is float))
            else:
                return None
    except RuntimeError:  # a tensor that has no storage, or no strides: batched, sparse, nested
        return None
    if len(tensors) > 1 and len(set(tensors)) < len(tensors):
        found.append(tuple(map(tensors.index, tensors)))
    return tuple(found)


_CONSTANTS = {str, float, int, bool}
_fp32_precision, _is_deterministic = torch._C._get_fp32_precision_getter, torch._C._get_deterministic_algorithms
