"""Runs the steps in the time given: one process does the work, another watches it.

The worker does one step after the other, for a start of a process costs seconds of the GPU's time. Before and after
each it appends a line to steps.jsonl. The watcher renews the archive, and ends a worker whose step is `LATE` seconds
over its time; another goes on with the next step. A step that raises, or loses the device, costs itself alone.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from ..measure import points as measure
from ..measure.backends import Cpu
from ..measure.child import one_line
from ..store import append_line, lines
from . import folder
from .steps import STEPS, Step

NOTES = "steps.jsonl"
LEAST = 15.0  # seconds, for a step to begin
OVERDUE = 15.0
FINAL_SECONDS = 20.0  # seconds of the budget, for what is said at the end
LOST = 3  # exit code of a worker whose device answers no more


def steps(
    out: Path, backend: Cpu, end: float, console: Console, first: str | None = None, todo: Sequence[Step] = STEPS
) -> None:
    """Do them, from the first one named, until `end` on the backend's clock."""
    names = [step.name for step in todo]
    for step in todo[names.index(first) if first else 0 :]:
        seconds = min(step.most, end - backend.now())
        if seconds < LEAST:
            note(out, step, "left out: the time is over")
            continue
        note(out, step, "begun", seconds=seconds)
        begin = backend.now()
        try:
            step.run(out, backend, seconds, console)
            outcome = "done"
        except (Exception, SystemExit) as error:
            outcome = f"failed: {one_line(error)}"
        note(out, step, outcome, took=round(backend.now() - begin, 1))
        console.print(f"== {step.name}: {outcome}, {backend.now() - begin:.0f} s", markup=False, soft_wrap=True)
        measure.recover(backend)


def note(out: Path, step: Step, outcome: str, **more: float) -> None:
    append_line(out / NOTES, {"step": step.name, "outcome": outcome, "at": time.monotonic(), **more})


def notes(out: Path) -> list[dict]:
    return [*lines(out / NOTES)]


def watched(
    out: Path,
    seconds: float,
    archive_to: Path | None,
    command: Callable[[str | None, float], list[str]],
    todo: Sequence[Step] = STEPS,
    late: float = OVERDUE,
) -> None:
    """The steps in worker processes. `command` is that of a worker, from the first step's name and the end."""
    end = time.monotonic() + seconds
    names, first = [step.name for step in todo], None
    while True:
        before = len(notes(out))
        worker = subprocess.Popen(command(first, end), start_new_session=True)
        try:
            _wait(worker, out, before, end, archive_to, late)
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        said = notes(out)[before:]
        if worker.returncode == 0 or not said:
            break
        last = said[-1]
        step = todo[names.index(last["step"])]
        if last["outcome"] == "begun":
            note(out, step, f"failed: the process ended with code {worker.returncode}, or took too long")
        rest = names[names.index(step.name) + 1 :]
        if not rest or time.monotonic() >= end:
            break
        first = rest[0]
    if archive_to is not None:
        folder.pack(out, archive_to)


def _wait(worker: subprocess.Popen, out: Path, before: int, end: float, archive_to: Path | None, late: float) -> None:
    """Until the worker ends, or is late."""
    packed = time.monotonic()
    while worker.poll() is None:
        time.sleep(0.2)
        now, said = time.monotonic(), notes(out)[before:]
        if archive_to is not None and now - packed >= folder.EVERY:
            folder.pack(out, archive_to)
            packed = now
        begun = said[-1] if said and said[-1]["outcome"] == "begun" else None
        if now > end + late or (begun is not None and now > begun["at"] + begun["seconds"] + late):
            return


def worker(out: Path, end: float, first: str | None) -> None:
    """In the worker: the steps on the GPU."""
    from ..measure import backends

    backend = backends.find()
    backend.wake()
    try:
        steps(out, backend, end, Console(width=160), first)
    except measure.DeviceLost as error:
        print(f"the device is lost: {error}", file=sys.stderr, flush=True)
        os._exit(LOST)
