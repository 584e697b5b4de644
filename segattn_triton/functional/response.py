"""Channels scaled by how strong they are beside the others. What all functions share is in `__init__`."""

from torch import Tensor

from ..runtime import checks as check
from ..runtime.dispatch import implementation, recalled


@recalled
def global_response_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-6,
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x + weight * (x * r) + bias, r_c = norm_c / (mean of the channels' norms + eps), norm the 2-norm over pixels.

    x (N, C, *spatial); weight and bias (C,); map (N, C): r. Sums of squares are float32 (float64 of float64), so that
    float16 maps do not overflow; the gradient of a norm of 0 is 0. 3 passes over the map forward, 5 backward.
    Source: GRN of ConvNeXt V2, Woo et al. 2023, arXiv:2301.00808. A map (N, H, W, C) of it is passed as
    x.permute(0, 3, 1, 2), which copies nothing.
    """
    check.feature_map(x)
    check.parameter("weight", weight, x, (x.shape[1],))
    if bias is not None:
        check.parameter("bias", bias, x, (x.shape[1],))
    check.epsilon(eps)
    run = implementation("global_response_norm", backend, x)
    return run(x, weight, bias, eps=float(eps), return_map=return_map)
