"""What needs no gradient costs none: no work in the backward, and nothing kept by an inference."""

import itertools

import pytest
import torch
from support import Calls, assert_equal, assert_right, each_row, names, problem

from segattn_triton.catalog import ROWS
from segattn_triton.runtime.plan import Plan, recorded


def subsets(row) -> list[tuple[bool, ...]]:
    """All of them; of many inputs those that want or freeze a single one, two of them, or everything."""
    every = [needs for needs in itertools.product((True, False), repeat=len(row.inputs)) if any(needs)]
    return [n for n in every if len(n) <= 5 or sum(n) in (1, 2, len(n) - 1, len(n))]


each_subset = pytest.mark.parametrize(
    ("row", "needs"),
    [
        pytest.param(row, needs, id=f"{row.name}-{'+'.join(itertools.compress(names(row), needs))}")
        for row in ROWS
        for needs in subsets(row)
    ],
)


@each_subset
def test_gradients_of_every_subset(row, needs):
    assert_right(row, *problem(row, S=(4, 5), C=4), needs=needs)


def planned_bytes(plans: list[Plan]) -> tuple[float, float]:
    """(all traffic, stores) of these plans, by their own statement."""
    total = stores = 0.0
    for plan in plans:
        for name, (loaded, stored) in plan.traffic.items():
            if isinstance(tensor := plan.args.get(name), torch.Tensor):
                size = tensor.numel() * tensor.element_size()
                total, stores = total + size * (loaded + stored), stores + size * stored
    return total, stores


def asked_of(row, needs) -> list[bool]:
    """What the operator of the backward is asked for: the gradient of what is added last is dy itself."""
    return [need and name != "shortcut" for name, need in zip(names(row), needs, strict=True)]


def backward(row, needs) -> tuple[list[Plan], tuple]:
    leaves = [t.requires_grad_(need) for t, need in zip(problem(row), needs, strict=True)]
    y = row.op(*leaves, backend="triton")
    with recorded() as plans, Calls() as calls:
        y.sum().backward()
    for t, need in zip(leaves, needs, strict=True):
        assert (t.grad is not None) == need
    if not any(asked_of(row, needs)):  # nothing is asked for: no operator is called
        assert not calls.made and not plans
        return plans, tuple(t.new_empty(0) for t in leaves)
    (_, args, grads) = calls.made[-1]
    asked = args[-1]  # an operator may have more tensors than the row
    assert asked == [*asked_of(row, needs), *[False] * (len(asked) - len(needs))]
    return plans, grads[: len(needs)]


@each_subset
def test_no_work_for_what_is_frozen(row, needs):
    everything = [True] * len(row.inputs)
    all_plans, _ = backward(row, everything)
    full, full_stores = planned_bytes(all_plans)
    plans, grads = backward(row, needs)
    needs = asked_of(row, needs)
    total, stores = planned_bytes(plans)
    for t, grad, need in zip(problem(row), grads, needs, strict=True):
        assert grad.numel() == (t.numel() if need else 0)
    assert total <= full
    assert stores <= full_stores
    for name, t, need in zip(names(row), problem(row), needs, strict=True):
        if (
            name in row.maps and not need and name != "shortcut"
        ):  # dx is not written, and nothing is written in its place
            assert stores <= full_stores - t.numel() * 4
            others = any(need for other, need in zip(names(row), needs, strict=True) if other in row.maps)
            assert others or not any(isinstance(plan.args.get(f"d{name}_ptr"), torch.Tensor) for plan in plans)
    wanted = [need for name, need in zip(names(row), needs, strict=True) if name not in row.maps]
    if wanted and not any(wanted):  # no partial sums, and no launch, or programs of one, that finish them
        assert stores < full_stores
        fewer, as_all = ((len(some), sum(plan.grid for plan in some)) for some in (plans, all_plans))
        assert fewer < as_all


@pytest.mark.parametrize("row", [r for r in ROWS if not r.keeps_y], ids=lambda row: row.name)
def test_the_output_is_never_saved(row):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = row.op(*(t.requires_grad_() for t in problem(row)), backend="triton")
    assert saved
    assert all(t.untyped_storage().data_ptr() != y.untyped_storage().data_ptr() for t in saved)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@each_row
def test_inference_saves_nothing(row, guard):
    """No tensor is kept for a backward, and y is the only map that is allocated, but for what goes between kernels."""
    inputs = [t.requires_grad_() for t in problem(row)]
    expected = row.op(*inputs, backend="triton")
    saved = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
    with guard(), hooks, recorded() as plans, Calls() as calls:
        y = row.op(*inputs, backend="triton")
    assert not saved
    assert not y.requires_grad
    assert_equal(y, expected)
    for _, _, outputs in calls.made:
        assert all(t.numel() < y.numel() for t in outputs[1:])
    written = {
        id(plan.args[name]): plan.args[name]
        for plan in plans
        for name, (_, stored) in plan.traffic.items()
        if stored and isinstance(plan.args.get(name), torch.Tensor)
    }
    assert sum(t.numel() >= y.numel() for t in written.values()) == 1 + row.between


@each_row
def test_a_map_that_is_not_asked_for_is_not_written(row):
    inputs = problem(row)
    y, _ = row.op(*inputs, backend="triton", **row.both)
    with recorded() as plans, Calls() as calls:
        alone = row.op(*inputs, backend="triton")
    assert_equal(alone, y)
    assert all(outputs[1].numel() == 0 for _, _, outputs in calls.made)
    assert all(plan.args.get(f"{name}_ptr") is None for plan in plans for name in list(row.outputs)[1:])
