"""Errors of norms over the batch: their parameters, and that there is more than one value a channel. See `checks`."""

import math
from typing import Any

import torch
from torch import Tensor

from .checks import epsilon, parameter


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


def batch_norm(weight, bias, eps, x: Tensor, normed: tuple[int, ...]) -> None:
    """The parameters of a norm over the batch of what has the shape (N, channels, *axes), computed from x, and that
    there is more than one value a channel."""
    epsilon(eps)
    parameter("norm_weight", weight, x, (normed[1],))
    if bias is not None:
        parameter("norm_bias", bias, x, (normed[1],))
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
