"""Gates of every value, from its 3x3 neighbours. What all functions share is in `__init__`."""

from torch import Tensor

from ..reference.activations import Spec
from ..runtime import checks as check
from ..runtime.dispatch import implementation, recalled
from .values import TIES


@recalled
def local_gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gate: str | Spec = "sigmoid",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(conv3x3(x, padding 1) + bias) for every value.

    x (N, C, H, W); weight (C, C, 3, 3), or (C, 1, 3, 3) for a depthwise convolution; bias (C,); map (N, C, H, W).
    With C = 1 both are the same. Source: the convolution gate that segmentation tutorials call local attention.
    """
    check.feature_map(x, (2,))
    C = x.shape[1]
    check.tensor("weight", weight)
    inputs = 1 if weight.dim() == 4 and weight.shape[1] == 1 else C
    check.parameter("weight", weight, x, (C, inputs, 3, 3))
    if bias is not None:
        check.parameter("bias", bias, x, (C,))
    run = implementation("local_gate", backend, x)
    return run(x, weight, bias, gate=check.gate(gate), return_map=return_map)


@recalled
def local_pool_gate(
    x: Tensor,
    *,
    pool: str = "avg",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(pool of the 3x3 neighbours that lie inside the image) for every value; no parameters.

    x (N, C, H, W); pool "avg" (torch's count_include_pad=False) or "max"; map (N, C, H, W).
    """
    check.feature_map(x, (2,))
    check.choice("pool", pool, ("avg", "max"))
    check.choice("ties", ties, TIES)
    run = implementation("local_pool_gate", backend, x)
    return run(x, pool=pool, gate=check.gate(gate), ties=ties, return_map=return_map)
