"""The layers of a channel's gate as modules, a batch norm behind the first of them or not."""

from torch import Tensor, nn

from .. import functional as F
from ..reference.activations import activate
from ._children import (
    apply_gate,
    as_it_is,
    call,
    gains_of,
    is_plain,
    rows_of_pools,
    sum_of_pools,
    update_all,
    uses_batch,
    weights_of,
)

Layers = tuple[nn.Module | None, ...]  # the first, its norm, the second, its norm


def run_layers(
    x: Tensor, layers: Layers, source: Tensor | None, shortcut: Tensor | None, options: dict, backend, return_map: bool
):
    """`functional.squeeze_excite` of these layers, the running statistics of a norm folded into the layer before; of
    norms in training `squeeze_excite_norm` or `squeeze_excite_norms`, which move them; the layers themselves where
    somebody hooks one."""
    first, norm, second, last_norm = layers
    norms = [m for m in (norm, last_norm) if m is not None]
    if not is_plain(*(m for m in layers if m is not None)) or (norms and not x.shape[0]):
        return _as_children(x, layers, source, shortcut, options, return_map)
    how, maps = dict(options, backend=backend, return_map=return_map), (source, shortcut)
    weights, last = weights_of(first, norm), (None, None) if second is None else weights_of(second, last_norm)
    moved = [m for m in norms if uses_batch(m)]
    if not moved:
        return F.squeeze_excite(x, *weights, *last, *maps, **how)
    if last_norm in moved:
        norm1 = gains_of(norm, x) if norm in moved else (None, None)
        eps = dict(eps1=norm.eps if norm in moved else last_norm.eps, eps2=last_norm.eps)
        tensors = *weights, *norm1, *last, *gains_of(last_norm, x), *maps
        *outputs, stats = F.squeeze_excite_norms(x, *tensors, **how, **eps, return_stats=True)
    else:
        tensors = *weights, *gains_of(norm, x), *last, *maps
        *outputs, stats = F.squeeze_excite_norm(x, *tensors, **how, eps=norm.eps, return_stats=True)
    update_all(moved, stats, x.shape[0])
    return tuple(outputs) if return_map else outputs[0]


def _as_children(x: Tensor, layers: Layers, source, shortcut, options: dict, return_map: bool):
    first, norm, second, last_norm = layers
    pool, given = options["pool"], x if source is None else source
    z = call(first, as_it_is(rows_of_pools, given, pool, options["ties"]))
    z = z if norm is None else call(norm, z)
    z = z if second is None else call(second, activate(options["act"], z))
    z = z if last_norm is None else call(last_norm, z)
    y, g = apply_gate(options["gate"], x, sum_of_pools(z, x, pool), True)
    y = activate(options.get("out_act", "identity"), y if shortcut is None else y + shortcut)
    return (y, g) if return_map else y
