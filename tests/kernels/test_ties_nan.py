"""Ties, NaN and infinities: as in the reference."""

import math

import pytest
import torch
from support import assert_equal, assert_right, each_gate, each_option_of_gates, names, outputs_and_gradients, problem

from segattn_triton.catalog import ROWS

maxima = pytest.mark.parametrize(
    ("row", "pool"),
    [
        pytest.param(row, pool, id=f"{row.name}-{pool}")
        for row in ROWS
        if "ties" in row.options
        for pool in row.options["pool"]
        if "max" in pool
    ],
)


def few_values(row, S=(4, 6), C=6, **how) -> list[torch.Tensor]:
    """Every maximum is reached several times."""
    inputs = problem(row, S=S, C=C, **how)
    return [t.clamp(-1.2, 1.2).round() if n in row.maps else t for n, t in zip(names(row), inputs, strict=True)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("ties", ["first", "split"])
@maxima
def test_ties(row, pool, ties, layout, dtype):
    assert_right(row, *few_values(row, dtype=dtype, layout=layout), pool=pool, ties=ties)


@pytest.mark.parametrize("ties", ["first", "split"])
@maxima
def test_all_equal(row, pool, ties):
    inputs = zip(names(row), problem(row, S=(5, 7), C=5), strict=True)
    equal = [torch.full_like(t, 0.5) if name in row.maps else t for name, t in inputs]
    assert_right(row, *equal, pool=pool, ties=ties)


@maxima
def test_split_differs_from_first(row, pool):
    first, split = (
        outputs_and_gradients(row.op, few_values(row), backend="triton", pool=pool, ties=ties)
        for ties in ("first", "split")
    )
    assert_equal(first[0], split[0])
    assert not all(map(torch.equal, first, split))


VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "max": 3e38, "-max": -3e38}


def spoiled(row, value: float, dtype=torch.float32) -> list[torch.Tensor]:
    """The value in one pixel of one channel of the first image; the second image stays clean."""
    x, *parameters = problem(row, S=(5, 6), C=4, dtype=dtype)
    x[0, 1, 2, 3] = value
    x[0, 2, 0, 0] = value
    return [x, *parameters]


def assert_same_kind(got: torch.Tensor, expected: torch.Tensor) -> None:
    """NaN where the reference has NaN, the same infinities, close elsewhere."""
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("value", VALUES)
@each_option_of_gates
def test_not_finite(row, options, value):
    # in a GELU of the largest numbers torch's vector code overflows and its scalar code does not
    huge = {"max": 1e30} if options.get("act") == "gelu" else {}
    huge |= {"inf": 1e30} if huge and "w_h" in row.inputs else {}  # as many hidden values as are a vector
    huge = {"max": 1e8, "-max": -1e8} if row.over_batch else huge  # a variance can hold its square's square
    inputs = spoiled(row, (VALUES | huge)[value])
    got = row.op(*inputs, backend="triton", **row.both, **options)
    expected = row.reference(*inputs, **row.both, **options)
    for a, b in zip(got, expected, strict=True):
        assert_same_kind(a, b)
    assert row.over_batch or got[0][1].isfinite().all()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@each_option_of_gates
def test_not_finite_gradients(row, options, value):
    """Not finite wherever the reference's are, and untouched in the other image, which a norm over both is not.

    No more is promised: a NaN where a gate is flat is dropped by torch or not by its position, because torch's vector
    and scalar code differ, and the gradient of a tap that sees an infinity only from outside the image may be NaN.
    """
    inputs = spoiled(row, VALUES[value])
    got = outputs_and_gradients(row.op, inputs, backend="triton", **options)
    expected = outputs_and_gradients(row.reference, inputs, **options)
    for a, b in zip(got[2:], expected[2:], strict=True):
        assert not (a.isfinite() & ~b.isfinite()).any()
    if not row.over_batch:
        assert got[2][1].isfinite().all()
        torch.testing.assert_close(got[2][1], expected[2][1], rtol=1e-4, atol=1e-5)


@each_gate
def test_nan_in_the_incoming_gradient(row):
    inputs = problem(row)
    y, gate_map = row.reference(*inputs, **row.both)
    douts = [torch.ones_like(y), torch.ones_like(gate_map)]
    douts[0][0, 1, 2, 3] = math.nan
    got = outputs_and_gradients(row.op, inputs, douts, backend="triton")
    for a, b in zip(got, outputs_and_gradients(row.reference, inputs, douts), strict=True):
        assert_same_kind(a, b)


@each_gate
def test_nan_in_parameters(row):
    """NaN wherever the reference has it; at the border torch may leave out the product with a padding zero."""
    inputs = problem(row)
    for i in range(1, len(inputs)):
        changed = [t.clone() for t in inputs]
        changed[i].view(-1)[0] = math.nan
        got = outputs_and_gradients(row.op, changed, backend="triton")
        for a, b in zip(got, outputs_and_gradients(row.reference, changed), strict=True):
            assert_same_kind(a, b.where(~a.isnan(), a))
            assert not (b.isnan() & ~a.isnan()).any()
