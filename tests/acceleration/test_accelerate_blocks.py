"""Residual blocks whose shortcut and activation join the kernel of their gate."""

import copy

import pytest
import standins
import support
import torch
from gates import assert_same_results, make_map
from torch import nn

import segattn_triton as sat
from segattn_triton.runtime import dispatch


def block_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    made = standins.BasicBlock() if kind == "basic" else standins.SEResNetBottleneck(downsample=kind == "downsample")
    return made.eval()


@pytest.mark.parametrize("kind", ["basic", "bottleneck", "downsample"])
@pytest.mark.parametrize("training", [False, True])
def test_residual_blocks(kind, training, calls):
    block, plain = block_of(kind).train(training), block_of(kind).train(training)
    sat.accelerate(block, strict=True)
    (row,) = sat.acceleration_report(block)
    assert row.kernel == "squeeze_excite + shortcut, act"
    assert_same_results(block, plain, make_map())
    ((kernel, options),) = calls
    assert (kernel, options["out_act"]) == ("squeeze_excite", "relu")
    assert options["shortcut"].shape == make_map().shape
    sat.restore(block)
    plain.load_state_dict(block.state_dict())
    support.assert_equal(block(make_map()), plain(make_map()))


def test_residual_kernel_in_the_interpreter(monkeypatch):
    real = dispatch.implementation
    support.replace_implementation(monkeypatch, lambda name, backend, x: real(name, "triton", x))
    torch.manual_seed(0)
    plain = standins.SEResNetBottleneck()
    plain = plain.to(support.DEVICE)
    assert_same_results(sat.accelerate(copy.deepcopy(plain)), plain, make_map().to(support.DEVICE))


@pytest.mark.parametrize("child", ["se_module", "se_module.fc1", "relu"])
def test_residual_blocks_bypass_no_hook(child, calls):
    block, plain, seen = sat.accelerate(block_of("bottleneck")), block_of("bottleneck"), []
    block.get_submodule(child).register_forward_hook(lambda *args: seen.append(1))
    assert_same_results(block, plain, make_map())
    assert len(seen) == {"relu": 3}.get(child, 1)
    assert not any("shortcut" in options for _, options in calls)
    assert "shortcut" not in sat.acceleration_report(block)[0].kernel


def test_residual_blocks_that_are_not_fused(calls):
    """drop_path lies between gate and shortcut; a gate that is left out; an unknown activation."""
    dropping = standins.BasicBlock(drop_path=nn.Dropout(0.0)).eval()
    other = block_of("basic")
    other.act2 = nn.Mish()
    for block in (dropping, other):
        plain = copy.deepcopy(block)
        sat.accelerate(block, strict=True)
        assert sat.acceleration_report(block)[0].kernel == "squeeze_excite"
        assert_same_results(block, plain, make_map())
        assert "shortcut" not in calls.pop()[1]
    left = sat.accelerate(block_of("bottleneck"), filter_fn=lambda module, name: False)
    assert type(left) is standins.SEResNetBottleneck


def test_left_unfused_what_computes_something_else(calls):
    """A block whose forward has changed keeps it; its gate is accelerated all the same."""

    def forward(self, x):
        return self.relu(self.se_module(self.bn3(self.conv3(self.conv1(x)))) + x)

    later = standins.stands_for("segmentation_models_pytorch.encoders._senet.SEResNetBottleneck")(
        type("Later", (standins.SEResNetBottleneck,), {"forward": forward})
    )
    block = later().eval()
    plain = copy.deepcopy(block)
    sat.accelerate(block, strict=True)
    assert type(block) is later
    torch.testing.assert_close(block(make_map()), plain(make_map()))
    assert [kernel for kernel, options in calls] == ["squeeze_excite"]


def test_residual_block_of_two_dtypes(calls):
    """A float32 shortcut beside a bfloat16 branch, as autocast makes it: added by torch, which promotes."""
    block, plain = sat.accelerate(block_of("bottleneck")), block_of("bottleneck")
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = block(make_map()), plain(make_map())
    assert got.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=3e-2, atol=3e-2)
    assert len(calls) == 1
