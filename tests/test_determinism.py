"""The same input gives the same bits: run after run, and for an image whatever else is in the batch."""

import pytest
import torch
from support import assert_equal, each_option, each_row, images, outputs_and_gradients, problem


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@each_option
def test_runs(row, options, dtype):
    inputs = problem(row, S=(9, 7), C=6, N=3, dtype=dtype)
    first = outputs_and_gradients(row.op, inputs, backend="triton", **options)
    for got, expected in zip(outputs_and_gradients(row.op, inputs, backend="triton", **options), first, strict=True):
        assert_equal(got, expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_row
def test_batch_invariance(row, layout):
    """y, the map and dx of an image do not depend on the rest of the batch."""
    inputs = problem(row, S=(9, 7), C=6, N=4, layout=layout)
    douts = [torch.ones_like(o) for o in row.reference(*inputs, **row.both)]
    whole = outputs_and_gradients(row.op, inputs, douts, backend="triton")[: 2 + len(row.maps)]
    for part in (slice(0, 1), slice(2, 3), slice(1, 4)):
        some = images(row, inputs, part)
        alone = outputs_and_gradients(row.op, some, [d[part] for d in douts], backend="triton")
        for got, expected in zip(alone, whole, strict=False):
            assert_equal(got, expected[part])


@each_row
def test_random_state_is_untouched(row):
    before = torch.get_rng_state()
    outputs_and_gradients(row.op, problem(row), backend="triton")
    state = torch.get_rng_state()
    torch.set_rng_state(before)
    assert_equal(state, before)
