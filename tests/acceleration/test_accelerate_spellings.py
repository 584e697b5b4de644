"""However squeeze-and-excitation is written it is known, and a line more keeps it as it is."""

import copy

import copies
import pytest
import spellings
import torch
from torch import nn

import segattn_triton as sat
from segattn_triton.acceleration import structure

MAPS = ((2, 5, 4), (1, 9, 2), (4, 1, 1), (3, 40, 3))


def made(cls: type) -> nn.Module:
    torch.manual_seed(0)
    return cls().double()


def results(module: nn.Module, N: int, *S: int) -> list[torch.Tensor]:
    x = torch.randn(N, copies.C, *S, generator=torch.Generator().manual_seed(N), dtype=torch.float64).requires_grad_()
    y = module(x * 1)
    weights = list(module.parameters())
    return [y.detach(), *torch.autograd.grad(y.square().sum() + y.sum(), [x, *weights], allow_unused=True)]


@pytest.mark.parametrize("seed", range(12))
def test_known(seed):
    cls = spellings.written(seed)
    plain = made(cls)
    fast = sat.accelerate(copy.deepcopy(plain), strict=True)
    for shape in MAPS:
        for got, expected in zip(results(fast, *shape), results(plain, *shape), strict=True):
            largest = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * largest, msg=cls.__doc__)


@pytest.mark.parametrize("change", spellings.lines(spellings.CHANGES))
def test_a_line_more(change):
    cls = spellings.written(spellings.lines(spellings.CHANGES).index(change), change)
    module = made(cls)
    assert isinstance(structure.by_structure(module), str), cls.__doc__
    assert type(sat.accelerate(module)) is cls
