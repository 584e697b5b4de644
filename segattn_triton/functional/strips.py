"""Gates of rows and of columns, and the means they may come from. What all functions share is in `__init__`."""

from torch import Tensor

from ..reference.activations import Spec
from ..runtime import checks as check
from ..runtime import gate_checks
from ..runtime.dispatch import implementation, recalled
from .values import COMBINES


@recalled
def strip_means(x: Tensor, *, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """v_h = mean of x over W, v_w = mean of x over H: what each row, and each column, of every channel holds.

    x (N, C, H, W); v_h (N, C, H, 1), v_w (N, C, 1, W), contiguous. Sums in float32 (float64 of float64). Both in one
    read of the map; backward one pass. With layers between, `strip_gate` makes a gate of them.
    Source: the pools of coordinate attention, Hou et al. 2021, arXiv:2103.02907.
    """
    check.feature_map(x, (2,))
    return implementation("strip_means", backend, x)(x)


@recalled
def strip_gate(
    x: Tensor,
    z_h: Tensor,
    z_w: Tensor,
    *,
    combine: str = "product",
    gate: str | Spec = "sigmoid",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(z_h) * gate(z_w) with combine="product", y = x * gate(z_h + z_w) with combine="sum".

    x (N, C, H, W); z_h (N, C, H, 1), a logit for every row of a channel, z_w (N, C, 1, W), one for every column; each
    in its own memory order. map (N, C, H, W): the gate. 2 passes over the map forward, 3 backward: all gradients of one
    read, without atomics.
    Source: coordinate attention, Hou et al. 2021, arXiv:2103.02907; the sum is timm's SimpleCoordAttn and StripAttn.
    """
    check.feature_map(x, (2,))
    (N, C, H, W) = x.shape
    check.second_map("z_h", z_h, x, (N, C, H, 1))
    check.second_map("z_w", z_w, x, (N, C, 1, W))
    check.choice("combine", combine, COMBINES)
    run = implementation("strip_gate", backend, x)
    return run(x, z_h, z_w, combine=combine, gate=check.gate(gate), return_map=return_map)


@recalled
def coordinate_attention(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w_h: Tensor,
    b_h: Tensor | None,
    w_w: Tensor,
    b_w: Tensor | None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    combine: str = "product",
    act: str | Spec = "hardswish",
    gate: str | Spec = "sigmoid",
    eps: float = 1e-5,
    backend: str | None = None,
    return_map: bool = False,
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """y = x * gate(w_h a_h + b_h) * gate(w_w a_w + b_w), a = act(w1 v + b1) of v_h, v_w, the means of rows and columns.

    x (N, C, H, W); w1 (Cr, C), b1 (Cr,), w_h and w_w (C, Cr), b_h and b_w (C,), the weights with any trailing ones. A
    batch norm of the first layer can be folded into it. With norm_weight (Cr,) that layer is normalised by its mean and
    variance over the batch, rows and columns together, times norm_weight plus norm_bias (Cr,), as a BatchNorm2d in
    training; return_stats=True returns these last, (2 Cr,), means and biased variances, in float32 or wider, without a
    gradient; b1 moves the mean alone, and its gradient is zero. combine="sum": y = x * gate(z_h + z_w) of both logits,
    as timm's SimpleCoordAttn. act: relu, silu, hardswish, leaky_relu, gelu, identity. map (N, C, H, W): what x is
    multiplied by. 3 passes over the map forward, 4 backward, without atomics; what is between is (H + W) / (H W) of it,
    computed in float32 by torch.
    Source: Hou et al. 2021, arXiv:2103.02907.
    """
    check.feature_map(x, (2,))
    gate_checks.coordinate(x, w1, b1, w_h, b_h, w_w, b_w)
    if norm_weight is None:
        gate_checks.no_norm(norm_bias, eps, return_stats)
    else:
        gate_checks.batch_norm(norm_weight, norm_bias, eps, x, (x.shape[0], len(w1), sum(x.shape[2:])))
    check.choice("combine", combine, COMBINES)
    run = implementation("coordinate_attention", backend, x)
    how = dict(combine=combine, act=check.act(act), gate=check.gate(gate), eps=float(eps), return_map=return_map)
    return run(x, w1, b1, w_h, b_h, w_w, b_w, norm_weight, norm_bias, **how, return_stats=return_stats)
