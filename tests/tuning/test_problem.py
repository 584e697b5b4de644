"""One maker of inputs, on the meta device as elsewhere; a problem says which are given and want a gradient."""

import dataclasses
import json

import pytest
import torch
from support import DEVICE, each_row

from segattn_triton.catalog.problem import LAYOUTS, Problem

S = (6, 8)


def described(tensors: list) -> list:
    return [None if t is None else (t.shape, t.stride(), t.storage_offset(), t.dtype) for t in tensors]


@pytest.mark.parametrize("layout", LAYOUTS)
@each_row
def test_inputs_lie_alike_on_every_device(row, layout):
    problem = Problem(row.name, "float16", layout, 2, 6, S, param_dtype="float32")
    made = described(problem.inputs(DEVICE))
    assert made == described(problem.inputs("meta")) == described(problem.inputs(DEVICE, drawn_on=DEVICE))
    assert {dtype for *_, dtype in made} <= {torch.float16, torch.float32} and made[0][3] == torch.float16


@each_row
def test_values_follow_from_the_seed_alone(row):
    """In every layout the same; maps can be drawn otherwise."""
    problem = Problem(row.name, "float32", "contiguous", 2, 6, S)
    other = dataclasses.replace(problem, layout="channels_last")
    for a, b, c in zip(problem.inputs(seed=3), other.inputs(seed=3), problem.inputs(seed=4), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    drawn = problem.inputs(draw=lambda shape: torch.full(tuple(shape), 2.0))
    assert all((t == 2).all() == (name in row.maps) for name, t in zip(problem.names, drawn, strict=True))


def test_what_is_absent_is_none_and_wants_nothing():
    problem = Problem("spatial_gate", "float32", "contiguous", 2, 6, S, absent=("bias",), needs=(True, False, True))
    assert problem.names == ["x", "weight"] and problem.wants == [True, False, False]
    assert problem.inputs("meta")[2] is None
    assert Problem.of(json.loads(json.dumps(dataclasses.asdict(problem)))) == problem
