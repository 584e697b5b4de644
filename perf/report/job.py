"""The main job: measure everything worth measuring, the most valuable first, in the time given; then the page.

OUT/records.jsonl grows by one line a point. OUT/environment.json says on what, with what and how. A run that was
killed, or ran out of time, is finished by another with `resume`: what is there is kept, what failed is tried last.
"""

import importlib.util
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch._functorch.config as functorch_config
from rich.console import Console

from ...catalog import BY_NAME
from ...draft import replacing
from ...tuning import choice as tuning
from .. import terminal
from ..compiler import predict
from ..folder import Folder
from ..measure import backends, env, photo, plan, timing
from ..measure import points as measure
from ..measure.backends import tuned_convolutions
from ..measure.budget import Budget
from ..measure.child import one_line
from ..measure.rehearsal import Rehearsal
from ..measure.workload import Workload
from ..options import LAUNCH_MODE, Failure, Options, Usage
from ..records import Point, Record

RESERVE = 15.0  # seconds of the budget for plots and page
TUNING_SHARE = 0.3
MAP_SIZE = (32, 256, 256)


def run(*, backend: backends.Cpu | None = None, console: Console | None = None, **options) -> Path:
    """Measure, and return the page's path. The options are those of `Options`."""
    checked = Options(**options).checked()
    if backend is None:
        if not checked.cpu and (problem := env.unusable_gpu()):
            raise Usage(problem)
        backend = backends.find(checked.cpu)
    if LAUNCH_MODE in checked.modes and not backend.gpu:
        raise Usage("--mode: got launch, which times the launch on a GPU; there is none here, expected fwd or bwd")
    report = ReportRun(checked, backend, console or terminal.console())
    # what compiled forwards save is kept, so that a backward can be repeated
    with tuned_convolutions(True), functorch_config.patch(donated_buffer=False):
        report.measure()
    return report.finish()


class ReportRun:
    def __init__(self, options: Options, backend: backends.Cpu, console: Console):
        self.options, self.backend, self.console = options, backend, console
        self.budget = Budget(options.budget, backend.now)
        self.begin = backend.now()
        described = {"device": backend.name, "options": options.told()}
        described["method"] = timing.method(backend.gpu, LAUNCH_MODE in options.modes)
        self.folder = Folder(options.out, env.collect() | described, resume=options.resume)
        for aside in self.folder.set_aside:
            self.console.print(f"an earlier report is kept as {aside} (--resume continues one)", markup=False)
        self.records, self.save = self.folder.records, self.folder.save
        bfloat16 = backend.device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        self.jobs = plan.schedule(options, gpu=backend.gpu, bfloat16=bfloat16)
        self.problem: str | None = None

    def measure(self) -> None:
        """Every job that fits into the time."""
        self.backend.wake()
        try:
            if self.backend.gpu and self.options.tune:
                self._tune(self.jobs)
            for job in self._order(self.jobs):
                if points := self._affordable(job):
                    self._attempt(job.only(points))
        except KeyboardInterrupt:
            self.problem = "interrupted; --resume continues"
        except measure.DeviceLost as error:
            self.problem = f"the device is lost: {error}; --resume goes on in a new process"
        left_out = Counter(_name(p) for job in self.jobs for p in job.points if p not in self.records)
        after = {"gpu_after": env.gpu()} if self.backend.device.type == "cuda" and self.problem is None else {}
        self.folder.describe(left_out=dict(left_out), finished=env.now(), **after)

    def _tune(self, jobs: list[plan.Job]) -> None:
        """The configs of what will be timed, in a share of the time; OUT/autotune.json."""
        from ..tune.tuner import Tuner

        points = [job.first for job in jobs if job.kind == "time" and job.first.inputs == "normal"]
        problems = dict.fromkeys(map(plan.problem_of, points))
        seconds = min(TUNING_SHARE * self.options.budget, self.budget.left - RESERVE)
        say = lambda text: self.console.print(text, markup=False, soft_wrap=True)  # noqa: E731
        try:
            tuner = Tuner(self.backend, self.backend.table(self.options.out), seconds, say)
        except Usage as error:
            return say(f"nothing is tuned: {error}")
        try:
            tuner.run(problems)
        except (measure.DeviceLost, Failure):
            raise
        except Exception as error:
            say(f"the tuning ends early: {one_line(error)}")
            measure.recover(self.backend)
        finally:
            self.folder.write("autotune.json", [asdict(r) for r in tuner.results])
            tuning.forget()
        say(f"{tuner.summary()}; the table: {tuner.path}")

    def _order(self, jobs: list[plan.Job]) -> list[plan.Job]:
        """What failed before, or waits for a failed check, comes last: it may take the process with it."""
        wrong = self._wrong()

        def last(job: plan.Job) -> bool:
            failed = any(p in self.records and self.records[p].failed for p in job.points)
            return failed or (job.first.op, job.first.dtype) in wrong

        return sorted(jobs, key=last)

    def _wrong(self) -> dict[tuple[str, str], str]:
        """(op, dtype) -> what its check said."""
        checks = (r for r in self.records.values() if r.point.mode == "check" and r.failed)
        return {(r.point.op, r.point.dtype): r.status.removeprefix("failed: ") for r in checks}

    def _pending(self, job: plan.Job) -> list[Point]:
        return [p for p in job.points if p not in self.records or self.records[p].failed]

    def _affordable(self, job: plan.Job) -> list[Point]:
        """The pending points that there is time for: all, those that need no compiler, or none."""
        pending = self._pending(job)
        if job.kind == "predict":
            return pending if self.budget.left > RESERVE + self.budget.predict("prepare") else []
        for points in (pending, [p for p in pending if p.provider not in plan.COMPILED]):
            if points and self._predict(job.kind, points) <= self.budget.left - RESERVE:
                return points
        return []

    def _predict(self, kind: str, points: list[Point]) -> float:
        if kind != "time":
            return self.budget.predict(kind, plan.work(points[0]))
        compiled = len({p.provider for p in points}.intersection(plan.COMPILED))
        each = sum(self.budget.predict("measure", plan.work(p)) for p in points if p.timer != "graph")
        return each + compiled * self.budget.predict(f"compile {points[0].mode}")

    def _attempt(self, job: plan.Job) -> None:
        """Whatever goes wrong beyond a single provider becomes the status of the job's points; the run goes on."""
        try:
            self._do(job)
        except (measure.DeviceLost, Failure):
            raise
        except Exception as error:
            measure.fail(self._pending(job), one_line(error), self.save)
            measure.recover(self.backend)

    def _do(self, job: plan.Job) -> None:
        begin, points = self.backend.now(), job.points
        if job.kind == "ceiling":
            measure.ceiling(job.first, self.backend, self.save)
        elif job.kind == "check":
            measure.numerics(job.first, self.backend, self.save)
        elif job.kind == "launch":
            measure.launches(points, self.backend, self.save)
        elif job.kind == "predict":
            self._predictions(points)
        else:
            self._maps()
            reason = self._wrong().get((job.first.op, job.first.dtype))
            if reason is not None:
                ours = [p for p in points if p.provider == "segattn"]
                measure.fail(ours, f"its numerics are wrong: {reason}", self.save)
                points = tuple(p for p in points if p.provider != "segattn")
            for _, problem in groupby(points, key=plan.describe):
                measure.times([*problem], self.backend, self.options.image, self.save, self.budget)
        measure.recover(self.backend)
        if job.kind in ("ceiling", "check", "launch"):
            self.budget.learn(job.kind, self.backend.now() - begin, plan.work(job.first))
        self._say(job)

    def _predictions(self, points: Iterable[Point]) -> None:
        if importlib.util.find_spec("triton") is None:
            return measure.skip(points, "triton is not installed, whose compiler this needs", self.save)
        for record in predict.records(list(points), self.budget.left - RESERVE):
            self.save(record)

    def _maps(self) -> None:
        """OUT/maps.npz: the photograph, and every op's gate on its activations."""
        path = self.options.out / "maps.npz"
        if path.exists():
            return
        C, H, W = MAP_SIZE
        arrays = {"photo": photo.load(self.options.image, H, W)}
        for op in self.options.ops:
            row = BY_NAME[op]
            point = Point(op, "segattn", "fwd", "float32", "contiguous", row.fewest, C, H, W, inputs="photo")
            try:
                workload = Workload(point, self.backend, self.options.image)
                _, gate_map = row.op(*workload.inputs, backend=self.backend.kernels, **row.both)
                arrays[op] = photo.as_image(row, gate_map)
            except Exception as error:
                self.console.print(f"no gate map of {op}: {one_line(error)}", markup=False)
                measure.recover(self.backend)
        with replacing(path) as draft, draft.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def _say(self, job: plan.Job) -> None:
        known = [self.records[p] for p in job.points if p in self.records]
        if job.kind == "predict":
            said = f"{len(known)} points compiled ahead of time for sm_{predict.ARCH}"
        else:
            said = plan.describe(job.first) + ": " + ", ".join(map(_brief, known))
        elapsed = self.backend.now() - self.begin
        self.console.print(f"[{elapsed:4.0f} of {self.options.budget:.0f} s] {said}", markup=False, soft_wrap=True)

    def finish(self) -> Path:
        """Page and table, from the records alone."""
        try:
            from .render import render, terminal_table

            page = render(self.options.out)
            self.console.print(terminal_table(list(self.records.values())))
        except Exception as error:
            reason = one_line(error)
            raise Failure(f"no page could be made, {self.folder.path} holds what was measured: {reason}") from error
        if left_out := self.folder.environment["left_out"]:
            points = ", ".join(f"{name} {number}" for name, number in left_out.items())
            self.console.print(f"points left out for lack of time, --resume goes on: {points}", markup=False)
        if isinstance(self.backend, Rehearsal):
            self.console.print("a rehearsal: every time above is made up")
        self.console.print(f"the report: {page.resolve()}", markup=False, soft_wrap=True)
        wrong = [f"{op} {dtype} does not match the reference: {r}" for (op, dtype), r in self._wrong().items()]
        if problem := self.problem or "; ".join(wrong):
            raise Failure(problem)
        return page


def _name(point: Point) -> str:
    timer = {"graph": " (graph)", "predicted": " (predicted)", "check": " (check)"}.get(point.timer, "")
    return point.provider + timer


def _brief(record: Record) -> str:
    name = _name(record.point)
    if record.ms is not None:
        return f"{name} {record.ms:.4g} ms"
    return f"{name} {record.status}" if record.status != "ok" else "matches the reference"
