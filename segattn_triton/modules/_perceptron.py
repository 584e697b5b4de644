"""The layers of a channel's gate as modules, a batch norm behind the first of them or not."""

from torch import Tensor, nn

from .. import functional as F
from ..reference.activations import activate
from ._children import (
    apply_gate,
    as_it_is,
    call,
    folded,
    is_plain,
    rows_of_pools,
    sum_of_pools,
    update,
    uses_batch,
)

Layers = tuple[nn.Module, nn.Module | None, nn.Module | None]  # the first, its norm, the second


def run_layers(
    x: Tensor, layers: Layers, source: Tensor | None, shortcut: Tensor | None, options: dict, backend, return_map: bool
):
    """`functional.squeeze_excite` of these layers, the running statistics of a norm folded into the first; of one in
    training `squeeze_excite_norm`, which moves them; the layers themselves where somebody hooks one."""
    first, norm, second = layers
    if not is_plain(*(m for m in layers if m is not None)) or (norm is not None and not x.shape[0]):
        return _as_children(x, layers, source, shortcut, options, return_map)
    last = (None, None) if second is None else (second.weight, second.bias)
    how = dict(options, backend=backend, return_map=return_map)
    if norm is None or not uses_batch(norm):
        weights = (first.weight, first.bias) if norm is None else folded(first, norm)
        return F.squeeze_excite(x, *weights, *last, source, shortcut, **how)
    weight = x.new_ones(len(first.weight)) if norm.weight is None else norm.weight
    tensors = first.weight, first.bias, weight, norm.bias, *last, source, shortcut
    *outputs, stats = F.squeeze_excite_norm(x, *tensors, **how, eps=norm.eps, return_stats=True)
    update(norm, stats, x.shape[0])
    return tuple(outputs) if return_map else outputs[0]


def _as_children(x: Tensor, layers: Layers, source, shortcut, options: dict, return_map: bool):
    first, norm, second = layers
    pool, given = options["pool"], x if source is None else source
    z = call(first, as_it_is(rows_of_pools, given, pool, options["ties"]))
    z = z if norm is None else call(norm, z)
    z = z if second is None else call(second, activate(options["act"], z))
    y, g = apply_gate(options["gate"], x, sum_of_pools(z, x, pool), True)
    y = activate(options.get("out_act", "identity"), y if shortcut is None else y + shortcut)
    return (y, g) if return_map else y
