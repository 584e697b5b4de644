"""segattn report --model: what gates take of a step, what that allows, and what was gained, said as it is."""

import json
import sys
import types

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

import segattn_triton
from segattn_triton.perf.commands import main
from segattn_triton.perf.measure.backends import Cpu
from segattn_triton.perf.models import yours as command
from segattn_triton.perf.options import Failure, Usage
from segattn_triton.perf.report.render.your_model import lines

CLOCK = [0.0]  # seconds, made up: a loaded machine changes no time


class Gate(nn.Module):
    """Takes 12 ms forward, and its backward nothing."""

    seconds = 0.012

    def forward(self, x):
        CLOCK[0] += self.seconds
        return x * 0.5


class FastGate(Gate):
    seconds = 0.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.block = nn.Conv2d(3, 4, 1), nn.Sequential(Gate(), nn.Identity())

    def forward(self, x):
        CLOCK[0] += 0.012
        return {"out": self.block(self.conv(x)), "aux": [x.long()]}


def swap(model):
    for m in model.modules():
        if type(m) is Gate:
            m.__class__ = FastGate
    return model


class Backend(Cpu):
    class Event(Cpu.Event):
        def record(self):
            CLOCK[0] += 1e-5
            self.at = CLOCK[0]

    def now(self):
        return CLOCK[0]

    def compile_model(self, model):
        return model


@pytest.fixture
def factories(monkeypatch):
    module = types.ModuleType("their_models")
    module.net, module.no_model, module.raises, module.value = Net, (lambda: 3), (lambda: 1 / 0), 3
    module.wrong_input = lambda: nn.Linear(7, 7)
    module.no_gate = lambda: nn.Conv2d(3, 3, 1)
    monkeypatch.setitem(sys.modules, "their_models", module)
    monkeypatch.setattr(segattn_triton, "accelerate", swap, raising=False)
    return "their_models"


NOISE = {"eager": 10.0, "accelerated": 9.0, "compiled": 5.0}


def run(spec, out, backend=None, size="1x3x4x4"):
    command.run(spec, size, out, backend=backend or Backend(), console=Console(quiet=True))
    return json.loads((out / "model.json").read_text()), (out / "model.md").read_text()


def test_gates_are_half_of_the_step(factories, tmp_path):
    values, text = run("their_models:net", tmp_path)
    assert values["gates"] == ["block.0"]
    assert 0.3 < values["share"] < 0.7 and 1.4 < values["limit"] < 3.4
    ms = {name: v["ms"] for name, v in values["variants"].items()}
    assert set(ms) == set(command.WAYS) and ms["accelerated"] < 0.8 * ms["eager"]
    assert "1 gates take" in text and f"{100 * values['share']:.1f} %" in text and text.count("\n| ") == 4 + 1
    page = (tmp_path / "index.html").read_text()
    assert 'id="model"' in page and "1 gates take" in page and "their_models:net" in page and "no GPU result" in page


def test_an_earlier_one_is_kept(factories, tmp_path):
    first, text = run("their_models:no_gate", tmp_path)
    second, _ = run("their_models:net", tmp_path)
    assert json.loads((tmp_path / "model-1.json").read_text()) == first != second
    assert (tmp_path / "model-1.md").read_text() == text


def test_a_model_without_gates_is_told_so(factories, tmp_path):
    values, text = run("their_models:no_gate", tmp_path)
    assert values["share"] == 0 and "No gate of this model can be accelerated" in text
    values["variants"] = {n: dict(ms=m, ms_20=m - 1, ms_80=m + 1, peak_memory=None) for n, m in NOISE.items()}
    times = {cells[0]: cells[3] for cells in lines(values)}
    assert times == {"eager": "1.00", "accelerated": "1.11, bands overlap", "compiled": "2.00"}


def test_a_variant_that_fails_is_told(factories, tmp_path):
    class Failing(Cpu):
        def compile_model(self, model):
            raise RuntimeError("no compiler")

    values, text = run("their_models:net", tmp_path, Failing())
    assert set(values["variants"]) == {"eager", "accelerated"} and "| both | failed: RuntimeError: no compiler" in text


def test_only_the_outermost_modules_count():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Gate()

    class Other(Inner):
        pass

    model, fast = nn.Sequential(Inner(), Gate()), nn.Sequential(Other(), FastGate())
    fast[0].inner = FastGate()
    assert command.taken(model, fast) == ["0", "1"]
    assert command.taken(Gate(), FastGate()) == [""]


@pytest.mark.parametrize(
    ("spec", "size", "wanted"),
    [
        ("their_models", "1x3x4x4", "--model: got 'their_models', expected package.module:factory"),
        ("no_such_module:net", "1x3x4x4", "--model: cannot import no_such_module:net: ModuleNotFoundError"),
        ("their_models:none", "1x3x4x4", "--model: cannot import their_models:none: AttributeError"),
        ("their_models:value", "1x3x4x4", "--model: their_models:value is a int, expected a function"),
        ("their_models:no_model", "1x3x4x4", "--model: their_models:no_model() returned a int"),
        ("their_models:raises", "1x3x4x4", "--model: their_models:raises() fails: ZeroDivisionError"),
        ("their_models:net", "1x3x0x4", "--input: got '1x3x0x4', expected sizes such as 8x3x512x512"),
        ("their_models:net", "large", "--input: got 'large'"),
    ],
)
def test_wrong_usage(factories, tmp_path, spec, size, wanted):
    done = CliRunner().invoke(main, ["report", "--model", spec, "--input", size, "--out", str(tmp_path)])
    assert done.exit_code == 2 and done.stderr.startswith("segattn: " + wanted), done.output
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_step_that_fails(factories, tmp_path):
    with pytest.raises(Failure, match="a step of their_models:wrong_input on 1x3x4x4 fails: RuntimeError"):
        run("their_models:wrong_input", tmp_path)


def test_half_an_option(tmp_path):
    done = CliRunner().invoke(main, ["report", "--model", "a:b", "--out", str(tmp_path)])
    assert done.exit_code == 2 and "expected both" in done.stderr


def test_a_budget_is_not_ignored(tmp_path):
    arguments = ["--model", "a:b", "--input", "1x3x4x4", "--budget", "60", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, ["report", *arguments])
    assert done.exit_code == 2 and done.stderr.startswith("segattn: --budget: got 60 with --model, expected none")


def test_without_accelerate(tmp_path, monkeypatch):
    monkeypatch.delattr(segattn_triton, "accelerate", raising=False)
    with pytest.raises(Usage, match=r"has no accelerate\(\)"):
        command.run("a:b", "1x3x4x4", tmp_path, backend=Backend())


def test_a_step_leaves_no_gradient():
    model = nn.Conv2d(3, 4, 1)
    command.step(model, torch.randn(1, 3, 2, 2))
    assert model.weight.grad is None
