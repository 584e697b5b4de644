"""However squeeze-and-excitation or an attention gate is written it is known, and a line more keeps it as it is."""

import copy

import copies
import pytest
import spellings
import torch
from torch import nn

import segattn_triton as sat
from segattn_triton.acceleration import structure, swap

MAPS = ((2, 5, 4), (1, 9, 2), (4, 1, 1), (3, 40, 3))


def made(cls: type) -> nn.Module:
    torch.manual_seed(0)
    return cls().double()


def results(module: nn.Module, N: int, *S: int) -> list[torch.Tensor]:
    """y and the gradient of each map and of every parameter; a norm needs more than one value."""
    generator, channels = torch.Generator().manual_seed(N), dict(x=copies.C, g=spellings.G)
    names = swap.plain_class(module).forward.__code__.co_varnames[1:3]
    maps = {n: torch.randn(N, c, *S, generator=generator).double().requires_grad_() for n, c in channels.items()}
    given = [maps[name] for name in names if name in maps]
    y = module(*(x * 1 for x in given))
    return [y.detach(), *torch.autograd.grad(y.square().sum() + y.sum(), [*given, *module.parameters()])]


def assert_is_known(cls: type, shapes=MAPS) -> None:
    plain = made(cls)
    fast = sat.accelerate(copy.deepcopy(plain), strict=True)
    for shape in shapes:
        for got, expected in zip(results(fast, *shape), results(plain, *shape), strict=True):
            largest = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * largest, msg=cls.__doc__)


@pytest.mark.parametrize("seed", range(12))
def test_known(seed):
    assert_is_known(spellings.written(seed))


@pytest.mark.parametrize("seed", range(6))
def test_known_of_two_maps(seed):
    assert_is_known(spellings.written_of_two(seed))


def assert_is_left(cls: type) -> None:
    module = made(cls)
    assert isinstance(structure.by_structure(module), str), cls.__doc__
    assert type(sat.accelerate(module)) is cls


@pytest.mark.parametrize("change", spellings.lines(spellings.CHANGES))
def test_a_line_more(change):
    assert_is_left(spellings.written(spellings.lines(spellings.CHANGES).index(change), change))


@pytest.mark.parametrize("change", spellings.lines(spellings.CHANGES_OF_TWO))
def test_a_line_more_of_two_maps(change):
    assert_is_left(spellings.written_of_two(spellings.lines(spellings.CHANGES_OF_TWO).index(change), change))
