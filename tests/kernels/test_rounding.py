"""What 16 bits keep: one rounding to nearest, sums that do not overflow, signed zeros, subnormals."""

import pytest
import torch
from support import (
    DEVICE,
    GATES,
    assert_equal,
    each_gate,
    each_row,
    one_map,
    one_product,
    outputs_and_gradients,
    problem,
)
from torch import Tensor

from segattn_triton.catalog import BY_NAME

SIXTEEN = (torch.float16, torch.bfloat16)
DIGITS = {torch.float16: 11, torch.bfloat16: 8}  # of the significand
SMALLEST = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133, torch.float32: 2.0**-149}
each_sixteen = pytest.mark.parametrize("dtype", SIXTEEN, ids=lambda dtype: str(dtype)[6:])


def bias(got: Tensor, exact: Tensor) -> float:
    """The mean signed error, away from zero positive, in units in the last place."""
    exponent = torch.frexp(exact).exponent.double()
    unit = torch.exp2(exponent - DIGITS[got.dtype])
    normal = exact.abs() > 2.0**-12
    return float(((got.double() - exact) * exact.sign() / unit)[normal].mean().detach())


def test_bias_of_known_roundings():
    """The measure itself: rounding to nearest has none, truncation has half a unit, one factor in 2^10 shows."""
    exact = torch.randn(2**16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for dtype in SIXTEEN:
        assert abs(bias(exact.to(dtype), exact)) < 0.01
        unit = torch.exp2(torch.frexp(exact).exponent.double() - DIGITS[dtype])
        truncated = (exact / unit).trunc() * unit
        assert bias(truncated.to(dtype), exact) == pytest.approx(-0.5, abs=0.01)
        assert abs(bias((exact * (1 + 2.0 ** -DIGITS[dtype] / 4)).to(dtype), exact)) > 0.1


@each_sixteen
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_row
def test_rounding_has_no_bias(row, layout, dtype):
    """y, the map and dx. Where intermediates are rounded, too, the error of dx is not that of one rounding."""
    inputs = problem(row, S=(24, 24), C=8, dtype=dtype, layout=layout)
    generator = torch.Generator().manual_seed(2)
    douts = [torch.randn(o.shape, generator=generator).to(DEVICE, dtype) for o in row.reference(*inputs, **row.both)]
    got = outputs_and_gradients(row.op, inputs, douts, backend="triton")
    exact = outputs_and_gradients(row.reference, [t.double() for t in inputs], [d.double() for d in douts])
    measured = ("y", "map") if row.rounding_points else ("y", "map", "dx")
    for name, a, b in zip(measured, got, exact, strict=False):
        if a.numel() >= inputs[0].numel():
            assert abs(bias(a, b)) < 0.02, name


POOLS = [
    pytest.param(row, pool, id=f"{row.name}-{pool}")
    for row in GATES
    for pool in row.options.get("pool", ())
    if not row.parameters
]


@each_sixteen
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("row", "pool"), POOLS)
def test_pooling_does_not_overflow(row, pool, layout, dtype):
    """The plain sum of these values is beyond float16, their mean is not; it is exact."""
    x = torch.full_like(problem(row, S=(16, 16), C=128, N=1, dtype=dtype, layout=layout)[0], 2048.0)
    gate = ("hard_sigmoid", 2.0**-12, 0.0)  # of 2048: 1/2
    y, gate_map, dx = outputs_and_gradients(row.op, [x], backend="triton", pool=pool, gate=gate)
    assert_equal(gate_map, torch.full_like(gate_map, 0.5))
    assert_equal(y, torch.full_like(x, 1024.0))
    assert dx.isfinite().all()


@each_sixteen
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_pooling_over_the_image_does_not_overflow(layout, dtype):
    """4096 ones, and 4096 values of which 33 sum up beyond float16."""
    row = BY_NAME["channel_gate"]
    identity = torch.eye(4, device=DEVICE, dtype=dtype)
    for value in (1.0, 2048.0):
        x = torch.full_like(problem(row, S=(64, 64), C=4, N=1, dtype=dtype, layout=layout)[0], value)
        for pool in row.options["pool"]:
            inputs = [x, identity, None, identity, None]
            options = dict(pool=pool, gate=("hard_sigmoid", 2.0**-12, 0.0))
            y, gate_map, dx, *_ = outputs_and_gradients(row.op, inputs, backend="triton", **options)
            assert_equal(gate_map, torch.full_like(gate_map, value * 2.0**-12))
            assert_equal(y, torch.full_like(x, value * value * 2.0**-12))
            assert dx.isfinite().all()


def halved(row, dtype, layout) -> list[Tensor]:
    """One map with a gate of exactly 1/2, whatever it holds: parameters of zero, or a gate that is constant."""
    x, *parameters = one_map(row, problem(row, S=(4, 6), C=5, dtype=dtype, layout=layout))
    return [x, *(t if t is None else torch.zeros_like(t) for t in parameters)]


CONSTANT = ("hard_sigmoid", 0.0, 0.5)


@pytest.mark.parametrize("dtype", [*SIXTEEN, torch.float32], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_gate
def test_subnormals_are_kept(row, layout, dtype):
    """Forward and backward, with ties in the rounding: as torch rounds, never flushed to zero."""
    x, *parameters = halved(row, dtype, layout)
    steps = torch.arange(x.numel(), device=DEVICE).reshape(x.shape).double() - x.numel() // 2
    x = torch.empty_like(x).copy_(steps * SMALLEST[dtype])
    dy = x.flip(0)
    y, _, dx, *_ = outputs_and_gradients(
        row.op,
        [x, *parameters],
        [dy, torch.zeros_like(_map_of(row, x, parameters))],
        **{"backend": "triton", "gate": CONSTANT, **one_product(row)},
    )
    gate = 0.5**row.gates
    assert_equal(y, (x.double() * gate).to(dtype))
    assert_equal(dx, (dy.double() * gate).to(dtype))
    assert (y != 0).sum() >= x.numel() - 8 * row.gates


def _map_of(row, x: Tensor, parameters: list[Tensor | None]) -> Tensor:
    return row.reference(x, *parameters, **row.both)[1]


@pytest.mark.parametrize("dtype", [*SIXTEEN, torch.float32], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_gate
def test_signed_zeros_are_kept(row, layout, dtype):
    """-0 times a positive gate is -0; a gate that is zero gives the sign of x."""
    x, *parameters = halved(row, dtype, layout)
    x[:, ::2] = -0.0
    x[:, 1::2] = 0.0
    y = row.op(x, *parameters, backend="triton", gate=CONSTANT, **one_product(row))
    assert_equal(y.signbit(), x.signbit())
    x[:, ::2] = -1.0
    x[:, 1::2] = 1.0
    y = row.op(x, *parameters, backend="triton", gate=("hard_sigmoid", 0.0, 0.0))
    assert not y.any()
    assert_equal(y.signbit(), row.reference(x, *parameters, gate=("hard_sigmoid", 0.0, 0.0)).signbit())


@each_sixteen
@pytest.mark.parametrize("row", [row for row in GATES if row.gates == 1], ids=lambda row: row.name)
def test_halfway_values_round_to_even(row, dtype):
    """y lies exactly between two values of the dtype: x with every bit of the significand, times 3/4."""
    x, *parameters = halved(row, dtype, "contiguous")
    digits = 2 ** DIGITS[dtype]
    odd = torch.arange(x.numel(), device=DEVICE).reshape(x.shape) % (digits // 4) * 2 + digits // 2 + 1
    x = odd.double().to(dtype)
    assert_equal(x.double(), odd.double())
    y = row.op(x, *parameters, backend="triton", gate=("hard_sigmoid", 0.0, 0.75), **one_product(row))
    assert_equal(y, (x.double() * 0.75).to(dtype))
