"""One weight per channel beside one per pixel."""

import torch
from torch import Tensor

from ._precision import in_full_precision
from .activations import Spec, activate
from .channel import linear, per_channel, pooled


@in_full_precision
def scse(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    reduce: str = "sum",
    return_map: bool = False,
):
    """y = x * gate(w2 act(w1 mean(x) + b1) + b2) + x * gate(<weight, x_p> + bias), or their maximum. map (N, 1, *S)."""
    gc = activate(gate, linear(activate(act, linear(pooled(x, "avg", "first"), w1, b1)), w2, b2))
    z = (x * weight.reshape(-1, *[1] * (x.dim() - 2))).sum(1, keepdim=True)
    gp = activate(gate, z if bias is None else z + bias)
    by_channel, by_pixel = x * per_channel(gc, x), x * gp
    y = torch.maximum(by_channel, by_pixel) if reduce == "max" else by_channel + by_pixel
    return (y, gp) if return_map else y
