"""Kernels or the definition: square windows over two axes have kernels, other windows have not yet.

All tensors with heads last, (N, *S, heads, D); scores and weights (N, *S, heads, taps), the taps in row-major order.
"""

import functools
import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ... import functional
from ...runtime import attention_checks as check
from ...runtime.checks import shape
from . import _definition as definition
from ._window import AxesWindow, fits, table, vectors

log = logging.getLogger("segattn_triton")
_said: set[str] = set()


def _has_kernels(window: AxesWindow) -> bool:
    """Whether it is a square; other windows the log names once."""
    axes = len(window.kernel_size)
    if axes == 2 and len(set(window.kernel_size)) == 1 and not any(window.is_causal):
        return True
    if any(window.is_causal):
        what = "causal axes"
    elif axes == 2:
        what = "a window of its own along each axis"
    else:
        what = f"{len(window.kernel_size)}-D windows"
    if not torch.compiler.is_compiling() and what not in _said:
        _said.add(what)
        log.warning("compat.natten: %s: computed by the definition, in torch; there is no kernel for it yet", what)
    return False


def _on_kernels(function: Callable, window: AxesWindow, *maps: Tensor, **options):
    """`function` of maps (N, H, W, ...) with a square window. It has the dilation that the two have in common; of the
    rest, pixels whose rows, or columns, differ by no multiple never meet: each such class is a map of its own."""
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


def _scale(scale, query: Tensor) -> float:
    check.score_options(None, scale, query, 1)
    return query.shape[-1] ** -0.5 if scale is None else float(scale)


def attention(query, key, value, rpb, window: AxesWindow, scale=None, return_lse: bool = False):
    """y (N, *S, heads, D), with return_lse also lse (N, *S, heads)."""
    rpb = _checked(query, rpb, window)
    if _has_kernels(window):  # they check the rest
        options = dict(rel_bias=rpb, scale=scale, return_lse=return_lse)
        return _on_kernels(functional.neighborhood_attention, window, query, key, value, **options)
    _check_keys("key", key, query, window)
    _check_keys("value", value, query, window)
    if key.shape != value.shape:
        raise ValueError(f"value: got shape {shape(value)}, expected key's {shape(key)}")
    y, lse = definition.attention(query, key, value, rpb, window, _scale(scale, query))
    return (y, lse) if return_lse else y


def scores(query, key, rpb, window: AxesWindow, scale=None) -> Tensor:
    """scale <q_i, k_j> + rpb, (N, *S, heads, taps); -inf for keys that do not exist."""
    rpb = _checked(query, rpb, window)
    if _has_kernels(window):
        return _on_kernels(functional.neighborhood_qk, window, query, key, rel_bias=rpb, scale=scale)
    _check_keys("key", key, query, window)
    return definition.scores(query, key, rpb, window, _scale(scale, query))


def weighted(attn, value, window: AxesWindow) -> Tensor:
    """sum_j attn_ij v_j, (N, *S, heads, D)."""
    axes = len(window.kernel_size)
    vectors(axes, "attn", attn)
    vectors(axes, "value", value, attn, "attn")
    fits(window, value)
    if attn.shape[-1] != window.taps:
        raise ValueError(f"attn: got {attn.shape[-1]} weights, expected {window.taps}, one for each key of {window}")
    if _has_kernels(window):
        return _on_kernels(functional.neighborhood_av, window, attn, value)
    return definition.weighted(attn, value, window)


def _checked(query, rpb, window: AxesWindow) -> Tensor | None:
    """The table as the functions take it, of queries that the window fits."""
    vectors(len(window.kernel_size), "query", query)
    fits(window, query)
    return table(rpb, query, window)


def _check_keys(name: str, t, query: Tensor, window: AxesWindow) -> None:
    vectors(len(window.kernel_size), name, t, query)
    if t.shape[-1] != query.shape[-1]:
        raise ValueError(f"{name}: got D = {t.shape[-1]}, expected query's {query.shape[-1]}")
