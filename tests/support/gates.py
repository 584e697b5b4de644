"""Gates of other libraries for the tests of `accelerate`, and what they compute."""

import functools

import pytest
import standins
import standins_strips as strips
import torch
from torch import nn

import segattn_triton as sat
from segattn_triton.testing import without_tf32

C = 8
KINDS = {
    "torchvision": lambda: standins.SqueezeExcitation(C, 3, nn.SiLU),
    "torchvision-gelu": lambda: standins.SqueezeExcitation(C, 3, nn.GELU),
    "torchvision-hard": lambda: standins.SqueezeExcitation(C, 3, scale_activation=nn.Hardsigmoid),
    "timm": lambda: standins.SEModule(C, 2),
    "timm-maxpool": lambda: standins.SEModule(C, 2, add_maxpool=True),
    "ese": lambda: standins.EffectiveSEModule(C),
    "eca": lambda: standins.EcaModule(5),
    "ceca": lambda: standins.CecaModule(3),
    "scse": lambda: standins.SCSEModule(C),
    "senet": lambda: standins.SenetSEModule(C, 2),
    "monai": lambda: standins.ChannelSELayer(2, C),
    "monai-residual": lambda: standins.ChannelSELayer(2, C, add_residual=True, act=nn.LeakyReLU, gate=nn.ReLU),
    "monai-prelu": lambda: standins.ChannelSELayer(2, C, act=functools.partial(nn.PReLU, 4)),
    "mmseg": lambda: standins.SELayer(C, 2),
    "mmseg-old": lambda: standins.SELayer(C, 2, gate=standins.HSigmoid(1.0, 2.0)),
    "ultralytics": lambda: standins.CBAM(C, 3),
    "cgnet": lambda: standins.GlobalContextExtractor(C, 2),
    "global-context": lambda: standins.GlobalContext(C),
    "global-context-add": lambda: standins.GlobalContext(C, scale=False, add=True),
    "context-block": lambda: standins.ContextBlock(C),
    "context-block-mul": lambda: standins.ContextBlock(C, fusion_types=("channel_mul",)),
    "coordinate": lambda: strips.CoordAttn(C),
    "coordinate-authors": lambda: strips.CoordAtt(C).eval(),
    "coordinate-simple": lambda: strips.SimpleCoordAttn(C),
    "coordinate-skip": lambda: strips.CoordAttn(C, has_skip=True),
    "coordinate-simple-skip": lambda: strips.SimpleCoordAttn(C, has_skip=True),
    "nnunet": lambda: standins.NNUNetSqueezeExcite(C, 2),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind="timm", seed=0) -> nn.Module:
    torch.manual_seed(seed)
    return KINDS[kind]()


def make_map(*S, N=2, channels=C) -> torch.Tensor:
    return torch.randn(N, channels, *(S or (5, 6)), generator=torch.Generator().manual_seed(1))


def results(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """y, dx and every parameter's gradient."""
    x = x.detach().requires_grad_()
    y = module(x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.device)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], dy)]


def assert_same_results(module: nn.Module, plain: nn.Module, x: torch.Tensor) -> None:
    """To float32's accuracy, with the parameters of both in the same order; a gradient that is zero but for its
    rounding has no size of its own."""
    with without_tf32():
        ours, theirs = results(module, x), results(plain, x)
    sizes = [float(t.detach().abs().max()) for t in theirs]
    for got, expected, size in zip(ours, theirs, sizes, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * max(size, 1e-2 * max(sizes)))


def reason_of(model: nn.Module) -> str:
    (row,) = sat.acceleration_report(model)
    assert row.status == "left"
    sat.accelerate(model)
    assert [r.status for r in sat.acceleration_report(model)] == ["left"]
    return row.reason


class OwnGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Conv2d(C, C, 1)

    def forward(self, x, scale: float = 1.0):
        return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True))) * scale


OWN = f"{OwnGate.__module__}.OwnGate"


def read_own(module):
    if module.fc.bias is None:
        raise ValueError("it has no bias")
    return (module.fc.weight, module.fc.bias), {"gate": "sigmoid"}
