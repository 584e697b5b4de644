"""What the rivals of a row are, and what listings and best formulations of several families have.

A predicted time is known by the source of what it is predicted of (see `compiler.digests`), the names of functions
included.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rivals:
    listing: Callable
    best: Callable | None = None  # None: nothing better than the compiled listing is known
    others: Mapping[str, Callable] = field(default_factory=dict)  # by name: from a compiler to the function
    left_out: tuple[str, ...] = ()  # optional inputs that not every rival takes
    most_maps: int = 0  # that one of them keeps beside its inputs and outputs


def _normed(h: Tensor, axes, weight: Tensor, bias: Tensor) -> Tensor:
    """A batch norm as a reduction and a product, which Inductor fuses with what is beside them."""
    var, mean = torch.var_mean(h, axes, correction=0, keepdim=True)
    return (h - mean) * (torch.rsqrt(var + 1e-5) * weight) + bias


def as_compiled(function: Callable, compiler: Callable[[Callable], Callable]) -> Callable:
    """With what else it reads as inputs, made before."""
    compiled, beside = compiler(function), getattr(function, "beside", None)
    return compiled if beside is None else lambda *inputs: compiled(*inputs, *beside(*inputs))
