"""Gradients are right through every door of autograd; what is not implemented says so and is never silently zero."""

import functools

import pytest
import torch
from support import DEVICE, as_y, assert_equal, each_option, each_row, names, outputs_and_gradients, problem
from torch._dynamo import compiled_autograd
from torch.utils.checkpoint import checkpoint

from segattn_triton.catalog import BY_NAME, ROWS
from segattn_triton.runtime.plan import recorded

ATTENTION = "ignore:There is a performance drop:UserWarning"  # vmap over an operator runs it once per example


def doubles(row, **how) -> list[torch.Tensor]:
    return problem(row, S=how.pop("S", (3, 4)), C=how.pop("C", 4), dtype=torch.float64, **how)


def leaves(tensors) -> list[torch.Tensor]:
    return [t.clone().requires_grad_() for t in tensors]


def triton(row, **options):
    return lambda *tensors: row.op(*tensors, backend="triton", **options)


def close(got, expected) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@each_row
def test_an_output_that_nobody_used_has_no_gradient(row):
    """Not one of zeros, which would be a map more to read."""
    outputs = triton(row, **row.both, **row.defaults)(*leaves(problem(row, S=(3, 4), C=4)))
    with recorded() as plans:
        outputs[0].sum().backward()
    read = {name: value for plan in plans for name, value in plan.args.items() if name in ("dmap_ptr", "dlse_ptr")}
    assert plans and not [name for name, value in read.items() if value is not None], read


@each_option
def test_gradcheck(row, options):
    inputs = leaves(doubles(row, N=1, S=(2, 3), C=3))
    run = triton(row, **row.both, **options)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True, check_undefined_grad=not options)


@each_row
def test_create_graph_of_a_first_derivative(row):
    inputs = leaves(doubles(row))
    got = torch.autograd.grad(triton(row)(*inputs).square().sum(), inputs, create_graph=True)
    close(got, torch.autograd.grad(row.reference(*inputs).square().sum(), inputs))


def penalty(fn, inputs):
    """The norm of the gradient as a loss."""
    grads = torch.autograd.grad(fn(*inputs).square().sum(), inputs, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in grads), inputs)


def linear(fn, inputs):
    """A loss whose gradient does not require one: only the gate makes it a function of the inputs, of some of them."""
    grads = torch.autograd.grad(fn(*inputs).sum(), inputs, create_graph=True)
    return [g for g in torch.autograd.grad(grads[0].sum(), inputs, allow_unused=True) if g is not None]


def functional(fn, inputs):
    def first(x):
        return torch.func.grad(lambda t: fn(t, *inputs[1:]).square().sum())(x).square().sum()

    return (torch.func.grad(first)(inputs[0]),)


@pytest.mark.parametrize("second", [penalty, linear, functional])
@each_row
def test_second_derivative_raises(row, second):
    with pytest.raises(RuntimeError, match='backend="reference"'):
        second(triton(row), leaves(doubles(row)))
    found = second(row.reference, leaves(doubles(row)))
    assert found and all(g.isfinite().all() for g in found)


@pytest.mark.filterwarnings(ATTENTION)
@each_row
def test_functional_transforms(row):
    """func.grad, vmap, vmap of grad, grad of vmap, jacrev: as of the reference."""
    inputs = doubles(row, N=1, S=(2, 2), C=3)
    batch = [torch.stack([t, t * 0.5, -t]) for t in inputs]
    every = tuple(range(len(inputs)))
    for got, expected in zip(
        *(
            (
                torch.func.grad(lambda *t, f=f: f(*t).square().sum(), every)(*inputs),
                (torch.vmap(f)(*batch),),
                torch.vmap(torch.func.grad(lambda *t, f=f: f(*t).square().sum(), every))(*batch),
                torch.func.grad(lambda *t, f=f: torch.vmap(f)(*t).square().sum(), every)(*batch),
                (torch.func.jacrev(f)(*inputs),),
            )
            for f in (triton(row), row.reference)
        ),
        strict=True,
    ):
        close(got, expected)


@pytest.mark.filterwarnings(ATTENTION)
@each_row
def test_vmap_over_some_inputs(row):
    """Over the map alone, with shared parameters, and over an axis that is not the first."""
    x, *parameters = doubles(row, N=2)
    xs = torch.stack([x, 2 * x], 3)
    got, expected = (
        torch.vmap(f, in_dims=(3, *[None] * len(parameters)))(xs, *parameters) for f in (triton(row), row.reference)
    )
    close([got], [expected])


@each_row
def test_compiled_autograd_over_an_eager_forward(row):
    """The compiler traces the backward of a forward that it has not seen."""
    inputs = leaves(doubles(row))
    expected = torch.autograd.grad(triton(row)(*inputs).sum(), inputs)
    with compiled_autograd._enable(functools.partial(torch.compile, backend="eager")):
        fresh = leaves(t.detach() for t in inputs)
        triton(row)(*fresh).sum().backward()
    for t, wanted in zip(fresh, expected, strict=True):
        assert_equal(t.grad, wanted)


@each_row
def test_forward_mode_raises(row):
    inputs = doubles(row)
    tangents = tuple(torch.ones_like(t) for t in inputs)
    with pytest.raises(NotImplementedError):
        torch.func.jvp(triton(row), tuple(inputs), tangents)
    with pytest.raises(NotImplementedError), torch.autograd.forward_ad.dual_level():
        triton(row)(*map(torch.autograd.forward_ad.make_dual, inputs, tangents))


@pytest.mark.parametrize("use_reentrant", [False, True])
@each_row
def test_activation_checkpointing(row, use_reentrant):
    inputs = doubles(row)
    results = []
    for run in (triton(row), lambda *t: checkpoint(triton(row), *t, use_reentrant=use_reentrant)):
        fresh = leaves(inputs)
        y = run(*fresh)
        results.append([y, *torch.autograd.grad(y.square().sum(), fresh)] if not use_reentrant else _backward(y, fresh))
    for a, b in zip(*results, strict=True):
        assert_equal(a, b)


def _backward(y, inputs) -> list[torch.Tensor]:
    y.square().sum().backward()
    return [y, *(t.grad for t in inputs)]


@each_row
def test_backward_twice(row):
    """With retain_graph the second backward gives the same bits: nothing that is saved is written to."""
    inputs = leaves(doubles(row))
    y, gate_map = row.op(*inputs, backend="triton", **row.both)
    loss = y.square().sum() + gate_map.sum()
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, inputs), strict=True):
        assert_equal(a, b)


@each_row
def test_input_changed_before_the_backward_raises(row):
    inputs = leaves(doubles(row))
    x = inputs[0] * 1
    y = row.op(x, *inputs[1:], backend="triton")
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("row", [r for r in ROWS if not r.keeps_y], ids=lambda row: row.name)
def test_residual_in_place(row):
    """`y += shortcut` is allowed: the output is not needed by the backward. In repeated calls, too."""
    inputs, plain = leaves(doubles(row)), leaves(doubles(row))
    expected = torch.autograd.grad((row.reference(*plain) + as_y(row, plain)).square().sum(), plain)
    for _ in range(3):
        y = triton(row)(*inputs)
        y += as_y(row, inputs)
        close(torch.autograd.grad(y.square().sum(), inputs), expected)


@pytest.mark.parametrize("row", [r for r in ROWS if r.keeps_y], ids=lambda row: row.name)
def test_residual_in_place_raises(row):
    """Where the backward needs the output, a change is never silently wrong."""
    inputs = leaves(doubles(row))
    for _ in range(3):
        y = triton(row)(*inputs)
        y += inputs[0]
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_the_gradient_of_what_is_added_last_is_that_of_y():
    """Of a shortcut without an activation after it: dy itself, no pass over it, and nothing to raise on."""
    row = BY_NAME["squeeze_excite"]
    x, *weights, _, shortcut = doubles(row)
    shortcut.requires_grad_()
    dy = torch.randn_like(x).requires_grad_()
    for _ in range(3):
        y = row.op(x, *weights, shortcut=shortcut, backend="triton")
        with recorded() as plans:
            (got,) = torch.autograd.grad(y, shortcut, dy, create_graph=True)
        assert not plans and torch.equal(got, dy)
        assert torch.equal(torch.autograd.grad(got.square().sum(), dy)[0], 2 * dy)
    leaf = x.clone().requires_grad_()
    for added in (shortcut, leaf):
        with recorded() as plans:
            y = row.op(leaf, *weights, shortcut=added, backend="triton")
            got = torch.autograd.grad(y, [leaf, added], dy)
        (pool,) = [plan for plan in plans if plan.name == "pool_bwd"]
        assert pool.args["du_ptr"] is None
        expected = torch.autograd.grad(row.reference(leaf, *weights, shortcut=added), [leaf, added], dy)
        close(got, expected)


@each_row
def test_gradients_accumulate(row):
    inputs = leaves(doubles(row))
    for _ in range(2):
        triton(row)(*inputs).sum().backward()
    single = outputs_and_gradients(lambda *t: (triton(row)(*t),), inputs, [torch.ones_like(as_y(row, inputs))])
    close([t.grad for t in inputs], [2 * g for g in single[1:]])


@each_row
def test_no_gradient_without_need(row):
    tensors = doubles(row)
    assert not triton(row)(*tensors).requires_grad
    for i, name in enumerate(names(row)):
        some = [t.clone().requires_grad_(i == j) for j, t in enumerate(tensors)]
        assert triton(row)(*some).requires_grad, name
    assert tensors[0].device.type == DEVICE
