"""The page of a report, its plots, CSV and terminal table, from records that are made up."""

import csv
import dataclasses
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("rich")

from made_up import copies, point, record, sweep, write
from matplotlib.text import Text
from pictures import collisions
from rich.console import Console

from segattn_triton.catalog import ROWS
from segattn_triton.perf import records
from segattn_triton.perf.records import Record
from segattn_triton.perf.report.render import (
    figures,
    frame,
    page,
    plots,
    render,
    sheet,
    style,
    tables,
    terminal_table,
    words,
)

NO_GPU = "No GPU: predictions from machine code and CPU timings only"


def text_of(table) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


class Strict(HTMLParser):
    """Collects the addresses of a page and checks that its tags close."""

    VOID = ("meta", "br", "path", "use", "rect", "image", "link")

    def __init__(self, html: str):
        super().__init__()
        self.open, self.addresses, self.ids = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.addresses += [named[k] for k in ("src", "href", "xlink:href") if named.get(k)]
        self.ids += [named["id"]] if "id" in named else []
        assert tag != "script"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.open.append(tag)
        self.handle_starttag("path", attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def gpu_run(tmp_path_factory) -> Path:
    kernels = [
        {"name": "k_fwd", "blocks": {"BLOCK_P": 64}, "num_warps": 4, "registers": 96, "spills": 7, "shared": 512}
    ]
    failed = dataclasses.replace(record(provider="eager", C=128), ms=None, status="failed: out of memory <32 GB>")
    made_up = dataclasses.replace(record(0.5, timer="predicted"), extra={"kernels": kernels, "bandwidth": 1e12})
    checked = dataclasses.replace(record(timer="check", mode="check"), ms=None, error=None, extra={"budget_used": 0.61})
    unknown = [record(1.0 if p == "segattn" else 0.5, op="no_such_op", provider=p) for p in ("segattn", "eager")]
    photo = record(inputs="photo")
    out = tmp_path_factory.mktemp("report") / "run"
    write(
        out,
        [*copies(), *sweep(), *unknown, failed, made_up, checked, photo],
        {"gpu": {"name": "Imaginary GPU"}, "date": "today", "left_out": {"compile": 12}, "method": {"cache": "cold"}},
    )
    np.savez(
        out / "maps.npz", photo=np.zeros((8, 9, 3), np.uint8), spatial_gate=np.eye(8), channel_gate=np.arange(5) / 5
    )
    assert render(out) == out / "index.html"
    return out


def test_page_stands_alone(gpu_run):
    html = (gpu_run / "index.html").read_text(encoding="utf-8")
    found = Strict(html)
    assert all(a.startswith(("#", "data:")) for a in found.addresses)
    assert not re.search(r"url\((?!#)", html)
    assert len(found.ids) == len(set(found.ids))
    assert {a[1:] for a in found.addresses if a.startswith("#")} <= set(found.ids)


def test_page_says_what_was_found(gpu_run):
    html = (gpu_run / "index.html").read_text(encoding="utf-8")
    assert "On Imaginary GPU: 27 points timed; ours the fastest at 6 of 7 compared" in html
    assert "at worst 0.500× the speed of the fastest rival: no_such_op" in html
    assert "eager wins" in html
    assert "out of memory &lt;32 GB&gt;" in html  # escaped
    assert "12 × compiled: left out for lack of time" in html
    assert "photograph" in html and "k_fwd" in html and "P 64, 4 warps" in html and "61 %" in html
    assert NO_GPU not in html


def test_figures_come_as_png_and_svg(gpu_run):
    names = {p.name for p in (gpu_run / "plots").iterdir()}
    stem = "spatial_gate_fwd_bfloat16_contiguous_events"
    expected = {f"{stem}_{kind}" for kind in ("gbps", "mpixels", "speedup")} | {"gate_maps", "sheet"}
    expected |= {f"spatial_gate_bfloat16_contiguous_{kind}" for kind in ("memory", "error")}
    assert {f"{e}.{end}" for e in expected for end in ("png", "svg")} <= names
    svg = (gpu_run / "plots" / f"{stem}_gbps.svg").read_text()
    for text in ("C = 32, N = 8", "copy 1000", "launch-bound", "pixels a side, H = W", "best compiled", "predicted"):
        assert f"{text}</text>" in svg, text


def test_words_of_figures_lie_apart(gpu_run):
    """And inside; in the gate maps with what the catalog says of every op, uncut."""
    ties = [dataclasses.replace(r, ms_80=9 * r.ms) for r in sweep(op="eca", sides=(64, 256))]
    df = frame.from_records([*records.load(gpu_run / "records.jsonl"), *ties, *sweep(op="scse", timer="cpu")])
    for job in figures.jobs(df):
        if (figure := job.draw()) is not None:
            assert not collisions(figure), job.caption
            style.plt.close(figure)
    square, one_a_channel = np.eye(64), np.arange(32) / 32
    maps = {row.name: square if row.outputs[[*row.outputs][1]] != "N C" else one_a_channel for row in ROWS}
    figure = figures.gate_maps({"photo": np.zeros((64, 64, 3), np.uint8)} | maps)
    assert not collisions(figure)
    said = " ".join(" ".join(t.get_text() for t in figure.findobj(Text)).split())
    assert all(row.attends_to in said for row in ROWS)
    scales = [scale for ax in figure.axes for scale in ax.child_axes]
    assert len(scales) == sum(value is square for value in maps.values())
    assert all(ax.get_ylabel() in figures.UNITS for ax in scales)
    style.plt.close(figure)


def test_a_tie_has_no_colour():
    made = [
        *copies(),
        record(1.0),
        dataclasses.replace(record(2.0, provider="eager"), ms_20=1e-6),
        *sweep(sides=(512,)),
    ]
    group = dict(op="spatial_gate", mode="fwd", dtype="bfloat16", layout="contiguous", timer="events")
    figure = plots.speedup(group, frame.results(frame.from_records(made)))
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts.count("tie") == 1
    scale = figure.axes[0].collections[0].get_array()
    assert [value == 0 for value in scale.compressed()].count(True) == 1
    style.plt.close(figure)


def test_the_sheet_shows_what_was_measured():
    """A panel for each op with a curve, of the points' own ratios, rings where bands overlap; and its conditions."""
    tied = [dataclasses.replace(r, ms_80=9 * r.ms) if r.point.H == 64 else r for r in sweep(op="eca")]
    made = [*copies(), *sweep(), *tied, *sweep(op="scse", sides=(64,)), record(op="local_gate", timer="predicted")]
    df = frame.from_records(made)
    figure = sheet.sheet(df, ["GPU Imaginary"])
    assert not collisions(figure)
    shown = {ax.get_title("left"): ax for ax in figure.axes if ax.get_title("left")}
    assert set(shown) == {"spatial_gate", "eca"}  # of two sides at least, and no prediction
    said = [t.get_text() for t in figure.texts]
    assert "GPU Imaginary; bf16 NCHW, N = 8, C = 64" in said and "times faster: segattn_triton" in said
    for op, ax in shown.items():
        own = frame.results(df)[lambda d, op=op: (d.op == op) & (d.provider == "segattn") & (d.C == 64)]
        for rival in ("eager", "compile-best"):
            line = next(
                ln for ln in ax.lines if ln.get_color() == style.look(rival)["color"] and ln.get_linestyle() == "-"
            )
            assert list(line.get_ydata()) == list(own.sort_values("side")[f"times_{rival}"])
        rings = sum(len(ln.get_xdata()) for ln in ax.lines if ln.get_markerfacecolor() == "white")
        assert rings == (2 if op == "eca" else 0)
    style.plt.close(figure)
    assert sheet.sheet(frame.from_records([record(timer="predicted")]), []) is None


def test_the_sheet_of_a_cpu_is_no_kernels():
    made = [
        dataclasses.replace(r, point=dataclasses.replace(r.point, provider="reference"))
        for r in sweep(timer="cpu")
        if r.point.provider == "segattn"
    ]
    figure = sheet.sheet(
        frame.from_records([*made, *(r for r in sweep(timer="cpu") if r.point.provider == "eager")]), []
    )
    assert any("no kernel of ours" in t.get_text() for t in figure.texts)
    style.plt.close(figure)


def test_no_text_is_a_formula(gpu_run):
    """Math in names is off, so that none may come from an axis."""
    for svg in (gpu_run / "plots").glob("*.svg"):
        assert not re.search(r">[^<]*\\\w+\{", svg.read_text()), svg.name


def test_csv_has_every_column(gpu_run):
    with (gpu_run / "records.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len((gpu_run / "records.jsonl").read_text().splitlines())
    assert {*frame.POINT, *frame.VALUES, "gbps", "gbps_20", "gbps_80", "mpixels", "times_eager", "share"} <= set(
        rows[0]
    )
    one = next(r for r in rows if r["provider"] == "segattn" and r["C"] == "64" and r["H"] == "256")
    assert float(one["ms_20"]) < float(one["ms"]) < float(one["ms_80"])
    assert float(one["gbps_20"]) < float(one["gbps"]) < float(one["gbps_80"])


def test_ratios_are_right():
    df = frame.from_records([*copies(), record(1.25), record(2.5, provider="eager"), record(1.0, provider="compile")])
    own = df[df.provider == "segattn"].iloc[0]
    assert own.gbps == pytest.approx(800) and own.share == pytest.approx(0.8)
    assert own.mpixels == pytest.approx(8 * 256 * 256 / 1e3 / own.ms)
    assert own.times_eager == pytest.approx(2.0) and own.times_compile == pytest.approx(0.8)
    assert own.fastest == ("compile",) and own.outcome == "lost" and own.times_fastest == pytest.approx(0.8)
    assert tables.comparison(df).won == 0


def test_copy_ceiling_is_interpolated_over_sizes():
    points = [(1e6, 100.0), (1e8, 400.0)]
    made = [
        dataclasses.replace(record(op="copy", provider="copy", side=i + 1), ms=b / g / 1e6, floor_bytes=int(b))
        for i, (b, g) in enumerate(points)
    ]
    ceiling = frame.ceiling(frame.from_records(made), "events")
    assert 1e7 / ceiling.ms(1e7) / 1e6 == pytest.approx(200)  # half-way, both logarithms
    assert 1e9 / ceiling.ms(1e9) / 1e6 == pytest.approx(400)
    assert np.isnan(ceiling.ms(0)) and ceiling.peak == 400


def test_latest_record_of_a_point_wins():
    failed = dataclasses.replace(record(), status="failed: x")
    df = frame.from_records([record(2.0), record(4.0)])
    assert len(df) == 1 and df.gbps[0] == pytest.approx(250)
    assert np.isnan(frame.from_records([record(), failed]).ms[0])


def test_predictions_are_never_results(tmp_path):
    predicted = [record(0.1, timer="predicted", C=C, side=s) for C in (32, 64) for s in (64, 128)]
    made = [*copies("cpu"), *copies("predicted"), *predicted, record(9, provider="reference", timer="cpu")]
    df = frame.from_records(made)
    assert not frame.results(df).predicted.any() and len(frame.predictions(df)) == 4
    chosen = frame.predictions(df)
    assert chosen[[c for c in df if c.startswith("times_")]].isna().all(axis=None)
    assert chosen.share.isna().all() and chosen.fastest.isna().all()
    assert [line.provider for line in tables.lines(df, tables.bulk_timers(df))] == ["reference"]
    assert frame.roofline(df, "predicted").predicted and not frame.roofline(df, "cpu").predicted
    group = dict(op="spatial_gate", mode="fwd", dtype="bfloat16", layout="contiguous", timer="predicted")
    figure = plots.throughput(group, chosen, frame.roofline(df, "predicted"), "gbps")
    assert {line.get_linestyle() for ax in figure.axes for line in ax.lines} == {"--"}
    style.plt.close(figure)
    html = render(write(tmp_path / "cpu", made))
    assert NO_GPU in html.read_text(encoding="utf-8")


def test_a_measured_ceiling_is_never_replaced_by_a_predicted_one():
    df = frame.from_records([*copies("predicted"), record()])
    assert np.isnan(df.share).all() and frame.roofline(df, "events").predicted


def test_matrix_rate_bounds_what_copies_do_not():
    rate = Record(point("matmul", "matmul", C=1024, side=1024), 1.0, flops=10**12)
    heavy = dataclasses.replace(record(), flops=10**13)
    line = tables.lines(frame.from_records([*copies(), rate, heavy]), ["events"])[0]
    assert line.share.endswith("mm")


def nan_times():
    return [*copies(), dataclasses.replace(record(), ms=math.nan, error=math.nan), record(provider="eager")]


STRANGE = {
    "empty": [],
    "only-failed": [dataclasses.replace(record(), ms=None, status="failed: a <b> & c")],
    "one-point": [record()],
    "no-copy": sweep(channels=(32,), sides=(64, 128)),
    "only-copy": copies(),
    "no-rivals": [*copies(), record(), record(side=512)],
    "only-rivals": [*copies(), record(provider="eager"), record(provider="other library")],
    "unknown-op": [
        *copies(),
        record(op="U-Net / step: 1", provider="segattn-library"),
        record(op="x", mode="step"),
    ],
    "nan": nan_times(),
    "zero-sizes": [*copies(), record(N=0), record(side=0), dataclasses.replace(record(C=2), floor_bytes=0, flops=0)],
    "no-quantiles": [*copies(), Record(point(), 1.0, floor_bytes=10**6)],
    "launch-only": [record(timer="launch"), record(provider="eager", timer="launch")],
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.filterwarnings("error")
def test_strange_runs_have_a_page(name, tmp_path):
    out = write(tmp_path / "out", STRANGE[name])
    html = render(out).read_text(encoding="utf-8")
    Strict(html)
    assert "nan" not in re.sub(r"<[^>]*>", " ", html).lower().split()
    assert (out / "records.csv").exists()
    assert text_of(terminal_table(STRANGE[name]))


def test_damaged_files_are_passed_over(tmp_path):
    out = write(tmp_path / "out", [record()])
    with (out / "records.jsonl").open("a") as file:
        file.write('{"point": {"op": "spa')
    (out / "environment.json").write_text("{")
    (out / "maps.npz").write_bytes(b"PK")
    assert "1 point timed" in render(out).read_text(encoding="utf-8")


def test_nothing_at_all_has_a_page(tmp_path):
    assert "Nothing was timed" in render(tmp_path).read_text(encoding="utf-8")


def test_rehearsals_say_so():
    df = frame.from_records([*copies(), *sweep(sides=(256,))])
    html = page.build(df, {"device": page.REHEARSAL, "gpu": None}, [], None)
    assert "the times are made up" in html and "On a GPU that is made up" in html


def test_terminal_table_fits_100_columns():
    made = [*copies(), *(r for row in ROWS for r in sweep(row.name, channels=(512,), sides=(2048,)))]
    text = text_of(terminal_table(made))
    assert max(map(len, text.splitlines())) <= 100
    assert all(row.name in text for row in ROWS) and "8×512×2048×2048" in text and "79 %" in text


@pytest.fixture
def two_processes(monkeypatch) -> list[int]:
    """Drawn by two processes, if only just worth it; the shares that this one draws."""
    shares, draw_share = [], figures.draw_share
    monkeypatch.setattr(figures, "PER_PROCESS", 3)
    monkeypatch.setattr(figures.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(figures, "draw_share", lambda *args: (shares.append(args[2]), draw_share(*args)))
    return shares


def test_another_process_draws_its_share(two_processes, tmp_path):
    drawn = figures.draw(frame.from_records([record()]), write(tmp_path, [record()]))
    assert [job.name.split("_")[-1] for job, _ in drawn] == ["gbps", "mpixels", "memory", "error"]
    assert two_processes == [0]


def test_a_share_that_another_process_failed_at_is_drawn_here(two_processes, tmp_path, monkeypatch):
    monkeypatch.setattr(figures.sys, "executable", "false")
    assert len(figures.draw(frame.from_records([record()]), tmp_path)) == 4
    assert two_processes == [0, 1]


@pytest.mark.parametrize(
    ("value", "text"), [(0.04213, "0.0421"), (1234.5, "1234"), (1.0, "1.00"), (0, "0"), (math.nan, "–"), (None, "–")]
)
def test_numbers_have_three_digits(value, text):
    assert words.significant(value) == text
