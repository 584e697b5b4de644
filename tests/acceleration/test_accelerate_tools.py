"""Hooks, copies, pickles, tracers and compilers do with an accelerated model what they do with a plain one."""

import copy
import pickle

import pytest
import support
import torch
from gates import OWN, OwnGate, assert_same_results, make, make_map, read_own, reason_of, results
from torch import nn
from torch.nn.utils import parametrize, prune

import segattn_triton as sat
from segattn_triton.acceleration import api as _accelerate

REGISTER = ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]


def test_hooks_of_the_gate_run(calls):
    gate, seen = sat.accelerate(make()), []
    gate.register_forward_pre_hook(lambda m, args: seen.append("pre"))
    gate.register_forward_hook(lambda m, args, y: seen.append("post"))
    gate.register_full_backward_hook(lambda m, dx, dy: seen.append("backward"))
    results(gate, make_map())
    assert seen == ["pre", "post", "backward"]
    assert len(calls) == 1


@pytest.mark.parametrize("register", [*REGISTER, "register_full_backward_pre_hook"])
def test_hooks_of_a_child_are_never_bypassed(register, calls):
    """As Grad-CAM sets them, on a model that is accelerated already; without them the kernels run again."""
    gate, plain, seen = sat.accelerate(make("scse")), make("scse"), []
    hook = getattr(gate.cSE[1], register)(lambda *args: seen.append(1))
    assert_same_results(gate, plain, make_map())
    assert seen and not calls
    assert "hooks" in sat.acceleration_report(gate)[0].reason
    hook.remove()
    assert_same_results(gate, plain, make_map())
    assert len(calls) == 1


def test_hooks_of_every_module_are_never_bypassed(calls):
    gate, seen = sat.accelerate(make()), []
    hook = nn.modules.module.register_module_forward_hook(lambda m, args, y: seen.append(type(m).__name__))
    try:
        gate(make_map())
    finally:
        hook.remove()
    assert "Conv2d" in seen and not calls


def test_pruning_and_spectral_norm_later(calls):
    for change in (lambda m: prune.l1_unstructured(m, "weight", amount=0.5), nn.utils.spectral_norm):
        gate, plain = sat.accelerate(make()), make()
        for module in (gate, plain):
            torch.manual_seed(3)
            change(module.fc1)
        support.assert_equal(gate(make_map()), plain(make_map()))
    assert not calls


def test_parametrised_children(calls):
    """weight_norm of today is a parametrisation: the weight is computed when it is read."""
    gate, plain = make(), make()
    for module in (gate, plain):
        nn.utils.parametrizations.weight_norm(module.fc1)
    sat.accelerate(gate, strict=True)
    assert parametrize.is_parametrized(gate.fc1)
    assert_same_results(gate, plain, make_map())
    assert len(calls) == 1


def test_children_changed_later(calls):
    gate, plain = sat.accelerate(make()), make()
    for module in (gate, plain):
        module.gate = nn.Hardsigmoid()
    assert_same_results(gate, plain, make_map())
    assert len(calls) == 1
    for module in (gate, plain):
        module.act = nn.Mish()
    support.assert_equal(gate(make_map()), plain(make_map()))
    assert len(calls) == 1
    gate.act.forward = nn.functional.relu
    gate.act.__class__ = nn.ReLU
    assert "hooks" in sat.acceleration_report(gate)[0].reason


def test_copies():
    """deepcopy, as of an EMA, and copy stay accelerated; parameters are the copy's own, or shared."""
    gate = sat.accelerate(nn.Sequential(make(), make("scse")))
    twin, shallow = copy.deepcopy(gate), copy.copy(gate[0])
    assert [type(m) for m in twin.modules()] == [type(m) for m in gate.modules()]
    assert type(shallow) is type(gate[0])
    with torch.no_grad():
        twin[0].fc1.weight.zero_()
    assert gate[0].fc1.weight.any()
    assert shallow.fc1 is gate[0].fc1
    sat.restore(twin)
    assert isinstance(gate[0], _accelerate.Accelerated)


def test_deepcopy_of_a_cycle():
    gate = sat.accelerate(make())
    object.__setattr__(gate, "_parent", [gate])
    twin = copy.deepcopy(gate)
    assert twin._parent[0] is twin


def test_pickle_holds_the_plain_class(own_adapters, tmp_path):
    sat.register_adapter(OWN, "channel_gate")(read_own)
    gate = sat.accelerate(OwnGate())
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(gate, protocol)
        assert b"segattn_triton" not in data and b"Accelerated" not in data
        loaded = pickle.loads(data)
        assert type(loaded) is OwnGate
        support.assert_equal(loaded(make_map()), OwnGate.forward(gate, make_map()))
    torch.save(gate, tmp_path / "gate.pt")
    assert type(torch.load(tmp_path / "gate.pt", weights_only=False)) is OwnGate


def test_data_parallel_replicas():
    """A replica, whose parameters are plain tensors in place of the module's, uses its own."""
    gate, plain = sat.accelerate(make()), make()
    replica, child = gate._replicate_for_data_parallel(), gate.fc1._replicate_for_data_parallel()
    replica._modules["fc1"] = child
    child.weight, child.bias = torch.zeros_like(gate.fc1.weight), torch.zeros_like(gate.fc1.bias)
    nn.init.zeros_(plain.fc1.weight), nn.init.zeros_(plain.fc1.bias)
    assert type(replica) is type(gate)
    torch.testing.assert_close(replica(make_map()), plain(make_map()))


def test_traced_models_hold_torch_operators():
    model, x = sat.accelerate(nn.Sequential(make("torchvision"), make("ese"))), make_map()
    traced, symbolic = torch.jit.trace(model, x), torch.fx.symbolic_trace(model)
    for graph in (traced.inlined_graph, symbolic.graph):
        assert "sigmoid" in str(graph) or "scale_activation" in str(graph)
        assert "segattn" not in str(graph)
    torch.testing.assert_close(traced(x), model(x))
    torch.testing.assert_close(symbolic(x), model(x))


def test_script(own_adapters):
    sat.register_adapter(OWN, "channel_gate")(read_own)
    gate = sat.accelerate(nn.Sequential(OwnGate()))
    expected, weight = gate(make_map()), gate[0].fc.weight
    torch.testing.assert_close(torch.jit.script(gate)(make_map()), expected)
    assert type(gate[0]) is OwnGate and gate[0].fc.weight is weight
    assert "TorchScript" in reason_of(torch.jit.script(nn.Sequential(OwnGate())))


@pytest.mark.parametrize("kind", ["timm", "scse", "eca", "monai-residual"])
def test_compile_and_export(kind):
    gate, x = make(kind), make_map()
    expected = results(gate, x)
    sat.accelerate(gate)
    compiled = torch.compile(gate, fullgraph=True, backend="aot_eager")
    for got, y in zip(results(compiled, x), expected, strict=True):
        torch.testing.assert_close(got, y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.export.export(gate, (x,)).module()(x), expected[0])


def test_compiled_before():
    """accelerate() on a model that torch.compile has wrapped."""
    model = torch.compile(nn.Sequential(make()), fullgraph=True, backend="eager")
    expected = model(make_map())
    sat.accelerate(model, strict=True)
    torch.testing.assert_close(model(make_map()), expected)
    assert isinstance(model._orig_mod[0], _accelerate.Accelerated)


def test_functional_call_and_checkpoint():
    gate, plain, x = sat.accelerate(make()), make(seed=5), make_map().requires_grad_()
    got = torch.func.functional_call(gate, dict(plain.named_parameters()), (x,))
    torch.testing.assert_close(got, plain(x))
    y = torch.utils.checkpoint.checkpoint(gate, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), torch.autograd.grad(gate(x).sum(), x))
