"""`accelerate` on stand-ins of other libraries' gates: what changes, what stays, what is left and why."""

import contextlib
import copy
import io
import pickle
import subprocess
import sys

import pytest
import standins
import support
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import segattn_triton as sat
from segattn_triton import _accelerate, _dispatch, _trial, functional
from segattn_triton.adapters import GATES, registry
from segattn_triton.testing import without_tf32

C = 8
KINDS = {
    "torchvision": lambda: standins.SqueezeExcitation(C, 3, nn.SiLU),
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
    "mmseg": lambda: standins.SELayer(C, 2),
    "mmseg-old": lambda: standins.SELayer(C, 2, gate=standins.HSigmoid(1.0, 2.0)),
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
    """To float32's accuracy, with the parameters of both in the same order."""
    with without_tf32():
        pairs = zip(results(module, x), results(plain, x), strict=True)
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.detach().abs().max()))


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """(kernel, options) of each call that an accelerated gate makes."""
    made: list[tuple] = []

    def spy_on(name: str, own):
        def spy(x, *args, **options):
            if x.dtype != torch.float64:  # that of the trial which accelerate makes once for each class
                made.append((name, options))
            return own(x, *args, **options)

        spy.__module__ = functional.__name__
        monkeypatch.setattr(functional, name, spy)

    for name in {gate.kernel for gate in GATES.values()} | {"channel_gate"}:
        spy_on(name, getattr(functional, name))
    return made


@pytest.fixture
def own_adapters(monkeypatch):
    """What a test registers is gone after it."""
    before = dict(GATES)
    yield
    GATES.clear()
    GATES.update(before)


def reason_of(model: nn.Module) -> str:
    (row,) = sat.acceleration_report(model)
    assert row.status == "left"
    sat.accelerate(model)
    assert [r.status for r in sat.acceleration_report(model)] == ["left"]
    return row.reason


@each_kind
def test_same_function(kind, calls):
    gate, plain = make(kind), make(kind)
    assert_same_results(sat.accelerate(gate), plain, make_map())
    assert len(calls) == 1


@each_kind
def test_what_stays(kind):
    gate, plain = make(kind), make(kind)
    cls, parameters, attributes = type(gate), list(gate.parameters()), dict(vars(gate))
    sat.accelerate(gate)
    assert type(gate) is not cls and isinstance(gate, cls)
    assert all(a is b for a, b in zip(gate.parameters(), parameters, strict=True))
    assert vars(gate) == attributes
    assert list(gate.state_dict()) == list(plain.state_dict())
    assert repr(gate).startswith(f"Accelerated{cls.__name__}(")
    gate.load_state_dict(plain.state_dict())
    sat.restore(gate)
    assert type(gate) is cls
    assert vars(gate) == attributes
    support.assert_equal(gate(make_map()), plain(make_map()))


@pytest.mark.parametrize("kind", ["timm", "scse", "eca", "monai-residual"])
def test_kernels_in_the_interpreter(kind, monkeypatch):
    """The same, through Triton."""
    real = _dispatch.implementation
    monkeypatch.setattr(functional, "implementation", lambda name, backend, x: real(name, "triton", x))
    gate, plain = make(kind).to(support.DEVICE), make(kind).to(support.DEVICE)
    assert_same_results(sat.accelerate(gate), plain, make_map().to(support.DEVICE))


def test_residual_kernel_in_the_interpreter(monkeypatch):
    real = _dispatch.implementation
    monkeypatch.setattr(functional, "implementation", lambda name, backend, x: real(name, "triton", x))
    torch.manual_seed(0)
    plain = standins.SEResNetBottleneck()
    plain = plain.to(support.DEVICE)
    assert_same_results(sat.accelerate(copy.deepcopy(plain)), plain, make_map().to(support.DEVICE))


def test_prints_a_line_and_returns_the_model(capsys):
    model = nn.Sequential(make("timm"), make("scse"), standins.SqueezeExcitation(C, 2, nn.GELU))
    assert sat.accelerate(model) is model
    assert capsys.readouterr().out == "2 of 3 gates accelerated\n"
    report = sat.acceleration_report(model)
    assert [row.status for row in report] == ["accelerated", "accelerated", "left"]
    assert [row.name for row in report] == ["0", "1", "2"]
    assert report[1].cls == "segmentation_models_pytorch.base.modules.SCSEModule"
    assert report[1].kernel == "scse"
    lines = str(report).splitlines()
    assert lines[0] == "2 of 3 gates accelerated"
    assert lines[1].split() == ["name", "cls", "kernel", "status", "reason"]
    assert lines[4].endswith(report[2].reason) and "GELU" in report[2].reason
    assert str(sat.acceleration_report(nn.ReLU())) == "0 of 0 gates accelerated"


def test_report_before_accelerate():
    (row,) = sat.acceleration_report(make())
    assert row.reason == "accelerate() was not called for it"


def test_twice_is_once(capsys):
    model = nn.Sequential(make(), standins.SEResNetBottleneck())
    sat.accelerate(model)
    classes = [type(m) for m in model.modules()]
    sat.accelerate(model, strict=True, verify=True)
    assert [type(m) for m in model.modules()] == classes
    assert capsys.readouterr().out == "2 of 2 gates accelerated\n" * 2


def test_one_gate_under_two_names(capsys):
    gate = make()
    model = nn.Sequential(gate, nn.ReLU(), gate)
    sat.accelerate(model)
    assert capsys.readouterr().out == "1 of 1 gate accelerated\n"
    assert model[0] is model[2]


def test_context_restores():
    model, classes = nn.Sequential(make(), make("eca"), standins.SEResNetBottleneck()), []
    sat.accelerate(model[0])
    before = [type(m) for m in model.modules()]
    with sat.accelerated(model) as report:
        assert report.summary == "3 of 3 gates accelerated"
        classes = [type(m) for m in model.modules()]
    assert [type(m) for m in model.modules()] == before != classes
    with pytest.raises(KeyError), sat.accelerated(model, include=["eca"]) as report:
        assert [row.status for row in report] == ["accelerated", "accelerated", "left"]
        raise KeyError
    assert [type(m) for m in model.modules()] == before


def test_include_and_filter():
    def statuses(**options):
        model = nn.Sequential(make("timm"), make("scse"), make("eca"))
        return [row.status[0] for row in sat.acceleration_report(sat.accelerate(model, **options))]

    assert statuses(include=["scse", "eca"]) == ["l", "a", "a"]
    assert statuses(include="scse") == ["l", "a", "l"]
    assert statuses(filter_fn=lambda module, name: name == "2") == ["l", "l", "a"]
    assert statuses(filter_fn=lambda module, name: isinstance(module, standins.SEModule)) == ["a", "l", "l"]
    assert statuses(include=["scse"], filter_fn=lambda module, name: False) == ["l", "l", "l"]
    with pytest.raises(ValueError, match=r"include: got 'se', expected kernels among .*'scse'"):
        statuses(include=["se"])


def test_strict():
    unknown = standins.SqueezeExcitation(C, 2, nn.GELU)
    model = nn.Sequential(make(), unknown)
    with pytest.raises(RuntimeError, match=r"strict: 1 of 2 gates cannot be accelerated:\n  1: its activation"):
        sat.accelerate(model, strict=True)
    assert type(model[0]) is standins.SEModule
    with pytest.raises(RuntimeError, match=r"strict: there is nothing to accelerate in the model$"):
        sat.accelerate(nn.Conv2d(3, 3, 1), strict=True)
    with pytest.raises(RuntimeError, match="nothing to accelerate in the model among its 2 gates by include and"):
        sat.accelerate(model, strict=True, include=["eca"])
    sat.accelerate(model, strict=True, filter_fn=lambda module, name: module is not unknown)
    assert isinstance(model[0], _accelerate.Accelerated)


@pytest.mark.parametrize("wrong", [None, "model", {}])
def test_no_module(wrong):
    for fn in (sat.accelerate, sat.acceleration_report, sat.restore):
        with pytest.raises(TypeError, match=r"model: got \w+, expected a torch.nn.Module"):
            fn(wrong)
    with pytest.raises(TypeError, match="expected a torch"), sat.accelerated(wrong):
        pass


@each_kind
def test_verify(kind):
    state = torch.random.get_rng_state()
    gate = make(kind)
    torch.random.set_rng_state(state)
    sat.accelerate(gate, verify=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(gate, _accelerate.Accelerated)


def register_wrong_adapter() -> None:
    GATES.pop("timm.layers.squeeze_excite.SEModule")

    @sat.register_adapter("timm.layers.squeeze_excite.SEModule", "channel_gate")
    def read(m):
        return (m.fc1.weight, m.fc1.bias, m.fc2.weight, m.fc2.bias), {"gate": "hard_sigmoid"}


def test_left_what_computes_something_else(own_adapters):
    """A trial, once for each class, finds a version of a library of which an adapter is not true."""
    register_wrong_adapter()
    assert reason_of(make()) == "its forward computes something else than is known of its class"
    later = standins.stands_for("segmentation_models_pytorch.base.modules.SCSEModule")(
        type("Later", (nn.Module,), {"__init__": scse_parts, "forward": lambda self, x: x * self.cSE(x)})
    )
    assert reason_of(later()) == "its forward computes something else than is known of its class"
    fails = standins.stands_for("segmentation_models_pytorch.base.modules.SCSEModule")(
        type("Fails", (nn.Module,), {"__init__": scse_parts, "forward": lambda self, x: x[:, :, :, :, 0]})
    )
    assert reason_of(fails()).startswith("its forward failed on a map of shape (2, 8, 5, 5): too many indices")


def scse_parts(self):
    nn.Module.__init__(self)
    for name, child in standins.SCSEModule(C).named_children():
        self.add_module(name, child)


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


def test_verify_finds_a_wrong_adapter(own_adapters, monkeypatch):
    register_wrong_adapter()
    monkeypatch.setattr(_trial, "disagreement", lambda *args: None)
    model = nn.Sequential(make("scse"), make())
    with pytest.raises(RuntimeError, match=r"verify: 1 \(timm.*SEModule\): y is off by .* The model is unchanged"):
        sat.accelerate(model, verify=True)
    assert [type(m) for m in model] == [standins.SCSEModule, standins.SEModule]


def test_meta_device():
    with torch.device("meta"):
        model = nn.Sequential(make(), make("scse"), make("eca"))
    with pytest.raises(RuntimeError, match=r"verify: 0 \(timm.*\) has no values to compare: it is on the meta device"):
        sat.accelerate(model, verify=True)
    sat.accelerate(model, strict=True)
    assert model(make_map().to("meta")).shape == make_map().shape
    gate = model[1]
    weights = gate.cSE[1].weight, None, gate.cSE[3].weight, None, gate.sSE[0].weight
    assert functional.scse(make_map().to("meta"), *weights, backend="reference").is_meta  # where there is no Triton
    model.to_empty(device="cpu")
    assert model(make_map()).shape == make_map().shape


def test_hooks_of_the_gate_run(calls):
    gate, seen = sat.accelerate(make()), []
    gate.register_forward_pre_hook(lambda m, args: seen.append("pre"))
    gate.register_forward_hook(lambda m, args, y: seen.append("post"))
    gate.register_full_backward_hook(lambda m, dx, dy: seen.append("backward"))
    results(gate, make_map())
    assert seen == ["pre", "post", "backward"]
    assert len(calls) == 1


REGISTER = ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]


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
        module.act = nn.GELU()
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


def test_register_adapter(own_adapters, calls):
    gate = OwnGate()
    assert not sat.acceleration_report(gate)
    assert sat.register_adapter(OWN, "channel_gate")(read_own) is read_own
    plain = copy.deepcopy(gate)
    with sat.accelerated(gate, strict=True, verify=True) as report:
        assert (report[0].kernel, report[0].cls) == ("channel_gate", OWN)
        assert_same_results(gate, plain, make_map())
        support.assert_equal(gate(make_map(), 2.0), plain(make_map(), 2.0))
        support.assert_equal(gate(make_map(), scale=3.0), plain(make_map(), scale=3.0))
    gate.fc.bias = None
    assert reason_of(gate) == "it has no bias"


def test_register_adapter_errors(own_adapters):
    with pytest.raises(ValueError, match=r"kernel: got 'se', expected one of .*'channel_gate'"):
        sat.register_adapter(OWN, "se")
    with pytest.raises(TypeError, match=r"cls: got <class .*>, expected the qualified name"):
        sat.register_adapter(OwnGate, "channel_gate")
    with pytest.raises(ValueError, match=r"cls: .*SEModule has an adapter already"):
        sat.register_adapter("timm.layers.squeeze_excite.SEModule", "channel_gate")


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


def test_inputs_that_the_kernel_does_not_take():
    """An image without a batch is computed by the gate itself; wrong channels are an error that says so."""
    gate, plain = sat.accelerate(make("torchvision")), make("torchvision")
    x = make_map()[0]
    support.assert_equal(gate(x), plain(x))
    with pytest.raises(ValueError, match=rf"w1: got shape \(3, {C}, 1, 1\), expected \(3, {C + 1}"):
        gate(make_map(channels=C + 1))
    with pytest.raises(TypeError, match="x: got dtype torch"):
        gate(make_map().long())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_spatial_dimensions(dims, calls):
    torch.manual_seed(0)
    gate = standins.ChannelSELayer(dims, C)
    plain = copy.deepcopy(gate)
    assert_same_results(sat.accelerate(gate, verify=True), plain, make_map(*(3, 4, 5)[:dims]))
    assert calls


def test_autocast():
    gate, plain, x = sat.accelerate(make()), make(), make_map()
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            got, expected = gate(x.to(dtype)), plain(x.to(dtype))
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got.float(), expected.float(), rtol=2e-2, atol=2e-2)


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
    other.act2 = nn.GELU()
    for block in (dropping, other):
        plain = copy.deepcopy(block)
        sat.accelerate(block, strict=True)
        assert sat.acceleration_report(block)[0].kernel == "squeeze_excite"
        assert_same_results(block, plain, make_map())
        assert "shortcut" not in calls.pop()[1]
    left = sat.accelerate(block_of("bottleneck"), filter_fn=lambda module, name: False)
    assert type(left) is standins.SEResNetBottleneck


def test_residual_block_of_two_dtypes(calls):
    """A float32 shortcut beside a bfloat16 branch, as autocast makes it: added by torch, which promotes."""
    block, plain = sat.accelerate(block_of("bottleneck")), block_of("bottleneck")
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = block(make_map()), plain(make_map())
    assert got.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=3e-2, atol=3e-2)
    assert len(calls) == 1


def test_left_quantised():
    gate = standins.ChannelSELayer(2, C)
    with pytest.warns():
        torch.ao.quantization.quantize_dynamic(gate, {nn.Linear}, inplace=True)
    assert reason_of(gate).startswith("its child 'fc.0' is quantised (torch.ao.nn.quantized.dynamic")


def test_left_sync_batch_norm():
    gate = nn.SyncBatchNorm.convert_sync_batchnorm(standins.SEModule(C, 2, norm=nn.BatchNorm2d))
    assert reason_of(gate) == "its child 'bn' is a SyncBatchNorm, whose statistics come from other processes"
    assert reason_of(standins.SEModule(C, 2, norm=nn.BatchNorm2d)).startswith(
        "its child 'bn' is torch.nn.modules.batch"
    )


@contextlib.contextmanager
def one_process():
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def test_left_fsdp():
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    with one_process():
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        model = nn.Sequential(fully_shard(make(), mesh=mesh))
        assert "wrapped by FSDP: call accelerate() before sharding" in reason_of(model)
        model = nn.Sequential(FullyShardedDataParallel(make(), device_id=torch.device("cpu")))
        assert "wrapped by FSDP" in reason_of(model)
        model = fully_shard(sat.accelerate(nn.Sequential(make())), mesh=mesh)
        assert sat.acceleration_report(model)[0].status == "accelerated"
        torch.testing.assert_close(model(make_map()), nn.Sequential(make())(make_map()))
        model = sat.accelerate(nn.Sequential(make("eca"), make()))
        fully_shard(model[1], mesh=mesh)
        with pytest.raises(RuntimeError, match=r"1: its class is FSDP\w+ by now: restore\(\) before that"):
            sat.restore(model)
        assert isinstance(model[0], _accelerate.Accelerated)


def test_left_unknown_activations():
    assert "its activation 'activation' is torch.nn.modules.activation.GELU: the kernels have relu, silu" in reason_of(
        standins.SqueezeExcitation(C, 2, nn.GELU)
    )
    assert "'scale_activation' is torch.nn.modules.activation.SiLU: the kernels have sigmoid, hard" in reason_of(
        standins.SqueezeExcitation(C, 2, scale_activation=nn.SiLU)
    )
    clipped = standins.HSigmoid()
    clipped.max_value = 2.0
    assert "'conv2.activate' is mmcv" in reason_of(standins.SELayer(C, 2, gate=clipped))


def test_left_measured_slower(monkeypatch):
    monkeypatch.setattr(_accelerate, "_device_name", lambda tensor: "a GPU")
    monkeypatch.setitem(_accelerate.SLOWER, "a GPU", (("squeeze_excite", 1, 8),))
    assert reason_of(make()) == "measured slower than what it replaces on a GPU, with 1 to 8 channels"
    assert [row.status for row in sat.acceleration_report(sat.accelerate(standins.SEModule(9, 2)))] == ["accelerated"]


def test_left_unlike_what_is_known():
    assert reason_of(type("Mine", (standins.SEModule,), {})(C, 2)).startswith("its class derives from the known one")
    patched = make()
    patched.forward = patched.forward
    assert reason_of(patched) == "its forward was replaced"
    option = make()
    option.pool_type = "max"
    assert reason_of(option) == "it has an attribute 'pool_type' that is not known"
    child = make()
    child.dropout = nn.Dropout(0.1)
    assert reason_of(child) == "it has a child 'dropout' that is not known"
    less = make()
    del less.fc2
    assert reason_of(less) == "it has no child 'fc2'"
    wide = make()
    wide.fc1 = nn.Conv2d(C, 2, 3, padding=1)
    assert reason_of(wide).startswith("its child 'fc1' is not a plain 1x1 convolution: Conv2d(8, 2, kernel_size=(3, 3)")
    pool = make("torchvision")
    pool.avgpool = nn.AdaptiveAvgPool2d((1, 2))
    assert reason_of(pool) == "its child 'avgpool' pools to (1, 2), expected 1"
    pool.avgpool = nn.AdaptiveMaxPool2d(1)
    assert reason_of(pool).endswith("AdaptiveMaxPool2d, expected a global average pool")
    hooked = make()
    hooked.fc1.register_forward_hook(lambda *args: None)
    assert reason_of(hooked) == "a child of it has hooks, which its own forward runs"
    two = make("scse")
    two.sSE[1] = nn.Tanh()
    assert "its two gates differ, sigmoid and tanh" in reason_of(two)
    mlp = make("eca")
    mlp.conv2 = nn.Conv1d(1, 1, 1)
    assert reason_of(mlp) == "use_mlp: two convolutions over the channels have no kernel"


def test_left_class_patched_by_another_library(monkeypatch):
    def forward(self, x):
        return x

    monkeypatch.setattr(standins.SEModule, "forward", forward)
    assert reason_of(make()) == "its forward was replaced"


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_left_reduction_larger_than_the_channels():
    reason = reason_of(standins.SCSEModule(C, reduction=16))
    assert reason == "its child 'cSE.1' has no channels: the reduction is larger than the number of channels"


def test_left_nnunet_in_3d():
    assert "in 3-D" in reason_of(standins.NNUNetSqueezeExcite(C, 2, conv=nn.Conv3d))


def test_imports_no_other_library():
    code = (
        "import sys, segattn_triton as s; "
        "names = {m.split('.')[0] for m in sys.modules}; "
        "assert not names & {'torchvision', 'timm', 'segmentation_models_pytorch', 'monai', 'mmcv'}, names; "
        "s.accelerate(s.ChannelAttention(8))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0 of 0 gates accelerated\n"


def test_every_adapter_has_a_kernel():
    for name, gate in registry.GATES.items():
        assert name.count(".") >= 2
        assert callable(getattr(functional, gate.kernel)), name


def test_nothing_else_is_printed():
    out = io.StringIO()
    with contextlib.redirect_stdout(out), sat.accelerated(make()):
        pass
    assert out.getvalue().count("\n") == 1
