"""Values scaled by how strong their channel is, or how far they lie from its mean. What all share is in `__init__`."""

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


@recalled
def simam(
    x: Tensor, *, eps: float = 1e-4, backend: str | None = None, return_map: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * g, g = sigmoid(d^2 / (4 (var + eps)) + 1/2), d = x - mean, var = sum of d^2 / (P - 1), over P pixels.

    x (N, C, *spatial); mean and var are of a channel of an image; eps is the paper's lambda; map (N, C, *spatial): g.
    No parameters. Of maps with one pixel var is 0 / 0 and y is NaN, as the authors' code has it. 3 passes over the map
    forward, 5 backward; moments are float32 (float64 of float64), and squares are about the mean, so nothing cancels.
    Source: SimAM, Yang et al. 2021, proceedings.mlr.press/v139/yang21o.
    """
    check.feature_map(x)
    check.epsilon(eps)
    run = implementation("simam", backend, x)
    return run(x, eps=float(eps), return_map=return_map)
