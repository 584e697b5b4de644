"""The commands `segattn report`, `check` and `env`: options, what is done without a GPU, a child that dies."""

import dataclasses
import json

import pytest
import torch
from support import DEVICE
from typer.testing import CliRunner

import segattn_triton
from segattn_triton.catalog import BY_NAME, Problem
from segattn_triton.perf import options
from segattn_triton.perf.account import assumptions as assumed
from segattn_triton.perf.commands import main
from segattn_triton.perf.measure import backends, check, child, env, plan
from segattn_triton.perf.options import OPS, Options
from segattn_triton.perf.records import load
from segattn_triton.perf.report import job as report


def command(*arguments: str):
    return CliRunner().invoke(main, arguments)


@pytest.mark.interpreter
def test_without_a_gpu_all_that_can_be_done(tmp_path, capsys):
    """The reference and the rivals timed, the kernels compiled ahead of time, the page made."""

    class NoCompiler(backends.Cpu):
        def compile(self, fn):
            return fn

        def now(self):
            return 0.0  # the budget is a made-up clock's: a loaded machine changes nothing

    chosen = dict(ops=("spatial_gate",), layouts=("contiguous",), modes=("fwd",), sides=(8,), channels=(4,))
    page = report.run(backend=NoCompiler(), out=tmp_path, **chosen)
    found = list(load(tmp_path / "records.jsonl"))
    assert {r.status for r in found} == {"ok"}
    timed = {r.point.provider for r in found if r.point.timer == "cpu" and r.point.op == "spatial_gate"}
    assert timed == {"reference", "eager", "compile"}
    predicted = [r for r in found if r.point.timer == "predicted"]
    assert {r.point.H for r in predicted} == set(plan.GPU_GRIDS["quick"]["sides"])
    for r in predicted:
        (kernel,) = r.extra["kernels"]
        assert kernel["registers"] > 0 and kernel["spills"] == 0
        assert r.ms == pytest.approx((kernel["us"] + assumed.LAUNCH) / 1e3) and r.ms > r.planned_bytes / 4.3e9
    assert page.stat().st_size > 10_000
    assert str(page.resolve()) in capsys.readouterr().out


def test_an_nvidia_gpu_that_torch_cannot_use(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(env, "driver_version", lambda: "580.1")
    done = command("report", "--out", str(tmp_path))
    assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "driver 580.1" in done.stderr and torch.__version__ in done.stderr and "--cpu" in done.stderr
    monkeypatch.setattr(env, "driver_version", lambda: None)
    assert env.unusable_gpu() is None


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        (["--op", "spatial"], "--op: got 'spatial', expected one of spatial_gate, "),
        (["--op", "spatial_gate,nothing"], "--op: got 'nothing'"),
        (["--dtype", "int8"], "--dtype: got 'int8', expected one of bfloat16, float16, float32, float64"),
        (["--layout", "nwhc"], "--layout: got 'nwhc', expected one of contiguous, channels_last"),
        (["--mode", "both"], "--mode: got 'both', expected one of fwd, bwd"),
        (["--preset", "long"], "--preset: got 'long', expected one of quick, full"),
        (["--budget", "3"], "--budget: got 3, expected at least 60 seconds"),
        (["--budget", "nan"], "--budget: got nan, expected"),
        (["--out", "/dev/null/report"], "--out: cannot write to /dev/null/report: Not a directory; expected a folder"),
        (["--image", "none.jpg"], "--image: cannot read none.jpg: No such file or directory; expected an image"),
        (["--image", __file__], "--image: cannot read"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments, wanted):
    done = command("report", *arguments)
    assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("segattn: " + wanted)


def test_options_are_spelt_out(tmp_path):
    chosen = Options(dtypes=("bf16", "fp32", "bf16"), layouts=("nhwc",), out=tmp_path / "new").checked()
    assert chosen.dtypes == ("bfloat16", "float32") and chosen.layouts == ("channels_last",)
    assert chosen.modes == ("fwd", "bwd") and chosen.ops == OPS and chosen.budget == options.PRESETS["quick"]


@pytest.mark.interpreter
def test_check_runs_the_kernels_in_a_child(monkeypatch):
    few = [Problem("spatial_gate", dtype, "channels_last", 1, 3, (2, 2)) for dtype in ("float32", "float64")]
    monkeypatch.setattr(check, "cases", lambda ops, gpu: few)
    done = command("check", "--op", "spatial_gate")
    assert done.exit_code == 0
    assert "float64" in done.stdout and "ok" in done.stdout and "needs a GPU" in done.stdout


def test_check_exits_1_on_a_mismatch(monkeypatch):
    case = Problem("spatial_gate", "float32", "contiguous", 1, 3, (2, 2))
    outcome = check.Outcome(case, 9.5, "dx", "dx: 3 of 12 elements [first]")
    monkeypatch.setattr(check, "outcomes", lambda ops: iter([outcome]))
    done = command("check")
    assert done.exit_code == 1 and "950 %" in done.stdout
    assert "3 of 12 elements [first]" in " ".join(done.stdout.split())
    assert command("check", "--op", "none").exit_code == 2


def test_check_sees_a_wrong_kernel(monkeypatch):
    case = Problem("spatial_gate", "float32", "contiguous", 1, 3, (2, 2))
    assert not check.run(case, DEVICE).failure
    row = BY_NAME["spatial_gate"]
    wrong = dataclasses.replace(row, op=lambda *inputs, **kwargs: 1.001 * row.reference(*inputs))
    monkeypatch.setitem(BY_NAME, row.name, wrong)
    assert "elements" in check.run(case, DEVICE, maps=(False,)).failure


def test_a_child_that_dies_costs_one_piece(tmp_path, monkeypatch):
    (tmp_path / "dying_child.py").write_text(
        "import os\n"
        "from segattn_triton.perf.measure import child\n"
        "child.serve(lambda piece: os._exit(3) if piece['n'] == 1 else {'twice': 2 * piece['n']})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answers = list(child.results("dying_child", [{"n": n} for n in range(4)], {}))
    assert [a.get("twice") for a in answers] == [0, None, 4, 6]
    assert "ended with code 3" in answers[1][child.DIED]
    nowhere = list(child.results("no_such_module", [{}] * 4, {}))
    assert len(nowhere) == 4 and all("No module named" in a[child.DIED] for a in nowhere)
    assert list(child.results("http.server", [{}], {}, seconds=0.5)) == []


def test_env_tells_all_as_json():
    done = command("env", "--json")
    values = json.loads(done.stdout)
    assert done.exit_code == 0
    assert values["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]  # one may name its CUDA
    assert set(values) >= {"date", "python", "os", "cpu", "gpu", "driver", "cuda", "triton", "variables", "revision"}
    assert set(values["triton"]) == {"runs", "interpreter", "reason", "compiler"}
    assert command("env").exit_code == 0


def test_the_version():
    done = command("--version")
    assert done.exit_code == 0 and done.stdout.strip() == segattn_triton.__version__
