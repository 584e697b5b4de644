"""The perf suite loses no measurement, stops in time, and runs on a rehearsed GPU as it will on a real one."""

import dataclasses
import json
import signal
import subprocess
import sys
import textwrap
import time
import types
from collections import Counter

import numpy as np
import pytest
import torch
from rich.console import Console
from support import DEVICE
from typer.testing import CliRunner

from segattn_triton.catalog import BY_NAME, OPS
from segattn_triton.perf import backends, check, child, env, measure, options, plan, report, rivals, timing
from segattn_triton.perf.__main__ import main
from segattn_triton.perf.backends import Call, Rehearsal
from segattn_triton.perf.budget import Budget
from segattn_triton.perf.options import Failure, Options, Usage
from segattn_triton.perf.records import Point, Record, append, load
from segattn_triton.testing import make_inputs

SMALL = dict(sides=(6, 5), channels=(4,), budget=540.0)
POINT = Point("spatial_gate", "segattn", "fwd", "float32", "contiguous", 1, 2, 3, 4)


@pytest.fixture
def no_page(monkeypatch):
    """A page that takes no time."""

    def render(out):
        (out / "index.html").write_text("page")
        return out / "index.html"

    page = types.ModuleType("segattn_triton.perf.render")
    page.render, page.terminal_table = render, lambda records: f"{len(records)} records"
    monkeypatch.setitem(sys.modules, page.__name__, page)


@pytest.fixture
def rehearse(tmp_path, no_page):
    """Run a small report on a rehearsed GPU; the records it leaves."""

    def run(backend=None, **values):
        values = {"ops": ("spatial_gate",), "dtypes": ("float32",), "out": tmp_path, **SMALL, **values}
        try:
            report.run(backend=backend or Rehearsal(), console=Console(quiet=True), **values)
        finally:
            run.environment = json.loads((tmp_path / "environment.json").read_text())
        return list(load(tmp_path / "records.jsonl"))

    return run


def command(*arguments: str):
    return CliRunner().invoke(main, arguments)


# records


def test_record_after_a_line_that_a_kill_cut_short(tmp_path):
    path = tmp_path / "records.jsonl"
    append(path, Record(POINT, ms=1.0))
    with path.open("ab") as file:
        file.write(b'{"point": {"op": "spat')
    append(path, Record(POINT, ms=2.0, status="failed: x"))
    assert [r.ms for r in load(path)] == [2.0]  # the last of a point counts
    path.write_bytes(path.read_bytes() + b"\0\0\xff[1]\nnull\n{}\n")
    assert len(list(load(path))) == 1


def test_records_of_before_the_inputs_field_load(tmp_path):
    path = tmp_path / "records.jsonl"
    append(path, Record(POINT, ms=1.0))
    values = json.loads(path.read_text())
    del values["point"]["inputs"]
    path.write_text(json.dumps(values))
    assert next(iter(load(path))).point == POINT


# what is measured, in what order


def test_most_valuable_points_come_first(tmp_path):
    jobs = plan.schedule(Options(preset="full", out=tmp_path).checked(), gpu=True)
    kinds = [job.kind for job in jobs]
    assert [job.first.op for job in jobs[:4]] == ["copy", "copy", "copy", "matmul"]
    checks = 2 * len(OPS) * len(plan.CHECK_SIZES)
    assert set(kinds[4 : 4 + checks]) == {"check"}
    assert {job.first.op for job in jobs[4 : 4 + checks]} == set(BY_NAME)
    founding = [job.first for job in jobs if job.kind == "time"][: 8 * len(OPS)]
    assert {(p.dtype, p.H, p.inputs) for p in founding} == {("bfloat16", 512, "normal")}
    assert {(p.C, p.layout, p.mode, p.op) for p in founding} == {
        (C, layout, mode, op)
        for C in (64, 128)
        for layout in ("contiguous", "channels_last")
        for mode in ("fwd", "bwd")
        for op in BY_NAME
    }
    assert [p.mode for p in founding] == ["fwd"] * (len(founding) // 2) + ["bwd"] * (len(founding) // 2)
    for dtype in ("float32", "float16"):
        first_time = next(i for i, job in enumerate(jobs) if job.kind == "time" and job.first.dtype == dtype)
        assert all(i < first_time for i, job in enumerate(jobs) if job.kind == "check" and job.first.dtype == dtype)
    points = [p for job in jobs for p in job.points]
    assert len(points) == len(set(points))
    assert {513, 65} < {p.H for p in points}
    assert all(p.N == 1 or plan.map_bytes(p) <= plan.LARGEST_MAP for p in points)
    assert {p.op for p in points if p.inputs == "photo"} == set(BY_NAME)
    assert all(plan.floor_bytes(p) < timing.GRAPH_BYTES for p in points if p.timer == "graph")


def test_a_gpu_without_bfloat16_is_not_asked_for_it(tmp_path):
    jobs = plan.schedule(Options(out=tmp_path).checked(), gpu=True, bfloat16=False)
    assert {job.first.dtype for job in jobs} == {"float16"}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", list(rivals.RIVALS))
def test_rivals_compute_the_same(name, layout):
    row = BY_NAME[name]
    sizes = {"N": 2, "C": 6, "S": (5, 7), "Cr": 3}
    made = zip(row.shapes(sizes), make_inputs(row, sizes, torch.float64, layout=layout), strict=True)
    inputs = [t for input_name, t in made if input_name not in rivals.left_out(name)]
    for provider in rivals.names(name):
        fn = rivals.make(name, provider, lambda fn: fn)
        torch.testing.assert_close(fn(*inputs), row.reference(*inputs))


def test_every_row_has_rivals():
    assert set(rivals.RIVALS) == set(BY_NAME)
    assert rivals.names("an op of a user") == ()


# timing


def test_providers_are_interleaved_and_the_order_reversed():
    backend, order = Rehearsal(), []

    class Recording(Rehearsal):
        def run(self, call):
            order.append(call.provider)
            super().run(call)

    backend = Recording()
    calls = {name: Call(lambda: None, name, size) for name, size in (("segattn", 10**9), ("eager", 10**9))}
    samples = timing.interleaved(calls, backend)
    rounds = samples["segattn"].repetitions
    timed = order[-2 * rounds :]
    assert timed[:4] == ["segattn", "eager", "eager", "segattn"] and rounds >= timing.LEAST
    assert samples["segattn"].ms == pytest.approx(1e3 * 1e9 / (0.9 * Rehearsal.BANDWIDTH), rel=0.05)
    assert samples["eager"].ms > 2 * samples["segattn"].ms
    assert samples["eager"].ms_20 <= samples["eager"].ms <= samples["eager"].ms_80
    assert backend.now() < 1.0


def test_the_flush_hides_the_launch():
    """A short call is timed on the device, not on the host that launches it."""
    sample = timing.interleaved({"": Call(lambda: None, "segattn", 36)}, Rehearsal())[""]
    assert sample.ms < 1e3 * Rehearsal.LAUNCH


def test_a_provider_that_raises_later_drops_out():
    count, errors = Counter(), {}

    def late():
        count["late"] += 1
        if count["late"] > 8:
            raise MemoryError("out of memory")

    calls = {"late": Call(late), "steady": Call(lambda: None)}
    samples = timing.interleaved(calls, backends.Cpu(), on_error=lambda name, error: errors.update({name: error}))
    assert set(samples) == {"steady"} and isinstance(errors["late"], MemoryError)


def test_budget_predicts_from_what_was():
    clock = [0.0]
    budget = Budget(100, lambda: clock[0])
    assert budget.predict("check") > 0
    budget.learn("check", 2.0, work=10)
    assert budget.predict("check", 10) == pytest.approx(2.6)
    assert budget.predict("check", 100) == pytest.approx(26)
    clock[0] = 60
    assert budget.left == 40


# a whole run on a rehearsed GPU


def test_rehearsal_writes_every_point(rehearse, tmp_path):
    found = rehearse(ops=(), preset="full", budget=2000.0)
    chosen = Options(preset="full", dtypes=("float32",), out=tmp_path, **SMALL).checked()
    points = {p for job in plan.schedule(chosen, gpu=True) for p in job.points}
    assert {r.point for r in found} == points
    refused = [r for r in found if (r.point.provider, r.point.mode) == ("flex", "bwd")]  # by torch, on the CPU
    assert all("does not support backward on CPU" in r.status for r in refused)
    assert Counter(r.status for r in found if r not in refused) == {"ok": len(points) - len(refused)}
    timed = [r for r in found if r.point.mode != "check" and r not in refused]
    assert all(r.ms > 0 and r.ms_20 <= r.ms <= r.ms_80 and r.extra["repetitions"] >= timing.LEAST for r in timed)
    ours = [r for r in timed if r.point.op in BY_NAME and r.point.timer == "events"]
    assert all(r.error is not None and r.error < 1e-5 and r.peak_memory > 0 for r in ours)
    assert {r.point.timer for r in timed} == {"events", "graph"}
    photo = next(r for r in ours if r.point.inputs == "photo" and r.point.mode == "bwd")
    assert set(photo.extra["errors"]) >= {"dx"}
    assert rehearse.environment["left_out"] == {} and rehearse.environment["device"] == "rehearsal"
    assert rehearse.environment["options"]["preset"] == "full" and rehearse.environment["method"]["statistic"]
    with np.load(tmp_path / "maps.npz") as maps:
        assert set(maps) == {"photo", *BY_NAME}
    succeeded = [line for line in _lines(tmp_path) if '"status": "ok"' in line]
    rehearse(ops=(), preset="full", resume=True)  # tries again what failed, and nothing else
    assert [line for line in _lines(tmp_path) if '"status": "ok"' in line] == succeeded


def _lines(folder) -> list[str]:
    return (folder / "records.jsonl").read_text().splitlines()


def test_an_earlier_report_is_kept(rehearse, tmp_path):
    rehearse(modes=("fwd",))
    before = (tmp_path / "records.jsonl").read_text()
    rehearse(modes=("fwd",))
    assert (tmp_path / "records-1.jsonl").read_text() == before
    assert (tmp_path / "environment-1.json").exists()


def test_run_stops_in_time_and_resume_finishes(rehearse):
    backend = Rehearsal()
    part = rehearse(backend, budget=80.0)
    assert backend.now() <= 80.0 - report.RESERVE
    left_out = rehearse.environment["left_out"]
    assert left_out and any(r.point.op == "spatial_gate" and r.ms for r in part)
    whole = rehearse(resume=True)
    assert len(whole) == len(part) + sum(left_out.values()) and all(r.status == "ok" for r in whole)
    assert rehearse.environment["left_out"] == {} and rehearse.environment["resumed_from"]


def test_a_provider_that_fails_costs_only_its_points(rehearse):
    class NoCompiler(Rehearsal):
        def compile(self, fn):
            raise RuntimeError("no\ncompiler")

    found = rehearse(NoCompiler())
    failed = [r for r in found if r.failed]
    assert {r.point.provider for r in failed} == {"compile", "compile-best"}
    assert {r.status for r in failed} == {"failed: RuntimeError: no compiler"}
    assert {r.status for r in found if r not in failed} == {"ok"}
    assert all(r.status == "ok" for r in rehearse(resume=True))


def test_inputs_that_cannot_be_made_cost_only_their_points(rehearse, monkeypatch):
    make = measure.Workload

    def broken(point, *args):
        if point.H == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(point, *args)

    monkeypatch.setattr(measure, "Workload", broken)
    found = [r for r in rehearse() if r.point.op == "spatial_gate" and r.point.mode != "check"]
    assert {(r.point.H, r.status) for r in found} == {(6, "ok"), (5, "failed: OutOfMemoryError: CUDA out of memory")}


def test_what_does_not_fit_into_memory_is_skipped(rehearse):
    found = [r for r in rehearse(Rehearsal(memory=2**16)) if r.point.op == "spatial_gate"]
    skipped = [r for r in found if r.point.mode == "bwd"]
    assert skipped and all(r.status.startswith("skipped: needs about 0.0 GB") and r.ms is None for r in skipped)


def test_no_time_of_an_op_that_is_wrong(rehearse, monkeypatch, tmp_path):
    run = check.run

    def wrong(case, *args, **kwargs):
        outcome = run(case, *args, **kwargs)
        return check.Outcome(case, 7.0, "y", "y: 3 of 9 elements") if case.op == "spatial_gate" else outcome

    monkeypatch.setattr(check, "run", wrong)
    with pytest.raises(Failure, match="spatial_gate float32 does not match the reference: y: 3 of 9"):
        rehearse(ops=("spatial_gate", "spatial_pool_gate"))
    found = [r for r in load(tmp_path / "records.jsonl") if r.point.provider == "segattn" and r.point.mode != "check"]
    status = {"spatial_gate": "failed: its numerics are wrong: y: 3 of 9 elements", "spatial_pool_gate": "ok"}
    assert {(r.point.op, r.status) for r in found} == set(status.items())
    monkeypatch.setattr(check, "run", run)
    assert all(r.status == "ok" for r in rehearse(ops=("spatial_gate", "spatial_pool_gate"), resume=True))


def test_a_lost_device_ends_the_run_with_a_page(rehearse, tmp_path):
    class Dying(Rehearsal):
        def recover(self):
            super().recover()
            if self.host > 10:
                raise RuntimeError("illegal memory access")

    with pytest.raises(Failure, match="device is lost: RuntimeError: illegal memory access; --resume"):
        rehearse(Dying())
    assert (tmp_path / "index.html").exists() and rehearse.environment["left_out"]
    assert all(r.status == "ok" for r in rehearse(resume=True))


def test_a_wrong_result_is_no_time(rehearse, monkeypatch):
    monkeypatch.setattr(measure.Workload, "errors", lambda self, fn: {"y": float("nan")})
    found = [r for r in rehearse(modes=("fwd",)) if r.point.op == "spatial_gate" and r.point.timer == "events"]
    assert {r.failed for r in found if r.point.provider == "segattn"} == {True}
    assert {r.failed for r in found if r.point.provider == "eager"} == {False}


def test_killed_at_any_moment_resume_finishes(rehearse, tmp_path):
    script = f"""
        import sys, time, types
        page = types.ModuleType("segattn_triton.perf.render")
        page.render, page.terminal_table = lambda out: out, lambda records: ""
        sys.modules[page.__name__] = page
        from segattn_triton.perf import report
        from segattn_triton.perf.backends import Rehearsal
        class Slow(Rehearsal):
            def peak_memory(self, call):
                time.sleep(0.05)
                return super().peak_memory(call)
        report.run(backend=Slow(), ops=("spatial_gate",), dtypes=("float32",), out={str(tmp_path)!r}, **{SMALL!r})
    """
    running = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.DEVNULL)
    path = tmp_path / "records.jsonl"
    while running.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") > 12):
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    path.write_bytes(path.read_bytes()[:-40])  # in the middle of a line
    kept = [r.point for r in load(path)]
    found = rehearse(resume=True)
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}") and line.startswith("{")]
    assert [r.point for r in found][: len(kept)] == kept
    assert Counter(r.status for r in found) == {"ok": len(found)}
    assert len(lines) == len(found)
    options = Options(ops=("spatial_gate",), dtypes=("float32",), out=tmp_path, **SMALL).checked()
    assert {r.point for r in found} == {p for job in plan.schedule(options, gpu=True) for p in job.points}


def test_resume_refuses_another_machine(rehearse, tmp_path):
    rehearse(modes=("fwd",))
    path = tmp_path / "environment.json"
    values = json.loads(path.read_text())
    values["packages"]["torch"] = "1.0"
    path.write_text(json.dumps(values))
    with pytest.raises(Usage, match=r"--resume: .* was measured with torch 1.0, here it is"):
        rehearse(resume=True)
    for text in ("", "[]", '{"device": 3}', "null"):
        path.write_text(text)
        with pytest.raises(Usage, match=r"--resume: .* does not describe a report"):
            report.run(backend=Rehearsal(), out=tmp_path, resume=True, **SMALL)


# without a GPU


@pytest.mark.interpreter
def test_without_a_gpu_all_that_can_be_done(tmp_path, capsys):
    """The reference and the rivals timed, the kernels compiled ahead of time, the page made."""

    class NoCompiler(backends.Cpu):
        def compile(self, fn):
            return fn

    chosen = dict(ops=("spatial_gate",), layouts=("contiguous",), modes=("fwd",), sides=(8,), channels=(4,))
    page = report.run(backend=NoCompiler(), out=tmp_path, **chosen)
    found = list(load(tmp_path / "records.jsonl"))
    assert {r.status for r in found} == {"ok"}
    timed = {r.point.provider for r in found if r.point.timer == "cpu" and r.point.op == "spatial_gate"}
    assert timed == {"reference", "eager", "compile", "compile-best"}
    predicted = [r for r in found if r.point.timer == "predicted"]
    assert {r.point.H for r in predicted} == set(plan.GPU["quick"]["sides"])
    for r in predicted:
        (kernel,) = r.extra["kernels"]
        assert kernel["registers"] > 0 and kernel["spills"] == 0 and r.ms == pytest.approx(r.planned_bytes / 4.3e9)
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


# the commands


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
    assert chosen.modes == ("fwd", "bwd") and chosen.ops == tuple(BY_NAME) and chosen.budget == options.PRESETS["quick"]


@pytest.mark.interpreter
def test_check_runs_the_kernels_in_a_child(monkeypatch):
    few = [check.Case("spatial_gate", dtype, "channels_last", 1, 3, (2, 2)) for dtype in ("float32", "float64")]
    monkeypatch.setattr(check, "cases", lambda ops, gpu: few)
    done = command("check", "--op", "spatial_gate")
    assert done.exit_code == 0
    assert "float64" in done.stdout and "ok" in done.stdout and "needs a GPU" in done.stdout


def test_check_exits_1_on_a_mismatch(monkeypatch):
    case = check.Case("spatial_gate", "float32", "contiguous", 1, 3, (2, 2))
    outcome = check.Outcome(case, 9.5, "dx", "dx: 3 of 12 elements [first]")
    monkeypatch.setattr(check, "outcomes", lambda ops: iter([outcome]))
    done = command("check")
    assert done.exit_code == 1 and "950 %" in done.stdout
    assert "3 of 12 elements [first]" in " ".join(done.stdout.split())
    assert command("check", "--op", "none").exit_code == 2


def test_check_sees_a_wrong_kernel(monkeypatch):
    case = check.Case("spatial_gate", "float32", "contiguous", 1, 3, (2, 2))
    assert not check.run(case, DEVICE).failure
    row = BY_NAME["spatial_gate"]
    wrong = dataclasses.replace(row, op=lambda *inputs, **kwargs: 1.001 * row.reference(*inputs))
    monkeypatch.setitem(BY_NAME, row.name, wrong)
    assert "elements" in check.run(case, DEVICE, maps=(False,)).failure


def test_a_child_that_dies_costs_one_piece(tmp_path, monkeypatch):
    (tmp_path / "dying_child.py").write_text(
        "import os\n"
        "from segattn_triton.perf import child\n"
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
    assert values["packages"]["torch"] == torch.__version__
    assert set(values) >= {"date", "python", "os", "cpu", "gpu", "driver", "cuda", "triton", "variables", "revision"}
    assert set(values["triton"]) == {"runs", "interpreter", "reason", "compiler"}
    assert command("env").exit_code == 0
