"""The parts of gates with a batch norm behind a layer: folded by running statistics, or of the batch in training."""

import itertools
from collections.abc import Sequence

from torch import nn

from ...modules._children import BATCH_NORMS, folded, gains_of, update, update_all, uses_batch
from ...reference.activations import Spec
from .parts import Parts, layer, only, part


def with_norm(product: Parts, module: nn.Module, w1: str, norm: str, gate: str | Spec) -> Parts:
    """Beside the product with the vector that a block's layers make, the whole gate, x * gate(norm(w1 pool + b1)), if
    the norm is a BatchNorm, and not one whose statistics come from other processes."""
    if type(part(module, norm)) is not nn.BatchNorm2d:
        return product
    return product._replace(more=(squeeze_excite_norm(module, [(w1, norm)], None, gate, product.dims),))


def squeeze_excite_norm(
    module: nn.Module, layers: Sequence[tuple[str, str | None]], act: Spec | None, gate: Spec | str, dims=None
) -> Parts:
    """Of y = x * gate(norm(w2 act(norm(w1 pool(x) + b1)) + b2)), of one layer or two: the places of each and of its
    norm, None where it has none, which is of the batch, or folded by running statistics. act and gate are the
    activations, not their places."""
    weights, norms = zip(*(_layer_and_norm(module, *places) for places in layers), strict=True)
    options, of_batch = dict(gate=gate) | ({} if act is None else dict(act=act)), [bn for bn in norms if bn is not None]
    dims = dims or (weights[0][0].dim() - 2,)
    if not of_batch:
        return Parts(tuple(itertools.chain(*weights)), options, dims)
    gains = [(None, None) if bn is None else gains_of(bn, w) for (w, _), bn in zip(weights, norms, strict=True)]
    how = dict(move=lambda x, stats: update_all(of_batch, stats, len(x)))
    if norms[1:] in ((), (None,)):
        tensors = *weights[0], *gains[0], *itertools.chain(*weights[1:])
        return Parts(tensors, {**options, "eps": norms[0].eps}, dims, kernel="squeeze_excite_norm", **how)
    tensors, eps = (*weights[0], *gains[0], *weights[1], *gains[1]), dict(eps1=of_batch[0].eps, eps2=norms[1].eps)
    return Parts(tensors, {**options, **eps}, dims, kernel="squeeze_excite_norms", **how)


def _layer_and_norm(module: nn.Module, path: str, norm: str | None):
    """(weight, bias), with the norm folded into them; and the norm, if it is of the batch."""
    weights, bn = layer(module, path), None if norm is None else only(module, norm, *BATCH_NORMS.values())
    if bn is None or uses_batch(bn):
        return weights, bn
    return folded(part(module, path), bn), None


def of_pixels(parts: Parts, bn: nn.Module) -> Parts:
    """With a norm of the batch over one value a pixel."""
    move = lambda x, stats: update(bn, stats, x[:, :1].numel())  # noqa: E731
    return parts._replace(options={**parts.options, "eps": bn.eps}, move=move)
