"""The parts of an attention gate whose layers have norms: folded by running statistics, or of the batch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...modules._children import folded, update, uses_batch
from ...reference.activations import Spec
from .parts import Parts, layer, only, part


class Layer(NamedTuple):
    """The paths of a 1x1 convolution on every pixel, and of the norm behind it."""

    conv: str
    norm: str | None


def attention_parts(m: nn.Module, x: Layer, g: Layer, psi: Layer, gate: Spec | str) -> Parts:
    """Of y = x * gate(norm(<w, relu(norm(Wg g) + norm(Wx x))>)), each norm there or not."""
    layers = [_of(m, one) for one in (x, g, psi)]
    (wx, bx), (wg, bg), (weight, bias) = (_weight_and_bias(*one) for one in layers)
    if len(weight) != 1:
        raise ValueError(f"its child {psi.conv!r} makes {len(weight)} values a pixel, expected 1")
    b = bg if bx is None else bx if bg is None else bg + bx
    tensors, dims = (wx, wg, b, weight, bias), (wx.dim() - 2,)
    norms = [norm if norm is not None and uses_batch(norm) else None for _, norm in layers]
    eps = {norm.eps for norm in norms if norm is not None}
    if not eps:
        return Parts(tensors, dict(gate=gate), dims)
    if len(eps) > 1:
        raise ValueError("the eps of its norms differ: the kernel has one for all")
    gains = [None if norm is None else _gain(norm, conv) for (conv, _), norm in zip(layers, norms, strict=True)]

    def move(x: Tensor, stats: Tensor) -> None:
        _update(layers, norms, stats, x[:, :1].numel())

    options = dict(gate=gate, eps=eps.pop())
    return Parts((*tensors, *gains), options, dims, kernel="attention_gate_norm", move=move)


def _of(m: nn.Module, one: Layer) -> tuple[nn.Module, nn.Module | None]:
    layer(m, one.conv)
    conv = part(m, one.conv)
    if {*conv.stride} != {1}:
        raise ValueError(f"its child {one.conv!r} has strides: {conv}")
    if one.norm is None:
        return conv, None
    return conv, only(m, one.norm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _weight_and_bias(conv: nn.Module, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """With the running statistics of a norm; of one of the batch what it adds, and a gradient of zeros for the bias
    before it, which counts for nothing."""
    if norm is None or not uses_batch(norm):
        return (conv.weight, conv.bias) if norm is None else folded(conv, norm)
    nothing = None if conv.bias is None else conv.bias - conv.bias
    return conv.weight, nothing if norm.bias is None else norm.bias if nothing is None else norm.bias + nothing


def _gain(norm: nn.Module, conv: nn.Module) -> Tensor:
    return conv.weight.new_ones(norm.num_features) if norm.weight is None else norm.weight


@torch.no_grad()
def _update(layers: Sequence, norms: Sequence[nn.Module | None], stats: Tensor, count: int) -> None:
    """The running statistics of the norms of the batch; the biases that the kernel left out are in the means."""
    parts = iter(stats.split([2 * norm.num_features for norm in norms if norm is not None]))
    for (conv, _), norm in zip(layers, norms, strict=True):
        if norm is not None:
            mean, var = next(parts).chunk(2)
            update(norm, torch.cat([mean if conv.bias is None else mean + conv.bias, var]), count)
