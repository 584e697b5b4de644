"""Copies with batch norms in their perceptrons, and of light CBAM, which are known by the graph of their forward."""

import copy

import copies_norms as copies
import pytest
import support
import torch
from torch import nn

import segattn_triton as sat
from segattn_triton.acceleration import structure

each_copy = pytest.mark.parametrize("cls", copies.COPIES, ids=lambda cls: cls.__name__)
each_lookalike = pytest.mark.parametrize("cls", copies.LOOKALIKES, ids=lambda cls: cls.__name__)


def made(cls: type) -> nn.Module:
    torch.manual_seed(0)
    module = cls()
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            for t in (m.weight, m.bias, m.running_mean):
                nn.init.normal_(t)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
    return module


def a_map(N: int, dtype=torch.float64, *, tied=False) -> torch.Tensor:
    x = torch.randn(N, copies.C, 5, 4, generator=torch.Generator().manual_seed(1))
    return (x.round() if tied else x).to(dtype)


def results(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """y, dx, the gradient of every parameter, and the running statistics after."""
    leaf = x.clone().requires_grad_()
    y = module(leaf * 1)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    grads = torch.autograd.grad(y, [leaf, *module.parameters()], dy)
    return [y.detach(), *grads, *[b.clone() for b in module.buffers()]]


@each_copy
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_copies(cls, training, calls):
    """To 1e-12 in float64: values, every gradient, with ties too, and running statistics; restored bit for bit."""
    plain = made(cls).double()
    fast = sat.accelerate(copy.deepcopy(plain), strict=True)
    (row,) = sat.acceleration_report(fast)
    assert (row.kernel, row.by, row.status) == (copies.COPIES[cls], "structure", "accelerated")
    for N, tied in ((2, False), (3, True), *(() if training else ((1, False),))):
        x = a_map(N, tied=tied)
        for got, expected in zip(results(fast.train(training), x), results(plain.train(training), x), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * max(1.0, float(expected.abs().max())))
    small = sat.accelerate(made(cls)).train(training)
    calls.clear()
    with torch.no_grad():
        small(a_map(2, torch.float32))
    own = training and cls in copies.OWN_IN_TRAINING
    names = {"squeeze_excite": ("squeeze_excite", "squeeze_excite_norm", "squeeze_excite_norms")}.get(
        row.kernel, (row.kernel,)
    )
    assert not calls if own else len(calls) == 1 and calls[0][0] in names
    sat.restore(fast)
    assert type(fast) is cls
    support.assert_equal(fast(x), plain(x))


@each_copy
def test_one_image_in_training(cls):
    """A norm of one value a channel: the error that the own forward raises, or its values."""
    plain, fast = made(cls), sat.accelerate(made(cls), strict=True)
    outcomes = []
    for module in (plain, fast):
        try:
            outcomes.append(module(a_map(1, torch.float32)))
        except ValueError as error:
            outcomes.append(str(error).partition(", got")[0])
    if isinstance(outcomes[0], str):
        assert outcomes[0] == outcomes[1] == "Expected more than 1 value per channel when training"
    else:
        torch.testing.assert_close(outcomes[1], outcomes[0])


@each_lookalike
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_lookalikes_are_left(cls, training):
    module = made(cls).train(training)
    before = copy.deepcopy(module.state_dict())
    rows = sat.acceleration_report(sat.accelerate(module))
    assert not [row for row in rows if row.name == "" and row.status == "accelerated"]
    assert type(module) is cls
    assert isinstance(structure.by_structure(module), str)
    for name, value in module.state_dict().items():
        support.assert_equal(value, before[name])


def test_a_norm_that_becomes_another_kind_is_followed():
    """Frozen, synchronised, replaced: what the own forward does."""
    for change in (nn.SyncBatchNorm(copies.R), nn.GroupNorm(1, copies.R), nn.Identity()):
        plain, fast = made(copies.SENorm).eval(), sat.accelerate(made(copies.SENorm), strict=True).eval()
        for module in (plain, fast):
            module.bn = copy.deepcopy(change).eval()
        support.assert_equal(fast(a_map(2, torch.float32)), plain(a_map(2, torch.float32)))
    plain, fast = made(copies.SENorm), sat.accelerate(made(copies.SENorm), strict=True)
    for module in (plain, fast):
        module.train().bn.eval()
    torch.testing.assert_close(fast(a_map(2, torch.float32)), plain(a_map(2, torch.float32)))


def test_a_layer_with_its_norm_alone_is_not_traced():
    """A model has many of them."""
    assert not structure.is_candidate(copies.Conv(copies.C, copies.R))
