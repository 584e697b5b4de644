"""Outputs and dx lie in memory as torch's own would, and every element is right whatever the inputs look like."""

import pytest
import torch
from support import DEVICE, as_y, assert_right, each_row, names, outputs_and_gradients, problem, replaced_map

from segattn_triton.catalog import ROWS
from segattn_triton.testing import LAYOUTS, make_map

N, C, H, W = 3, 6, 4, 5


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def _channels_last(t: torch.Tensor) -> torch.Tensor:
    return t.to(memory_format=torch.channels_last)


VIEWS = {  # maps (N, C, H, W) that are views of something else
    "offset_channel": lambda: rand(N, C + 1, H, W)[:, 1:],
    "offset_channel_last": lambda: _channels_last(rand(N, C + 1, H, W))[:, 1:],
    "offset_storage": lambda: rand(N * C * H * W + 3)[3:].view(N, C, H, W),
    "every_other_image": lambda: rand(2 * N, C, H, W)[::2],
    "every_other_channel": lambda: rand(N, 2 * C, H, W)[:, ::2],
    "cropped": lambda: rand(N, C, H + 2, W + 2)[:, :, 1:-1, 1:-1],
    "cropped_last": lambda: _channels_last(rand(N, C, H + 2, W + 2))[:, :, 1:-1, 1:-1],
    "transposed": lambda: rand(N, C, W, H).transpose(2, 3),
    "images_innermost": lambda: rand(C, H, W, N).permute(3, 0, 1, 2),
    "expanded_batch": lambda: rand(1, C, H, W).expand(N, C, H, W),
    "expanded_channel": lambda: rand(N, 1, H, W).expand(N, C, H, W),
    "expanded_pixels": lambda: rand(N, C, 1, 1).expand(N, C, H, W),
    "one_value": lambda: rand(1).expand(N, C, H, W),
    "one_channel_of_many": lambda: _channels_last(rand(N, 7, H, W))[:, 3:4],
    "one_row": lambda: rand(N, C, H, W)[:, :, 2:3],
    "one_column": lambda: rand(N, C, H, W)[..., 2:3],
}


@pytest.mark.parametrize(
    ("row", "view"),
    [
        pytest.param(row, view, id=f"{row.name}-{view}")
        for row in ROWS
        for view in VIEWS
        if min(VIEWS[view]().shape[2:]) >= row.smallest
        and not (row.over_batch and view == "one_value")  # less its mean nothing is left of it but rounding
    ],
)
def test_views(row, view):
    x = VIEWS[view]()
    inputs = replaced_map(row, problem(row, S=x.shape[2:], C=x.shape[1], N=N), x)
    assert_right(row, *inputs)
    y, _, dx, *_ = outputs_and_gradients(row.op, inputs, backend="triton")
    assert y.stride() == torch.empty_like(as_y(row, inputs)).stride()
    assert dx.stride() == torch.empty_like(inputs[0]).stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("S", [(4, 5), (1, 1), (1, 6)], ids=str)
@each_row
def test_strides(row, S, layout):
    """As torch's elementwise operations: those of `empty_like`, in the map of a value for every element too."""
    for channels in (C, 1):
        inputs = problem(row, S=S, C=channels, layout=layout)
        y, gate_map, *grads = outputs_and_gradients(row.op, inputs, backend="triton")
        like_x = torch.empty_like(as_y(row, inputs)).stride()
        assert y.stride() == like_x
        if gate_map.shape == y.shape:
            assert gate_map.stride() == like_x or gate_map.is_contiguous()
        else:
            assert gate_map.is_contiguous()
        for name, t, grad in zip(names(row), inputs, grads, strict=True):
            assert grad.shape == t.shape
            if name == "shortcut":  # of a sum, that of the result itself, as torch's
                continue
            assert grad.stride() == torch.empty_like(t).stride() if name in row.maps else grad.is_contiguous()


DOUTS = {
    "channels_last": lambda shape: make_map(shape, "channels_last", torch.Generator().manual_seed(1), torch.float64),
    "contiguous": lambda shape: make_map(shape, "contiguous", torch.Generator().manual_seed(1), torch.float64),
    "channel_slice": lambda shape: make_map(shape, "channel_slice", torch.Generator().manual_seed(1), torch.float64),
    "strided": lambda shape: make_map(shape, "strided", torch.Generator().manual_seed(1), torch.float64),
    "expanded": lambda shape: torch.tensor(0.7, dtype=torch.float64).expand(shape),
    "expanded_channel": lambda shape: (
        torch.arange(float(shape[0]), dtype=torch.float64).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    ),
}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "channel_slice_last"])
@pytest.mark.parametrize("dout", DOUTS)
@each_row
def test_incoming_gradients(row, dout, layout):
    """A gradient in another memory order than x, expanded or strided, is taken for what it says."""
    inputs = problem(row, C=C, dtype=torch.float64, layout=layout)
    outputs = row.reference(*inputs, **row.both)
    douts = [DOUTS[dout](o.shape).to(DEVICE) if o.dim() >= 4 else rand(*o.shape).double() for o in outputs]
    got = outputs_and_gradients(row.op, inputs, douts, backend="triton")
    expected = outputs_and_gradients(row.reference, inputs, douts)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@each_row
def test_one_output_unused(row):
    """A loss on y alone, or on the map alone: the gradient of the other is zero, not missing."""
    inputs = problem(row, dtype=torch.float64)
    for index in (0, 1):
        grads = []
        for fn, options in ((row.op, {"backend": "triton"}), (row.reference, {})):
            leaves = [t.detach().requires_grad_() for t in inputs]
            out = fn(*leaves, **row.both, **options)[index]
            grads.append(torch.autograd.grad(out.square().sum(), leaves, allow_unused=True, materialize_grads=True))
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@each_row
def test_parameters_as_views(row):
    """Transposed, strided and expanded parameters."""
    x, *parameters = problem(row)
    views = [
        [t.movedim(0, -1).contiguous().movedim(-1, 0) for t in parameters],
        [torch.stack([t, t * 0 + 9], -1)[..., 0] for t in parameters],
        [t.flatten()[:1].expand(t.numel()).view(t.shape) if t.dim() == 1 else t for t in parameters],
    ]
    for changed in views:
        assert_right(row, x, *changed)
