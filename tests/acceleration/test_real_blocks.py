"""Blocks of the installed timm that no model of its registry has so: other radixes, with a shortcut, without layers."""

import copy
import importlib
import importlib.util

import pytest
import torch
import torchvision_cpu
from torch import nn

import segattn_triton as sat

BLOCKS = {  # name -> its module in timm.layers and its class, its arguments, channels of its map
    "split-one": ("split_attn.SplitAttn", dict(in_channels=16, radix=1), 16),
    "split-three": ("split_attn.SplitAttn", dict(in_channels=12, radix=3, groups=2), 12),
    "split-four": ("split_attn.SplitAttn", dict(in_channels=32, radix=4, groups=2), 32),
    "paths-three": ("selective_kernel.SelectiveKernel", dict(in_channels=12, kernel_size=[3, 5, 7]), 12),
    "paths-whole": (
        "selective_kernel.SelectiveKernel",
        dict(in_channels=16, kernel_size=[3, 5, 7], split_input=False),
        16,
    ),
    "coordinate": ("coord_attn.CoordAttn", dict(channels=16, has_skip=True), 16),
    "coordinate-simple": ("coord_attn.SimpleCoordAttn", dict(channels=16, has_skip=True), 16),
    "gather-excite": ("gather_excite.GatherExcite", dict(channels=16, use_mlp=False, add_maxpool=True), 16),
}


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    if any(importlib.util.find_spec(library) is None for library in ("torchvision", "timm")):
        pytest.skip("the models extra is not installed")
    torchvision_cpu.install()
    path, arguments, channels = BLOCKS[name]
    module, _, cls = path.rpartition(".")
    torch.manual_seed(0)
    block = getattr(importlib.import_module(f"timm.layers.{module}"), cls)(**arguments)
    return block.double(), torch.randn(3, channels, 6, 5, dtype=torch.float64)


def results(block: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = block(x)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y.detach(), *torch.autograd.grad(y, [x, *block.parameters()], dy), *[b.clone() for b in block.buffers()]]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize("name", BLOCKS)
def test_same_function(name, training):
    block, x = made(name)
    plain = block.train(training)
    fast = sat.accelerate(copy.deepcopy(plain), strict=True, verify=True)
    (row,) = sat.acceleration_report(fast)
    assert row.status == "accelerated"
    for got, expected in zip(results(fast, x), results(plain, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)
