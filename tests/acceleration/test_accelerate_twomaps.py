"""Attention gates that are known by the graph of their forward of two maps; and look-alikes, which are left."""

import copy
import pickle
from unittest import mock

import copies
import pytest
import support
import torch
from torch import nn

import segattn_triton as sat
from segattn_triton.acceleration import structure, swap

TAKEN = (*copies.ATTENTION, copies.AttentionOfG)
each_copy = pytest.mark.parametrize("cls", TAKEN, ids=lambda cls: cls.__name__)


def made(cls: type) -> nn.Module:
    torch.manual_seed(0)
    module = cls().eval()
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        for t in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(t)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return module


def maps(cls: type, N=2, dtype=torch.float32) -> dict[str, torch.Tensor]:
    channels = {"x": copies.C, "g": copies.C if cls is copies.AttentionOfG else 6}
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(N, C, 5, 4, generator=generator, dtype=dtype) for name, C in channels.items()}


def results(module: nn.Module, given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    given = {name: t.clone().requires_grad_() for name, t in given.items()}
    y = module(**given)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    grads = torch.autograd.grad(y, [*given.values(), *module.parameters()], dy)
    return [y.detach(), *grads, *[b.clone() for b in module.buffers()]]


@each_copy
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_copies(cls, training, calls):
    """To 1e-12 in float64, values, every gradient and the running statistics; restored bit for bit."""
    plain = made(cls).double().train(training)
    fast = sat.accelerate(copy.deepcopy(plain), strict=True, verify=True)
    (row,) = sat.acceleration_report(fast)
    assert (row.kernel, row.by, row.status) == ("attention_gate", "structure", "accelerated")
    for N in (1, 2, 3):
        given = maps(cls, N, torch.float64)
        for got, expected in zip(results(fast, given), results(plain, given), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * max(1.0, float(expected.abs().max())))
    fast.float(), plain.float(), calls.clear()
    given = maps(cls)
    got, expected = fast(**given), plain(**given)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    of_batch = training and any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert [kernel for kernel, _ in calls] == ["attention_gate_norm" if of_batch else "attention_gate"]
    sat.restore(fast)
    assert type(fast) is cls
    support.assert_equal(fast(**given), plain(**given))


@each_copy
def test_every_way_to_call_it(cls):
    plain, fast = made(cls), sat.accelerate(made(cls), strict=True)
    given = maps(cls)
    names = list(cls.forward.__code__.co_varnames[1:3])
    ordered = [given[name] for name in names]
    ways = [(ordered, {}), (ordered[:1], {names[1]: ordered[1]}), ([], dict(reversed(given.items())))]
    for args, kwargs in ways:
        torch.testing.assert_close(fast(*args, **kwargs), plain(*args, **kwargs), rtol=1e-4, atol=1e-5)
    small = given["g"][:, :, :1, :1]  # which torch broadcasts: its own forward runs
    support.assert_equal(fast(x=given["x"], g=small), plain(x=given["x"], g=small))
    for args in (ordered[:1], [*ordered, None]):
        with pytest.raises(TypeError):
            fast(*args)


@pytest.mark.parametrize("cls", copies.NO_ATTENTION, ids=lambda cls: cls.__name__)
def test_lookalikes_are_left(cls):
    module = made(cls)
    assert not [row for row in sat.acceleration_report(sat.accelerate(module)) if row.status == "accelerated"]
    assert type(module) is cls
    assert structure.is_candidate(module) and isinstance(structure.by_structure(module), str)


@each_copy
def test_changes_later_are_followed(cls):
    """A weight, a norm's mode, another layer, a hook: what the plain one does, and the kernel again after."""
    plain, fast = made(cls), sat.accelerate(made(cls), strict=True)
    given = maps(cls)

    def same() -> None:
        torch.testing.assert_close(fast(**given), plain(**given), rtol=1e-4, atol=1e-5)

    layer = next(name for name, m in plain.named_modules() if isinstance(m, nn.Conv2d))
    before = copy.deepcopy(plain.state_dict())
    for module in (plain, fast):
        torch.manual_seed(5)
        nn.init.normal_(module.get_submodule(layer).weight)
    same()
    for module in (plain, fast):
        module.load_state_dict(before, assign=True)
    same()
    seen = []
    hook = fast.get_submodule(layer).register_forward_hook(lambda *_: seen.append(1))
    same()
    assert seen
    hook.remove()
    for module in (plain, fast):
        module.relu = nn.ELU()
        module.psi_more = None
    same()
    del fast.relu, plain.relu
    if cls is copies.AttentionGatePlain:
        with pytest.raises(AssertionError), mock.patch.object(swap, "_run", side_effect=AssertionError):
            fast(**given)


@each_copy
def test_copies_and_compilers(cls):
    fast, given = sat.accelerate(made(cls), strict=True), maps(cls)
    expected = made(cls)(**given)
    twin = copy.deepcopy(fast)
    assert type(twin) is type(fast)
    torch.testing.assert_close(twin(**given), expected, rtol=1e-4, atol=1e-5)
    assert type(pickle.loads(pickle.dumps(fast))) is cls
    compiled = torch.compile(fast, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**given), expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
    with sat.capture_attention(fast) as found:
        fast(**given)
    assert found[""].shape == (2, 1, 5, 4)
