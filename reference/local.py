"""One weight per value, from its surroundings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._precision import in_full_precision, rounding_point
from .activations import Spec, activate


@in_full_precision
def local_gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    gate: str | Spec = "sigmoid",
    dilation: int = 1,
    return_map: bool = False,
):
    """y = x * gate(conv(x) + bias) of the same pixels. weight (C, C, 3, 3), or depthwise (C, 1, K, K) of odd K, its
    taps `dilation` pixels apart. map (N, C, H, W)."""
    window = dict(padding=dilation * (weight.shape[2] // 2), dilation=dilation, groups=x.shape[1] // weight.shape[1])
    w = rounding_point("conv_weight", weight)
    z = rounding_point("z", F.conv2d(rounding_point("conv_x", x), w, **window))
    g = activate(gate, z if bias is None else z + bias.reshape(-1, 1, 1))
    y = rounding_point("gate_x", x) * g
    return (y, g) if return_map else y


@in_full_precision
def local_pool_gate(
    x: Tensor,
    *,
    pool: str = "avg",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    return_map: bool = False,
):
    """y = x * gate(pool of the 3x3 neighbours inside the image). pool: avg or max. map (N, C, H, W)."""
    if pool == "avg":
        # padded apart: torch's gradient of a padded mean is wrong for channels_last on CUDA (pytorch/pytorch#188344)
        total = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=1, divisor_override=1)
        z = total / F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), (1, 1, 1, 1)), 3, stride=1, divisor_override=1)
    elif ties == "first":
        z = F.max_pool2d(x, 3, stride=1, padding=1)
    else:
        H, W = x.shape[2:]
        padded = F.pad(x, (1, 1, 1, 1), value=float("-inf"))
        z = torch.stack([padded[..., i : i + H, j : j + W] for i in range(3) for j in range(3)]).amax(0)
    g = activate(gate, z)
    return (x * g, g) if return_map else x * g
