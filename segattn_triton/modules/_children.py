"""Using a child's parameters is calling it, as long as nobody has changed what a call does."""

import torch
from torch import Tensor, nn

from ..reference.activations import Spec, activate


def is_plain(*children: nn.Module) -> bool:
    """No hooks, no parametrization, no subclass: using the children's parameters is the same as calling them."""
    return all(type(m) in (nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm2d) and is_untouched(m) for m in children)


def is_untouched(m: nn.Module) -> bool:
    """No hooks, and no forward of its own."""
    hooks = m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
    return not hooks and "forward" not in vars(m)


def call(child: nn.Module, x: Tensor) -> Tensor:
    """The child, hooks and all, in its own dtype."""
    return child(x if torch.is_autocast_enabled(x.device.type) else x.to(next(child.parameters(), x).dtype))


def apply_gate(gate: str | Spec, x: Tensor, z: Tensor, return_map: bool):
    """x * gate(z) in plain torch, z (N, C or 1, ...), in x's dtype."""
    g = activate(gate, z)
    y = (x * g.reshape(*g.shape, *[1] * (x.dim() - g.dim()))).to(x.dtype)
    return (y, g.to(x.dtype)) if return_map else y
