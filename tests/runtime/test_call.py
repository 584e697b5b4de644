"""A public function that is called again is not checked again, and otherwise does what it does the first time."""

import pytest
import support
import torch
from support import DEVICE, assert_equal, each_row, problem

from segattn_triton import functional
from segattn_triton.catalog import BY_NAME
from segattn_triton.runtime import call as call_module
from segattn_triton.runtime import dispatch, known
from segattn_triton.runtime import run as run_module
from segattn_triton.runtime.call import Known, call
from segattn_triton.runtime.program import Stale


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for module in (known, run_module, call_module):
        monkeypatch.setattr(module, "programs", {} if module is known else known.programs)
    dispatch._ops()  # the first call of a process finds nothing known


def remembered() -> list[Known]:
    return [value for value in known.programs.values() if isinstance(value, Known)]


def run(row, **options):
    """What a call gives with gradients, and those of its first output; and what it gives without."""
    inputs = [t.requires_grad_() for t in problem(row)]
    outputs = row.op(*inputs, backend="triton", **options)
    y = outputs[0] if options else outputs
    with torch.no_grad():
        alone = row.op(*inputs, backend="triton", **options)
    assert isinstance(outputs, tuple) == isinstance(alone, tuple) == bool(options)
    return [*outputs, *alone] if options else [y, *torch.autograd.grad(y.sum(), inputs), alone]


@each_row
def test_a_known_call_is_not_checked_again(row, monkeypatch):
    """With gradients and without, with all outputs and with the first alone: what the first call gives."""
    calls = [{}, row.both]
    expected = [[run(row, **options) for _ in range(2)][-1] for options in calls]
    support.replace_implementation(monkeypatch, lambda *args: pytest.fail("checked again"))
    for options, tensors in zip(calls, expected, strict=True):
        for got, wanted in zip(run(row, **options), tensors, strict=True):
            assert_equal(got, wanted)


def test_who_requires_a_gradient_is_told_apart():
    row = BY_NAME["neighborhood_attention"]
    q, k, v, bias = problem(row)
    for _ in range(2):
        row.op(q, k, v, bias, backend="triton")
    leaf = k.clone().requires_grad_()
    y = row.op(q, leaf, v, bias, backend="triton")
    (dk,) = torch.autograd.grad(y.sum(), leaf)
    assert dk.shape == k.shape and not row.op(q, k, v, bias, backend="triton").requires_grad
    with torch.no_grad():
        assert not row.op(q, leaf, v, bias, backend="triton").requires_grad


def test_numbers_of_another_type_are_checked():
    """Equal to what was accepted, and not accepted themselves."""
    q = torch.randn(1, 4, 4, 1, 4, device=DEVICE)
    for right, wrong in ((dict(kernel_size=3), dict(kernel_size=3.0)), (dict(dilation=1), dict(dilation=True))):
        for _ in range(3):
            functional.neighborhood_attention(q, q.clone(), q.clone(), backend="triton", **right)
        with pytest.raises(ValueError, match=next(iter(wrong))):
            functional.neighborhood_attention(q, q.clone(), q.clone(), backend="triton", **wrong)


def test_arguments_by_position_and_by_name():
    row = BY_NAME["spatial_gate"]
    x, weight, bias = problem(row)
    expected = row.reference(x, weight, bias)
    for _ in range(3):
        for y in (
            functional.spatial_gate(x, weight, bias, backend="triton"),
            functional.spatial_gate(x, bias=bias, weight=weight, backend="triton"),
            functional.spatial_gate(x, weight=weight, bias=bias, backend="triton"),
        ):
            torch.testing.assert_close(y, expected)


def test_one_tensor_in_two_places_is_not_two():
    """Shapes, strides and options are those of the call before; which tensors are one is another matter."""
    row = BY_NAME["squeeze_excite"]
    x, other = problem(row)[0], problem(row, seed=5)[0]
    weights = problem(row)[1:5]
    for shortcut in 3 * (x, x, other, other):
        y = row.op(x, *weights, shortcut=shortcut, backend="triton")
        torch.testing.assert_close(y, row.reference(x, *weights, shortcut=shortcut))


def test_a_layout_that_torch_did_not_give_before_is_planned():
    x = problem(BY_NAME["spatial_pool_gate"])[0]
    y = [functional.spatial_pool_gate(x, backend="triton") for _ in range(2)][-1]
    (one,) = remembered()

    def stale(tensors, stream):
        raise Stale

    one.program.steps.append(stale)
    assert_equal(functional.spatial_pool_gate(x, backend="triton"), y)


def test_a_tuple_of_constants_is_an_option():
    x = problem(BY_NAME["spatial_pool_gate"])[0]
    for slope in (0.5, 2.0, 0.5):
        for _ in range(3):
            gate = ("hard_sigmoid", slope, 0.5)
            got = functional.spatial_pool_gate(x, gate=gate, backend="triton")
            torch.testing.assert_close(got, functional.spatial_pool_gate(x, gate=gate, backend="reference"))


def test_what_is_not_an_operator_alone_is_not_remembered():
    """The reference, and a function that does more than its operator: nothing of them is skipped."""
    x = problem(BY_NAME["spatial_pool_gate"])[0]
    for _ in range(3):
        functional.spatial_pool_gate(x, backend="reference")
    assert not known.programs

    def twice(x, **options):
        return functional.spatial_pool_gate(x, backend="triton") * 2

    for _ in range(3):
        assert_equal(call(twice, (x,), {}), twice(x))
    assert not any(twice in key[0] for key in known.programs if isinstance(key[0], tuple))


def test_a_call_inside_a_transform_is_not_recalled():
    x = problem(BY_NAME["spatial_pool_gate"])[0]
    y = [functional.spatial_pool_gate(x, backend="triton") for _ in range(3)][-1]
    batched = torch.func.vmap(lambda x: functional.spatial_pool_gate(x, backend="triton"))(x[None])
    assert_equal(batched[0], y)
    with torch.profiler.profile() as profile:
        functional.spatial_pool_gate(x, backend="triton")
    assert any(event.key == "segattn::spatial_pool_gate" for event in profile.key_averages())
