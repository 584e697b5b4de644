"""The prepared script ends in time whatever its steps do, goes on where it ended, and leaves all in its place."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support import INTERPRETED

from segattn_triton.perf.measure import child
from segattn_triton.perf.measure.rehearsal import Rehearsal
from segattn_triton.perf.options import OPS, Usage
from segattn_triton.perf.prepared import dependent, facts, folder, keep, kernels, missed, run, steps
from segattn_triton.perf.prepared.__main__ import main
from segattn_triton.perf.prepared.steps import STEPS, Step
from segattn_triton.perf.records import Point, Record, append, load
from segattn_triton.perf.store import lines
from segattn_triton.tuning import tables as tuned

QUIET = Console(quiet=True)
BUDGET = 520.0  # seconds of the steps, in a call of nine minutes
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def eager_mode():
    """The suite's deterministic mode, under which nothing is tuned, is off here."""
    torch.use_deterministic_algorithms(False)


class Machine(Rehearsal):
    """Slower than a GPU's, so that little is really run: what fits into the time is not what is tested."""

    COMPILE = 1.0

    def peak_memory(self, call):
        self.host += 0.2
        return super().peak_memory(call)


def test_rivals_are_compiled_in_a_short_step(tmp_path):
    """A rival that is in torch.compile's cache is taken for one: 45 seconds each would leave all of them out."""
    backend = Rehearsal()
    short = steps.report(ops=("spatial_gate",), sides=(6,), channels=(4,), modes=("fwd",))
    run.steps(tmp_path, backend, 60.0, QUIET, todo=[fake("short", 40.0, short)])
    assert {"compile", "compile-best"} <= {r.point.provider for r in load(tmp_path / folder.RECORDS) if r.ms}
    assert backend.now() <= 41


@pytest.mark.parametrize("answer", [{child.DIED: "killed"}, {"failure": "killed"}])
def test_a_check_that_dies_is_a_failed_one(answer, tmp_path):
    class Dying(Rehearsal):
        def answers(self, work, pieces, workers, seconds, each):
            return [(pieces[0], answer)]

    steps.numerics(tmp_path, Dying(), 60.0, QUIET)
    (found,) = load(tmp_path / folder.RECORDS)
    assert found.status == "failed: killed"


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """(folder, clock) after a first call, and after a second."""
    torch.use_deterministic_algorithms(False)
    out, seen = tmp_path_factory.mktemp("results"), []
    for _ in range(2):
        backend = Machine()
        run.steps(out, backend, BUDGET, QUIET, todo=[s for s in STEPS if s.name != "models"])
        seen.append((backend.now(), [*load(out / folder.RECORDS)], run.notes(out)))
    return out, seen


def test_ends_in_time(rehearsed):
    """Nine minutes are 540 seconds, a call of ten; each step ends in its own time, too."""
    _, seen = rehearsed
    assert all(now <= BUDGET + 1 for now, _, _ in seen)
    for n in seen[-1][2]:
        most = next(s.most for s in STEPS if s.name == n["step"])
        assert n.get("took", 0) <= most + 1, n


def test_every_step_leaves_what_it_should(rehearsed):
    out, seen = rehearsed
    assert {n["outcome"] for n in seen[0][2]} <= {"begun", "done", "left out: the time is over"}
    first = seen[0][1]
    checked = {r.point.op for r in first if r.point.mode == "check" and r.status == "ok"}
    assert checked == set(OPS)
    assert {"copy", "matmul"} <= {r.point.op for r in first}
    either = [*first, *load(out / folder.BEFORE)]
    ours = {(r.point.op, r.point.mode, r.point.layout) for r in either if r.point.provider == "segattn" and r.ms}
    wanted = {(op, mode, layout) for op in steps.MAIN_OPS for mode in ("fwd", "bwd") for layout in LAYOUTS}
    assert wanted <= ours
    assert {"eager", "compile", "compile-best"} <= {r.point.provider for r in first if r.ms}
    assert {f.name for f in facts.all_facts()} == set(folder.facts(out))
    single = lines(out / kernels.LINES)
    assert {(line["op"], line["layout"]) for line in single if line["ms"] > 0 and line["bytes"] > 0} == {
        (op, layout) for op in OPS for layout in LAYOUTS
    }
    assert any(r.point.timer == "launch" for r in first)
    again = {r.point for r in first} & {r.point for r in load(out / folder.BEFORE)}
    assert {p.provider for p in again} >= {"segattn"}, "what was tuned was not timed again"
    assert tuned.read(out / folder.TABLE, Rehearsal.name).configs
    assert list(load(out / folder.BEFORE)), "no time was set aside for what was tuned"


LAYOUTS = ("contiguous", "channels_last")


def test_dependent_launches_are_compared(rehearsed):
    """In every rehearsal a file of its own; each point once, with the kernels that a table could have wait."""
    out, _ = rehearsed
    found = [dependent.OffAndOn(**line) for line in folder.lines(out / dependent.LINES)]
    assert [f.point for f in found] == [dependent.name(p) for p in dependent.points()][: len(found)] and len(found) > 5
    assert all(f.equal and f.off > 0 and f.on > 0 and len(f.kernels) > 1 for f in found)
    assert tuned.read(out / folder.TABLE, Rehearsal.name).dependent.keys() == {k for f in found for k in f.kernels}


def test_a_kernel_is_dependent_where_bits_are_equal_and_time_is_less():
    found = [
        dependent.OffAndOn("1", ("a", "b", "c"), True, 10.0, 9.0),
        dependent.OffAndOn("2", ("a", "d"), True, 10.0, 9.9),
        dependent.OffAndOn("3", ("b",), False),
        dependent.OffAndOn("4", ("c",), True, 100.0, 101.0),
        dependent.OffAndOn("5", ("e",), True, 10.0, 9.9),
    ]
    assert dependent.verdict(found) == {"a": True, "b": False, "c": False, "d": False, "e": False}


def test_a_second_call_goes_on(rehearsed):
    _, (first, second) = rehearsed
    before = {r.point: r.ms for r in first[1] if r.status == "ok" and r.point.mode != "check"}
    after = {r.point: r.ms for r in second[1]}
    assert len(after) > len(before)
    kept = sum(after.get(p) == ms for p, ms in before.items())
    assert kept > 0.5 * len(before), "most of it was measured again"


def fake(name: str, most: float = 100.0, do=lambda *_: None) -> Step:
    return Step(name, most, do, "")


def test_a_step_that_raises_costs_itself(tmp_path):
    def broken(out, backend, seconds, console):
        raise RuntimeError("no\ngood")

    run.steps(tmp_path, Rehearsal(), 300.0, QUIET, todo=[fake("a"), fake("b", do=broken), fake("c")])
    ends = {n["step"]: n["outcome"] for n in run.notes(tmp_path)}
    assert ends == {"a": "done", "b": "failed: RuntimeError: no good", "c": "done"}


def test_a_late_step_is_left_out(tmp_path):
    def slow(out, backend, seconds, console):
        backend.host += 290

    run.steps(tmp_path, Rehearsal(), 300.0, QUIET, todo=[fake("a", do=slow), fake("b")])
    assert run.notes(tmp_path)[-1]["outcome"].startswith("left out")


WORKER = """
    import json, os, sys, time
    from pathlib import Path
    notes, first = Path(sys.argv[1]), sys.argv[2]
    for step in ("a", "hangs", "dies", "d")[("a", "hangs", "dies", "d").index(first):]:
        def note(outcome, **more):
            with notes.open("a") as file:
                file.write(json.dumps({"step": step, "outcome": outcome, "at": time.monotonic(), **more}) + "\\n")
        note("begun", seconds=0.3)
        if step == "hangs":
            time.sleep(60)
        if step == "dies":
            os._exit(3)
        note("done")
"""


def test_a_step_that_hangs_or_dies_is_skipped(tmp_path):
    script, packed = tmp_path / "worker.py", tmp_path / "packed"
    script.write_text(textwrap.dedent(WORKER))
    packed.mkdir()
    out = tmp_path / "out"
    out.mkdir()
    todo = [fake(name) for name in ("a", "hangs", "dies", "d")]
    begin = time.monotonic()
    run.watched(
        out,
        40.0,
        packed,
        lambda first, end: [sys.executable, str(script), str(out / run.NOTES), first or "a"],
        todo,
        late=0.5,
    )
    assert time.monotonic() - begin < 30
    ends = {n["step"]: n["outcome"][:6] for n in run.notes(out)}
    assert ends == {"a": "done", "hangs": "failed", "dies": "failed", "d": "done"}
    assert (packed / folder.ARCHIVE).exists()


def record(op="spatial_gate", provider="segattn", ms=1.0, N=8, C=64, side=256, **values) -> Record:
    point = Point(op, provider, values.pop("mode", "fwd"), "bfloat16", "contiguous", N, C, side, side)
    return Record(point, ms=ms, **values)


def test_what_missed():
    """Below nine tenths of a copy, or behind a rival; the most lost first."""
    copy = dataclasses.replace(record("copy", "copy", 1.0), floor_bytes=1000)
    of = lambda side, ms, bytes_: record(side=side, ms=ms, floor_bytes=bytes_)  # noqa: E731
    rival = record(side=64, provider="compile", ms=0.5, floor_bytes=1000)
    found = missed.points([copy, of(32, 1.0, 950), of(64, 1.0, 950), of(128, 5.0, 1000), rival])
    assert [p.H for p in found] == [128, 64]


def test_what_is_set_aside_is_kept_and_measured_again(tmp_path):
    for side in (8, 16):
        append(tmp_path / folder.RECORDS, record(side=side))
    assert folder.set_aside(tmp_path, "why", lambda p: p.H == 8) == 1
    assert [r.point.H for r in load(tmp_path / folder.RECORDS)] == [16]
    (before,) = load(tmp_path / folder.BEFORE)
    assert before.point.H == 8 and before.extra["set_aside"] == "why"


def test_two_machines_are_kept_apart(tmp_path):
    out, backend = tmp_path / "results", Rehearsal()
    out.mkdir()
    folder.opened(out, backend)
    assert folder.keep_apart(out, backend.name) is None
    about = json.loads((out / "environment.json").read_text())
    (out / "environment.json").write_text(json.dumps(about | {"driver": "another"}))
    assert folder.keep_apart(out, backend.name) == tmp_path / "results-1" and not out.exists()


def test_what_came_back_is_put_into_its_places(tmp_path):
    """Records, plots and table, of a GPU: here of one that is made up, in folders that are not the repository's."""
    source, to, out, tables = (tmp_path / name for name in ("source", "to", "out", "tables"))
    for path in (source, to, tables):
        path.mkdir()
    folder.opened(source, Rehearsal())
    for provider, ms in (("segattn", 1.0), ("eager", 2.0)):
        for side in (128, 256):
            append(source / folder.RECORDS, record(provider=provider, ms=ms, side=side, floor_bytes=10**6))
    tuned.write(source / folder.TABLE, tuned.Table("Made Up", 90))
    folder.pack(source, to)
    with pytest.raises(Usage, match="is of a rehearsal"):
        keep.keep(to / folder.ARCHIVE, out, tables)
    assert not out.exists(), "made up times were kept"
    about = (source / "environment.json").read_text().replace('"rehearsal"', '"Made Up"')
    (source / "environment.json").write_text(about)
    folder.pack(source, to)
    said = keep.keep(to / folder.ARCHIVE, out, tables)
    assert (tables / "made_up.json").exists()
    assert (out / "plots" / "spatial_gate_fwd_bfloat16_contiguous_events_gbps.png").stat().st_size > 1000
    assert (out / folder.RECORDS).read_text() == (source / folder.RECORDS).read_text()
    assert not (out / "index.html").exists() and "4 times" in said


def test_without_a_gpu_it_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["measure", "--out", str(tmp_path)]) == 2
    assert "--rehearse" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_processes_share_the_work(monkeypatch):
    """`serve` of another module: what dies costs its piece."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "support"))
    pieces = [{"exit": i == 2, "i": i} for i in range(6)]
    found = {p["i"]: a for p, a in child.shared("made_up_work", pieces, 3, 60.0, 30.0)}
    assert {i for i, a in found.items() if child.DIED in a} == {2}
    assert all(a["i"] == i for i, a in found.items() if i != 2)


IMPORTS = """
import sys
for name in ("pydantic", "segmentation_models_pytorch", "monai", "natten"):
    sys.modules[name] = None
import segattn_triton.perf.prepared.run
from segattn_triton.perf.models import known
from segattn_triton.perf.prepared.steps import MODELS
for name in MODELS:
    known.MODELS[name]()
"""


def test_needs_no_package_that_is_not_there():
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})


@pytest.mark.interpreter
@pytest.mark.skipif(not INTERPRETED, reason="on a GPU the script asks them itself")
def test_probes_do_what_they_say():
    """In the interpreter: the chain visits every line, every block is read."""
    from segattn_triton.perf.prepared import probes

    lines = 16
    chain, last = probes.circle(128 * lines, "cpu"), torch.zeros(1, dtype=torch.int32)
    visited = []
    for _ in range(lines):
        probes.chase(chain, last, 1)
        visited.append(int(last) // probes.LINE)
    assert sorted(visited) == list(range(lines)), "not one circle"
    x, sums = torch.ones(3 * probes.BLOCK, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    probes.reread(x, sums, 3)
    assert sums.tolist() == [3 * probes.BLOCK] * 2
    probes.step(x, False)
    assert (x == 2).all()


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from segattn_triton.perf.prepared import probes
line = [["tt.divisibility", 16]]
def ptx(kernel, types, constants, aligned):
    source = ASTSource(kernel, types, constants, {(i,): line for i in aligned})
    return compile(source, GPUTarget("cuda", 90, 32)).asm["ptx"]
chase = ptx(probes._chase_kernel, dict(next_ptr="*i32", last_ptr="*i32", hops="i32"), {}, ())
assert "ld.global.cg" in chase
types = dict(x_ptr="*i32", sum_ptr="*i32", blocks="i32", rounds="i32", BLOCK="constexpr")
reread = ptx(probes._reread_kernel, types, {(4,): probes.BLOCK}, (0,))
assert "cp.async.cg" in reread or "ld.global.cg" in reread
types = dict(x_ptr="*i32", DEPENDENT="constexpr", BLOCK="constexpr")
step = ptx(probes._step_kernel, types, {(1,): True, (2,): probes.BLOCK}, (0,))
assert step.index("griddepcontrol.wait") < step.index("ld.global") < step.rindex("st.global")
assert step.rindex("st.global") < step.index("griddepcontrol.launch_dependents")
"""


@pytest.mark.static
def test_probes_compile_for_sm_90():
    """The wait stands before the first access, and what depends is launched after the last."""
    subprocess.run([sys.executable, "-c", COMPILE], check=True, env={**os.environ, "TRITON_INTERPRET": "0"})
