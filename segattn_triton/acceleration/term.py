"""What a node of a forward's graph may be: its term; and the terms of CBAM: pools of the channels and of both kinds,
and their weighted sums."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Term(NamedTuple):
    """What a node is: x, flat (x with one axis of pixels), pool, layer, normed (a layer and its norm), along (a
    convolution over the channels), pixel (one value a pixel), across (a pool of the channels), pair (two of them), half
    (half their sum), window (a convolution of a pair or a half), mix and blend (other sums of a mean and a maximum, of
    pools and of pools of the channels), act, product (of a gate and x, or of a gate and a product), sum, larger,
    residual. `of` are its terms, `how` the rest."""

    kind: str
    of: tuple["Term", ...] = ()
    how: Any = None


X = Term("x")


class Value(NamedTuple):
    """A node's value, and its term; None of a plain number, such as a size."""

    value: Any
    term: Term | None


def is_vector(term: Term) -> bool:
    """Whether it is one value a channel, or a layer's outputs, of each image."""
    return term.kind in ("pool", "mix", "layer", "normed", "along", "act") and not is_of_pixels(term)


def is_of_pixels(term: Term) -> bool:
    return term.kind in ("pixel", "across", "pair", "half", "blend", "window") or any(map(is_of_pixels, term.of))


def is_map(term: Term) -> bool:
    """x, or x with its channels weighted, whose gate of the pixels may follow."""
    return term is X or (term.kind == "product" and not is_of_pixels(term))


def across(given: Value, name: str, value: Tensor) -> Term | None:
    """A pool of the channels at each pixel: a mean, torch.max, which takes the first of a tie, or amax."""
    how, x = {"mean": "mean", "max": "first", "amax": "split"}.get(name), given.value
    if how is None or not is_map(given.term) or value.numel() * x.shape[1] != x.numel():
        return None
    expected = x.mean(1) if how == "mean" else x.amax(1)
    same = torch.allclose(value.flatten(), expected.flatten(), rtol=1e-12, atol=1e-15)
    return Term("across", (given.term,), how) if same and value.shape[-1] == x.shape[-1] else None


def pair(parts: list[Value], value: Tensor) -> Term | None:
    """The mean and the maximum over the channels of one map, in either order, one channel each."""
    terms = [part.term for part in parts]
    across_one = len(terms) == 2 and all(t is not None and t.kind == "across" for t in terms)
    whole = value.dim() > 2 and all(part.value.shape == (len(value), 1, *value.shape[2:]) for part in parts)
    if not across_one or not whole or terms[0].of != terms[1].of or value.shape[1] != 2:
        return None
    kinds = ["mean" if t.how == "mean" else "max" for t in terms]
    ties = next((t.how for t in terms if t.how != "mean"), None)
    return Term("pair", terms[0].of, (",".join(kinds), ties)) if sorted(kinds) == ["max", "mean"] else None


def of_both_pools(*terms: Term) -> Term | None:
    """mlp(mean) + mlp(maximum) of one perceptron."""
    (one, avg), (other, most) = sorted(map(_without_pool, terms), key=lambda found: found[1][0])
    known = one == other and one.kind == "layer" and (avg, most[0]) == (("avg", "first"), "max")
    return _with_pool(one, ("avg+max", most[1])) if known else None


def _without_pool(term: Term) -> tuple[Term, tuple[str, str]]:
    if term.kind == "pool":
        return Term("pool"), term.how
    if not term.of:
        return term, ("", "")
    inner, how = _without_pool(term.of[0])
    return term._replace(of=(inner, *term.of[1:])), how


def _with_pool(term: Term, how: tuple[str, str]) -> Term:
    return Term("pool", how=how) if term.kind == "pool" else term._replace(of=(_with_pool(term.of[0], how),))


def weighted(term: Term, by: float) -> Term | None:
    """A mean, a maximum or a sum of both, times a number."""
    found = _weights(term)
    return None if found is None else _of_weights(term, by * found[0], by * found[1], found[2])


def added(one: Term, other: Term) -> Term | None:
    """The sum of a mean and a maximum, weighted or not, of one map."""
    pixels = [is_of_pixels(term) for term in (one, other)]
    first, second = _weights(one), _weights(other)
    if first is None or second is None or pixels[0] != pixels[1] or one.of != other.of:
        return None
    ties = {found[2] for found in (first, second) if found[1]}
    if len(ties) != 1:  # two maxima might share the gradient of a tie in two ways
        return None
    return _of_weights(one, first[0] + second[0], first[1] + second[1], ties.pop())


def _weights(term: Term) -> tuple[float, float, str | None] | None:
    """(that of the mean, that of the maximum, its ties) of a pool, of the pixels or the channels, or a sum of pools."""
    if term.kind in ("mix", "blend"):
        return term.how
    if term.kind == "half":
        return 0.5, 0.5, term.how
    name, ties = {"pool": lambda: term.how, "across": lambda: (term.how, term.how)}.get(term.kind, lambda: ("", ""))()
    if name in ("avg", "mean"):
        return 1.0, 0.0, None
    known = {"avgmax": (0.5, 0.5, ties)} if term.kind == "pool" else {}
    return known.get(name) or ((0.0, 1.0, ties) if name in ("max", "first", "split") else None)


def _of_weights(like: Term, mean: float, most: float, ties: str | None) -> Term:
    pixels = is_of_pixels(like)
    if (mean, most) == (0.5, 0.5):
        return Term("half", like.of, ties) if pixels else Term("pool", how=("avgmax", ties))
    return Term("blend" if pixels else "mix", like.of, (mean, most, ties))
