"""A number that no module can be made with is a line that names it, before anything is made; what is to be True or
False, too."""

import inspect

import numpy as np
import pytest
from support import MODULES, made

from segattn_triton import modules
from segattn_triton.modules._gate import NUMBERS, least

CLASSES = [getattr(modules, name) for name in modules.__all__ if isinstance(getattr(modules, name), type)]
NO_INT = (-1, 2.5, float("nan"), 10**400, 10**5000, 2**31, "8", True)
NO_FLOAT = (float("nan"), float("inf"), 10**400, 10**5000, "8")
NO_FLAG = ("yes", 1, 0.0)


def numbers():
    """(class, name, value) of every number that every module takes, and every value that it is not."""
    for kind in CLASSES:
        for name, parameter in inspect.signature(kind).parameters.items():
            of = NUMBERS.get(parameter.annotation)
            wrong = {int: NO_INT, float: NO_FLOAT, bool: NO_FLAG, None: ()}[of]
            wrong += (0,) * (of is int and least(parameter) == 1)
            wrong += (None,) * (of is parameter.annotation)
            yield from ((kind, name, value) for value in wrong)


def given(kind: type) -> dict:
    parameters = inspect.signature(kind).parameters
    return {n: 2 if n == "num_heads" else 8 for n, p in parameters.items() if p.default is p.empty}


def label(value) -> str:
    return f"{value.bit_length()} bits" if isinstance(value, int) and value > 2**31 else repr(value)


@pytest.mark.parametrize(
    ("kind", "name", "value"), [pytest.param(*n, id=f"{n[0].__name__}-{n[1]}-{label(n[2])}") for n in numbers()]
)
def test_no_such_number(kind, name, value):
    with pytest.raises(ValueError, match=rf"^{name}: got .*, expected ") as said:
        kind(**{**given(kind), name: value})
    assert len(str(said.value)) < 200


@pytest.mark.parametrize("kind", [k for k in CLASSES if "reduction" in inspect.signature(k).parameters])
def test_a_reduction_to_more_channels_than_there_are_numbers_for(kind):
    with pytest.raises(ValueError, match=r"^reduction: got 1e-300"):
        kind(**{**given(kind), "reduction": 1e-300})


def test_every_module_is_checked():
    assert {row.module for row in MODULES} <= set(CLASSES)
    tried = {kind for kind, _, _ in numbers()}
    assert {kind for kind in CLASSES if "in_channels" in inspect.signature(kind).parameters} <= tried


@pytest.mark.parametrize("row", MODULES, ids=lambda row: row.name)
def test_numbers_of_numpy_are_numbers(row):
    if "in_channels" in inspect.signature(row.module).parameters:
        assert made(row, np.int64(8)).extra_repr()


def test_names_that_do_not_exist_are_what_python_says():
    with pytest.raises(TypeError, match="nothing"):
        modules.SpatialAttention(8, nothing=1)
    with pytest.raises(TypeError, match="in_channels"):
        modules.SpatialAttention()
