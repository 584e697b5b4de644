"""`accelerate` on stand-ins of other libraries' gates: what changes, what stays, and how it is undone."""

import contextlib
import copy
import io
import subprocess
import sys

import pytest
import standins
import support
import torch
from gates import OWN, C, OwnGate, assert_same_results, each_kind, make, make_map, read_own, reason_of
from torch import nn

import segattn_triton as sat
from segattn_triton import functional
from segattn_triton.acceleration import api as _accelerate
from segattn_triton.acceleration.adapters import registry
from segattn_triton.runtime import dispatch


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


@pytest.mark.parametrize("kind", ["timm", "torchvision-gelu", "scse", "eca", "monai-residual"])
def test_kernels_in_the_interpreter(kind, monkeypatch):
    """The same, through Triton."""
    real = dispatch.implementation
    support.replace_implementation(monkeypatch, lambda name, backend, x: real(name, "triton", x))
    gate, plain = make(kind).to(support.DEVICE), make(kind).to(support.DEVICE)
    assert_same_results(sat.accelerate(gate), plain, make_map().to(support.DEVICE))


HERE = "; on this CPU they run the reference" if support.DEVICE == "cpu" else ""


def test_prints_a_line_and_returns_the_model(capsys):
    model = nn.Sequential(make("timm"), make("scse"), standins.SqueezeExcitation(C, 2, nn.Mish))
    assert sat.accelerate(model) is model
    assert capsys.readouterr().out == f"2 of 3 gates accelerated{HERE}\n"
    report = sat.acceleration_report(model)
    assert [row.status for row in report] == ["accelerated", "accelerated", "left"]
    assert [row.name for row in report] == ["0", "1", "2"]
    assert report[1].cls == "segmentation_models_pytorch.base.modules.SCSEModule"
    assert report[1].kernel == "scse"
    lines = str(report).splitlines()
    assert lines[0] == "2 of 3 gates accelerated"
    assert lines[1].split() == ["name", "cls", "kernel", "by", "status", "reason"]
    assert lines[4].endswith(report[2].reason) and "Mish" in report[2].reason
    assert str(sat.acceleration_report(nn.ReLU())) == "0 of 0 gates accelerated"


def test_line_on_each_machine(capsys, monkeypatch):
    """Where no kernel can run nothing gets faster, and the line says so."""
    for gpu, triton, end in (
        (True, True, ""),
        (False, True, "; on this CPU they run the reference"),
        (True, False, "; without Triton they run the reference"),
        (False, False, "; without Triton they run the reference"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        monkeypatch.setattr("importlib.util.find_spec", lambda name, triton=triton: object() if triton else None)
        sat.accelerate(make())
        assert capsys.readouterr().out == f"1 of 1 gate accelerated{end}\n"
        sat.accelerate(nn.Sequential(nn.ReLU(), standins.SqueezeExcitation(C, 2, nn.Mish)))
        assert capsys.readouterr().out == "0 of 1 gate accelerated\n"


def test_line_of_the_first_rank_only(capsys, monkeypatch):
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    for rank in (1, 0):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        sat.accelerate(make())
        assert bool(capsys.readouterr().out) == (rank == 0)


def test_verbose_and_the_log(capsys, caplog):
    """What was left at INFO, what was taken at DEBUG, printed or not, on every rank."""
    model = nn.Sequential(make(), standins.SqueezeExcitation(C, 2, nn.Mish))
    with caplog.at_level("DEBUG", logger="segattn_triton"):
        sat.accelerate(model, verbose=False)
    assert capsys.readouterr().out == ""
    taken, left = caplog.records
    assert (taken.levelname, left.levelname) == ("DEBUG", "INFO")
    assert taken.getMessage() == "0 (timm.layers.squeeze_excite.SEModule) runs squeeze_excite"
    assert left.getMessage().startswith("1 (torchvision.ops.misc.SqueezeExcitation) is left: its activation")


def test_this_packages_own_modules(capsys):
    own = nn.Sequential(sat.SCSE(32), nn.Sequential(sat.SpatialAttention(8)))
    sat.accelerate(own)
    sat.accelerate(nn.Sequential(make(), sat.SCSE(32)))
    first, second = capsys.readouterr().out.splitlines()
    assert first == "nothing to accelerate: 2 attention modules are this package's own"
    assert second == f"1 of 1 gate accelerated; 1 attention module is this package's own{HERE}"
    report = sat.acceleration_report(own)
    assert (len(report), report.own, str(report)) == (0, 2, first)


def test_report_before_accelerate():
    (row,) = sat.acceleration_report(make())
    assert row.reason == "accelerate() was not called for it"


def test_twice_is_once(capsys):
    model = nn.Sequential(make(), standins.SEResNetBottleneck())
    sat.accelerate(model)
    classes = [type(m) for m in model.modules()]
    sat.accelerate(model, strict=True, verify=True)
    assert [type(m) for m in model.modules()] == classes
    assert capsys.readouterr().out == f"2 of 2 gates accelerated{HERE}\n" * 2


def test_one_gate_under_two_names(capsys):
    gate = make()
    model = nn.Sequential(gate, nn.ReLU(), gate)
    sat.accelerate(model)
    assert capsys.readouterr().out == f"1 of 1 gate accelerated{HERE}\n"
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
    unknown = standins.SqueezeExcitation(C, 2, nn.Mish)
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
    with pytest.raises(TypeError, match=r"read: got 3, expected a function"):
        sat.register_adapter(OWN, "channel_gate")(3)


def test_register_adapter_without_a_reader_is_not_silent(own_adapters):
    register = sat.register_adapter(OWN, "channel_gate")
    for use in (sat.accelerate, sat.acceleration_report):
        with pytest.raises(RuntimeError, match=r'register_adapter\(".*OwnGate", "channel_gate"\): it has no reader'):
            use(OwnGate())
    register(read_own)
    assert len(sat.acceleration_report(OwnGate())) == 1


def test_inputs_that_the_kernel_does_not_take():
    """An image without a batch is computed by the gate itself; wrong channels are an error that says so."""
    gate, plain = sat.accelerate(make("torchvision")), make("torchvision")
    x = make_map()[0]
    support.assert_equal(gate(x), plain(x))
    with pytest.raises(ValueError, match=rf"w1: got shape \(3, {C}, 1, 1\), expected \(3, {C + 1}"):
        gate(make_map(channels=C + 1))
    with pytest.raises(RuntimeError, match="dtype"):  # torch's own
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


def test_imports_no_other_library():
    code = (
        "import sys, segattn_triton as s; "
        "names = {m.split('.')[0] for m in sys.modules}; "
        "assert not names & {'torchvision', 'timm', 'segmentation_models_pytorch', 'monai', 'mmcv'}, names; "
        "s.accelerate(s.ChannelAttention(8))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "nothing to accelerate: 1 attention module is this package's own\n"


def test_every_adapter_has_a_kernel():
    for name, gate in registry.ADAPTERS.items():
        assert "." in name.strip("."), name  # a module's name, then a class
        assert callable(getattr(functional, gate.kernel)), name


def test_nothing_else_is_printed():
    out = io.StringIO()
    with contextlib.redirect_stdout(out), sat.accelerated(make()):
        pass
    assert out.getvalue().count("\n") == 1
