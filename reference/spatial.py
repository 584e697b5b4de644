"""One weight per pixel."""

from torch import Tensor

from ._precision import in_full_precision
from .activations import Spec, activate


@in_full_precision
def spatial_gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gate: str | Spec = "sigmoid",
    return_map: bool = False,
):
    """y = x * gate(<weight, x_p> + bias) at every pixel p. x (N, C, *S), weight (1, C, ...), map (N, 1, *S)."""
    w = weight.reshape(-1, *[1] * (x.dim() - 2))  # [C, 1, ...]
    z = (x * w).sum(1, keepdim=True)
    g = activate(gate, z if bias is None else z + bias)
    return (x * g, g) if return_map else x * g


@in_full_precision
def spatial_pool_gate(
    x: Tensor,
    *,
    pool: str = "mean",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    return_map: bool = False,
):
    """y = x * gate(pool over channels). pool: mean, max, or meanmax, half the sum of both. map (N, 1, *S)."""
    peak = x.amax(1, keepdim=True) if ties == "split" else x.max(1, keepdim=True).values
    mean = x.mean(1, keepdim=True)
    z = {"mean": mean, "max": peak, "meanmax": 0.5 * (mean + peak)}[pool]
    g = activate(gate, z)
    return (x * g, g) if return_map else x * g
