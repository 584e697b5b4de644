"""A report loses no measurement, stops in time, and runs on a rehearsed GPU as it will on a real one."""

import json
import signal
import subprocess
import sys
import textwrap
import time
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from segattn_triton.catalog import BY_NAME
from segattn_triton.perf.measure import check, plan, timing
from segattn_triton.perf.measure import points as measure
from segattn_triton.perf.measure.backends import Cpu
from segattn_triton.perf.measure.rehearsal import Rehearsal
from segattn_triton.perf.options import OPS, Failure, Options, Usage
from segattn_triton.perf.records import load
from segattn_triton.perf.report import job as report

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(sides=(6, 5), channels=(4,), budget=540.0)


@pytest.fixture
def no_page(monkeypatch):
    """A page that takes no time."""

    def render(out):
        (out / "index.html").write_text("page")
        return out / "index.html"

    page = types.ModuleType("segattn_triton.perf.report.render")
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


def test_an_environment_says_of_no_folder_where_it_lies(rehearse, tmp_path):
    """Neither what a report writes nor what is committed: an image has a name."""
    photo = tmp_path / "street.png"
    Image.new("RGB", (64, 64), (90, 120, 60)).save(photo)
    rehearse(image=photo)
    written = (tmp_path / "environment.json").read_text()
    assert str(tmp_path) not in written and rehearse.environment["options"]["image"] == "street.png"
    committed = [*(ROOT / "perf/results").rglob("environment.json")]
    assert committed
    for about in committed:
        for value in json.loads(about.read_text()).get("options", {}).values():
            assert not (isinstance(value, str) and Path(value).is_absolute()), (about, value)


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
    largest_error = 2e-4  # float32's; gradients of a norm, and of a norm behind another, are sums that cancel
    right = [r for r in ours if r.error is not None and r.error < largest_error and r.peak_memory > 0]
    assert ours == right, [(r.point.op, r.point.mode, r.error, r.peak_memory) for r in ours if r not in right]
    assert {r.point.timer for r in timed} == {"events", "graph"}
    photo = next(r for r in ours if r.point.inputs == "photo" and r.point.mode == "bwd")
    assert set(photo.extra["errors"]) >= {"dx"}
    assert rehearse.environment["left_out"] == {} and rehearse.environment["device"] == "rehearsal"
    assert rehearse.environment["options"]["preset"] == "full" and rehearse.environment["method"]["statistic"]
    with np.load(tmp_path / "maps.npz") as maps:
        assert set(maps) == {"photo", *OPS}
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


@pytest.mark.parametrize("seconds", [60.0, 180.0])
def test_a_cpu_uses_its_budget_for_curves(seconds, tmp_path, monkeypatch):
    """On a made-up clock: of 60 seconds, a curve of the first op and two sides of each founding op."""

    class MadeUp(Rehearsal):
        gpu, timer, kernels = False, "cpu", "reference"
        BANDWIDTH, COMPILE = 2e9, 40.0

        def flush(self):
            pass

    backend = MadeUp()

    def predictions(points, seconds):
        backend.host += seconds
        return []

    monkeypatch.setattr(report.predict, "records", predictions)
    report.run(backend=backend, out=tmp_path, budget=seconds)
    timed = {r.point for r in load(tmp_path / "records.jsonl") if r.ms and r.point.provider == "reference"}
    sides = Counter(p.op for p in timed if (p.mode, p.layout, p.inputs) == ("fwd", "contiguous", "normal"))
    assert sides["spatial_gate"] >= 4 and all(sides[op] >= 2 for op in plan.FOUNDING), sides
    assert 0.9 * seconds <= backend.now() + report.RESERVE <= 1.1 * seconds


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
        page = types.ModuleType("segattn_triton.perf.report.render")
        page.render, page.terminal_table = lambda out: out, lambda records: ""
        sys.modules[page.__name__] = page
        from segattn_triton.perf.report import job as report
        from segattn_triton.perf.measure.rehearsal import Rehearsal
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


def test_gate_maps_are_of_the_photograph(tmp_path):
    """Those of channels, too: of noise in its place every op's map is another."""
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(noise)
    maps = []
    for name, image in (("photograph", None), ("noise", noise)):
        options = Options(image=image, out=tmp_path / name).checked()
        report.ReportRun(options, Cpu(), Console(quiet=True))._maps()
        with np.load(tmp_path / name / "maps.npz") as file:
            maps.append({name: file[name] for name in file})
    assert set(maps[0]) == {"photo", *OPS}
    for op in OPS:
        assert np.abs(maps[0][op] - maps[1][op]).max() > 0.02, op
