"""A gate's term taken apart: its activation, its layers with their norms, its pool."""

from ..reference.activations import Spec
from .term import Term
from .traced import Unknown

IDENTITY: Spec = ("identity", 0.0, 0.0)


def split(term: Term) -> tuple[str | Spec, Term]:
    """The activation at the end, the identity without one, and what is inside."""
    return (term.how, term.of[0]) if term.kind == "act" else (IDENTITY, term)


def perceptron(term: Term) -> tuple[list[str], str | Spec, tuple[str, str]]:
    """The paths of one or two layers in order, the activation between them, and the pool before."""
    layers, act, pool, norms = perceptron_with_norms(term)
    if any(norms):
        raise Unknown("the perceptron of its channels has a norm beside another gate")
    return layers, act, pool


def perceptron_with_norms(term: Term):
    """The same, and the paths of the norms behind the first layer and the second, None where there is none."""
    (path, norm), inner = _layer(term)
    if inner.kind == "pool":
        return [path], IDENTITY, inner.how, (norm, None)
    act, inner = split(inner)
    (first, first_norm), inner = _layer(inner)
    if inner.kind != "pool":
        raise Unknown("its gate is more than two layers after a pool")
    return [first, path], act, inner.how, (first_norm, norm)


def _layer(term: Term) -> tuple[tuple[str, str | None], Term]:
    """The paths of a layer and of its norm, and what it is of."""
    norm, term = (term.how, term.of[0]) if term.kind == "normed" else (None, term)
    if term.kind != "layer":
        raise Unknown("its gate is not made by a layer")
    return (term.how, norm), term.of[0]
