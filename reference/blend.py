"""One weight per value, from logits that are given."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._precision import in_full_precision
from .activations import Spec, activate


@in_full_precision
def gate_mul(
    x: Tensor,
    z: Tensor,
    shortcut: Tensor | None = None,
    *,
    gate: str | Spec = "sigmoid",
    out_act: str = "identity",
    return_map: bool = False,
):
    """y = out_act(x * gate(z) + shortcut). z, and the map, of x's shape or 1 along any axes."""
    g = activate(gate, z)
    y = activate(out_act, x * g if shortcut is None else x * g + shortcut)
    return (y, g) if return_map else y


@in_full_precision
def gate_mul_resized(
    x: Tensor,
    z: Tensor,
    shortcut: Tensor | None = None,
    *,
    resize: str = "bilinear",
    align_corners: bool = False,
    scale_factor: float = 0.0,
    gate: str | Spec = "sigmoid",
    out_act: str = "identity",
    return_map: bool = False,
):
    """y = out_act(x * gate(interpolate(z)) + shortcut). z (N, C or 1, h, w), by scale_factor, or to x's size if 0."""
    size = dict(scale_factor=scale_factor) if scale_factor else dict(size=x.shape[2:])
    corners = align_corners if resize == "bilinear" else None
    g = activate(gate, F.interpolate(z, mode=resize, align_corners=corners, **size))
    y = activate(out_act, x * g if shortcut is None else x * g + shortcut)
    return (y, g) if return_map else y


@in_full_precision
def gate_blend(a: Tensor, b: Tensor, z: Tensor, *, gate: str | Spec = "sigmoid", return_map: bool = False):
    """y = g * a + (1 - g) * b, g = gate(z). z, and the map, of the maps' shape or 1 along any axes."""
    g = activate(gate, z)
    y = g * a + (1 - g) * b
    return (y, g) if return_map else y


@in_full_precision
def radix_blend(x: Tensor, z: Tensor, *, return_map: bool = False):
    """y = sum over r of a_r * x_r, a = softmax over r of z, of one branch sigmoid(z). x (N, R C, *S), z (N, R, C)."""
    a = torch.softmax(z, 1) if z.shape[1] > 1 else torch.sigmoid(z)
    shares = a.reshape(*a.shape[:3], *[1] * (x.dim() - 2))
    y = (x.unflatten(1, a.shape[1:3]) * shares).sum(1)
    return (y, a.reshape(*x.shape[:2])) if return_map else y
