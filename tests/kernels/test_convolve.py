"""CBAM's convolution of the pools: what is not finite stays where the equation has it."""

import math

import torch
from support import DEVICE

from segattn_triton import functional


def test_infinity_in_a_corner_reaches_the_taps_that_are_in_the_image():
    """Outside of it is nothing, not a zero: of two taps no pixel of the image is next to the corner."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.rand(1, 2, 3, 3, generator=generator) + 0.1  # positive: the logits are infinite, and none is a NaN
    for h, w in ((0, 0), (0, 8), (4, 0), (4, 8)):
        x = torch.randn(2, 4, 5, 9, generator=generator)
        x[0, 1, h, w] = math.inf
        finite = []
        for backend in ("triton", "reference"):
            given = weight.to(DEVICE, copy=True).requires_grad_()
            functional.cbam_spatial_gate(x.to(DEVICE), given, backend=backend).sum().backward()
            finite.append(given.grad.isfinite())
        assert torch.equal(*finite) and finite[0].any(), (h, w)
