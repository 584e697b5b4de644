"""Tables about whole models, from OUT/training.jsonl and OUT/models.jsonl: for terminal, page and README."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from markupsafe import Markup

from ...log import read
from . import words, your_model
from .style import inline
from .your_model import WAYS as WAYS

VARIANT_LABELS = {"without": "none", "plain": "scSE", "accelerated": "scSE, accelerated"}
TRAINED_DTYPES = ("float32", "bfloat16")  # that a training is done in
MODEL_MODES = ("training", "inference", "latency")  # that a model is timed in
TRAINING_HEAD = ("dtype", "gates", "seeds", "training loss", "validation loss", "mIoU", "inside the seed-to-seed band")
MODELS_HEAD = (
    "model", "mode", "N×H×W", "how", "images/s", "times eager", "p50, ms", "p99, ms", "peak memory", "of eager's",
)  # fmt: skip
REPEATED_CELLS = {"training": 1, "models": 2, "model": 0}  # cells of a row that are the same in several
GATE_FIGURE = "training_gates"  # the figure of the trained gates
LEVEL = 0.05  # of the test of what the gates change
CPU_TRAINING = "On a CPU accelerated gates run the reference in pure torch: this compares models, not kernels."
CPU_MODELS = "CPU, small sizes, the gates on the reference: no GPU result, and no kernel ran."


@dataclass(frozen=True)
class TrainingLine:
    """A row of the table: mean (least to largest) over the seeds. `inside` is None but for accelerated."""

    dtype: str
    gates: str
    seeds: str
    loss: str
    val_loss: str
    miou: str
    inside: bool | None

    @property
    def cells(self) -> tuple[str, ...]:
        inside = {None: "", True: "yes", False: "**no**"}[self.inside]
        return (*astuple(self)[:-1], inside)


def training_lines(records: Iterable[Mapping[str, Any]]) -> list[TrainingLine]:
    records = [r for r in records if r["status"] == "ok"]
    lines = []
    for dtype in dict.fromkeys(r["dtype"] for r in records):
        own = {v: [r for r in records if (r["variant"], r["dtype"]) == (v, dtype)] for v in VARIANT_LABELS}
        for variant, runs in own.items():
            if runs:
                inside = _inside(own["plain"], runs) if variant == "accelerated" and len(own["plain"]) > 1 else None
                values = [_spread([r[name] for r in runs]) for name in ("loss", "val_loss", "miou")]
                lines.append(TrainingLine(words.dtype(dtype), VARIANT_LABELS[variant], str(len(runs)), *values, inside))
    return lines


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def _inside(plain: list[Mapping], accelerated: list[Mapping]) -> bool:
    """Whether the means of loss and mIoU are as close as the plain runs are to each other, from seed to seed."""
    for name in ("loss", "miou"):
        a, b = ([r[name] for r in runs] for runs in (plain, accelerated))
        if not abs(mean(a) - mean(b)) <= max(a) - min(a):
            return False
    return True


def bought(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the gates change: mIoU with them minus without, seed by seed, and whether chance alone would do as much."""
    mious: dict[int, dict[bool, list[float]]] = {}
    for r in records:
        if r["status"] == "ok":
            mious.setdefault(r["seed"], {True: [], False: []})[r["variant"] != "without"].append(r["miou"])
    gains = [mean(m[True]) - mean(m[False]) for m in mious.values() if m[True] and m[False]]
    if len(gains) < 2:
        return []
    signs = _signs(len(gains))
    p = float((abs(signs @ gains) >= abs(sum(gains)) - 1e-12).mean())
    verdict = "more than chance would do" if p <= LEVEL else "no more than chance would do"
    return [
        f"With gates minus without, mIoU changes by {mean(gains):+.3f} ({min(gains):+.3f} to {max(gains):+.3f} over "
        f"{len(gains)} seeds, above zero in {sum(g > 0 for g in gains)}; each seed the mean of its runs): {verdict} "
        f"(p = {p:.2g}, the signs of the seeds' differences drawn anew)."
    ]


def _signs(count: int) -> np.ndarray:
    """All rows of `count` signs, or 4096 of them."""
    if count <= 12:
        return np.array(list(product((1, -1), repeat=count)))
    return np.random.default_rng(0).choice((1, -1), (4096, count))


def models_lines(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    records = [r for r in records if r["status"] == "ok"]
    eager = {(r["model"], r["mode"], r["N"], r["H"], r["W"]): r for r in records if r["provider"] == "eager"}
    lines = []
    for r in records:
        base = eager.get((r["model"], r["mode"], r["N"], r["H"], r["W"]))
        memory = r["peak_memory"] / base["peak_memory"] if base and r["peak_memory"] and base["peak_memory"] else None
        lines.append(
            (
                r["model"], r["mode"], f"{r['N']}×{r['H']}×{r['W']}", WAYS.get(r["provider"], r["provider"]),
                words.significant(r["images_per_second"]), _times(base, r), words.significant(r["p50_ms"]),
                words.significant(r["p99_ms"]), words.amount(r["peak_memory"]), words.percent(memory),
            )
        )  # fmt: skip
    return lines


def _times(base: Mapping[str, Any] | None, record: Mapping[str, Any]) -> str:
    """How many times faster than the base, by medians; where the 20-80 % bands overlap, a tie."""
    if base is None:
        return words.DASH
    tie = base is not record and _low(base) <= _high(record) and _low(record) <= _high(base)
    return words.TIE if tie else words.times(base["p50_ms"] / record["p50_ms"])


def _low(record: Mapping[str, Any]) -> float:
    return record.get("p20_ms") or record["p50_ms"]


def _high(record: Mapping[str, Any]) -> float:
    return record.get("p80_ms") or record["p50_ms"]


def headline(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence a model and size: speed of a training step, its peak memory, and latency at batch 1."""
    by = {(r["model"], r["H"], r["W"], r["mode"], r["provider"]): r for r in records if r["status"] == "ok"}
    lines = []
    for model, H, W in dict.fromkeys(key[:3] for key in by):
        parts = []
        for mode, (ours, base) in product(("training", "inference"), (("accelerated", "eager"), ("both", "compiled"))):
            a, b = by.get((model, H, W, mode, ours)), by.get((model, H, W, mode, base))
            if a and b:
                memory = a["peak_memory"] and b["peak_memory"] and a["peak_memory"] / b["peak_memory"]
                also = f" in {words.percent(memory)} of its peak memory" if memory else ""
                speed = _times(b, a)
                than = "as fast as (their bands overlap)" if speed == words.TIE else f"{speed} as fast as"
                parts.append(f"{mode} {WAYS[ours]} {than} {base}{also}")
        for provider, name in WAYS.items():
            r = by.get((model, H, W, "latency", provider))
            if r and r["p99_ms"]:
                p50, p99 = words.significant(r["p50_ms"]), words.significant(r["p99_ms"])
                parts.append(f"one image {name}: p50 {p50} ms, p99 {p99} ms")
        if parts:
            lines.append(f"{model}, {H}×{W}: {'; '.join(parts)}")
    return lines


def sections(out: Path) -> list[dict[str, Any]]:
    """What the page shows: title, notes, headline, head and body of each table that there are records for."""
    found = []
    for name, title, head, body in (
        ("training", "Training with the gates", TRAINING_HEAD, lambda r: [line.cells for line in training_lines(r)]),
        ("models", "Whole models", MODELS_HEAD, models_lines),
    ):
        records, settings = read(out, name), about_run(out / f"{name}.json")
        missing = left_out(name, records, settings)
        if not records and not missing:
            continue
        failed = [f"{' '.join(map(str, _who(r)))}: {r['status']}" for r in records if r["status"] != "ok"]
        svg = out / "plots" / f"{GATE_FIGURE}.svg"
        maps = Markup(inline(svg)) if name == "training" and svg.exists() else None
        lead = headline(records) if name == "models" else bought(records)
        table = dict(headline=lead, head=head, body=body(records), failed=failed, left_out=missing, maps=maps)
        found.append(dict(name=name, title=title, notes=notes(name, settings), **table))
    theirs = your_model.section(out)
    return [*found, theirs] if theirs else found


def left_out(name: str, records: Iterable[Mapping[str, Any]], about: Mapping[str, Any]) -> int:
    """Runs, or times, that the settings ask for and no record is of."""
    s = about.get("settings", {})
    if name == "training":
        wanted = len(VARIANT_LABELS) * len(TRAINED_DTYPES) * s.get("seeds", 0)
    else:
        wanted = len(s.get("models", ())) * len(s.get("sizes", ())) * len(MODEL_MODES) * len(WAYS)
    return max(0, wanted - len(list(records)))


def environment(out: Path) -> dict[str, Any]:
    """The conditions of the page where no kernel was timed."""
    theirs = your_model.load(out) or {"environment": {}}
    return next(
        filter(None, (about_run(out / f"{name}.json") for name in ("models", "training"))), theirs["environment"]
    )


def _who(record: Mapping[str, Any]) -> list:
    return [record[name] for name in ("model", "provider", "mode", "N", "H", "W", "variant", "dtype") if name in record]


def about_run(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def notes(name: str, about: Mapping[str, Any]) -> list[str]:
    """Where and how it was measured, in sentences."""
    s, gpu = about.get("settings", {}), (about.get("gpu") or {}).get("name")
    on_cpu = about.get("device") == "cpu" or not gpu
    where = about.get("cpu", {}).get("name", "a CPU") if on_cpu else gpu
    said = [f"Measured on {where}, torch {about.get('packages', {}).get('torch', '?')}, {about.get('date', '?')[:10]}."]
    if name == "training":
        data = Path(s["data"]).name if s.get("data") else "synthetic shapes"
        said.append(
            f"U-Net with {s.get('encoder')} from random weights on {data}: {s.get('steps')} steps of {s.get('batch')} "
            f"crops of {s.get('side')} x {s.get('side')}. Training loss is that of the last tenth of the steps; mean "
            "(least–largest) over the seeds."
        )
        return [*said, CPU_TRAINING] if on_cpu else said
    said.append(f"{words.dtype(s.get('dtype', ''))}, {s.get('layout')}. Times eager by medians of the same run.")
    return [*said, CPU_MODELS] if on_cpu else said
