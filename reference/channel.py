"""One weight per channel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._pixels import moments, pixels
from ._precision import in_full_precision
from .activations import Spec, activate


@in_full_precision
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
    return_map: bool = False,
):
    """y = out_act(x * gate(w2 act(w1 pool(source or x) + b1) + b2) + shortcut); gate(w1 pool + b1) without w2."""
    source = x if source is None else source
    g = activate(gate, sum(perceptron(v, w1, b1, w2, b2, act) for v in pools(source, pool, ties)))
    y = x * per_channel(g, x)
    y = activate(out_act, y if shortcut is None else y + shortcut)
    return (y, g) if return_map else y


@in_full_precision
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
    return_map: bool = False,
    return_stats: bool = False,
):
    """y = out_act(x * gate(w2 act(norm(w1 pool(source or x) + b1)) + b2) + shortcut); gate(norm(...)) without w2."""
    h = linear(pooled(x if source is None else source, pool, ties), w1, None)
    u, stats = norm_over_images(h, b1, norm_weight, norm_bias, eps)
    g = activate(gate, u if w2 is None else linear(activate(act, u), w2, b2))
    y = x * per_channel(g, x)
    y = activate(out_act, y if shortcut is None else y + shortcut)
    return asked(y, g, stats, return_map, return_stats)


@in_full_precision
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
    return_map: bool = False,
    return_stats: bool = False,
):
    """y = out_act(x * gate(norm2(w2 act(norm1(w1 pool(source or x) + b1)) + b2)) + shortcut)."""
    v, stats = pooled(x if source is None else source, pool, ties), []
    if norm_weight1 is None:
        u = linear(v, w1, b1)
    else:
        u, *stats = norm_over_images(linear(v, w1, None), b1, norm_weight1, norm_bias1, eps1)
    z, last = norm_over_images(linear(activate(act, u), w2, None), b2, norm_weight2, norm_bias2, eps2)
    g = activate(gate, z)
    y = x * per_channel(g, x)
    y = activate(out_act, y if shortcut is None else y + shortcut)
    return asked(y, g, torch.cat([*stats, last]), return_map, return_stats)


def norm_over_images(h: Tensor, b: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float):
    """(h + b - mean) / sqrt(var + eps) * weight + bias over the rows, and (2 R,) the means and the biased variances.

    b goes with the mean, and its gradient is zero whatever the others are: it is left out of the sums, where it would
    cost digits. Where it is not finite, nothing is.
    """
    var, mean = moments(h, (0,))
    u = (h - mean) * torch.rsqrt(var + eps) * weight
    u = u if bias is None else u + bias
    stats = torch.cat([mean if b is None else mean + b, var]).detach()
    if b is not None:
        u = with_no_gradient_to(b, u + (b - b).detach())
    return u, stats


def with_no_gradient_to(b: Tensor, u: Tensor) -> Tensor:
    """u, whose gradient to b is zero, whatever it is itself: a norm takes away what moves all values alike."""
    return torch.where(torch.zeros_like(u, dtype=torch.bool), b, u)


def asked(y: Tensor, gate_map: Tensor, stats: Tensor, return_map: bool, return_stats: bool):
    """y, and of the others those that are asked for."""
    found = [y, *([gate_map] if return_map else []), *([stats] if return_stats else [])]
    return tuple(found) if len(found) > 1 else y


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
    return_map: bool = False,
):
    """y = x * gate(w2 act(w1 pool(x) + b1) + b2), or x * gate(w1 pool(x) + b1) without w2. map (N, C)."""
    options = dict(pool=pool, act=act, gate=gate, ties=ties, return_map=return_map)
    return squeeze_excite(x, w1, b1, w2, b2, **options)


@in_full_precision
def eca(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    circular: bool = False,
    gate: str | Spec = "sigmoid",
    return_map: bool = False,
):
    """y = x * gate(conv1d of the channels' means), padded with zeros or circularly. map (N, C)."""
    C, k = x.shape[1], weight.shape[2]
    v = F.pad(pixels().mean(x)[:, None], (k // 2, k // 2), "circular" if circular else "constant")
    z = sum(v[:, 0, j : j + C] * weight[0, 0, j] for j in range(k))  # [N, C]
    g = activate(gate, z if bias is None else z + bias)
    y = x * per_channel(g, x)
    return (y, g) if return_map else y


def pools(x: Tensor, pool: str, ties: str) -> list[Tensor]:
    """What the perceptron is applied to, its results added: one pool, or the mean and the maximum."""
    return [pooled(x, each, ties) for each in pool.split("+")]


def perceptron(v: Tensor, w1: Tensor, b1, w2: Tensor | None, b2, act: str | Spec) -> Tensor:
    """Of two layers, or of one without w2."""
    z = linear(v, w1, b1)
    return z if w2 is None else linear(activate(act, z), w2, b2)


def pooled(x: Tensor, pool: str, ties: str) -> Tensor:
    """(N, C): the mean, the maximum, or half their sum over the pixels."""
    mean = None if pool == "max" else pixels().mean(x)
    peak = None if pool == "avg" else pixels().max(x, ties)
    return mean if peak is None else peak if mean is None else 0.5 * (mean + peak)


def linear(v: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    z = v @ w.flatten(1).T
    return z if b is None else z + b


def per_channel(g: Tensor, x: Tensor) -> Tensor:
    """g (N, C) beside the map x."""
    return g.reshape(*g.shape, *[1] * (x.dim() - 2))
