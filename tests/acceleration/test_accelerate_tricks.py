"""Forwards that depend on more than their graph holds are left, or watched: nothing is lost, and nothing is stale."""

import copy

import copies
import pytest
import support
import torch
import tricks
from torch import nn

import segattn_triton as sat
from segattn_triton.acceleration import structure

each_left = pytest.mark.parametrize("cls", tricks.LEFT, ids=lambda cls: cls.__name__)


def made(cls: type) -> nn.Module:
    torch.manual_seed(0)
    return cls()


def a_map() -> torch.Tensor:
    return torch.randn(2, copies.C, 5, 4, generator=torch.Generator().manual_seed(1))


@each_left
def test_left(cls, capsys):
    """And looking at it does nothing that its forward does."""
    before = tricks.COUNT
    module = made(cls)
    sat.accelerate(module, verbose=False)
    assert type(module) is cls and isinstance(structure.by_structure(module), str)
    assert before == tricks.COUNT and capsys.readouterr().out == ""


def test_an_attribute_of_a_layer_is_watched():
    plain, fast = made(tricks.OfAChild), sat.accelerate(made(tricks.OfAChild))
    for module in (plain, fast):
        module.relu.negative_slope = 0.7
    torch.testing.assert_close(fast(a_map()), plain(a_map()))


def test_a_constant_is_watched(monkeypatch):
    plain, fast = made(tricks.AConstant), sat.accelerate(made(tricks.AConstant), strict=True)
    torch.testing.assert_close(fast(a_map()), plain(a_map()))
    monkeypatch.setattr(tricks, "SLOPE", 0.3)
    support.assert_equal(fast(a_map()), plain(a_map()))


def test_what_is_around_a_forward_stays():
    plain, fast = made(tricks.CallsItself), sat.accelerate(made(tricks.CallsItself))
    torch.testing.assert_close(fast(a_map()), plain(a_map()))


def test_a_layer_that_is_used_twice():
    """Its gradient is the sum of both."""
    plain = made(copies.Convolved)
    plain.conv1 = plain.conv2 = nn.Conv2d(copies.C, copies.C, 1)
    fast = sat.accelerate(copy.deepcopy(plain), strict=True)
    assert fast.conv1 is fast.conv2
    grads = []
    for module in (plain, fast):
        x = a_map().requires_grad_()
        grads.append(torch.autograd.grad(module(x).square().sum(), [x, *module.parameters()]))
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected)
