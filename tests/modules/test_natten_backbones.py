"""Whole backbones of NATTEN after one changed import: forward, backward and state_dict are those of the definition."""

import functools

import natten_definition as definition
import pytest
import torch
from natten_backbones import BACKBONES
from support import DEVICE
from torch import nn

from segattn_triton import functional as F
from segattn_triton.compat import natten

each_backbone = pytest.mark.parametrize("name", BACKBONES)


def both(name: str, dtype=torch.float64) -> tuple[nn.Module, nn.Module]:
    """The backbone on the definition, and the one on ours with its weights."""
    torch.manual_seed(0)
    theirs = BACKBONES[name](definition.NATTEN_014 if name == "OneFormer" else definition.NATTEN).to(dtype)
    ours = BACKBONES[name](natten).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def image(dtype=torch.float64) -> torch.Tensor:
    return torch.randn(1, 3, 32, 36, generator=torch.Generator().manual_seed(1)).to(dtype)


def run(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs, and the gradients of x and of every parameter."""
    x = x.clone().requires_grad_()
    y = model(x)
    outs = list(y.values()) if isinstance(y, dict) else [y]
    torch.manual_seed(2)
    loss = sum((out * torch.randn(out.shape, dtype=torch.float64).to(out)).sum() for out in outs)
    return [*outs, *torch.autograd.grad(loss, [x, *model.parameters()], materialize_grads=True)]


@each_backbone
def test_a_backbone_is_its_definition(name):
    theirs, ours = both(name)
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in theirs.named_parameters()]
    for got, expected in zip(run(ours, image()), run(theirs, image()), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


@each_backbone
def test_state_dicts_go_both_ways(name):
    again, ours = both(name)
    for parameter in ours.parameters():
        parameter.data.mul_(0.9)
    again.load_state_dict(ours.state_dict())
    torch.testing.assert_close(again(image()), ours(image()), rtol=1e-9, atol=1e-10)


@each_backbone
def test_a_backbone_on_kernels(name, monkeypatch):
    """Its modules and functions take no backend: on a CPU, too, they run the kernels here."""
    for op in ("neighborhood_attention", "neighborhood_qk", "neighborhood_av"):
        monkeypatch.setattr(F, op, functools.partial(getattr(F, op), backend="triton"))
    theirs, ours = both(name)
    expected, got = run(theirs, image()), run(ours.to(DEVICE, torch.float32), image(torch.float32).to(DEVICE))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.cpu().double(), b, rtol=1e-3, atol=1e-4 * max(1.0, b.abs().max().item()))
