"""The gates and activations, by name: `f(z, a, b)` in plain torch, with the default of `a` and `b`.

sigmoid       1 / (1 + exp(-z))
hard_sigmoid  min(max(a z + b, 0), 1)              a = 1/6, b = 1/2
tanh          tanh(z)
relu          max(z, 0)
identity      z
silu          z sigmoid(z)
hardswish     z min(max(a z + b, 0), 1)            a = 1/6, b = 1/2
leaky_relu    z if z > 0 else a z                  a = 0.01
gelu          z (1 + erf(z / sqrt(2))) / 2
relu_sigmoid  1 / (1 + exp(-max(z, 0)))

hard_sigmoid with (1/2, 1/2) is that of mmcv before 1.4.4, with (0.2, 0.5) that of Paddle.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Spec = tuple[str, float, float]


class _Nonlinearity(NamedTuple):
    f: Callable[[Tensor, float, float], Tensor]
    a: float = 0.0
    b: float = 0.0


def _hard_sigmoid(z: Tensor, a: float, b: float) -> Tensor:
    return F.hardtanh(a * z + b, 0.0, 1.0)


ACTIVATIONS = {
    "sigmoid": _Nonlinearity(lambda z, a, b: torch.sigmoid(z)),
    "hard_sigmoid": _Nonlinearity(_hard_sigmoid, 1 / 6, 0.5),
    "tanh": _Nonlinearity(lambda z, a, b: torch.tanh(z)),
    "relu": _Nonlinearity(lambda z, a, b: torch.relu(z)),
    "identity": _Nonlinearity(lambda z, a, b: z),
    "silu": _Nonlinearity(lambda z, a, b: z * torch.sigmoid(z)),
    "hardswish": _Nonlinearity(lambda z, a, b: z * _hard_sigmoid(z, a, b), 1 / 6, 0.5),
    "leaky_relu": _Nonlinearity(lambda z, a, b: F.leaky_relu(z, a), 0.01),
    "gelu": _Nonlinearity(lambda z, a, b: F.gelu(z)),
    "relu_sigmoid": _Nonlinearity(lambda z, a, b: torch.sigmoid(torch.relu(z))),
}
GATES = ("sigmoid", "hard_sigmoid", "tanh", "relu", "relu_sigmoid", "identity")
ACTS = ("relu", "silu", "hardswish", "leaky_relu", "gelu", "identity")
OUT_ACTS = ("identity", "relu")  # of a sum that a gate is part of


def spec(value: str | Spec) -> Spec:
    """`"hard_sigmoid"` -> `("hard_sigmoid", 1/6, 0.5)`; a full tuple passes through."""
    return (value, ACTIVATIONS[value].a, ACTIVATIONS[value].b) if isinstance(value, str) else value


def activate(value: str | Spec, z: Tensor) -> Tensor:
    name, a, b = spec(value)
    return ACTIVATIONS[name].f(z, a, b)
