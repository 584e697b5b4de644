"""What neither a graph nor a trial shows of a forward keeps it as it is, or is watched."""

import copy
import cProfile
from unittest import mock

import copies
import hidden
import pytest
import standins
import support
import torch
from torch import nn

import segattn_triton as sat
from segattn_triton.acceleration import structure, swap, trial


def made(cls: type) -> nn.Module:
    torch.manual_seed(0)
    return cls()


def a_map() -> torch.Tensor:
    return torch.randn(2, copies.C, 5, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cls", hidden.LEFT, ids=lambda cls: cls.__name__)
def test_left(cls):
    module = made(cls)
    sat.accelerate(module, verbose=False)
    assert type(module) is cls
    assert hidden.LEFT[cls] in structure.by_structure(module)


@pytest.mark.parametrize("cls", hidden.WATCHED, ids=lambda cls: cls.__name__)
def test_watched(cls):
    """The kernel runs until the change, and the own forward after it."""
    plain, fast, x = made(cls), sat.accelerate(made(cls), strict=True), a_map()
    before = plain(x)
    torch.testing.assert_close(fast(x), before)
    with pytest.raises(AssertionError), mock.patch.object(swap, "_run", side_effect=AssertionError):
        fast(x)
    for module in (plain, fast):
        hidden.WATCHED[cls](module)
    assert not torch.allclose(plain(x), before), "the change changes nothing"
    support.assert_equal(fast(x), plain(x))
    with mock.patch.object(swap, "_run", side_effect=AssertionError):
        fast(x)


def test_a_property_is_watched(monkeypatch):
    plain, fast, x = made(hidden.AProperty), sat.accelerate(made(hidden.AProperty), strict=True), a_map()
    torch.testing.assert_close(fast(x), plain(x))
    monkeypatch.setattr(hidden, "SLOPES", [0.7])
    support.assert_equal(fast(x), plain(x))


def test_names_of_layers_are_watched():
    plain, fast, x = made(hidden.Square), sat.accelerate(made(hidden.Square), strict=True), a_map()
    for module in (plain, fast):
        hidden.exchange_names(module)
    support.assert_equal(fast(x), plain(x))


def test_a_compiled_module_keeps_its_kernel(calls):
    fast = sat.accelerate(made(copies.Moskomule), strict=True)
    fast.compile(backend="eager")
    calls.clear()
    torch.testing.assert_close(fast(a_map()), made(copies.Moskomule)(a_map()))
    assert calls
    torch._dynamo.reset()


@pytest.fixture
def as_first_seen(monkeypatch):
    monkeypatch.setattr(structure, "_found", {})
    monkeypatch.setattr(trial, "_tried", {})


def test_hooks_while_it_is_tried(as_first_seen):
    """A trial in which its own forward runs shows nothing: it is tried once they are gone."""
    module = made(copies.Moskomule)
    hook = module.fc[0].register_forward_hook(lambda *args: None)
    with mock.patch.object(trial, "difference_everywhere", side_effect=AssertionError):
        (row,) = sat.acceleration_report(sat.accelerate(module))
    assert row.status == "left" and "hooks" in row.reason
    hook.remove()
    assert sat.acceleration_report(sat.accelerate(module))[0].status == "accelerated"


def test_frozen_gates(as_first_seen):
    """Of a backbone that is not trained; once it is, gradients are its own."""
    plain = made(copies.Moskomule).requires_grad_(False)
    fast = sat.accelerate(copy.deepcopy(plain), strict=True)
    grads = []
    for module in (plain, fast):
        module.requires_grad_()
        grads.append(torch.autograd.grad(module(a_map()).square().sum(), [*module.parameters()]))
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected)


AROUND = {
    "a default device": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("around", AROUND)
def test_a_trial_is_the_same_whatever_is_around(around, as_first_seen):
    """Of a gate by name, by structure, and with verify."""
    torch.manual_seed(0)
    model = nn.Sequential(made(copies.Moskomule), standins.SEModule(copies.C, 2))
    plain = copy.deepcopy(model)
    with AROUND[around]():
        sat.accelerate(model, strict=True, verify=True)
    torch.testing.assert_close(model(a_map()), plain(a_map()))


def test_under_a_profiler(as_first_seen):
    """Which goes on, and does not see the trace."""
    profile, module = cProfile.Profile(), made(copies.Moskomule)
    profile.enable()
    sat.accelerate(module, strict=True)
    len("seen")
    profile.disable()
    names = {entry.code for entry in profile.getstats() if isinstance(entry.code, str)}
    assert "<built-in method builtins.len>" in names


class Undescribed:
    def __repr__(self):
        raise RuntimeError("no words")


def test_what_cannot_be_described():
    module = made(copies.Moskomule)
    module.more = Undescribed()
    with mock.patch.object(copies.Moskomule, "extra_repr", lambda self: repr(self.more), create=True):
        sat.accelerate(module)
        assert structure.by_structure(module) == "it cannot be described: no words"
    assert type(module) is copies.Moskomule
