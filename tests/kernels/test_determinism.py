"""The same input gives the same bits: run after run, and for an image whatever else is in the batch."""

import pytest
import torch
from support import assert_equal, each_image_apart, each_option, each_row, names, outputs_and_gradients, problem


@each_option
def test_runs(row, options):
    inputs = problem(row)
    first = outputs_and_gradients(row.op, inputs, backend="triton", **options)
    for got, expected in zip(outputs_and_gradients(row.op, inputs, backend="triton", **options), first, strict=True):
        assert_equal(got, expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_image_apart
def test_batch_invariance(row, layout):
    """y, the map and the gradients of maps of an image depend neither on the other images nor on its place among them.

    dx of the dense local gate comes from the library's convolution, which promises no such thing.
    """
    measured = () if "dconv_x" in row.rounding_points else row.maps
    inputs, others = (problem(row, N=4, layout=layout, seed=seed) for seed in (0, 1))
    douts = [torch.randn_like(o) for o in row.reference(*inputs, **row.both)]

    def run(inputs, douts):
        y, gate_map, *grads = outputs_and_gradients(row.op, inputs, douts, backend="triton")
        return [y, gate_map, *(g for name, g in zip(names(row), grads, strict=True) if name in measured)]

    def rearranged(tensors):
        return [torch.empty_like(t).copy_(t[[2, 0, 3, 1]]) for t in tensors]

    maps = [i for i, name in enumerate(names(row)) if name in row.maps]
    moved, mixed = list(inputs), list(inputs)
    for i in maps:
        (moved[i],) = rearranged([inputs[i]])
        mixed[i] = inputs[i].clone()
        mixed[i][1::2] = others[i][1::2]
    whole = run(inputs, douts)
    for got, expected in zip(run(moved, rearranged(douts)), rearranged(whole), strict=True):
        assert_equal(got, expected)
    for got, expected in zip(run(mixed, douts), whole, strict=True):
        assert_equal(got[::2], expected[::2])


@each_row
def test_random_state_is_untouched(row):
    before = torch.get_rng_state()
    outputs_and_gradients(row.op, problem(row), backend="triton")
    state = torch.get_rng_state()
    torch.set_rng_state(before)
    assert_equal(state, before)
