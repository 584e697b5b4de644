"""Gates of every pixel. What all functions share is in `__init__`."""

from torch import Tensor

from ..reference.activations import Spec
from ..runtime import checks as check
from ..runtime.dispatch import implementation, recalled
from .values import TIES


@recalled
def spatial_gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gate: str | Spec = "sigmoid",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(<weight, x_p> + bias) at every pixel p.

    x (N, C, *spatial); weight (1, C), any trailing ones; bias (1,); map (N, 1, *spatial).
    Source: sSE of Roy et al. 2018, arXiv:1803.02579.
    """
    check.feature_map(x)
    check.parameter("weight", weight, x, (1, x.shape[1]), trailing_ones=True)
    if bias is not None:
        check.parameter("bias", bias, x, (1,))
    run = implementation("spatial_gate", backend, x)
    return run(x, weight, bias, gate=check.gate(gate), return_map=return_map)


@recalled
def spatial_pool_gate(
    x: Tensor,
    *,
    pool: str = "mean",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(pool of x_p over the channels) at every pixel p; no parameters.

    x (N, C, *spatial); pool "mean", "max", or "meanmax", half the sum of both; map (N, 1, *spatial).
    Source: the pooling of CBAM's spatial attention, Woo et al. 2018, arXiv:1807.06521, without its convolution.
    """
    check.feature_map(x)
    check.choice("pool", pool, ("mean", "max", "meanmax"))
    check.choice("ties", ties, TIES)
    run = implementation("spatial_pool_gate", backend, x)
    return run(x, pool=pool, gate=check.gate(gate), ties=ties, return_map=return_map)
