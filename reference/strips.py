"""One weight per row and per column of every channel, from logits that are given, and the means they may come from."""

import torch
from torch import Tensor

from ._precision import in_full_precision
from .activations import Spec, activate
from .channel import asked, linear, norm_over_images


@in_full_precision
def strip_means(x: Tensor):
    """(N, C, H, 1) and (N, C, 1, W) of x (N, C, H, W): the mean of every row, and of every column."""
    return x.mean(3, keepdim=True), x.mean(2, keepdim=True)


@in_full_precision
def strip_gate(
    x: Tensor,
    z_h: Tensor,
    z_w: Tensor,
    *,
    combine: str = "product",
    gate: str | Spec = "sigmoid",
    return_map: bool = False,
):
    """y = x * g, g = gate(z_h) * gate(z_w), or gate(z_h + z_w) with combine="sum". map (N, C, H, W): g."""
    g = of_strips(z_h, z_w, combine, gate)
    y = x * g
    return (y, g) if return_map else y


@in_full_precision
def coordinate_attention(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w_h: Tensor,
    b_h: Tensor | None,
    w_w: Tensor,
    b_w: Tensor | None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    combine: str = "product",
    act: str | Spec = "hardswish",
    gate: str | Spec = "sigmoid",
    eps: float = 1e-5,
    return_map: bool = False,
    return_stats: bool = False,
):
    """y = x * g, g = gate(z_h) * gate(z_w) or gate(z_h + z_w), z of act(norm(w1 v + b1)), v the means of the strips.

    map (N, C, H, W): g.
    """
    H, stats = x.shape[2], x.new_empty((0,))
    strips = torch.cat([x.mean(3), x.mean(2)], 2).transpose(1, 2)  # [N, H + W, C]
    h = linear(strips, w1, b1 if norm_weight is None else None)
    if norm_weight is not None:
        u, stats = norm_over_images(h.flatten(0, 1), b1, norm_weight, norm_bias, eps)
        h = u.reshape(h.shape)
    a = activate(act, h)
    z_h, z_w = linear(a[:, :H], w_h, b_h), linear(a[:, H:], w_w, b_w)
    g = of_strips(z_h.transpose(1, 2)[:, :, :, None], z_w.transpose(1, 2)[:, :, None], combine, gate)
    return asked(x * g, g, stats, return_map, return_stats)


def of_strips(z_h: Tensor, z_w: Tensor, combine: str, gate: str | Spec) -> Tensor:
    """(N, C, H, W) of z_h (N, C, H, 1) and z_w (N, C, 1, W)."""
    return activate(gate, z_h) * activate(gate, z_w) if combine == "product" else activate(gate, z_h + z_w)
