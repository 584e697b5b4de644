"""Gates of every value, from its neighbours. What all functions share is in `__init__`."""

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
    dilation: int = 1,
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(conv(x) + bias) for every value, the convolution of the same pixels: padding dilation (K - 1) / 2.

    x (N, C, H, W); weight (C, C, 3, 3), or (C, 1, K, K) for a depthwise convolution of K = 3, 5, 7, 9 or 11, whose taps
    lie `dilation` pixels apart; bias (C,); map (N, C, H, W). With C = 1 both are the same. `gate="identity"`
    is x times its convolution; with a 1x1 convolution between, as in VAN's and SegNeXt's attention, it is `gate_mul`.
    ValueError for another window, or a dilation of a full convolution. Source: the convolution gate that segmentation
    tutorials call local attention; windows as of VAN, arXiv:2202.09741, and SegNeXt, arXiv:2209.08575.
    """
    check.feature_map(x, (2,))
    C = x.shape[1]
    check.tensor("weight", weight)
    depthwise = weight.dim() == 4 and weight.shape[1] == 1
    check.local_window(weight.shape[2] if depthwise else 3, dilation, depthwise, weight)
    check.parameter("weight", weight, x, (C, 1, *weight.shape[2:3] * 2) if depthwise else (C, C, 3, 3))
    if bias is not None:
        check.parameter("bias", bias, x, (C,))
    run = implementation("local_gate", backend, x)
    return run(x, weight, bias, gate=check.gate(gate), dilation=dilation, return_map=return_map)


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
