"""Several gradients at once, as Jacobians are computed, are one gradient after the other."""

import functools

import pytest
import torch
from support import DEVICE, assert_equal, each_row, problem
from torch.autograd.functional import hessian, hvp, jacobian


def leaves(row):
    return [t.requires_grad_() for t in problem(row, S=(3, 3), C=2, N=1, dtype=torch.float64)]


def y_of(row, inputs, **options):
    """y as a function of the first input."""
    return lambda x: row.op(x, *inputs[1:], **options)


@each_row
def test_is_grads_batched(row):
    """Of all outputs, to all inputs; and of an output that is not y alone."""
    inputs = leaves(row)
    outputs = row.op(*inputs, backend="triton", **row.both)
    generator = torch.Generator().manual_seed(5)
    for chosen in (outputs, outputs[:1], outputs[1:]):
        dys = [torch.randn(3, *o.shape, generator=generator).to(o) for o in chosen]
        gradients = functools.partial(torch.autograd.grad, chosen, inputs, retain_graph=True, allow_unused=True)
        together = gradients(dys, is_grads_batched=True)
        for i, dy in enumerate(zip(*dys, strict=True)):
            for got, expected in zip(together, gradients(dy), strict=True):
                assert (got is None) == (expected is None)  # of the map alone, what is added last has none
                if expected is not None:
                    assert_equal(got[i], expected)


@each_row
def test_batched_and_not_in_turn(row):
    """A backward that is repeated does not take a batched one for its like, nor the other way round."""
    inputs = leaves(row)
    y = row.op(*inputs, backend="triton")
    expected = torch.autograd.grad(y, inputs, torch.ones_like(y), retain_graph=True)
    for batched in (True, False, True, False):
        dy = torch.ones((2, *y.shape) if batched else y.shape, dtype=y.dtype, device=DEVICE)
        got = torch.autograd.grad(y, inputs, dy, retain_graph=True, is_grads_batched=batched)
        for a, b in zip(got, expected, strict=True):
            for one in a if batched else [a]:
                assert_equal(one, b)


FIRST = {
    "vectorized": functools.partial(jacobian, vectorize=True),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
}


@pytest.mark.parametrize("first", FIRST.values(), ids=list(FIRST))
@each_row
def test_jacobians(row, first):
    inputs = leaves(row)
    got, expected = (first(y_of(row, inputs, backend=backend), inputs[0]) for backend in ("triton", "reference"))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


SECOND = {
    "hessian": lambda f, x: hessian(f, x),
    "vectorized hessian": lambda f, x: hessian(f, x, vectorize=True),
    "product": lambda f, x: hvp(f, x, torch.ones_like(x)),
    "batched": lambda f, x: torch.autograd.grad(
        torch.autograd.grad(f(x), x, create_graph=True)[0], x, torch.ones(2, *x.shape).to(x), is_grads_batched=True
    ),
}


@pytest.mark.parametrize("second", SECOND.values(), ids=list(SECOND))
@each_row
def test_a_second_derivative_raises(row, second):
    inputs = leaves(row)
    with pytest.raises(RuntimeError, match='backend="reference"'):
        second(lambda x: row.op(x, *inputs[1:], backend="triton").square().sum(), inputs[0])
