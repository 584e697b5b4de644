"""What an option may be follows from its type: any other value of any row is one line that names it, on every backend,
before anything runs."""

import inspect
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from support import each_gate, each_row, problem

from segattn_triton import functional
from segattn_triton.reference.activations import Spec

NO_NUMBER = (float("nan"), float("inf"), 10**400, "1", None, True, torch.tensor(1.0), np.ones(2))
WRONG = {  # what a parameter is annotated with -> what it cannot be
    bool: ("yes", 1, 0.0, None, torch.tensor(True), np.zeros(2)),
    int: (1.0, "1", None, True, 0, -1, 2**31, 10**400, torch.tensor(1), np.ones(2)),
    float: (-1.0, *NO_NUMBER),
    # one value for both axes, or one for each
    int | Sequence[int]: (1.0, "1", None, True, 0, -1, 2**31, 10**400, torch.tensor(1), (), (3,), (3, 0), (3, 10**400)),
    bool | Sequence[bool]: ("yes", 1, 0.0, None, torch.tensor(True), np.zeros(2), (), (True,), (True, 1), (0.0, False)),
    Sequence[int]: ((), 3, "12", None, (0,), (1, -1), (1.0,), (True,), (10**400,), torch.ones(2), np.ones(2)),
    str: (1, None, ["first"], np.array(["first", "split"]), torch.zeros(2)),
    str | Spec: (1, None, torch.sigmoid, *(("hard_sigmoid", value, 0.5) for value in ("a", None, torch.tensor(0.2)))),
}
FEWEST = {"steps": 0}  # what is a number of them, though of others 0 is not


def options_of(row) -> dict:
    """Those of its function, by name: their annotation."""
    named = inspect.signature(row.op).parameters.values()
    return {p.name: p.annotation for p in named if p.kind is p.KEYWORD_ONLY and p.annotation in WRONG}


@each_row
def test_a_value_of_another_type(row, in_turn):
    inputs = problem(row)
    for name, kind in options_of(row).items():
        for value in (v for v in WRONG[kind] if kind is not int or v is not FEWEST.get(name)):
            for backend in in_turn((None, "triton", "reference"), f"{row.name} {name}"):
                with pytest.raises(ValueError, match=rf"^{name}: got (?s:.)*expected ") as said:
                    row.op(*inputs, **{"backend": backend, name: value})
                assert len(str(said.value)) < 300, name


def test_every_kind_of_option_is_tried():
    """By the annotations of all functions: a new kind is a line of the table."""
    for name in functional.__all__:
        named = inspect.signature(getattr(functional, name)).parameters.values()
        others = {p.name for p in named if p.kind is p.KEYWORD_ONLY and p.annotation not in WRONG}
        assert others <= {"backend", "scale", "rel_bias"}, name


@each_gate
def test_numbers_of_numpy(row):
    """A result, not an error, and that of the same number of Python's."""
    inputs = problem(row)
    for name, kind in options_of(row).items():
        if kind in (int, float) and name not in row.fixed:
            default = inspect.signature(row.op).parameters[name].default
            other = {int: np.int64, float: np.float32}[kind](default)
            got, expected = (row.op(*inputs, **{name: v}) for v in (other, kind(other)))
            assert torch.equal(got, expected), name
