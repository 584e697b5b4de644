"""What is saved for a backward has values, not a layout."""

import pytest
import torch
from support import each_row, problem

LAYOUTS = {
    "every other element": lambda t: torch.stack([t, t], -1)[..., 0],
    "last axis first": lambda t: t.movedim(-1, 0).contiguous().movedim(0, -1) if t.dim() else t,
    "a copy": lambda t: t.clone(memory_format=torch.contiguous_format),
}


def gradients(row, unpack, layout="contiguous"):
    inputs = [t.requires_grad_() for t in problem(row, layout=layout)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), unpack):
        outputs = row.op(*inputs, backend="triton", **row.both)
    douts = [torch.randn(o.shape, generator=torch.Generator().manual_seed(3)).to(o) for o in outputs]
    return torch.autograd.grad(outputs, inputs, douts)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("how", LAYOUTS)
@each_row
def test_saved_tensors_come_back_in_other_strides(row, how, layout):
    """As from an offloading or compressing hook: the same gradients within their accuracy."""
    plain, changed = gradients(row, lambda t: t, layout), gradients(row, LAYOUTS[how], layout)
    for got, expected in zip(changed, plain, strict=True):
        assert got.stride() == expected.stride() or got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@each_row
def test_one_empty_tensor_in_several_places(row):
    """A later call with several empty tensors has all of its gradients."""
    empty = [
        t[:0].detach() if name in row.maps else t
        for name, t in zip(row.shapes({"N": 2, "C": 5, "S": (5, 6), "Cr": 2}), problem(row), strict=True)
    ]
    shared = {t.shape: t for t in empty}
    for one in (False, True, False, True):
        inputs = [(shared[t.shape] if one else t.clone()).detach().requires_grad_() for t in empty]
        if one:
            same = {t.shape: t for t in inputs}
            inputs = [same[t.shape] for t in inputs]
        y = row.op(*inputs, backend="triton")
        for t, g in zip(inputs, torch.autograd.grad(y.sum(), inputs), strict=True):
            assert g.shape == t.shape
