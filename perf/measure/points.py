"""From the points of one problem to their records. Whatever a provider raises becomes its points' status."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...catalog import BY_NAME, Problem
from ..records import Point, Record
from . import ceilings, check, plan, timing
from .backends import Cpu, TimedCall
from .budget import Budget
from .child import one_line
from .workload import WRONG, Workload

Save = Callable[[Record], None]


class DeviceLost(RuntimeError):
    """The device answers no more calls in this process."""


def blank(point: Point, **values) -> Record:
    """A record with what is known without measuring."""
    if point.op in BY_NAME:
        problem, backward = plan.problem_of(point), point.mode == "bwd"
        bytes_ = plan.floor_bytes(point)
        itemsize = plan.ITEMSIZE[point.dtype]
        planned = problem.row.planned_bytes(problem.sizes, itemsize, problem.absent)[backward]
        flops = problem.row.count_flops(problem.sizes)[backward]
    else:
        bytes_, flops = ceilings.traffic(point)
        planned = bytes_
    return Record(point, floor_bytes=bytes_, planned_bytes=planned, flops=flops, **values)


def skip(points: Iterable[Point], reason: str, save: Save) -> None:
    for point in points:
        save(blank(point, status=f"skipped: {reason}"))


def fail(points: Iterable[Point], reason: str, save: Save) -> None:
    for point in points:
        save(blank(point, status=f"failed: {reason}"))


def ceiling(point: Point, backend: Cpu, save: Save) -> None:
    with _Failures(backend, save).of([point]):
        samples = timing.interleaved({"": ceilings.call(point, backend)}, backend)
        save(blank(point, **_times(samples[""], backend.clocks())))


def numerics(point: Point, backend: Cpu, save: Save) -> None:
    """The kernels' results against the reference's; a record without a time."""
    C, *S = backend.sizes(point.C, point.H, point.W)
    case = Problem(point.op, point.dtype, point.layout, point.N, C, tuple(S))
    outcome = check.run(case, backend.device, backend.kernels, maps=(False,))  # the kernels that are timed
    status = f"failed: {outcome.failure}" if outcome.failure else "ok"
    use = None if outcome.use == float("inf") else outcome.use
    save(blank(point, status=status, extra={"budget_used": use, "worst": outcome.worst}))
    if outcome.failure:
        recover(backend)


def times(points: Sequence[Point], backend: Cpu, image: Path | None, save: Save, budget: Budget) -> None:
    """All providers of one problem, interleaved; then each one's memory and errors; then CUDA graphs."""
    needed, free = plan.memory_needed(points), backend.free_memory()
    if needed > free:
        return skip(points, f"needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free", save)
    of: dict[str, list[Point]] = {}
    for point in points:
        of.setdefault(point.provider, []).append(point)
    failures = _Failures(backend, save)
    functions, calls = {}, {}
    with failures.of(points):
        workload = Workload(points[0], backend, image)
    if failures.points:
        return
    for provider in of:
        begin = backend.now()
        with failures.of(of[provider]):
            functions[provider] = workload.function(provider)
            calls[provider] = workload.call(provider, functions[provider])
            backend.run(calls[provider])
            backend.synchronize()
        if provider in plan.COMPILED:
            budget.learn(f"compile {points[0].mode}", backend.now() - begin)
    begin = backend.now()
    _with_events(workload, of, functions, calls, failures)
    calls.clear()
    _with_graphs(workload, of, functions, failures)
    budget.learn("measure", (backend.now() - begin) / len(of), plan.work(points[0]))


def launches(points: Sequence[Point], backend: Cpu, save: Save) -> None:
    """CPU time from the public function until its kernels are enqueued, providers interleaved."""
    failures, calls = _Failures(backend, save), {}
    for point in points:
        with failures.of([point]):
            train = replace(point, mode="bwd" if point.mode == "train" else "fwd")
            workload = Workload(train, backend)
            function = workload.function(point.provider)
            calls[point] = TimedCall(partial(function, *workload.inputs), point.provider)
            backend.run(calls[point])
    for point, sample in timing.hosts(calls, backend).items():
        save(blank(point, **_times(sample, backend.clocks())))


def _with_events(workload: Workload, of: Mapping, functions: Mapping, calls: Mapping, failures: "_Failures") -> None:
    backend = workload.backend
    wanted = _timed(of, "graph", failures, invert=True)
    running = {name: calls[name] for name in wanted}
    samples = timing.interleaved(running, backend, on_error=lambda name, e: failures.add(of[name], e))
    clocks = backend.clocks()
    for name, sample in samples.items():
        with failures.of(of[name]):
            peak = backend.peak_memory(workload.whole(name, functions[name]))
            errors = workload.errors(functions[name])
            error = max(errors.values(), default=None)
            if name == "segattn" and not (error or 0.0) <= WRONG:
                raise ArithmeticError(f"the result is wrong: errors over largest values {errors}")
            values = _times(sample, clocks, errors=errors)
            failures.save(blank(wanted[name], peak_memory=peak, error=error, **values))


def _with_graphs(workload: Workload, of: Mapping, functions: Mapping, failures: "_Failures") -> None:
    backend, graphs, sets = workload.backend, {}, 1
    wanted = _timed(of, "graph", failures)
    for name, point in wanted.items():
        with failures.of([point]):
            graphs[name], sets = workload.graph(name, functions[name])
    samples = timing.interleaved(graphs, backend, sets, lambda name, e: failures.add([wanted[name]], e))
    clocks = backend.clocks()
    for name, sample in samples.items():
        failures.save(blank(wanted[name], **_times(sample, clocks, sets=sets)))


def _timed(of: Mapping, timer: str, failures: "_Failures", invert: bool = False) -> dict[str, Point]:
    """The point with this timer, or with any other, of every provider that has not failed."""
    found = ((name, next((p for p in of[name] if (p.timer == timer) != invert), None)) for name in of)
    return {name: p for name, p in found if p is not None and p not in failures.points}


def _times(sample: timing.Sample, clocks: Mapping, **extra) -> dict:
    extra = {"repetitions": sample.repetitions, "clocks": clocks, **extra}
    return dict(ms=sample.ms, ms_20=sample.ms_20, ms_80=sample.ms_80, extra={k: v for k, v in extra.items() if v})


def recover(backend: Cpu) -> None:
    try:
        backend.recover()
    except Exception as error:
        raise DeviceLost(one_line(error)) from error


class _Failures:
    """Records what providers raise as the status of their points, and goes on. `points` are those that failed."""

    def __init__(self, backend: Cpu, save: Save):
        self.backend, self.save = backend, save
        self.points: set[Point] = set()

    def add(self, points: Iterable[Point], error: Exception) -> None:
        self.points.update(points)
        fail(points, one_line(error), self.save)
        recover(self.backend)

    @contextlib.contextmanager
    def of(self, points: Sequence[Point]) -> Iterator[None]:
        """`with failures.of(points): ...`"""
        try:
            yield
        except Exception as error:
            self.add(points, error)
