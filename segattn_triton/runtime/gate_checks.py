"""Errors of what a gate is made of: its layers, its window, its norms over the batch. See `checks`."""

import math
from typing import Any

import torch
from torch import Tensor

from .checks import beside, epsilon, parameter, shape, tensor


def two_maps(x: Tensor, g, wx, wg, b, weight, bias) -> int:
    """The map g beside x, the projections (F, channels) of both, and one logit of F values. Returns F."""
    beside("g", g, x)
    tensor("wx", wx)
    F = max(wx.shape[0], 1) if wx.dim() else 1
    parameter("wx", wx, x, (F, x.shape[1]), trailing_ones=True)
    parameter("wg", wg, g, (F, g.shape[1]), trailing_ones=True, map_name="g")
    if b is not None:
        parameter("b", b, x, (F,))
    parameter("weight", weight, x, (1, F), trailing_ones=True)
    if bias is not None:
        parameter("bias", bias, x, (1,))
    return F


def perceptron(x: Tensor, w1, b1, w2, b2, source: Tensor) -> None:
    """Two layers from the channels of the source to those of x, or one with w2=None."""
    C = x.shape[1]
    tensor("w1", w1)
    Cr = w1.shape[0] if w2 is not None and w1.dim() else C
    map_name = "x" if source is x else "source"
    parameter("w1", w1, source, (Cr, source.shape[1]), trailing_ones=True, map_name=map_name)
    if w2 is None and b2 is not None:
        raise ValueError("b2: given without w2; with one layer the bias is b1")
    for name, t, expected in (("b1", b1, (Cr,)), ("w2", w2, (C, Cr)), ("b2", b2, (C,))):
        if t is not None:
            parameter(name, t, x, expected, trailing_ones=name == "w2")


def coordinate(x: Tensor, w1, b1, w_h, b_h, w_w, b_w) -> None:
    """A layer from the channels of x to hidden ones, and one back for the rows and one for the columns."""
    tensor("w1", w1)
    C, R = x.shape[1], max(w1.shape[0], 1) if w1.dim() else 1
    parameter("w1", w1, x, (R, C), trailing_ones=True)
    if b1 is not None:
        parameter("b1", b1, x, (R,))
    for name, t in (("w_h", w_h), ("w_w", w_w)):
        parameter(name, t, x, (C, R), trailing_ones=True)
    for name, t in (("b_h", b_h), ("b_w", b_w)):
        if t is not None:
            parameter(name, t, x, (C,))


def window(weight, bias, x: Tensor) -> None:
    """The weight (1, 1 or 2, k, k) of a convolution of one or two maps to one, k odd, and its bias."""
    tensor("weight", weight)
    four = weight.dim() == 4
    maps = 1 if four and weight.shape[1] == 1 else 2
    k = weight.shape[2] if four and weight.shape[2] else 7
    if four and weight.shape[2] == weight.shape[3] and k % 2 == 0:
        raise ValueError(f"weight: got shape {shape(weight)}, expected (1, {maps}, k, k) with an odd k")
    parameter("weight", weight, x, (1, maps, k, k))
    if bias is not None:
        parameter("bias", bias, x, (1,))


def window_norm(weight, bias, eps, return_stats: bool, x: Tensor) -> None:
    """The norm over the batch of one logit a pixel of x, if there is one."""
    if weight is not None:
        return batch_norm(weight, bias, eps, x, (x.shape[0], 1, *x.shape[2:]))
    no_norm(bias, eps, return_stats)


def no_norm(bias, eps, return_stats: bool) -> None:
    """What a norm over the batch has, of a call without its weight."""
    epsilon(eps)
    for name, given in (("norm_bias", bias is not None), ("return_stats", return_stats)):
        if given:
            raise ValueError(f"{name}: given without norm_weight, expected a norm of the batch")


def batch_norm(weight, bias, eps, x: Tensor, normed: tuple[int, ...], which: str = "") -> None:
    """The parameters of a norm over the batch of what has the shape (N, channels, *axes), computed from x, and that
    there is more than one value a channel."""
    epsilon(eps, f"eps{which}")
    parameter(f"norm_weight{which}", weight, x, (normed[1],))
    if bias is not None:
        parameter(f"norm_bias{which}", bias, x, (normed[1],))
    _more_than_one(normed)


def batch_norms(x: Tensor, eps, return_stats: bool, **gains: tuple[Any, int]) -> None:
    """The gains of norms over the batch of what has so many channels and the pixels of x, those that are there."""
    epsilon(eps)
    for name, (gain, channels) in gains.items():
        if gain is not None:
            parameter(name, gain, x, (channels,))
            _more_than_one((x.shape[0], channels, *x.shape[2:]))
    if return_stats and all(gain is None for gain, _ in gains.values()):
        raise ValueError(f"return_stats: given without {', '.join(gains)}, expected a norm of the batch")


def _more_than_one(normed: tuple[int, ...]) -> None:
    if normed[0] * math.prod(normed[2:]) == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {torch.Size(normed)}")
