"""scSE: a gate of every channel and one of every pixel, side by side. What all functions share is in `__init__`."""

from torch import Tensor

from ..reference.activations import Spec
from ..runtime import checks as check
from ..runtime import gate_checks
from ..runtime.dispatch import implementation, recalled


@recalled
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
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(w2 act(w1 mean(x) + b1) + b2) + x * gate(<weight, x_p> + bias); with reduce="max", the larger.

    x (N, C, *spatial); w1 (Cr, C), b1 (Cr,), w2 (C, Cr), b2 (C,) of the gate of the channels, weight (1, C), bias (1,)
    of that of the pixels, the weights with any trailing ones. map (N, 1, *spatial): the gate of the pixels.
    Of two that are equal the gradient is halved, as by torch.maximum.
    Source: Roy et al. 2018, arXiv:1803.02579, with the maximum; the sum is that of segmentation_models_pytorch.
    """
    check.feature_map(x)
    check.tensor("w2", w2)
    gate_checks.perceptron(x, w1, b1, w2, b2, x)
    check.parameter("weight", weight, x, (1, x.shape[1]), trailing_ones=True)
    if bias is not None:
        check.parameter("bias", bias, x, (1,))
    check.choice("reduce", reduce, ("sum", "max"))
    run = implementation("scse", backend, x)
    acts = dict(act=check.act(act), gate=check.gate(gate))
    return run(x, w1, b1, w2, b2, weight, bias, **acts, reduce=reduce, return_map=return_map)
