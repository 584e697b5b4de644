"""What the perf suite measures, in what order, against which rivals, and how it times and records it."""

import json
from collections import Counter

import pytest
import torch

from segattn_triton.catalog import BY_NAME, ROWS
from segattn_triton.perf.measure import backends, plan, rivals, timing
from segattn_triton.perf.measure.backends import TimedCall
from segattn_triton.perf.measure.budget import Budget
from segattn_triton.perf.measure.rehearsal import Rehearsal
from segattn_triton.perf.options import OPS, Options
from segattn_triton.perf.records import Point, Record, append, load
from segattn_triton.testing import make_inputs

POINT = Point("spatial_gate", "segattn", "fwd", "float32", "contiguous", 1, 2, 3, 4)


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


def test_most_valuable_points_come_first(tmp_path):
    jobs = plan.schedule(Options(preset="full", out=tmp_path).checked(), gpu=True)
    kinds = [job.kind for job in jobs]
    assert [job.first.op for job in jobs[:4]] == ["copy", "copy", "copy", "matmul"]
    checks = 2 * len(ROWS) * len(plan.CHECK_SIZES)
    assert set(kinds[4 : 4 + checks]) == {"check"}
    assert {job.first.op for job in jobs[4 : 4 + checks]} == set(OPS)
    founding = [job.first for job in jobs if job.kind == "time"][: 8 * len(ROWS)]
    assert {(p.dtype, p.H, p.inputs) for p in founding} == {("bfloat16", 512, "normal")}
    assert {(p.C, p.layout, p.mode, p.op) for p in founding} == {
        (C, layout, mode, op)
        for C in (64, 128)
        for layout in ("contiguous", "channels_last")
        for mode in ("fwd", "bwd")
        for op in OPS
    }
    assert [p.mode for p in founding] == ["fwd"] * (len(founding) // 2) + ["bwd"] * (len(founding) // 2)
    for dtype in ("float32", "float16"):
        first_time = next(i for i, job in enumerate(jobs) if job.kind == "time" and job.first.dtype == dtype)
        assert all(i < first_time for i, job in enumerate(jobs) if job.kind == "check" and job.first.dtype == dtype)
    points = [p for job in jobs for p in job.points]
    assert len(points) == len(set(points))
    assert {513, 65} < {p.H for p in points}
    of_rows = [p for p in points if p.op in BY_NAME]
    assert all(BY_NAME[p.op].fewest == p.N or plan.map_bytes(p) <= plan.LARGEST_MAP for p in of_rows)
    assert {p.op for p in points if p.inputs == "photo"} == set(OPS)
    assert all(plan.floor_bytes(p) < timing.GRAPH_BYTES for p in points if p.timer == "graph")


def test_a_cpu_draws_curves_one_op_after_the_other(tmp_path):
    jobs = plan.schedule(Options(out=tmp_path).checked(), gpu=False)
    first = [job.first for job in jobs if job.kind == "time" and job.first.inputs == "normal"]
    assert len({p.H for p in first[:4]}) == 4 and {(p.op, p.mode, p.layout) for p in first[:4]} == {
        ("spatial_gate", "fwd", "contiguous")
    }
    sides = Counter(p.op for p in first[: 4 + 2 * (len(plan.FOUNDING) - 1)])
    assert set(sides) == set(plan.FOUNDING) and min(sides.values()) == 2
    plain = [p for p in first if p.provider == "reference"]
    curves = Counter((p.op, p.mode, p.layout) for p in plain)
    assert set(curves.values()) == {5} and len(curves) == len(plan.CURVES["quick"]) * 2 * 2
    assert {32, 512} <= {p.H for p in plain}
    kinds = ["photo" if job.first.inputs == "photo" else job.first.provider for job in jobs if job.kind != "ceiling"]
    assert list(dict.fromkeys(kinds)) == ["reference", "photo", "segattn", "compile"]
    compiled = [job for job in jobs if job.first.provider == "compile"]
    assert {job.first.op for job in compiled} == set(plan.FOUNDING) and {len(job.points) for job in compiled} == {4}
    chosen = plan.schedule(Options(ops=("eca",), out=tmp_path).checked(), gpu=False)
    assert {job.first.op for job in chosen if job.kind != "ceiling"} == {"eca"}
    whole = plan.schedule(Options(preset="full", out=tmp_path).checked(), gpu=False)
    assert {job.first.op for job in whole if job.kind == "time"} == set(OPS)


def test_a_gpu_without_bfloat16_is_not_asked_for_it(tmp_path):
    jobs = plan.schedule(Options(out=tmp_path).checked(), gpu=True, bfloat16=False)
    assert {job.first.dtype for job in jobs} == {"float16"}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", list(rivals.RIVALS))
def test_rivals_compute_the_same(name, layout):
    row = BY_NAME[name]
    sizes = {"N": 2, "C": 6, "S": (max(5, row.smallest), row.smallest + 6), "Cr": 3}
    made = zip(row.shapes(sizes), make_inputs(row, sizes, torch.float64, layout=layout), strict=True)
    inputs = [t for input_name, t in made if input_name not in rivals.left_out(name)]
    for provider in rivals.names(name):
        fn = rivals.make(name, provider, lambda fn: fn)
        torch.testing.assert_close(fn(*inputs), row.reference(*inputs))


def test_rivals_are_of_rows():
    """A row without any is timed alone."""
    assert set(rivals.RIVALS) <= set(BY_NAME) and set(OPS) < set(BY_NAME)
    assert rivals.names("an op of a user") == ()


def test_providers_are_interleaved_and_the_order_reversed():
    backend, order = Rehearsal(), []

    class Recording(Rehearsal):
        def run(self, call):
            order.append(call.provider)
            super().run(call)

    backend = Recording()
    calls = {name: TimedCall(lambda: None, name, size) for name, size in (("segattn", 10**9), ("eager", 10**9))}
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
    sample = timing.interleaved({"": TimedCall(lambda: None, "segattn", 36)}, Rehearsal())[""]
    assert sample.ms < 1e3 * Rehearsal.LAUNCH


def test_a_provider_that_raises_later_drops_out():
    count, errors = Counter(), {}

    def late():
        count["late"] += 1
        if count["late"] > 8:
            raise MemoryError("out of memory")

    calls = {"late": TimedCall(late), "steady": TimedCall(lambda: None)}
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
