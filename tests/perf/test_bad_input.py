"""What is wrong with the input is said in one line, and costs nothing that was there before."""

import errno
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from made_up import copies, record, sweep, whole_model, write
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from segattn_triton.perf import folder, records
from segattn_triton.perf.commands import main
from segattn_triton.perf.measure import env
from segattn_triton.perf.measure.backends import Cpu
from segattn_triton.perf.options import Failure, Options, readable_image
from segattn_triton.perf.report import job, render
from segattn_triton.perf.report.render import your_model

WAYS = {"report": [], "models": ["--models"], "train": ["--train"], "model": ["--model", "a:b", "--input", "1x1x1x1"]}
BELOW_A_FILE = "/dev/null/report"


def refused(*arguments: str, code: int = 2) -> str:
    """The line in which a command says what is wrong."""
    done = CliRunner().invoke(main, arguments)
    lines = done.stderr.strip().splitlines()
    assert done.exit_code == code and len(lines) == 1, (arguments, done.exit_code, done.output, done.exception)
    assert lines[0].startswith("segattn: ")
    return lines[0]


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "-inf"])
@pytest.mark.parametrize("way", [*WAYS, "tune"])
def test_no_time(way, budget, tmp_path):
    command = ["tune"] if way == "tune" else ["report", "--cpu", *WAYS[way]]
    said = refused(*command, "--budget", budget, "--out", str(tmp_path / "new"))
    assert said.startswith(f"segattn: --budget: got {float(budget):g}") and "expected" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("option", [["--steps", "3"], ["--seeds", "3"], ["--side", "32"], ["--data", "x"]])
def test_options_of_a_training_are_not_passed_over(option):
    assert refused("report", "--cpu", *option).endswith("without --train, expected none")


@pytest.mark.parametrize("arguments", [["report", "--budget", "x"], ["reprt"], ["report", "--nothing"], ["tune", "x"]])
def test_what_cannot_be_parsed(arguments):
    """By the console script itself, whose parser has words of its own."""
    done = subprocess.run([sys.executable, "-m", "segattn_triton.perf", *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("segattn: ")


@pytest.mark.parametrize(
    "command", [["report", "--cpu"], ["report", "--merge", "."], ["show", "--side", "32", "--names", "pixels"]]
)
def test_folders_that_cannot_be_written(command, tmp_path, monkeypatch):
    monkeypatch.setattr("segattn_triton.perf.portrait.TRAINING_STEPS", 1)
    assert "cannot write" in refused(*command, "--out", BELOW_A_FILE + "/a.png")


def test_a_page_that_cannot_be_written_costs_no_record(tmp_path):
    out = write(tmp_path, [record(timer="cpu")], env.collect() | {"device": "cpu"})
    kept = (out / "records.jsonl").read_bytes()
    (out / "index.html").mkdir()
    report = job.ReportRun(Options(out=out, resume=True).checked(), Cpu(), Console(quiet=True))
    with pytest.raises(Failure, match=r"no page could be made, .*records.jsonl holds what was measured: IsADirectory"):
        report.finish()
    assert (out / "records.jsonl").read_bytes() == kept


def test_an_error_of_the_system_is_a_line(monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "plots"))

    write(tmp_path, [record()], env.collect() | {"device": "cpu", "gpu": None})
    monkeypatch.setattr(render, "render", full)
    said = refused("report", "--merge", str(tmp_path), "--out", str(tmp_path / "out"), code=1)
    assert said == f"segattn: {tmp_path / 'plots'}: No space left on device"


def test_a_folder_of_another_version(tmp_path):
    """Neither read as empty nor written upon: other forms are refused, and a new report sets them aside."""
    newer = json.loads(json.dumps({"point": {"op": "x", "unknown": 1}, "schema": records.RECORD_SCHEMA + 1}))
    out = write(tmp_path / "newer", [], env.collect() | {"device": "cpu"})
    (out / "records.jsonl").write_text(json.dumps(newer) + "\n")
    kept = (out / "records.jsonl").read_bytes()
    wanted = (
        f"is of another version: its records have form {records.RECORD_SCHEMA + 1}, expected {records.RECORD_SCHEMA}"
    )
    for arguments in (
        ["report", "--cpu", "--resume", "--out", str(out)],
        ["compare", str(out), str(out)],
        ["report", "--merge", str(out), "--out", str(tmp_path / "merged")],
    ):
        assert wanted in refused(*arguments)
        assert (out / "records.jsonl").read_bytes() == kept
    folder.Folder(out, env.collect() | {"device": "cpu"}, resume=False)
    assert (out / "records-1.jsonl").read_bytes() == kept and not (out / "records.jsonl").exists()


def test_logs_of_another_version_have_a_page(tmp_path):
    """What cannot be read is passed over, and nothing of it is touched."""
    (tmp_path / "models.jsonl").write_text(
        json.dumps({"model": "m", "mode": "training", "provider": "eager", "N": 1, "H": 2, "W": 3, "status": "ok"})
        + "\n"
        + json.dumps(whole_model("training", "eager"))
        + "\n"
    )
    (tmp_path / "training.jsonl").write_text('{"variant": "plain", "dtype": "float32", "seed": 0}\n')
    (tmp_path / "model.json").write_text('{"variants": {"eager": {"ms": 3}}, "environment": {}, "form": 9}')
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    text = render.render(tmp_path).read_text()
    assert "eager" in text and your_model.load(tmp_path) is None
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


EVIL = "<script>x</script> <b>&\"' [red]r[/red] [/] $a_{1$ %s {{ 7 * 7 }} | ` \u202e"


def test_names_with_html_in_them(tmp_path):
    """In every name that a report takes from outside: shown as they are, on the page, in the plots, on a terminal."""
    made = [*copies(), *sweep(op=EVIL, channels=(32,), sides=(64, 128)), *sweep(channels=(32,), sides=(64, 128))]
    broken = record(op=EVIL, provider="eager", C=1)
    made.append(type(broken)(broken.point, status=f"failed: {EVIL}"))
    about = {
        "gpu": {"name": EVIL},
        "device": EVIL,
        "left_out": {EVIL: 3},
        "date": EVIL,
        EVIL: EVIL,
        "method": {EVIL: 1},
    }
    out = write(tmp_path / "<b>out", made, about)
    np.savez(out / "maps.npz", photo=np.zeros((8, 9, 3), np.uint8), **{"<b>a": np.eye(8)})
    settings = {"settings": {"models": [EVIL], "sizes": [[8, 512, 512]], "layout": EVIL, "dtype": EVIL}}
    (out / "models.jsonl").write_text(
        "".join(json.dumps(whole_model("training", p, model=EVIL)) + "\n" for p in ("eager", "accelerated"))
    )
    (out / "models.json").write_text(json.dumps(settings))
    (out / "training.json").write_text(json.dumps({"settings": {"seeds": 1, "data": f"/a/{EVIL}", "encoder": EVIL}}))
    console = Console(width=4000, file=io.StringIO(), highlight=False)
    html = render.render_and_print(out, console).read_text(encoding="utf-8")
    console.print(render.terminal_table(records.load(out / "records.jsonl")))
    assert "<script>" not in html and "<b>" not in html and "{{ 7 * 7 }}" in html
    assert html.count("&lt;script&gt;x") > 5
    said = console.file.getvalue()
    assert "[red]r[/red] [/]" in said and "<script>x</script>" in said
    assert [*(out / "plots").glob("*script*.svg")]


@pytest.mark.parametrize("kind", ["text", "folder", "empty", "cut", "bomb"])
@pytest.mark.parametrize("command", [["report", "--cpu"], ["show"]])
def test_an_image_that_is_none(kind, command, tmp_path, monkeypatch):
    path = tmp_path / "image.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind in ("cut", "bomb"):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(file, "JPEG")
        path.write_bytes(file.getvalue()[: 700 if kind == "cut" else None])
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000 if kind == "bomb" else None)
    else:
        path.write_text("no image\n" * (kind == "text"))
    said = refused(*command, "--image", str(path), "--out", str(tmp_path / "out"))
    assert said.startswith(f"segattn: --image: cannot read {path}: ") and "expected an image" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "mode, size", [("L", (1, 1)), ("RGBA", (500, 1)), ("P", (3, 40)), ("I;16", (9, 9)), ("1", (8, 8))]
)
def test_any_image_is_taken(mode, size, tmp_path):
    path = tmp_path / "image.png"
    Image.new(mode, size).save(path)
    report = job.ReportRun(Options(image=readable_image(path), out=tmp_path).checked(), Cpu(), Console(quiet=True))
    report._maps()
    with np.load(tmp_path / "maps.npz") as maps:
        assert all(np.isfinite(maps[name]).all() for name in maps)
