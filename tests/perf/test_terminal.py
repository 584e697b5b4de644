"""What a terminal of 80 columns shows: every table whole, and how far long work is."""

import importlib.util
import io
import itertools
import stat
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from made_up import copies, sweep, whole_model
from rich.console import Console

from segattn_triton.catalog import ROWS, Problem
from segattn_triton.perf import estimate
from segattn_triton.perf.compiler import kernels, spaces
from segattn_triton.perf.measure import check
from segattn_triton.perf.models import known
from segattn_triton.perf.report.render import terminal_table, whole
from segattn_triton.perf.terminal import Progress, TableRow, listing

ROOT = Path(__file__).parents[2]


def text_of(printed, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(printed)
    return console.file.getvalue()


def report():
    return terminal_table([*copies(), *(r for row in ROWS for r in sweep(row.name, channels=(512,), sides=(2048,)))])


def checks():
    cases = [Problem(row.name, d, "channels_last", 2, 5, (19, 128, 130)) for row in ROWS for d in check.CHECKED_DTYPES]
    return check.table([check.Outcome(c, 0.99, "drel_bias", "") for c in cases], gpu=True)


def models():
    rows = [
        whole_model(mode, p, model=name, N=16, H=1024, W=2048)
        for name, mode, p in itertools.product(known.MODELS, whole.MODEL_MODES, whole.WAYS)
    ]
    return _section(whole.MODELS_HEAD, whole.models_lines(rows), 2)


def training():
    runs = [
        dict(variant=v, dtype=d, seed=s, status="ok", loss=0.3 + s, val_loss=0.2, miou=0.5)
        for v, d, s in itertools.product(whole.VARIANT_LABELS, whole.TRAINED_DTYPES, (0, 1))
    ]
    return _section(whole.TRAINING_HEAD, [line.cells for line in whole.training_lines(runs)], 1)


def _section(head, body, keys):
    return listing("title", head[keys:], {", ".join(row[:keys]): [TableRow(row[keys:])] for row in body})


def compiled():
    what = ["  neighborhood_split_bwd", "BLOCK64 HEADS2 w4 s1 mma.m16n8k16"]
    rows = [TableRow([*what, "255", "1200", "101376", "100%", "16", "248.24", "120", "1754", "0.33", "latency"])]
    return listing("Kernels", kernels.HEAD, {"neighborhood_attention, NCHW": rows}, left=(0, 1))


def choices():
    row = TableRow(
        ["  neighborhood_fwd", "128", "120", "8", "C2 P4096 w4 s1", "336", "C16 P1024 w8 s3", "311", "latency", "1.08"]
    )
    return listing("Choices", spaces.HEAD, {"scse, smp-unet-scse-d3, NCHW": [row]}, left=(0, 4, 6))


@pytest.mark.parametrize("made", [report, checks, models, training, compiled, choices], ids=lambda made: made.__name__)
def test_tables_fit_80_columns_with_every_word_whole(made):
    """Nothing is wrapped, cut or broken that a wide terminal shows in one piece."""
    narrow, wide = text_of(made()), text_of(made(), 400)
    assert max(map(len, narrow.splitlines())) <= 80
    assert sorted(narrow.split()) == sorted(wide.split())


def test_markup_is_text_and_empty_columns_are_none():
    text = text_of(listing("[b]t", ("", "a", "empty"), {"[red]g": [TableRow(["[/]", "1", "–"])]}))
    assert "[b]t" in text and "[red]g" in text and "[/]" in text and "empty" not in text


def test_a_word_that_is_too_long_is_folded():
    text = text_of(listing("", ("", "a"), {"g": [TableRow(["x" * 200, "1"])]}))
    assert text.count("x") == 200 and max(map(len, text.splitlines())) <= 80


def test_progress_says_how_long_it_will_take():
    clock, stream = itertools.count(0.0, 7.0), io.StringIO()  # every look takes seven seconds
    pieces = list(Progress("pieces", 4, stream, now=lambda: next(clock)).of("abcd"))
    assert pieces == list("abcd")
    first, *_ = stream.getvalue().splitlines()
    assert first.startswith("pieces: 1 of 4, about ") and first.endswith("s left")


def test_short_work_says_nothing_where_there_is_no_terminal():
    stream = io.StringIO()
    assert list(Progress("pieces", 3, stream).of("abc")) == list("abc") and not stream.getvalue()


@pytest.mark.parametrize("elapsed, done, total, said", [
    (0, 0, 9, ""), (10, 1, 3, ", about 20 s left"), (60, 1, 11, ", about 10 min left"), (5, 5, 5, ""),
])  # fmt: skip
def test_estimates(elapsed, done, total, said):
    assert estimate.left(elapsed, done, total) == said


@pytest.fixture
def bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake(folder: Path, script: str) -> Path:
    """An interpreter that does what a shell script does."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_an_installation_says_what_it_is_at(bootstrap, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bootstrap, "SILENCE", 0.2)
    script = (
        "echo 'Collecting torch'; echo 'Downloading torch.whl (900 MB)'; sleep 1; echo 'Downloading a.metadata (1 kB)'"
    )
    bootstrap.pip(fake(tmp_path, f"{script}; echo 'Installing collected packages: a, b, c'"), "torch")
    said = capsys.readouterr().err
    assert "Downloading torch.whl (900 MB)" in said and "still at: Downloading torch.whl" in said
    assert "Installing collected packages: 3" in said and ".metadata" not in said


def test_an_installation_that_fails_says_why(bootstrap, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"install .* torch failed"):
        bootstrap.pip(fake(tmp_path, "echo 'ERROR: No matching distribution'; exit 1"), "torch")
    assert "ERROR: No matching distribution" in capsys.readouterr().err
