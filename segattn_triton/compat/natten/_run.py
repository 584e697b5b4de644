"""NATTEN's calls on this package's functions, with heads last, (N, *S, heads, D); scores and weights
(N, *S, heads, taps), the taps in row-major order.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ... import functional
from ...runtime.checks import shape
from ._window import AxesWindow, fits, table, vectors


def _on_kernels(function: Callable, window: AxesWindow, *maps: Tensor, **options):
    """`function` of maps (N, *S, ...). A square window has faster kernels, with the dilation that its two axes have in
    common; of the rest, pixels whose rows, or columns, differ by no multiple never meet: each such class is a map of
    its own."""
    if len(window.kernel_size) != 2 or len(set(window.kernel_size)) > 1 or any(window.is_causal):
        return function(*maps, **window._asdict(), **options)
    dilation = math.gcd(*window.dilation)
    run = functools.partial(function, kernel_size=window.kernel_size[0], dilation=dilation, **options)
    for axis, steps in enumerate((d // dilation for d in window.dilation), 1):
        run = run if steps == 1 else functools.partial(_by_class, run, axis, steps)
    return run(*maps)


def _by_class(run: Callable, axis: int, steps: int, *maps: Tensor):
    """`run` on every steps-th row or column, from each of the first ones on; the results in the order of the maps."""
    first = (slice(None),) * axis
    parts = [run(*(t[(*first, slice(start, None, steps))] for t in maps)) for start in range(steps)]
    places = torch.arange(maps[0].shape[axis], device=maps[0].device)
    order = torch.cat([places[start::steps] for start in range(steps)]).argsort()

    def joined(*results: Tensor) -> Tensor:
        return torch.cat(results, axis).index_select(axis, order)

    return tuple(map(joined, *parts)) if isinstance(parts[0], tuple) else joined(*parts)


def attention(query, key, value, rpb, window: AxesWindow, scale=None, return_lse: bool = False):
    """y (N, *S, heads, D), with return_lse also lse (N, *S, heads)."""
    options = dict(rel_bias=_checked(query, rpb, window), scale=scale, return_lse=return_lse)
    for name, t in (("key", key), ("value", value)):
        _check_keys(name, t, query, window)
    if key.shape != value.shape:
        raise ValueError(f"value: got shape {shape(value)}, expected key's {shape(key)}")
    return _on_kernels(functional.neighborhood_attention, window, query, key, value, **options)


def scores(query, key, rpb, window: AxesWindow, scale=None) -> Tensor:
    """scale <q_i, k_j> + rpb, (N, *S, heads, taps); -inf for keys that do not exist."""
    rpb = _checked(query, rpb, window)
    _check_keys("key", key, query, window)
    return _on_kernels(functional.neighborhood_qk, window, query, key, rel_bias=rpb, scale=scale)


def weighted(attn, value, window: AxesWindow) -> Tensor:
    """sum_j attn_ij v_j, (N, *S, heads, D)."""
    axes = len(window.kernel_size)
    vectors(axes, "attn", attn)
    vectors(axes, "value", value, attn, "attn")
    fits(window, value)
    if attn.shape[-1] != window.taps:
        raise ValueError(f"attn: got {attn.shape[-1]} weights, expected {window.taps}, one for each key of {window}")
    return _on_kernels(functional.neighborhood_av, window, attn, value)


def _checked(query, rpb, window: AxesWindow) -> Tensor | None:
    """The table as the functions take it, of queries that the window fits."""
    vectors(len(window.kernel_size), "query", query)
    fits(window, query)
    return table(rpb, query, window)


def _check_keys(name: str, t, query: Tensor, window: AxesWindow) -> None:
    vectors(len(window.kernel_size), name, t, query)
    if t.shape[-1] != query.shape[-1]:
        raise ValueError(f"{name}: got D = {t.shape[-1]}, expected query's {query.shape[-1]}")
