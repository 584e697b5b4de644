"""Gates that are known by the graph of their forward: copies as people write them, and look-alikes, which are left."""

import copy
import pickle
import types
from unittest import mock

import copies
import pytest
import standins
import support
import torch
import torch.nn.functional as F
from torch import nn

import segattn_triton as sat
from segattn_triton.acceleration import structure, swap

each_copy = pytest.mark.parametrize("cls", copies.COPIES, ids=lambda cls: cls.__name__)
each_lookalike = pytest.mark.parametrize("cls", copies.LOOKALIKES, ids=lambda cls: cls.__name__)


def made(cls: type) -> nn.Module:
    torch.manual_seed(0)
    return cls()


def a_map(cls: type, N=2, dtype=torch.float32) -> torch.Tensor:
    S = (3, 4, 5) if cls is copies.Volume else (5, 4)
    channels = 5 if cls is copies.WrongAxis else copies.C
    return torch.randn(N, channels, *S, generator=torch.Generator().manual_seed(1)).to(dtype)


def results(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    leaf = x.clone().requires_grad_()
    y = module(leaf * 1)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y.detach(), *torch.autograd.grad(y, [leaf, *module.parameters()], dy)]


@each_copy
def test_copies(cls, calls):
    """To 1e-12 in float64, values and every gradient, of several batches; on one kernel; restored bit for bit."""
    plain = made(cls).double()
    fast = sat.accelerate(copy.deepcopy(plain), strict=True, verify=True)
    (row,) = sat.acceleration_report(fast)
    assert (row.kernel, row.by, row.status) == (copies.COPIES[cls], "structure", "accelerated")
    for N in (1, 2, 3):
        x = a_map(cls, N, torch.float64)
        for got, expected in zip(results(fast, x), results(plain, x), strict=True):
            exact = 1e-7 if cls is copies.HardSigmoid else 1e-12  # torch's has constants in float32
            torch.testing.assert_close(got, expected, rtol=0, atol=exact * float(expected.abs().max()))
    small = sat.accelerate(made(cls))
    calls.clear()
    small(a_map(cls))
    assert [kernel for kernel, _ in calls] == [row.kernel]
    sat.restore(fast)
    assert type(fast) is cls
    support.assert_equal(fast(x), plain(x))


@each_lookalike
def test_lookalikes_are_left(cls):
    """None is changed by being looked at."""
    module = made(cls)
    before, state = copy.deepcopy(vars(module)), torch.random.get_rng_state()
    assert not [row for row in sat.acceleration_report(sat.accelerate(module)) if row.status == "accelerated"]
    assert type(module) is cls
    assert {k: v for k, v in vars(module).items() if k[0] != "_"} == {k: v for k, v in before.items() if k[0] != "_"}
    assert torch.equal(torch.random.get_rng_state(), state)
    if structure.is_candidate(module):
        reason = structure.by_structure(module)
        assert isinstance(reason, str) and reason, cls


def test_every_lookalike_is_left_for_a_reason_of_its_own():
    """Not because an attribute is missing here or the trace breaks by accident."""
    reasons = {cls: structure.by_structure(made(cls)) for cls in copies.LOOKALIKES}
    expected = {
        copies.Training: "reads self.training",
        copies.State: "changes self.calls",
        copies.Remembers: "calls append()",
        copies.Counts: "changes self.seen",
        copies.NoGrad: "no_grad or autocast",
        copies.Autocast: "no_grad or autocast",
        copies.NoGradDecorated: "decorated",
        copies.GradSetInC: "calls _set_grad_enabled()",
        copies.Twice: "is used 2 times",
        copies.TwoOutputs: "returns a tuple",
        copies.OwnFunction: "calls squash()",
        copies.RandomInPython: "reads the global random",
        copies.Flag: "takes more than one map",
        copies.InPlace: "does not end in a map times a gate",
        copies.InPlaceOperator: "computes something else than its graph says",
        copies.InPlaceSum: "computes something else than its graph says",
        copies.Detached: "has detach",
        copies.BranchOnValues: "cannot be traced",
        copies.BranchOnSizes: "cannot be traced",
    }
    for cls, part in expected.items():
        assert part in reasons[cls], (cls.__name__, reasons[cls])


def test_by_structure_is_an_option(capsys):
    model = nn.Sequential(made(copies.Moskomule), sat.SCSE(32))
    sat.accelerate(model, by_structure=False)
    assert capsys.readouterr().out.startswith("0 of 1 gate accelerated")
    assert type(model[0]) is copies.Moskomule
    with pytest.raises(RuntimeError, match="there is nothing to accelerate"):
        sat.accelerate(model, by_structure=False, strict=True)


def test_an_adapter_comes_first(own_adapters):
    @sat.register_adapter("copies.OneLayer", "channel_gate")
    def read(m):
        return (m.fc.weight, m.fc.bias), {}

    (row,) = sat.acceleration_report(made(copies.OneLayer))
    assert (row.by, row.kernel) == ("register_adapter", "channel_gate")


def own_forward_runs(fast: nn.Module) -> bool:
    with mock.patch.object(swap, "_run", side_effect=AssertionError):
        fast(a_map(type(fast)))
    (row,) = sat.acceleration_report(fast)
    assert row.status == "left", row
    return True


def test_what_was_read_is_watched(monkeypatch):
    """An attribute that decides, a method, a global, a layer: after a change the own forward runs; back, the kernel."""
    plain, fast = made(copies.Option), sat.accelerate(made(copies.Option))
    x = a_map(copies.Option)
    for name, value in (("use_se", False), ("slope", 0.5)):
        before = getattr(fast, name)
        for module in (plain, fast):
            setattr(module, name, value)
        support.assert_equal(fast(x), plain(x))
        assert own_forward_runs(fast)
        for module in (plain, fast):
            setattr(module, name, before)
        torch.testing.assert_close(fast(x), plain(x))
        with pytest.raises(AssertionError), mock.patch.object(swap, "_run", side_effect=AssertionError):
            fast(x)
    fast.conv1 = nn.Conv2d(copies.C, copies.R, 1)
    assert sat.acceleration_report(fast)[0].status == "accelerated"
    fast.avg_pool = nn.AdaptiveMaxPool2d(1)
    assert own_forward_runs(fast)


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("class", "forward", lambda self, x: x + 1),
        ("global", "F", types.SimpleNamespace(**vars(F))),
        ("instance", "forward", lambda x: x + 2),
    ],
)
def test_methods_and_globals_are_watched(where, name, value, monkeypatch):
    fast, x = sat.accelerate(made(copies.Functional)), a_map(copies.Functional)
    home = {"class": copies.Functional, "global": copies, "instance": fast}[where]
    monkeypatch.setattr(home, name, value)
    with mock.patch.object(swap, "_run", side_effect=AssertionError), mock.patch.object(torch, "sigmoid", lambda t: 1):
        fast(x)


def test_hooks_inside_are_never_bypassed(calls):
    fast, seen = sat.accelerate(made(copies.SCSE)), []
    hook = fast.sSE.conv.register_forward_hook(lambda *_: seen.append(1))
    support.assert_equal(fast(a_map(copies.SCSE)), made(copies.SCSE)(a_map(copies.SCSE)))
    assert seen and "hooks" in sat.acceleration_report(fast)[0].reason
    hook.remove()
    assert sat.acceleration_report(fast)[0].status == "accelerated"


@each_copy
def test_copies_and_compilers(cls):
    """deepcopy, pickle, script and torch.compile do with it what they do with the plain one."""
    fast, x = sat.accelerate(made(cls)), a_map(cls)
    expected = made(cls)(x)
    twin = copy.deepcopy(fast)
    assert type(twin) is type(fast)
    torch.testing.assert_close(twin(x), expected)
    assert type(pickle.loads(pickle.dumps(fast))) is cls
    compiled = torch.compile(fast, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected)
    torch._dynamo.reset()


def test_half_a_model_is_found_once_for_each_description(monkeypatch):
    """Gates that are described alike are traced once."""
    calls = []
    real = structure.recognised
    monkeypatch.setattr(structure, "recognised", lambda *args: calls.append(1) or real(*args))
    monkeypatch.setattr(structure, "_found", {})
    model = nn.Sequential(*[made(copies.Moskomule) for _ in range(5)], copies.Linears(bias=True))
    sat.accelerate(model)
    sat.accelerate(model)
    assert len(calls) == 2


def test_a_list_that_was_read_is_watched():
    """Also where it changes inside."""
    plain, fast = made(copies.CBAMAuthors), sat.accelerate(made(copies.CBAMAuthors), strict=True)
    x = a_map(copies.CBAMAuthors)
    for module in (plain, fast):
        module.ChannelGate.pool_types.pop()
    support.assert_equal(fast(x), plain(x))
    assert own_forward_runs(fast)


@pytest.mark.parametrize("mode", ["training", "eval", "frozen"])
def test_the_norm_of_a_copy(mode, calls):
    """Of the batch in training, with its running statistics; folded in eval where it learns nothing."""
    plain = made(copies.CBAMAuthors).train(mode == "training")
    norm = plain.SpatialGate.spatial.bn
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    norm.requires_grad_(mode != "frozen")
    fast, x = sat.accelerate(copy.deepcopy(plain), strict=True), a_map(copies.CBAMAuthors)
    calls.clear()
    for _ in range(2):
        outputs = []
        for module in (fast, plain):
            y = module(x)
            wanted = [p for p in module.parameters() if p.requires_grad]
            outputs.append([y.detach(), *torch.autograd.grad(y.square().sum(), wanted), *module.buffers()])
        for got, expected in zip(*outputs, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert [kernel for kernel, _ in calls] == ([] if mode == "eval" else ["cbam"] * 2)


class Around(nn.Module):
    """A module that does no more than call one, as smp's Attention."""

    def __init__(self, gate: nn.Module):
        super().__init__()
        self.attention = gate

    def forward(self, x):
        return self.attention(x)


def test_around_a_known_gate_nothing_is_looked_for():
    """The name comes before the structure."""
    for gate, by in ((standins.SCSEModule(copies.C), "name"), (made(copies.SCSE), "structure")):
        (row,) = sat.acceleration_report(nn.Sequential(Around(gate)))
        assert (row.by, row.name) == (by, "0.attention" if by == "name" else "0")


def test_inside_a_known_gate_nothing_is_looked_for():
    """A copy that holds copies is one gate."""
    (row,) = sat.acceleration_report(nn.Sequential(made(copies.SCSE)))
    assert (row.name, row.kernel) == ("0", "scse")
