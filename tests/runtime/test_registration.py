"""The operators keep the contract of `torch.library`: schema, fakes, no mutation, no alias, and any tensor state."""

import pytest
import torch
from support import Calls, as_y, assert_equal, each_option, each_row, outputs_and_gradients, problem, sizes_of
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from segattn_triton.runtime import operator
from segattn_triton.testing import LAYOUTS

each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def calls(row, layout="contiguous", S=(3, 4), C=4, N=2, **options) -> list[tuple]:
    """The operator calls of a forward and its backward, with their arguments and outputs."""
    with Calls() as recorded:
        outputs_and_gradients(row.op, problem(row, S=S, C=C, N=N, layout=layout), backend="triton", **options)
    assert [func.overloadpacket.__name__.endswith("_bwd") for func, *_ in recorded.made] == [False, True]
    return [(func, [_detached(a) for a in args], outputs) for func, args, outputs in recorded.made]


def _detached(value):
    """Without the graph of the call, whose saved tensors are freed: an output that the backward takes has it."""
    return value.detach() if isinstance(value, torch.Tensor) else value


@each_layout
@each_row
def test_opcheck(row, layout):
    for func, args, _ in calls(row, layout):
        torch.library.opcheck(func, args)


@each_row
def test_flops_are_counted(row):
    """torch's counter sees in an operator what the catalog states."""
    inputs, sizes = problem(row), sizes_of(row, (5, 6), 5, 2)
    with FlopCounterMode(display=False) as counter:
        outputs_and_gradients(row.op, inputs, backend="triton")
    counted = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items() if "segattn" in str(op)}
    assert sorted(counted.values()) == sorted(row.count_flops(sizes))


@each_row
def test_opcheck_of_an_empty_batch(row):
    for func, args, _ in calls(row, N=0):
        torch.library.opcheck(func, args)


@each_row
def test_opcheck_with_gradient(row):
    inputs = [t.requires_grad_() for t in problem(row, S=(3, 4))]
    ((func, args, _), *_) = calls(row)
    torch.library.opcheck(func, (*inputs, *args[len(inputs) :]), raise_exception=True)


def assert_fakes_are_right(made: list[tuple]) -> None:
    for func, args, real in made:
        with FakeTensorMode() as mode:
            fake = func(*[mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args])
        for a, b in zip(fake if isinstance(fake, tuple) else (fake,), real, strict=True):
            assert (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
            along = [i for i, size in enumerate(a.shape) if size > 1]  # of one element any stride will do
            assert a.numel() == 0 or [a.stride(i) for i in along] == [b.stride(i) for i in along]


@pytest.mark.parametrize("S", [(3, 4), (1, 1), (1, 5)], ids=str)
@each_layout
@each_row
def test_fakes_have_the_real_strides(row, layout, S):
    for C in (4, 1):
        assert_fakes_are_right(calls(row, layout, S, C))


@each_option
def test_fakes_of_every_option(row, options):
    assert_fakes_are_right(calls(row, **options))


@each_layout
@each_row
def test_inputs_are_not_written_and_outputs_are_new(row, layout):
    for func, args, _ in calls(row, layout):
        tensors = [a for a in args if isinstance(a, torch.Tensor) and a.numel()]
        before = [t.clone() for t in tensors]
        outputs = func(*args)
        outputs = [t for t in (outputs if isinstance(outputs, tuple) else (outputs,)) if t.numel()]
        for t, copy in zip(tensors, before, strict=True):
            assert_equal(t, copy)
        memory = [t.untyped_storage().data_ptr() for t in (*tensors, *outputs)]
        assert len(set(memory[len(tensors) :])) == len(outputs)
        assert not set(memory[: len(tensors)]) & set(memory[len(tensors) :])


@each_row
def test_lazy_views(row):
    """The negation bit of `x.conj().imag`, and torch's tensors of zeros without memory."""
    x, *parameters = problem(row, dtype=torch.float64)
    negated = torch.complex(x, -x).conj().imag
    expected = row.op(x.clone(), *parameters, backend="triton")
    for view in (negated, (-x)._neg_view()):  # strided, and as it lies
        assert view.is_neg()
        assert_equal(row.op(view, *parameters, backend="triton"), expected)
    leaf = x.clone().requires_grad_()
    dy = as_y(row, [x, *parameters])
    (dx,) = torch.autograd.grad(row.op(leaf, *parameters, backend="triton"), leaf, torch.complex(dy, -dy).conj().imag)
    (expected,) = torch.autograd.grad(row.reference(leaf, *parameters), leaf, dy)
    torch.testing.assert_close(dx, expected, rtol=1e-9, atol=1e-11)
    zeros = torch._efficientzerotensor(x.shape, dtype=x.dtype, device=x.device)
    assert_equal(
        row.op(zeros, *parameters, backend="triton"), row.op(torch.zeros_like(x), *parameters, backend="triton")
    )


def test_every_operator_is_tagged():
    """A compiled network hands over the layout it computes in: without the tag it copies to the eager one."""
    assert operator.OPERATORS
    for op in operator.OPERATORS.values():
        for overload in (op.op, op.op_bwd):
            assert torch.Tag.flexible_layout in overload.tags
            assert torch.Tag.pt2_compliant_tag in overload.tags
            assert not overload._schema.is_mutable


@each_row
def test_subclasses_and_parameters(row):
    """`nn.Parameter` in, plain tensor out."""
    inputs = problem(row)
    y = row.op(torch.nn.Parameter(inputs[0]), *map(torch.nn.Parameter, inputs[1:]), backend="triton")
    assert type(y) is torch.Tensor
    assert_equal(y.detach(), row.op(*inputs, backend="triton"))
