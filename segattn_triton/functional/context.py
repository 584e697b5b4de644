"""Channels weighted, or shifted, by what the image holds where it attends to. What all share is in `__init__`."""

from torch import Tensor

from ..reference.activations import Spec
from ..runtime import checks as check
from ..runtime import gate_checks
from ..runtime.dispatch import implementation, recalled


@recalled
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
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(w2 act(layer_norm(w1 v + b1)) + b2), v = sum_p a_p x_p, a the softmax over all pixels of <w, x_p>.

    x (N, C, *spatial); weight (1, C), bias (1,), which counts for nothing and has a gradient of zero; w1 (Cr, C),
    b1 (Cr,), ln_weight and ln_bias (Cr,) of the norm over the hidden channels of an image, w2 (C, Cr), b2 (C,), the
    weights with any trailing ones. act: relu, silu, hardswish, leaky_relu, gelu, identity. map (N, C): the gate. 3
    passes over the map forward, 5 backward; the softmax is online, and its logits are not kept.
    Source: GCNet, Cao et al. 2019, arXiv:1904.11492.
    """
    tensors = x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2
    _check(*tensors, eps)
    run = implementation("global_context", backend, x)
    return run(*tensors, act=check.act(act), gate=check.gate(gate), eps=float(eps), return_map=return_map)


@recalled
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
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x + w2 act(layer_norm(w1 v + b1)) + b2: what `global_context` makes of the image is added to every pixel.

    Tensors as of `global_context`; map (N, C): what is added. 3 passes over the map forward, 4 backward.
    Source: GCNet, Cao et al. 2019, arXiv:1904.11492.
    """
    tensors = x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2
    _check(*tensors, eps)
    run = implementation("global_context_add", backend, x)
    return run(*tensors, act=check.act(act), eps=float(eps), return_map=return_map)


def _check(x: Tensor, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2, eps) -> None:
    check.feature_map(x)
    check.parameter("weight", weight, x, (1, x.shape[1]), trailing_ones=True)
    check.tensor("w2", w2)
    gate_checks.perceptron(x, w1, b1, w2, b2, x)
    for name, t, size in (("bias", bias, 1), ("ln_weight", ln_weight, len(w1)), ("ln_bias", ln_bias, len(w1))):
        if t is not None or name == "ln_weight":
            check.parameter(name, t, x, (size,))
    check.epsilon(eps)
