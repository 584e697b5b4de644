"""The means of rows and of columns, which are no row of the catalog, and what the gate of both refuses."""

import itertools

import pytest
import torch
from probe import faults, probe
from support import DEVICE, each_dtype

from segattn_triton import functional as F
from segattn_triton import reference
from segattn_triton.testing import compare, exact_and_error, make_map

SHAPES = [(2, 3, 5, 6), (1, 1, 1, 1), (1, 4, 1, 9), (2, 2, 7, 1), (1, 17, 33, 40)]


def _map(shape, layout="contiguous", dtype=torch.float32) -> torch.Tensor:
    return make_map(shape, layout, torch.Generator().manual_seed(0), dtype, DEVICE)


def _results(means, x: torch.Tensor, douts, **options) -> list[torch.Tensor]:
    """Both means, and the gradient of x."""
    x = x.detach().requires_grad_()
    made = means(x, **options)
    return [*made, *torch.autograd.grad(made, x, [d.to(x.dtype) for d in douts])]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "channel_slice", "strided"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each_dtype
def test_means(shape, layout, dtype):
    x = _map(shape, layout, dtype)
    douts = [torch.randn_like(t) for t in reference.strip_means(x)]

    def run(wide, scale):
        return _results(reference.strip_means, x.to(wide) * scale, [d.to(wide) * scale for d in douts])

    exact, errors = exact_and_error(run, (), dtype)
    got = _results(F.strip_means, x, douts, backend="triton")
    assert got[2].stride() == torch.empty_like(x).stride()
    names = "rows", "cols", "dx"
    found = [compare(*values) for values in zip(names, got, exact, errors, strict=True)]
    assert all(match.ok for match in found), found


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_one_of_both_means(layout):
    """The gradient through either alone, and of a mean that is turned in memory."""
    x = _map((2, 3, 5, 6), layout).requires_grad_()
    for i in range(2):
        (dx,) = torch.autograd.grad(F.strip_means(x, backend="triton")[i].square().sum(), x)
        (expected,) = torch.autograd.grad(reference.strip_means(x)[i].square().sum(), x)
        torch.testing.assert_close(dx, expected)
    rows, cols = F.strip_means(x, backend="triton")
    dout = torch.randn(2, 5, 3, 6).transpose(1, 2)
    (dx,) = torch.autograd.grad(rows + cols, x, dout)
    (expected,) = torch.autograd.grad(sum(reference.strip_means(x)), x, dout)
    torch.testing.assert_close(dx, expected)


@pytest.mark.skipif(DEVICE != "cpu", reason="the probe is in the interpreter")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_means_in_memory(shape, layout):
    """Within their bounds, nothing read that was not written, and the same in any order of programs."""
    x = _map(shape, layout)
    douts = reference.strip_means(x)
    expected = _results(F.strip_means, x, douts, backend="triton")
    for order in (None, 3):
        with probe(order) as launches:
            got = _results(F.strip_means, x, douts, backend="triton")
        assert not faults(launches)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_second_derivatives_raise():
    x = _map((1, 2, 3, 4)).requires_grad_()
    (dx,) = torch.autograd.grad(F.strip_means(x, backend="triton")[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="strip_means: the gradient of a gradient"):
        dx.sum().backward()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_of_every_subset(layout):
    """Each is what it is beside the others, bit for bit."""
    x, z_h, z_w = (_map(shape, layout) for shape in ((2, 3, 5, 6), (2, 3, 5, 1), (2, 3, 1, 6)))

    def grads(needs):
        leaves = [t.detach().requires_grad_(need) for t, need in zip((x, z_h, z_w), needs, strict=True)]
        wanted = [t for t in leaves if t.requires_grad]
        return torch.autograd.grad(F.strip_gate(*leaves, backend="triton").square().sum(), wanted)

    whole = grads([True] * 3)
    for needs in itertools.product([False, True], repeat=3):
        expected = [g for g, need in zip(whole, needs, strict=True) if need]
        for got, wanted in zip(grads(needs) if any(needs) else (), expected, strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.cheap
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_h": torch.zeros(2, 3, 5)}, r"z_h: got shape \(2, 3, 5\), expected \(2, 3, 5, 1\) for x"),
        ({"z_w": torch.zeros(2, 3, 6, 1)}, r"z_w: got shape \(2, 3, 6, 1\), expected \(2, 3, 1, 6\) for x"),
        ({"x": torch.zeros(2, 3, 5)}, r"x: got 3 axes, shape \(2, 3, 5\), expected \(N, C, H, W\)"),
        ({"combine": "mean"}, "combine: got 'mean', expected one of 'product', 'sum'"),
    ],
)
def test_what_the_gate_refuses(change, message):
    given = dict(x=torch.zeros(2, 3, 5, 6), z_h=torch.zeros(2, 3, 5, 1), z_w=torch.zeros(2, 3, 1, 6))
    with pytest.raises(ValueError, match=message):
        F.strip_gate(**{**given, **change})


@pytest.mark.cheap
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w_h": torch.zeros(2, 3)}, r"w_h: got shape \(2, 3\), expected \(3, 2, ...\) for x"),
        ({"b_w": torch.zeros(2)}, r"b_w: got shape \(2\), expected \(3\) for x"),
        ({"norm_bias": torch.zeros(2)}, "norm_bias: given without norm_weight"),
        ({"return_stats": True}, "return_stats: given without norm_weight"),
        ({"norm_weight": torch.zeros(3)}, r"norm_weight: got shape \(3\), expected \(2\) for x"),
    ],
)
def test_what_coordinate_attention_refuses(change, message):
    given = dict(x=torch.zeros(2, 3, 5, 6), w1=torch.zeros(2, 3), b1=None, w_h=torch.zeros(3, 2), b_h=None)
    given |= dict(w_w=torch.zeros(3, 2), b_w=None)
    with pytest.raises(ValueError, match=message):
        F.coordinate_attention(**{**given, **change})
