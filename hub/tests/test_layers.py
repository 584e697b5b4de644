"""What the builder's CI runs on a GPU: a layer against the forward that it replaces, forward and backward."""

from pathlib import Path

import pytest
import torch
from kernels import get_local_kernel
from torch import nn

segattn = get_local_kernel(Path(__file__).parents[1])
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Gate(nn.Module):
    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return x * torch.sigmoid(self.conv(x))


@pytest.mark.kernels_ci
@pytest.mark.parametrize(
    ("layer", "conv"),
    [("SpatialAttention", nn.Conv2d(16, 1, 1)), ("LocalAttention", nn.Conv2d(16, 16, 3, padding=1, groups=16))],
)
def test_layer(layer, conv):
    gate, x = Gate(conv).to(device), torch.randn(2, 16, 24, 20, device=device, requires_grad=True)
    results = []
    for forward in (gate.forward, getattr(segattn.layers, layer).forward.__get__(gate)):
        y = forward(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, *gate.parameters()])])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.kernels_ci
def test_operators_are_the_builds_own():
    """Its namespace is the name that this build is loaded under."""
    name = segattn.__name__
    assert hasattr(getattr(torch.ops, name), "spatial_gate")
