"""Kernels or the definition: square windows of one dilation over two axes have kernels, other windows have not yet.

All tensors with heads last, (N, *S, heads, D); scores and weights (N, *S, heads, taps), the taps in row-major order.
"""

import logging

import torch
from torch import Tensor

from ... import functional
from ...runtime import checks as check
from . import _definition as definition
from ._window import Window, fits, table, vectors

log = logging.getLogger("segattn_triton")
_said: set[str] = set()


def _for_kernels(window: Window) -> dict | None:
    """The window as the functions with kernels take it, None for others, which the log names once."""
    (k, *more), (d, *steps), _ = window
    if len(more) == 1 and more == [k] and steps == [d] and not any(window.is_causal):
        return {"kernel_size": k, "dilation": d}
    if any(window.is_causal):
        what = "causal axes"
    elif len(more) == 1:
        what = "a window or dilation of its own along each axis"
    else:
        what = f"{len(window.kernel_size)}-D windows"
    if not torch.compiler.is_compiling() and what not in _said:
        _said.add(what)
        log.warning("compat.natten: %s: computed by the definition, in torch; there is no kernel for it yet", what)
    return None


def _scale(scale, query: Tensor) -> float:
    check.score_options(None, scale, query, 1)
    return query.shape[-1] ** -0.5 if scale is None else float(scale)


def attention(query, key, value, rpb, window: Window, scale=None, return_lse: bool = False):
    """y (N, *S, heads, D), with return_lse also lse (N, *S, heads)."""
    axes = len(window.kernel_size)
    vectors(axes, "query", query)
    vectors(axes, "key", key, query)
    vectors(axes, "value", value, query)
    _same_vectors("key", key, query)
    if key.shape != value.shape:
        raise ValueError(f"value: got shape {check.shape(value)}, expected key's {check.shape(key)}")
    fits(window, query)
    rpb = table(rpb, query, window)
    if square := _for_kernels(window):
        options = dict(square, scale=scale, return_lse=return_lse)
        return functional.neighborhood_attention(query, key, value, rpb, **options)
    y, lse = definition.attention(query, key, value, rpb, window, _scale(scale, query))
    return (y, lse) if return_lse else y


def scores(query, key, rpb, window: Window, scale=None) -> Tensor:
    """scale <q_i, k_j> + rpb, (N, *S, heads, taps); -inf for keys that do not exist."""
    axes = len(window.kernel_size)
    vectors(axes, "query", query)
    vectors(axes, "key", key, query)
    _same_vectors("key", key, query)
    fits(window, query)
    rpb = table(rpb, query, window)
    if square := _for_kernels(window):
        return functional.neighborhood_qk(query, key, rpb, **square, scale=scale)
    return definition.scores(query, key, rpb, window, _scale(scale, query))


def weighted(attn, value, window: Window) -> Tensor:
    """sum_j attn_ij v_j, (N, *S, heads, D)."""
    axes = len(window.kernel_size)
    vectors(axes, "attn", attn)
    vectors(axes, "value", value, attn, "attn")
    fits(window, value)
    if attn.shape[-1] != window.taps:
        raise ValueError(f"attn: got {attn.shape[-1]} weights, expected {window.taps}, one for each key of {window}")
    if square := _for_kernels(window):
        return functional.neighborhood_av(attn, value, **square)
    return definition.weighted(attn, value, window)


def _same_vectors(name: str, t: Tensor, query: Tensor) -> None:
    if t.shape[-1] != query.shape[-1]:
        raise ValueError(f"{name}: got D = {t.shape[-1]}, expected query's {query.shape[-1]}")
