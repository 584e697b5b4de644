"""What is measured, the most valuable first. Each step goes on where an earlier call ended, and ends in its time."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch._functorch.config as functorch_config
from rich.console import Console

from ..measure import child, plan, rivals
from ..measure import points as measure
from ..measure.backends import Cpu, tuned_convolutions
from ..options import LAUNCH_MODE, MODES, Options
from ..records import Point, Record
from . import dependent, facts, folder, kernels, missed

MAIN_OPS = ("spatial_gate", "channel_gate", "local_gate", "neighborhood_attention", "squeeze_excite", "scse")
SIDES = (512, 256, 1024, 128)
MAIN = dict(ops=MAIN_OPS, sides=SIDES, channels=(64,))
PROCESSES = 14  # that share the GPU while nothing is timed: each is bound by its host
MODELS = ("LRASPP mobilenet_v3_large",)  # what needs torchvision alone
DAY = 86400.0
TIMED_KINDS = ("ceiling", "check", "launch", "time")
CACHED = 3.0  # seconds to compile a rival that `compile_rivals` has compiled
EACH = 60.0  # seconds for one piece in a process of its own
Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    name: str
    most: float  # seconds
    run: Callable[[Path, Cpu, float, Console], None]
    why: str


def options(out: Path, seconds: float = DAY, **values) -> Options:
    chosen = dict(dtypes=("bfloat16",), resume=True, tune=False, out=out) | values
    return replace(Options(preset="full", **chosen).checked(), budget=seconds)


def numerics(out: Path, backend: Cpu, seconds: float, console: Console) -> None:
    """Every row compiled, forward and backward, the configs that are chosen: bfloat16 first, then the others."""
    records = folder.opened(out, backend)
    jobs = plan.schedule(options(out, dtypes=("bfloat16", "float16", "float32")), gpu=True)
    points = [p for job in jobs if job.kind == "check" for p in job.points]
    todo = [p for p in points if p not in records.records or records.records[p].failed]
    pieces = [{"action": "check", "point": asdict(p)} for p in todo]
    wrong = 0
    for point, answer in in_processes(pieces, backend, seconds):
        record = Record(**{**answer["record"], "point": point}) if "record" in answer else None
        record = record or measure.blank(point, status=f"failed: {answer.get(child.DIED) or answer['failure']}")
        records.save(record)
        if record.failed:
            wrong += 1
            console.print(f"{plan.describe(point)}: {record.status}", markup=False, soft_wrap=True)
    done = sum(p in records.records for p in todo)
    console.print(f"{done} of {len(todo)} checks, {wrong} do not match the reference", markup=False)


def compile_rivals(out: Path, backend: Cpu, seconds: float, console: Console) -> None:
    """What torch.compile makes of the rivals, into its cache by many processes: one would take most of the time."""
    known = folder.opened(out, backend).records
    jobs = plan.schedule(options(out, **MAIN), gpu=True)
    points = [p for job in jobs if job.kind == "time" for p in job.points]
    wanted = [p for p in points if p.provider in ("compile", "compile-best") and p.timer == "events"]
    todo = [p for p in wanted if p.inputs == "normal" and p not in known]
    found = list(in_processes([{"action": "compile", "point": asdict(p)} for p in todo], backend, seconds))
    reasons = [answer for _, answer in found if child.DIED in answer or "failure" in answer]
    console.print(f"{len(found)} of {len(todo)} compiled, {len(reasons)} failed", markup=False)


def in_processes(pieces: list[dict], backend: Cpu, seconds: float):
    """(point, answer) as they come, from processes of their own; those of a rehearsal in this one."""
    for piece, answer in backend.answers(work, pieces, PROCESSES, seconds, EACH):
        yield Point(**piece["point"]), answer


def work(piece: dict, backend: Cpu) -> dict:
    """One piece of a step, alone."""
    from ..measure.workload import Workload

    point = Point(**piece["point"])
    try:
        if piece["action"] == "check":
            found: list[Record] = []
            measure.numerics(point, backend, found.append)
            return {"record": asdict(found[-1])}
        with as_timed():
            workload = Workload(point, backend)
            workload.call(point.provider, workload.function(point.provider)).run()
            backend.synchronize()
        measure.recover(backend)
        return {}
    except measure.DeviceLost:
        raise  # the process ends, and the next piece gets another
    except Exception as error:
        measure.recover(backend)
        return {"failure": child.one_line(error)}


def as_timed() -> ExitStack:
    """The settings that are part of what torch.compile caches by."""
    stack = ExitStack()
    stack.enter_context(tuned_convolutions(True))
    stack.enter_context(functorch_config.patch(donated_buffer=False))
    return stack


def report(kinds: tuple[str, ...] = TIMED_KINDS, **values) -> Callable[[Path, Cpu, float, Console], None]:
    """A step that measures these kinds of what `segattn report` does, without photographs and page."""

    def run(out: Path, backend: Cpu, seconds: float, console: Console) -> None:
        from ..report import job

        folder.install_table(out, backend)
        # the time that a report keeps for its page is ours
        made = job.ReportRun(options(out, seconds + job.RESERVE, **values), backend, console)
        made.jobs = [j for j in made.jobs if j.kind in kinds and j.first.inputs == "normal"]
        for mode in MODES:
            made.budget.learn(f"compile {mode}", CACHED)
        with as_timed():
            made.measure()
        if made.problem:
            raise RuntimeError(made.problem)

    return run


def tune(out: Path, backend: Cpu, seconds: float, console: Console) -> None:
    """The kernels of the points that missed; the times of what has another config since are taken again."""
    from ..tune.tuner import Tuner

    points = [p for p in missed.points(folder.times(out)) if rivals.names(p.op)]
    folder.install_table(out, backend)
    say = lambda text: console.print(text, markup=False, soft_wrap=True)  # noqa: E731
    tuner = Tuner(backend, out / folder.TABLE, seconds, say)
    with folder.retiming(out, backend, "tuned since") as moved:
        tuner.run(dict.fromkeys(map(plan.problem_of, points)))
    say(f"{tuner.summary()}; {moved()} times are taken again")


def models(out: Path, backend: Cpu, seconds: float, console: Console) -> None:
    from ..models import known

    settings = replace(known.GPU_PRESETS["quick"], models=MODELS)
    known.run(budget=seconds, out=out, resume=True, backend=backend, settings=settings, console=console)


STEPS = (
    Step("numerics", 60, numerics, "no time of what is wrong"),
    Step(
        "ceilings",
        20,
        report(ops=MAIN_OPS[:1], sides=(128,), channels=(64,), modes=("fwd",)),
        "what every share is a share of",
    ),
    Step("rivals", 80, compile_rivals, "compiled by many processes, so that timing waits for none"),
    Step("times", 180, report(**MAIN), "the founding ops, SE, scSE, attention; both layouts and directions"),
    Step("kernels", 45, kernels.run, "each launch by itself: which of them is slow"),
    Step("facts", 45, facts.run, "what the account of time assumes, and that no call is timed warm"),
    Step("launch", 20, report(modes=(LAUNCH_MODE,)), "the host's time of a call"),
    Step("dependent", 30, dependent.run, "launches that start early: off until this finds equal bits and less time"),
    Step("tune", 90, tune, "the kernels of what missed"),
    Step("again", 60, report(**MAIN), "what was tuned, and what was left out"),
    Step("models", 90, models, "a whole model"),
    Step("rest", 540, report(dtypes=("bfloat16", "float32", "float16")), "every op, size, channel and dtype"),
)


def serve() -> None:
    """In a child process: pieces on its standard input."""
    from ..measure import backends

    backend = backends.find()
    child.serve(lambda piece: work(piece, backend))


if __name__ == "__main__":
    serve()
