"""Channels weighted, or shifted, by what the whole image holds where it attends to."""

import torch
from torch import Tensor

from ._pixels import pixels
from ._precision import in_full_precision
from .activations import Spec, activate
from .channel import linear, per_channel


@in_full_precision
def global_context(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    w1: Tensor,
    b1: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor | None,
    w2: Tensor,
    b2: Tensor | None = None,
    *,
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    eps: float = 1e-6,
    return_map: bool = False,
):
    """y = x * gate(w2 act(layer_norm(w1 v + b1)) + b2), v = sum_p a_p x_p, a the softmax over the pixels of <w, x_p>.

    map (N, C): the gate. bias, the same for all pixels, counts for nothing.
    """
    g = activate(gate, _logits(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2, act, eps))
    y = x * per_channel(g, x)
    return (y, g) if return_map else y


@in_full_precision
def global_context_add(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    w1: Tensor,
    b1: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor | None,
    w2: Tensor,
    b2: Tensor | None = None,
    *,
    act: str | Spec = "relu",
    eps: float = 1e-6,
    return_map: bool = False,
):
    """y = x + w2 act(layer_norm(w1 v + b1)) + b2, v as of `global_context`. map (N, C): what is added."""
    z = _logits(x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2, act, eps)
    y = x + per_channel(z, x)
    return (y, z) if return_map else y


def _logits(x: Tensor, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2, act: str | Spec, eps: float) -> Tensor:
    v = pixels().attended(x, weight.flatten())
    if bias is not None:  # a gradient of zeros; where it is not finite, nothing is
        v = torch.where(torch.zeros_like(v, dtype=torch.bool), bias, v + (bias - bias).detach())
    return linear(activate(act, _layer_norm(linear(v, w1, b1), ln_weight, ln_bias, eps)), w2, b2)


def _layer_norm(h: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """With the arithmetic of h, as `moments`: of one value the gradient is zero, not a rounding error."""
    d = h - h.mean(1, keepdim=True)
    u = d * torch.rsqrt(d.square().mean(1, keepdim=True) + eps) * weight
    return u if bias is None else u + bias
