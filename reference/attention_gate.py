"""One weight per pixel, from the map itself and another one: the attention gate."""

from torch import Tensor

from ._precision import in_full_precision, rounding_point
from .activations import Spec, activate


@in_full_precision
def attention_gate(
    x: Tensor,
    g: Tensor,
    wx: Tensor,
    wg: Tensor,
    b: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gate: str | Spec = "sigmoid",
    return_map: bool = False,
):
    """y = x * gate(<weight, relu(wx x_p + wg g_p + b)> + bias). wx (F, C), wg (F, G), weight (1, F). map (N, 1, *S)."""
    projected = rounding_point("projected", project("wx", wx, x) + project("wg", wg, g))
    h = projected if b is None else projected + b[:, None]
    z = (h.relu() * weight.reshape(-1, 1)).sum(1, keepdim=True)
    psi = activate(gate, z if bias is None else z + bias).unflatten(2, x.shape[2:])
    return (x * psi, psi) if return_map else x * psi


def project(name: str, weight: Tensor, x: Tensor) -> Tensor:
    """A 1x1 convolution: (N, F, pixels) of a map with all its pixels in one axis."""
    return rounding_point(name, weight).flatten(1) @ x.flatten(2)
