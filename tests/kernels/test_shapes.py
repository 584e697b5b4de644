"""Every shape is right: odd, tiny, empty, one channel, one pixel, many channels, one to three spatial axes."""

import pytest
import torch
from support import assert_equal, assert_right, each_gate, each_row, outputs_and_gradients, problem

from segattn_triton.catalog import ROWS

SHAPES = [  # C, *S
    (1, 1, 1),
    (1, 5, 3),
    (7, 1, 1),
    (4, 1, 9),
    (3, 9, 1),
    (2, 2, 2),
    (17, 13, 11),
    (33, 3, 5),
    (65, 4, 4),
    (8, 16, 16),
]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each_row
def test_odd_shapes(row, shape, layout):
    assert_right(row, *problem(row, S=shape[1:], C=shape[0], layout=layout))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_gate
def test_many_channels(row, layout):
    """Past the channels that one program holds at once, and no power of two. Full matrices of C x C stay smaller."""
    big = max(t.numel() for t in problem(row, S=(1, 1), C=32)[1:] or [torch.zeros(1)]) >= 32 * 32
    for C in (300,) if big else (1100, 2048):
        assert_right(row, *problem(row, S=(2, 3), C=C, N=1, Cr=3, layout=layout))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("row", "S"),
    [
        pytest.param(row, S, id=f"{row.name}-{len(S)}d")
        for row in ROWS
        for S in ((11,), (1,), (2, 3, 4), (3, 1, 5))
        if len(S) in row.dims
    ],
)
def test_one_and_three_axes(row, S, layout):
    assert_right(row, *problem(row, S=S, C=6, layout=layout))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_row
def test_empty_batch(row, layout):
    """No image: empty outputs, and parameters whose gradient is zero, not left as it was allocated."""
    inputs = problem(row, N=0, layout=layout)
    y, gate_map, dx, *dparameters = outputs_and_gradients(row.op, inputs, backend="triton")
    expected = row.reference(*inputs, **row.both)
    assert (y.shape, gate_map.shape, dx.shape) == (*(t.shape for t in expected), inputs[0].shape)
    for t, grad in zip(inputs[1:], dparameters, strict=True):
        assert grad.shape == t.shape
        assert not grad.any()
    assert_right(row, *inputs)


@pytest.mark.parametrize("S", [(3, 5), (0, 5)])
@each_row
def test_one_gradient_of_nothing(row, S):
    inputs = problem(row, N=2 if 0 in S else 0, S=S)
    for i in range(len(inputs)):
        assert_right(row, *inputs, needs=[i == j for j in range(len(inputs))])


@each_row
def test_trailing_ones_of_weights(row):
    """A weight (Cr, C) may come as that of a 1x1 convolution; its gradient has its shape."""
    inputs = problem(row)
    shaped = [t[..., None, None] if t.dim() == 2 else t for t in inputs]
    plain = outputs_and_gradients(row.op, inputs, backend="triton")
    trailing = outputs_and_gradients(row.op, shaped, backend="triton")
    for t, got, expected in zip([*plain[:2], *shaped], trailing, plain, strict=True):
        assert got.shape == t.shape
        assert_equal(got, expected.reshape(got.shape))


@each_row
def test_reduction_of_a_small_gate(row):
    """From one hidden channel."""
    assert_right(row, *problem(row, C=9, Cr=1))
