"""A thousand calls leave nothing behind; writers that are killed at any moment lose nothing that was written."""

import gc
import json
import multiprocessing
import os
import random
import signal
import time
import tracemalloc

import pytest
from support import both, each_row, outputs_and_gradients, problem

from segattn_triton.perf import records
from segattn_triton.perf.records import Point, Record
from segattn_triton.tuning import tables as tuned
from segattn_triton.tuning.tables import Table

CALLS, OBJECTS, BYTES = 1000, 100, 100_000  # what may stay: less than one of anything a call


@pytest.mark.interpreter
@each_row
def test_calls_leave_nothing_behind(row, monkeypatch):
    """Objects and bytes of Python are counted; a kernel does nothing here, so that all is the host's."""
    from triton.runtime import interpreter

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", lambda *args, **kwargs: None)
    inputs = problem(row, S=(3, 4))

    def calls(count: int) -> tuple[int, int]:
        for _ in range(count):
            outputs_and_gradients(row.op, inputs, backend="triton")
        gc.collect()
        return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

    assert both(row.op)
    calls(20)
    tracemalloc.start()
    try:
        before, after = calls(20), calls(CALLS)
    finally:
        tracemalloc.stop()
    assert after[0] - before[0] < OBJECTS and after[1] - before[1] < BYTES


WRITERS = 2


def _write(folder, name: str) -> None:
    """Entries of one table and lines of one file, until killed; of each, once written, a line in its own file."""
    for i in range(10**6):
        tuned.write(folder / "t.json", Table("gpu", 90, configs={f"k {name} {i}": {1: i}}, spaces={"k": "x"}))
        records.append(folder / "records.jsonl", Record(Point("copy", name, "fwd", "f", "c", i, 1, 1, 1)))
        with (folder / f"{name}.done").open("a") as file:
            file.write(f"{i}\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_killed_writers_lose_nothing(tmp_path, request):
    """Two processes tune and report into one folder, and are killed at random: for a minute where every case runs."""
    seconds = 60 if request.config.getoption("share") == 1 else 8
    context, draw, end = multiprocessing.get_context("fork"), random.Random(0), time.monotonic() + seconds
    running, started = [], 0
    while time.monotonic() < end:
        while len(running) < WRITERS:
            running.append(context.Process(target=_write, args=(tmp_path, f"w{started}"), daemon=True))
            running[-1].start()
            started += 1
        time.sleep(draw.uniform(0.05, 0.5))
        if (tmp_path / "t.json").exists():
            tuned.read(tmp_path / "t.json")  # never half written
        victim = running.pop(draw.randrange(len(running)))
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
    for writer in running:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    written = {(p.stem, int(line)) for p in tmp_path.glob("*.done") for line in p.read_text().splitlines() if line}
    assert started > WRITERS and len(written) > started
    entries = {tuple(key.split()[1:]) for key in tuned.read(tmp_path / "t.json").configs}
    assert {(name, str(i)) for name, i in written} <= entries
    assert written <= {(r.point.provider, r.point.N) for r in records.load(tmp_path / "records.jsonl")}
    unread = [line for line in (tmp_path / "records.jsonl").read_text().splitlines() if line and not _is_json(line)]
    assert len(unread) <= started


def _is_json(line: str) -> bool:
    try:
        return bool(json.loads(line))
    except ValueError:
        return False
