"""timm's SEModule with a batch norm behind its first layer, ReXNet's: of a batch in training, folded in eval."""

import copy

import pytest
import standins
import support
import torch
from torch import Tensor, nn

import segattn_triton as sat
from segattn_triton.testing import make_map

C = 8


def made(**options) -> nn.Module:
    torch.manual_seed(0)
    module = standins.SEModule(C, 3, norm=nn.BatchNorm2d)
    module.bn = nn.BatchNorm2d(3, **options)
    for t in module.bn.parameters():
        nn.init.normal_(t)
    return module


def outcome(module: nn.Module, dtype: torch.dtype) -> list[Tensor]:
    x = make_map((6, C, 3, 2), "contiguous", torch.Generator().manual_seed(1), torch.float32).to(dtype).requires_grad_()
    y = module(x)
    grads = torch.autograd.grad(y.square().sum(), [x, *module.parameters()])
    return [y.detach(), *grads, *[b.clone() for b in module.buffers()]]


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str
)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_as_its_own_layers(training, options, calls):
    """Values, gradients and running statistics are float64's, and one call makes them; restored bit for bit."""
    plain = made(**options).train(training)
    fast = sat.accelerate(copy.deepcopy(plain), strict=True)
    calls.clear()
    exact, got = outcome(copy.deepcopy(plain).double(), torch.float64), outcome(fast, torch.float32)
    for ours, theirs in zip(got, exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-5)
    of_batch = training or options == {"track_running_stats": False}
    assert [name for name, _ in calls] == ["squeeze_excite_norm" if of_batch else "squeeze_excite"]
    x = make_map((2, C, 3, 2), "contiguous", torch.Generator(), torch.float32)
    empty = copy.deepcopy(fast), copy.deepcopy(plain).train(training)
    empty[1].load_state_dict(fast.state_dict())
    assert all(module(x[:0]).shape == (0, C, 3, 2) for module in empty)
    for ours, theirs in zip(*(module.buffers() for module in empty), strict=True):
        support.assert_equal(ours, theirs)  # of no image a norm counts the call, and nothing else
    twin = copy.deepcopy(fast)
    support.assert_equal(sat.restore(fast).eval()(x), fast.eval()(x))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        twin.train()(x[:1])
