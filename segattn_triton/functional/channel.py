"""Gates of every channel. What all functions share is in `__init__`."""

from torch import Tensor

from ..reference.activations import OUT_ACTS, Spec
from ..runtime import checks as check
from ..runtime import gate_checks
from ..runtime.dispatch import implementation, recalled
from .values import POOLS, TIES


def channel_gate(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None = None,
    w2: Tensor | None = None,
    b2: Tensor | None = None,
    *,
    pool: str = "avg",
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    ties: str = "first",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(w2 act(w1 pool(x) + b1) + b2) for every channel; with w2=None, y = x * gate(w1 pool(x) + b1).

    x (N, C, *spatial); w1 (Cr, C), b1 (Cr,), w2 (C, Cr), b2 (C,), the weights with any trailing ones; without w2,
    w1 (C, C) and b1 (C,). pool over the pixels: "avg", "max", or "avgmax", half the sum of both; "avg+max" adds what
    the layers make of the mean to what they make of the maximum: see `cbam_channel_gate`. act: relu, silu, hardswish,
    leaky_relu, gelu, identity. map (N, C).
    Source: Hu et al. 2018, arXiv:1709.01507.
    """
    options = dict(pool=pool, act=act, gate=gate, ties=ties, backend=backend, return_map=return_map)
    return squeeze_excite(x, w1, b1, w2, b2, **options)


@recalled
def squeeze_excite(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None = None,
    w2: Tensor | None = None,
    b2: Tensor | None = None,
    source: Tensor | None = None,
    shortcut: Tensor | None = None,
    *,
    pool: str = "avg",
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    out_act: str = "identity",
    ties: str = "first",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = out_act(x * gate(w2 act(w1 pool(source) + b1) + b2) + shortcut); with w2=None, gate(w1 pool(source) + b1).

    x (N, C, *spatial); source (N, Cs, *any), x itself without it; shortcut as x, in any memory order: copied once if
    it is not x's. w1 (Cr, Cs), b1 (Cr,), w2 (C, Cr), b2 (C,), the weights with any trailing ones; without w2, w1
    (C, Cs) and b1 (C,). pool and act as in `channel_gate`; out_act: identity, relu. map (N, C).
    With a shortcut and relu this is the end of an SE-ResNet block; with a source and a shortcut, PAN's attention.
    Source: Hu et al. 2018, arXiv:1709.01507; Li et al. 2018, arXiv:1805.10180.
    """
    check.feature_map(x)
    if source is not None:
        check.second_map("source", source, x)
    if shortcut is not None:
        check.second_map("shortcut", shortcut, x, tuple(x.shape))
    gate_checks.perceptron(x, w1, b1, w2, b2, x if source is None else source)
    check.choice("pool", pool, POOLS)
    check.choice("out_act", out_act, OUT_ACTS)
    check.choice("ties", ties, TIES)
    run = implementation("squeeze_excite", backend, x)
    acts = dict(act=check.act(act), gate=check.gate(gate), out_act=out_act)
    return run(x, w1, b1, w2, b2, source, shortcut, pool=pool, **acts, ties=ties, return_map=return_map)


@recalled
def squeeze_excite_norm(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor | None = None,
    w2: Tensor | None = None,
    b2: Tensor | None = None,
    source: Tensor | None = None,
    shortcut: Tensor | None = None,
    *,
    pool: str = "avg",
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    out_act: str = "identity",
    ties: str = "first",
    eps: float = 1e-5,
    backend: str | None = None,
    return_map: bool = False,
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """y = out_act(x * gate(w2 act(norm(w1 pool(source) + b1)) + b2) + shortcut); with w2=None, gate(norm(...)).

    x (N, C, *spatial), and the rest as of `squeeze_excite`, with a batch norm in training behind the first layer:
    every row of w1 pool(source) + b1 less its mean over the images of the batch, over sqrt(variance + eps), times
    norm_weight plus norm_bias, all (Cr,); without w2, (C,). More than one image; pool: "avg", "max" or "avgmax".
    return_stats=True returns the means and the biased variances last, (2 Cr,), in float32 or wider, without a gradient:
    what running statistics are made of. b1 moves the means alone, and its gradient is zero. With running statistics the
    norm folds into w1 and b1 of `squeeze_excite`: see `EffectiveSE` and `SqueezeExcite`.
    Source: Yu et al. 2018, arXiv:1808.00897 (BiSeNet's ARM; with x as the shortcut its FFM); Han et al. 2021,
    arXiv:2007.00992 (ReXNet).
    """
    check.feature_map(x)
    if source is not None:
        check.second_map("source", source, x)
    if shortcut is not None:
        check.second_map("shortcut", shortcut, x, tuple(x.shape))
    gate_checks.perceptron(x, w1, b1, w2, b2, x if source is None else source)
    gate_checks.batch_norm(norm_weight, norm_bias, eps, x, (x.shape[0], w1.shape[0], 1, 1))
    check.choice("pool", pool, POOLS[:3])
    check.choice("out_act", out_act, OUT_ACTS)
    check.choice("ties", ties, TIES)
    run = implementation("squeeze_excite_norm", backend, x)
    how = dict(pool=pool, act=check.act(act), gate=check.gate(gate), out_act=out_act, ties=ties, eps=float(eps))
    tensors = x, w1, b1, norm_weight, norm_bias, w2, b2, source, shortcut
    return run(*tensors, **how, return_map=return_map, return_stats=return_stats)


@recalled
def squeeze_excite_norms(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    norm_weight1: Tensor | None,
    norm_bias1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    norm_weight2: Tensor,
    norm_bias2: Tensor | None = None,
    source: Tensor | None = None,
    shortcut: Tensor | None = None,
    *,
    pool: str = "avg",
    act: str | Spec = "relu",
    gate: str | Spec = "sigmoid",
    out_act: str = "identity",
    ties: str = "first",
    eps1: float = 1e-5,
    eps2: float = 1e-5,
    backend: str | None = None,
    return_map: bool = False,
    return_stats: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """y = out_act(x * gate(norm2(w2 act(norm1(w1 pool(source) + b1)) + b2)) + shortcut); norm_weight1=None: no norm1.

    x (N, C, *spatial), and the rest as of `squeeze_excite_norm`, with a batch norm in training behind the second layer,
    norm_weight2 and norm_bias2 (C,), and behind the first, norm_weight1 and norm_bias1 (Cr,), or there none.
    return_stats=True returns norm1's means and biased variances, if it is there, then norm2's, (2 Cr + 2 C,) or (2 C,).
    The bias before a norm moves its means alone, and its gradient is zero. See `SqueezeExcite`.
    Source: Yu et al. 2021, arXiv:2104.06403 (Lite-HRNet).
    """
    check.feature_map(x)
    if source is not None:
        check.second_map("source", source, x)
    if shortcut is not None:
        check.second_map("shortcut", shortcut, x, tuple(x.shape))
    check.tensor("w2", w2)
    gate_checks.perceptron(x, w1, b1, w2, b2, x if source is None else source)
    if norm_weight1 is not None:
        gate_checks.batch_norm(norm_weight1, norm_bias1, eps1, x, (x.shape[0], w1.shape[0], 1, 1), "1")
    elif norm_bias1 is not None:
        raise ValueError("norm_bias1: given without norm_weight1, expected a norm of the batch")
    gate_checks.batch_norm(norm_weight2, norm_bias2, eps2, x, (*x.shape[:2], 1, 1), "2")
    check.choice("pool", pool, POOLS[:3])
    check.choice("out_act", out_act, OUT_ACTS)
    check.choice("ties", ties, TIES)
    run = implementation("squeeze_excite_norms", backend, x)
    how = dict(pool=pool, act=check.act(act), gate=check.gate(gate), out_act=out_act, ties=ties)
    how |= dict(eps1=float(eps1), eps2=float(eps2))
    tensors = x, w1, b1, norm_weight1, norm_bias1, w2, b2, norm_weight2, norm_bias2, source, shortcut
    return run(*tensors, **how, return_map=return_map, return_stats=return_stats)


@recalled
def eca(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    circular: bool = False,
    gate: str | Spec = "sigmoid",
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y = x * gate(sum_j weight_j v_{c + j - k // 2} + bias) for every channel c, v the means over the pixels.

    x (N, C, *spatial); weight (1, 1, k), k odd; bias (1,); map (N, C). Past the first and the last channel v is zero,
    or circular: the channels of the other end, for k // 2 up to C.
    Source: Wang et al. 2020, arXiv:1910.03151.
    """
    check.feature_map(x)
    check.tensor("weight", weight)
    k = weight.shape[2] if weight.dim() == 3 and weight.shape[2] else 3
    check.parameter("weight", weight, x, (1, 1, k))
    if k % 2 == 0 or (circular and k // 2 > x.shape[1]):
        most = f" of at most {2 * x.shape[1] + 1}, for {x.shape[1]} channels in a circle" if circular else ""
        raise ValueError(f"weight: got shape {check.shape(weight)}, expected (1, 1, k) with an odd k{most}")
    if bias is not None:
        check.parameter("bias", bias, x, (1,))
    run = implementation("eca", backend, x)
    return run(x, weight, bias, circular=circular, gate=check.gate(gate), return_map=return_map)
