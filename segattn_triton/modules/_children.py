"""Using a child's parameters is calling it, as long as nobody has changed what a call does."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..reference.activations import Spec, activate
from ..reference.channel import pools

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}  # by the number of spatial axes
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_PLAIN = (nn.Linear, nn.LayerNorm, *CONVOLUTIONS.values(), *BATCH_NORMS.values())


def is_plain(*children: nn.Module) -> bool:
    """No hooks, no parametrization, no subclass: using the children's parameters is the same as calling them."""
    return all(type(m) in _PLAIN and is_untouched(m) for m in children)


def is_untouched(m: nn.Module) -> bool:
    """No hooks, and no forward of its own."""
    hooks = m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
    return not hooks and "forward" not in vars(m)


def call(child: nn.Module, x: Tensor) -> Tensor:
    """The child, hooks and all, in its own dtype."""
    casts = not x.is_meta and torch.is_autocast_enabled(x.device.type)
    return child(x if casts else x.to(next(child.parameters(), x).dtype))


def as_it_is(of: Callable[..., Any], x: Tensor, *args: Any) -> Any:
    """`of` of x without autocast, which concatenates no float16 where it computes in bfloat16."""
    with contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
        return of(x, *args)


def rows_of_pools(x: Tensor, pool: str, ties: str) -> Tensor:
    """(pools * N, C, 1, 1): what the layers of a perceptron are called with."""
    return torch.cat(pools(x, pool, ties))[:, :, None, None]


def sum_of_pools(z: Tensor, x: Tensor, pool: str) -> Tensor:
    """(N, C) of what the layers made of `rows_of_pools`."""
    return sum(z.flatten(1).split([x.shape[0]] * len(pool.split("+"))))


def apply_gate(gate: str | Spec, x: Tensor, z: Tensor, return_map: bool):
    """x * gate(z) in plain torch, z (N, C or 1, ...), in x's dtype."""
    g = activate(gate, z)
    y = (x * g.reshape(*g.shape, *[1] * (x.dim() - g.dim()))).to(x.dtype)
    return (y, g.to(x.dtype)) if return_map else y


def uses_batch(bn: nn.Module) -> bool:
    """Whether a batch norm normalises by the statistics of the batch."""
    return bn.training or bn.running_mean is None


def update(bn: nn.Module, stats: Tensor, count: int) -> None:
    """The running statistics as bn itself moves them, by the means and biased variances of `count` values a channel:
    with the unbiased variance, or as averages without momentum."""
    if not (bn.training and bn.track_running_stats):
        return
    bn.num_batches_tracked.add_(1)
    mean, var = stats.detach().to(bn.running_mean.dtype).chunk(2)  # under no_grad torch.export.load refuses a file
    weight = 1.0 / bn.num_batches_tracked.to(mean.dtype) if bn.momentum is None else bn.momentum
    bn.running_mean.lerp_(mean, weight)
    bn.running_var.lerp_(var + var / (count - 1), weight)  # a quotient of sizes alone no exported file can hold


def update_all(norms: Sequence[nn.Module], stats: Tensor, count: int) -> None:
    """Those of several norms, whose statistics follow one another."""
    for bn, part in zip(norms, stats.split([2 * bn.num_features for bn in norms]), strict=True):
        update(bn, part, count)


def gains_of(bn: nn.Module, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a norm of the batch multiplies by, and adds."""
    return like.new_ones(bn.num_features) if bn.weight is None else bn.weight, bn.bias


def weights_of(layer: nn.Module, bn: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """Of a layer, the norm behind it, if there is one, by its running statistics; one of the batch left out."""
    return (layer.weight, layer.bias) if bn is None or uses_batch(bn) else folded(layer, bn)


def folded(conv: nn.Module, bn: nn.Module) -> tuple[Tensor, Tensor]:
    """The weight and bias of bn(conv(x)) by the running statistics, in at least float32."""
    wide = torch.promote_types(conv.weight.dtype, torch.float32)
    weight, bias, mean, var, gain, shift = (
        None if t is None else t.to(wide)
        for t in (conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    scale = torch.rsqrt(var + bn.eps)
    scale = scale if gain is None else gain * scale
    bias = (-mean if bias is None else bias - mean) * scale
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), bias if shift is None else bias + shift
