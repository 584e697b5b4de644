"""The autotuner: what is wrong is excluded, what is slower is not taken, what is known is not lost."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from support import DEVICE
from torch import nn
from typer.testing import CliRunner

import segattn_triton
from segattn_triton import functional
from segattn_triton.catalog import Problem
from segattn_triton.compiled import plans_of
from segattn_triton.perf.commands import main
from segattn_triton.perf.measure import candidates, child
from segattn_triton.perf.measure.backends import Cpu
from segattn_triton.perf.measure.rehearsal import Rehearsal
from segattn_triton.perf.options import Usage
from segattn_triton.perf.tune import command as tune
from segattn_triton.perf.tune import model as tune_model
from segattn_triton.perf.tune.tuner import GAIN, Tuner, Unit, refusal
from segattn_triton.runtime.plan import recorded
from segattn_triton.tuning import choice as tuning
from segattn_triton.tuning import tables as tuned

PROBLEM = Problem("spatial_gate", "bfloat16", "contiguous", 8, 64, (256, 256))
SMALL = Problem("spatial_gate", "float32", "contiguous", 1, 3, (4, 5))


@pytest.fixture(autouse=True)
def eager_mode():
    """The suite's deterministic mode, under which nothing is tuned, is off here."""
    torch.use_deterministic_algorithms(False)


def right(pieces, device, seconds):
    return [None] * len(pieces)


def compiles(pieces, workers, seconds):
    return [None] * len(pieces)


def tuner(path, backend=None, seconds=500.0, said=None, check=right, compile=compiles):
    say = (lambda text: None) if said is None else said.append
    return Tuner(backend or Rehearsal(), path, seconds, say, check, compile)


def test_the_fastest_config_is_chosen(tmp_path):
    path, said = tmp_path / "t.json", []
    results = tuner(path, said=said).run([PROBLEM])
    assert [r.key.split()[0] for r in results] == ["spatial_fwd", "spatial_bwd", "finish"]
    table = tuned.read(path, "rehearsal")
    for r in results:
        assert r.best == r.before or r.ms[r.best] < (1 - GAIN) * r.ms[r.before]
        assert r.ms[r.best] <= min(r.ms.values()) / (1 - GAIN) and len(r.ms) > 8 and r.floor_bytes > 0
        assert table.configs[r.key][r.bucket] == r.best
    assert any(r.best != r.before for r in results) and len(said) == 3
    with tuning.using([table]):
        chosen = plans_of(PROBLEM, 90)
    best = {(r.key, r.bucket): r.best for r in results}  # a finish has the rows that the config before it leaves
    for choice in (p.config.choice for p in chosen):
        assert choice.tuned == ((choice.key, choice.bucket) in best)
        assert choice.index == best.get((choice.key, choice.bucket), choice.index)
    assert all(p.config.choice.tuned for p in chosen[:2])
    assert not tuner(path).run([PROBLEM])[0].saved < 0


def test_each_entry_is_tuned_once(tmp_path):
    near = Problem(**{**vars(PROBLEM), "S": (255, 256 + 1)})
    same = Problem(**{**vars(PROBLEM), "N": 7})
    assert len(list(tuner(tmp_path / "t.json").units([PROBLEM, PROBLEM, same]))) == 3
    assert len(list(tuner(tmp_path / "t.json").units([PROBLEM, near]))) > 3


def test_what_runs_today_stays_unless_another_is_faster(tmp_path):
    class Level(Rehearsal):
        def candidate(self, unit, index, cost):
            return super().candidate(unit, unit.now, cost=1.0)  # all take the same time

    for r in tuner(tmp_path / "t.json", Level()).run([PROBLEM]):
        assert r.best == r.before


def test_a_wrong_config_is_excluded_and_reported(tmp_path):
    fastest = {r.key: r.best for r in tuner(tmp_path / "a.json").run([PROBLEM])}
    said = []

    def check(pieces, device, seconds):
        return ["wrong results: y" if p["index"] == fastest[p["key"]] else None for p in pieces]

    results = tuner(tmp_path / "b.json", said=said, check=check).run([PROBLEM])
    for r in results:
        assert r.best != fastest[r.key] and fastest[r.key] not in r.ms
        assert r.excluded == {fastest[r.key]: "wrong results: y"}
    assert any("1 excluded" in line for line in said)


def test_a_config_that_does_not_compile_is_excluded(tmp_path):
    def compile(pieces, workers, seconds):
        return ["no shared memory" if i % 2 else None for i in range(len(pieces))]

    for r in tuner(tmp_path / "t.json", compile=compile).run([PROBLEM]):
        assert set(r.excluded.values()) == {"no shared memory"} and not set(r.excluded) & set(r.ms)


def test_a_config_that_raises_when_timed_is_excluded(tmp_path):
    class Raising(Rehearsal):
        def candidate(self, unit, index, cost):
            call = super().candidate(unit, index, cost)
            if index == unit.now:
                call.run = lambda: 1 / 0
            return call

    for r in tuner(tmp_path / "t.json", Raising()).run([PROBLEM]):
        assert "ZeroDivisionError" in "".join(r.excluded.values()) and r.before in r.ms


def test_nothing_usable_is_no_entry(tmp_path):
    said = []
    found = tuner(tmp_path / "t.json", said=said, check=lambda p, d, s: ["wrong"] * len(p)).run([PROBLEM])
    assert not found and not (tmp_path / "t.json").exists() and any("none of" in line for line in said)


def test_it_stops_in_time_and_goes_on(tmp_path):
    path, backend = tmp_path / "t.json", Rehearsal()

    class Slow(Rehearsal):
        def candidate(self, unit, index, cost):
            self.host += 1.0
            return super().candidate(unit, index, cost)

    first = tuner(path, backend := Slow(), seconds=90.0)
    done = first.run([PROBLEM])
    assert 0 < len(done) < 3 and not first.complete and backend.now() < 180
    assert "another run goes on" in first.summary()
    timed = []

    class Counting(Rehearsal):
        def candidate(self, unit, index, cost):
            timed.append(unit.choice.key)
            return super().candidate(unit, index, cost)

    again = tuner(path, Counting()).run([PROBLEM])
    assert len(again) == 3 and not {r.key for r in done} & set(timed)


SCRIPT = """
    import sys, time
    from segattn_triton.perf.tune.tuner import Tuner
    from segattn_triton.perf.measure.rehearsal import Rehearsal
    from segattn_triton.catalog import Problem
    class Slow(Rehearsal):
        def candidate(self, unit, index, cost):
            time.sleep(0.01)
            return super().candidate(unit, index, cost)
    todo = [Problem("spatial_gate", "bfloat16", "contiguous", 8, C, (256, 256)) for C in {channels}]
    check, compile = lambda p, d, s: [None] * len(p), lambda p, w, s: [None] * len(p)
    t = Tuner(Slow(), {path!r}, 1e6, lambda s: None, check, compile)
    t.run(todo)
"""


def start(path, channels):
    script = textwrap.dedent(SCRIPT).format(path=str(path), channels=channels)
    return subprocess.Popen([sys.executable, "-c", script])


def test_killed_at_any_moment_it_goes_on(tmp_path):
    path = tmp_path / "t.json"
    log = tmp_path / "t.json.log.jsonl"
    running = start(path, [64, 32, 128, 16])
    while running.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > 2):
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    known = len(log.read_bytes().splitlines())
    with log.open("ab") as file:
        file.write(b'{"key": "spat')
    todo = [Problem(**{**vars(PROBLEM), "C": C}) for C in (64, 32, 128, 16)]
    results = tuner(path).run(todo)
    lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
    assert len(results) == len(lines) == 12 and known < 12
    entries = tuned.read(path).configs
    assert {(r.key, r.bucket): r.best for r in results} == {(k, b): i for k, e in entries.items() for b, i in e.items()}


def test_concurrent_tuners_lose_nothing(tmp_path):
    path = tmp_path / "t.json"
    both = [start(path, [64]), start(path, [128])]
    assert [p.wait(60) for p in both] == [0, 0]
    assert len(tuned.read(path).configs) == 2 * 3
    assert len(tuner(path).run([Problem(**{**vars(PROBLEM), "C": C}) for C in (64, 128)])) == 6


def test_a_corrupt_log_costs_its_lines(tmp_path):
    path, log = tmp_path / "t.json", tmp_path / "t.json.log.jsonl"
    tuner(path).run([PROBLEM])
    whole = log.read_text().splitlines()
    values = json.loads(whole[0])
    broken = ["null", "[]", "{}", json.dumps({**values, "ms": {}}), json.dumps({**values, "triton": "1.0"}), "\0"]
    log.write_text("\n".join([*broken, *whole[1:]]))
    path.write_text("{")
    said = []
    assert len(tuner(path, said=said).run([PROBLEM])) == 3
    assert "is ignored" in said[0] and len(tuned.read(path).configs) == 3


# refusals


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(Usage, match="there is no GPU here"):
        tuner(tmp_path / "t.json", Cpu())
    torch.use_deterministic_algorithms(True)
    with pytest.raises(Usage, match="use_deterministic_algorithms is on"):
        tuner(tmp_path / "t.json")
    torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(Usage, match=r"inside torch\.compile"):
        tuner(tmp_path / "t.json")
    monkeypatch.undo()
    for name in ("is_available", "is_initialized", "is_current_stream_capturing"):
        monkeypatch.setattr(torch.cuda, name, lambda: True)
    with pytest.raises(Usage, match="captures a CUDA graph"):
        tuner(tmp_path / "t.json")
    monkeypatch.undo()
    other = tmp_path / "other.json"
    tuned.write(other, tuned.Table("NVIDIA L4", 89))
    with pytest.raises(Usage, match="is for 'NVIDIA L4', this GPU is 'rehearsal'"):
        tuner(other)
    with pytest.raises(Usage, match=r"--out: cannot write to /dev/null/t\.json"):
        tuner(Path("/dev/null/t.json"))


def forked(queue):
    queue.put(refusal())


def test_a_forked_child_refuses():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=forked, args=(queue,))
    process.start()
    assert "forked" in queue.get(timeout=30)
    process.join()


@pytest.mark.interpreter
def test_the_command_without_a_gpu():
    for arguments, wanted in (
        (["--op", "spatial_gate"], "segattn: tune: there is no GPU here"),
        (["--budget", "1"], "segattn: --budget: got 1, expected at least 10 seconds"),
        (["--op", "none"], "segattn: --op: got 'none'"),
        (["--dtype", "int8"], "segattn: --dtype: got 'int8'"),
    ):
        done = CliRunner().invoke(main, ["tune", *arguments])
        assert done.exit_code == 2 and done.stderr.startswith(wanted), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_the_command_on_a_rehearsed_gpu(tmp_path):
    said = []
    chosen, out = (("spatial_gate",), ("bfloat16",), ("contiguous",)), tmp_path / "t.json"
    path = tune.main(*chosen, 60.0, out, Rehearsal(), said.append, check=right, compile=compiles)
    assert path == out and tuned.read(path).configs
    assert said[-1] == f"the table: {path}" and "keys tuned" in said[-2]


# candidates


@pytest.mark.interpreter
def test_candidates_are_verified_in_a_child():
    choice = plans_of(SMALL, 90)[0].config.choice
    piece = dict(problem=vars(SMALL), key=choice.key, index=choice.index)
    pieces = [piece, {**piece, "index": 10**4}, {**piece, "key": "spatial_fwd of something else"}]
    good, bad, unreached = candidates.verified(pieces, "cpu", 60.0)
    assert good is None and "IndexError" in bad and unreached == "no problem that can be verified launches it"


def test_a_wrong_result_is_seen(monkeypatch):
    from segattn_triton.catalog import BY_NAME

    row, choice = BY_NAME["spatial_gate"], plans_of(SMALL, 90)[0].config.choice
    wrong = dataclasses.replace(row, op=lambda *inputs, backend, **kwargs: 1.01 * row.reference(*inputs))
    monkeypatch.setitem(BY_NAME, row.name, wrong)
    before = torch.utils.deterministic.fill_uninitialized_memory
    found = candidates._verify(dict(device=DEVICE, key=choice.key), SMALL, {choice.key: choice.index})
    torch.utils.deterministic.fill_uninitialized_memory = before
    assert found.startswith("wrong results: y: ")


@pytest.mark.static
def test_candidates_compile_in_parallel():
    choice = plans_of(PROBLEM, 90)[0].config.choice
    pieces = [dict(problem=vars(PROBLEM), key=choice.key, index=i, arch=90) for i in list(choice.costs())[:2]]
    assert candidates.compiled(pieces, 2, 120.0) == [None, None]


def test_one_that_never_ends_costs_itself(tmp_path, monkeypatch):
    (tmp_path / "endless_child.py").write_text(
        "import time\nfrom segattn_triton.perf.measure import child\n"  # which takes its time, too
        "child.serve(lambda piece: time.sleep(99) if piece['n'] == 1 else {'twice': 2 * piece['n']})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answers = list(child.results("endless_child", [{"n": n} for n in range(3)], {}, 120.0, each=12.0))
    assert [a.get("twice") for a in answers] == [0, None, 4]
    assert answers[1][child.DIED] == "no answer within 12 seconds"


@pytest.mark.parametrize("side, small", [(512, 64), (65, 65), (513, 65), (514, 66), (516, 68), (30, 30)])
def test_the_problem_that_is_verified_divides_alike(side, small):
    assert (small, small) == Problem("spatial_gate", "float32", "contiguous", 8, 64, (side, side)).small().S


@pytest.mark.interpreter
def test_a_candidate_is_launched_as_it_will_be_timed():
    """What a GPU times, here in the interpreter: the plan of the forced config, of the forward or the backward."""
    from segattn_triton.perf.measure.backends import Cuda

    backend = Cuda.__new__(Cuda)
    backend.device, backend._example = torch.device("cpu"), None
    for plan in plans_of(SMALL, 90):
        choice = plan.config.choice
        index = list(choice.costs())[1]
        call = Cuda.candidate(backend, Unit(SMALL, choice, choice.index, 0), index, 1.0)
        call()
        assert call.keep.name == choice.kernel and call.keep.config.choice.index == index
    assert backend._example[0] == SMALL


# a model


@pytest.mark.interpreter
def test_a_models_gates_are_tuned(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.deep = nn.Sequential(nn.Conv2d(3, 6, 1), segattn_triton.SpatialAttention(6, backend="triton"))
            self.gate = segattn_triton.ChannelAttention(6, backend="triton")

        def forward(self, x):
            return self.gate(self.deep(x))

    said, x = [], torch.randn(1, 3, 6, 7)
    calls = tune_model.captured(Net(), [x])
    assert [name for name, _ in calls] == ["deep.1", "gate"]
    problem = calls[1][1]
    assert (problem.op, problem.N, problem.C, problem.S, problem.dtype) == ("squeeze_excite", 1, 6, (6, 7), "float32")
    assert problem.needs[:5] == (True,) * 5
    saved = tune_model.tune_model(
        Net(), [x], 500.0, tmp_path / "t.json", Rehearsal(), said.append, check=right, compile=compiles
    )
    keys = {key.split()[0] for key in tuned.read(tmp_path / "t.json").configs}
    assert {"spatial_fwd", "pool_fwd", "mlp_fwd", "apply_fwd", "apply_bwd", "mlp_dw"} <= keys and saved >= 0
    assert any(line.startswith("deep.1: spatial_gate 1x6x6x7: ") and line.endswith("ms saved") for line in said)


GATES = {
    "PAN's, of a smaller map": lambda x: functional.squeeze_excite(
        x, torch.randn(2, 4), None, torch.randn(6, 2), source=torch.randn(2, 4, 2, 3), shortcut=x, backend="triton"
    ),
    "of one layer": segattn_triton.EffectiveSE(6, backend="triton"),
    "ECA": segattn_triton.ECA(6, kernel_size=5, backend="triton"),
    "CBAM, its norm over the batch": segattn_triton.CBAM(6, 2, 3, backend="triton"),
    "CBAM, its norm folded": segattn_triton.CBAM(6, 2, 3, backend="triton").eval(),
    "light CBAM": segattn_triton.CBAM(6, 2, 3, act="silu", light=True, norm=False, backend="triton"),
    "SE with a norm": segattn_triton.SqueezeExcite(6, hidden=2, norm=True, backend="triton"),
    "SE with two norms": segattn_triton.SqueezeExcite(6, hidden=2, norm=True, last_norm=True, backend="triton"),
    "one layer with a norm": segattn_triton.EffectiveSE(6, norm=True, backend="triton"),
    "scSE": segattn_triton.SCSE(6, reduction=3, backend="triton"),
    "dense": segattn_triton.LocalAttention(6, backend="triton"),
    "maximum": segattn_triton.LocalPoolAttention("max", backend="triton"),
    "5 x 5, with fewer keys' heads": lambda x: functional.neighborhood_attention(
        *(x.permute(0, 2, 3, 1).unflatten(3, (-1, 2))[..., :h, :] for h in (2, 1, 1)),
        torch.randn(2, 9, 9), kernel_size=5, border="mask", backend="triton",
    ),
    "dilated": segattn_triton.NeighborhoodAttention2d(6, 3, dilation=2, backend="triton"),
}  # fmt: skip


@pytest.mark.interpreter
@pytest.mark.parametrize("name", GATES)
def test_the_problem_of_a_call_launches_what_the_call_does(name):
    """So that what is tuned for it is what it looks for."""
    x = torch.randn(2, 6, 6, 7, requires_grad=True)
    with recorded() as plans:
        y = GATES[name](x)
        leaves = [x, *(GATES[name].parameters() if isinstance(GATES[name], nn.Module) else ())]
        torch.autograd.grad(y.sum(), leaves, allow_unused=True)
    ((_, problem),) = tune_model.captured(Calling(GATES[name]), [x])
    assert Problem.of(json.loads(json.dumps(dataclasses.asdict(problem)))) == problem
    wanted = {(p.config.choice.key, p.config.choice.bucket) for p in plans}
    assert wanted == {(p.config.choice.key, p.config.choice.bucket) for p in plans_of(problem, 90)}


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_a_model_that_cannot_be_tuned(tmp_path):
    with pytest.raises(RuntimeError, match="called no gate of segattn_triton in Triton"):
        segattn_triton.tune(nn.Conv2d(3, 3, 1), torch.randn(1, 3, 4, 4))
    with pytest.raises(ValueError, match="budget: got 0"):
        segattn_triton.tune(nn.Identity(), torch.randn(1), budget=0)
    with pytest.raises(ValueError, match="example: got no input"):
        segattn_triton.tune(nn.Identity())
    assert os.listdir(tmp_path) == []


# the report


SWEEP = dict(ops=("spatial_gate",), dtypes=("float32",), sides=(6, 5), channels=(4,), layouts=("contiguous",))


@pytest.fixture
def rehearse(tmp_path, monkeypatch):
    """A small report on a rehearsed GPU, without its plots."""
    from rich.console import Console

    from segattn_triton.perf.report import job as report
    from segattn_triton.perf.report.render import figures

    monkeypatch.setattr(figures, "draw", lambda df, out: [])

    def run(**values):
        return report.run(backend=Rehearsal(), console=Console(quiet=True), out=tmp_path, **SWEEP, **values)

    return run


def test_a_report_tunes_first(rehearse, tmp_path):
    from segattn_triton.perf.records import load

    page = rehearse(preset="full", budget=540.0, modes=("fwd", "launch")).read_text()
    found = json.loads((tmp_path / "autotune.json").read_text())
    assert {r["key"].split()[0] for r in found} == {"spatial_fwd", "spatial_bwd", "finish"}
    assert set(tuned.read(tmp_path / "tuned.json").configs) == {r["key"] for r in found}
    assert 'id="autotuning"' in page and all(r["key"] in page and r["config"] in page for r in found)
    assert (tmp_path / "plots" / "autotune.svg").exists()
    launches = [r for r in load(tmp_path / "records.jsonl") if r.point.timer == "launch"]
    assert {(r.point.provider, r.point.mode) for r in launches} == {
        (p, m) for p in ("segattn", "eager") for m in ("fwd", "train")
    }
    assert all(r.ms > 0 for r in launches) and "Launch overhead" in page
    assert not [r for r in load(tmp_path / "records.jsonl") if r.point.mode == "bwd"]


def test_a_report_without_tuning(rehearse, tmp_path):
    page = rehearse(preset="quick", tune=False, modes=("fwd",)).read_text()
    assert not (tmp_path / "autotune.json").exists() and 'id="autotuning"' not in page
