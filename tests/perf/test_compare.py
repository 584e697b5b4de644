"""segattn compare and report --merge: what became slower, and nothing joined that was not measured alike."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from segattn_triton.perf.commands import main
from segattn_triton.perf.options import Usage
from segattn_triton.perf.records import Point, Record, append, load
from segattn_triton.perf.report import compare

POINT = Point("spatial_gate", "segattn", "fwd", "bfloat16", "contiguous", 8, 64, 512, 512)
VERSIONS = {"segattn_triton": "0.1.0", "torch": "2.13.0", "triton": "3.7.1"}
MACHINE = {"date": "2026", "device": "cuda", "gpu": {"name": "NVIDIA H200"}, "driver": "580", "packages": VERSIONS}


def timed(ms=1.0, band=0.01, status="ok", **of) -> Record:
    values = dict(ms=ms, ms_20=ms * (1 - band), ms_80=ms * (1 + band)) if status == "ok" else {}
    return Record(dataclasses.replace(POINT, **of), **values, floor_bytes=1000, status=status)


@pytest.fixture
def folder(tmp_path):
    def write(name, *records, **environment):
        out = tmp_path / name
        out.mkdir()
        (out / "environment.json").write_text(json.dumps(MACHINE | environment))
        for r in records:
            append(out / "records.jsonl", r)
        return out

    return write


@pytest.mark.parametrize(
    ("new", "slower"),
    [
        (timed(1.04), False),  # within the threshold
        (timed(1.2), True),
        (timed(1.2, band=0.3), False),  # within the noise
        (timed(0.8), False),
        (timed(status="failed: wrong"), True),
        (timed(status="skipped: no memory"), None),  # not measured
    ],
)
def test_slower_is_beyond_threshold_and_noise(folder, new, slower):
    base, other = folder("base", timed(), timed(C=32)), folder("new", new, timed(C=32))
    text, found = compare.compare(base, other, 0.05)
    assert found == bool(slower)
    assert ("### Slower" in text) == bool(slower) and ("### Faster" in text) == (new.ms == 0.8)
    assert f"of {1 + (slower is not None)} points slower" in text


def test_rivals_do_not_decide(folder):
    base = folder("base", timed(), timed(provider="eager"))
    new = folder("new", timed(), timed(1.5, provider="eager"))
    text, slower = compare.compare(base, new, 0.05)
    assert not slower and "1.500 times as long" in text


def test_predictions_and_checks_are_no_times(folder):
    base, new = (folder(n, timed(t, timer="predicted"), timed(t, timer="check")) for n, t in (("a", 1.0), ("b", 2.0)))
    with pytest.raises(Usage, match="have no timed point of ours in common"):
        compare.compare(base, new, 0.05)


def test_the_package_may_differ(folder):
    base, new = folder("a", timed()), folder("b", timed(), packages={**VERSIONS, "segattn_triton": "0.2.0"})
    assert not compare.compare(base, new, 0.05)[1]
    with pytest.raises(Usage, match=r"--merge: .*b: measured with segattn_triton 0\.2\.0, the other with 0\.1\.0"):
        compare.merge([base, new], base.parent / "out")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"gpu": {"name": "NVIDIA L4"}}, "GPU NVIDIA L4"),
        ({"driver": "570"}, "driver 570"),
        ({"packages": {**VERSIONS, "torch": "2.11.0"}}, "torch 2.11.0"),
        ({"packages": {**VERSIONS, "triton": "3.6.0"}}, "triton 3.6.0"),
        ({"device": "cpu"}, "device cpu"),
    ],
)
def test_other_machines_are_refused(folder, change, named):
    base, new = folder("base", timed()), folder("new", timed(), **change)
    for run in (lambda: compare.compare(base, new, 0.05), lambda: compare.merge([base, new], base.parent / "out")):
        with pytest.raises(Usage, match=f"measured with {named}, the other with"):
            run()


def command(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_command(folder):
    base, new = folder("base", timed()), folder("new", timed(1.2))
    assert command("compare", base, base).exit_code == 0
    done = command("compare", base, new)
    assert done.exit_code == 1 and "| 1 | 1.2 | 1.200 |" in done.stdout and done.stdout.startswith("## 1 of 1")
    assert command("compare", base, new, "--threshold", "25%").exit_code == 0


def test_wrong_usage_is_one_line(folder, tmp_path):
    base, empty = folder("base", timed()), folder("empty")
    corrupt = folder("corrupt", timed())
    (corrupt / "environment.json").write_text("{")
    for arguments, wanted in (
        (["compare", base, tmp_path / "none"], "NEW: "),
        (["compare", empty, base], "BASE: "),
        (["compare", base, corrupt], "NEW: "),
        (["compare", base, base, "--threshold", "lots"], "--threshold: got 'lots', expected a percentage"),
        (["compare", base, base, "--threshold", "-1%"], "--threshold: got '-1%'"),
        (["report", "--merge", "--out", tmp_path / "m"], "--merge: got no folder"),
        (["report", "--merge", base, "--out", base], "--out: "),
        (["report", base, "--out", tmp_path / "m"], "FOLDERS: got "),
        (["report", "--mode", "launch", "--cpu", "--out", tmp_path / "m"], "--mode: got launch"),
    ):
        done = command(*arguments)
        assert done.exit_code == 2 and done.stderr.startswith(f"segattn: {wanted}"), (arguments, done.output)
        assert len(done.stderr.strip().splitlines()) == 1


def test_merge_joins_partial_runs(folder, tmp_path):
    first = folder("a", timed(1.0), timed(2.0, C=32), timed(status="failed: x", C=16))
    second = folder("b", timed(1.5), timed(status="failed: lost", C=32), timed(3.0, C=16), timed(4.0, C=8))
    (first / "autotune.json").write_text("[]")
    (second / "autotune.json").write_text("{")
    for part, left_out in ((first, {"eager": 3, "compile": 1}), (second, {"eager": 2})):
        path = part / "environment.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"left_out": left_out}))
    out = tmp_path / "joined"
    done = command("report", "--merge", first, second, "--out", out)
    assert done.exit_code == 0, done.output
    assert (
        "5 × eager: left out for lack of time, in the reports that this joins together"
        in (out / "index.html").read_text()
    )
    assert {r.point.C: (r.ms, r.status) for r in load(out / "records.jsonl")} == {
        64: (1.5, "ok"), 32: (2.0, "ok"), 16: (3.0, "ok"), 8: (4.0, "ok"),
    }  # fmt: skip
    assert (out / "index.html").exists()
    assert len(json.loads((out / "environment.json").read_text())["merged_from"]) == 2
    assert len(list(load(first / "records.jsonl"))) == 3
