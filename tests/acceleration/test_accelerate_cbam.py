"""timm's CBAM, whose convolution has a batch norm: whole where it can be folded, by halves where it cannot."""

import copy

import pytest
import torch
import torchvision_cpu
from torch import nn

import segattn_triton as sat

C = 8


def made(name: str) -> nn.Module:
    torchvision_cpu.install()
    cbam = pytest.importorskip("timm.layers.cbam", reason="the models extra is not installed")
    torch.manual_seed(0)
    module = getattr(cbam, name)(C, rd_ratio=0.25)
    norm = module.spatial.conv.bn
    for t in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(t)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return module


def image() -> torch.Tensor:
    """After a ReLU, where maxima tie."""
    return torch.randn(2, C, 5, 6, generator=torch.Generator().manual_seed(1)).relu()


def outcome(module: nn.Module) -> list[torch.Tensor]:
    x = image().requires_grad_()
    y = module(x)
    grads = torch.autograd.grad(y.square().sum(), [x, *(p for p in module.parameters() if p.requires_grad)])
    return [y.detach(), *grads, *[b.clone() for b in module.buffers()]]


each_name = pytest.mark.parametrize("name", ["CbamModule", "LightCbamModule"])


@each_name
def test_whole_without_gradients_of_the_norm(name, calls):
    plain = made(name).eval()
    fast = sat.accelerate(copy.deepcopy(plain), strict=True, verify=True)
    calls.clear()
    with torch.no_grad():
        torch.testing.assert_close(fast(image()), plain(image()), rtol=1e-5, atol=1e-5)
    for module in (plain, fast):
        module.spatial.conv.bn.requires_grad_(False)
    for got, expected in zip(outcome(fast), outcome(plain), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert [kernel for kernel, _ in calls] == ["cbam", "cbam"]


@each_name
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_where_the_norm_learns(name, training, calls):
    """The same numbers, gradients and running statistics, after accelerate in either mode: whole in training, by halves
    in eval, where the gradient of a folded norm is a sum that cancels."""
    plain = made(name).train(not training)
    fast = sat.accelerate(copy.deepcopy(plain), strict=True)
    calls.clear()
    for _ in range(2):
        for got, expected in zip(outcome(fast.train(training)), outcome(plain.train(training)), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert [kernel for kernel, _ in calls] == ["cbam" if training else "squeeze_excite"] * 2
    sat.restore(fast)
    torch.testing.assert_close(fast.eval()(image()), plain.eval()(image()))


@each_name
def test_batch_norms_of_every_kind(name, calls):
    """An average without momentum, no running statistics, a norm without parameters, one frozen in a training model."""
    changes = {
        "average": lambda norm: setattr(norm, "momentum", None),
        "frozen": lambda norm: norm.eval(),
        "untracked": lambda norm: norm.__init__(1, track_running_stats=False, apply_act=False),
        "plain": lambda norm: norm.__init__(1, affine=False, apply_act=False),
    }
    for kind, change in changes.items():
        plain = made(name).train()
        change(plain.spatial.conv.bn)
        fast = sat.accelerate(copy.deepcopy(plain), strict=True)
        calls.clear()
        for _ in range(2):
            for got, expected in zip(outcome(fast), outcome(plain), strict=True):
                atol = 1e-5 * float(expected.abs().max())
                torch.testing.assert_close(
                    got, expected, rtol=1e-4, atol=atol, msg=lambda text, kind=kind: f"{kind}: {text}"
                )
        assert {kernel for kernel, _ in calls} == {"squeeze_excite" if kind in ("frozen", "plain") else "cbam"}


@each_name
def test_one_value_in_training(name):
    """torch's own error of a batch norm."""
    fast = sat.accelerate(made(name).train(), strict=True)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        fast(image()[:1, :, :1, :1])


@each_name
def test_in_training_its_map_is_captured(name):
    fast = sat.accelerate(made(name).train(), strict=True)
    with sat.capture_attention(fast) as maps:
        y = fast(image())
    assert maps[""].shape == (2, 1, 5, 6) and y.shape == image().shape


@each_name
def test_left_unlike_what_is_known(name):
    def reason(change) -> str:
        module = made(name)
        change(module)
        (row,) = sat.acceleration_report(module)
        assert row.status == "left"
        return row.reason

    inputs = 1 if name.startswith("Light") else 2
    dilated = nn.Conv2d(inputs, 1, 3, padding=2, dilation=2)
    assert "keeps their size" in reason(lambda m: setattr(m.spatial.conv, "conv", dilated))
    assert "its two gates differ" in reason(lambda m: setattr(m.spatial, "gate", nn.Tanh()))
    assert "expected Identity" in reason(lambda m: setattr(m.spatial.conv.bn, "act", nn.ReLU()))
    assert "expected a batch norm" in reason(lambda m: setattr(m.spatial.conv, "bn", nn.GroupNorm(1, 1)))
    assert "more than a convolution and a norm" in reason(lambda m: setattr(m.spatial.conv, "aa", nn.AvgPool2d(1)))
    assert "its halves are" in reason(lambda m: setattr(m, "spatial", nn.Sequential()))
