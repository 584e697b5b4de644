"""Folders of reports of every kind, that no machine ever made: what a page can be of."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from made_up import copies, record, sweep, whole_model, write

from segattn_triton.perf.measure import timing
from segattn_triton.perf.report.render import whole

GPU, CPU = {"device": "Imaginary GPU", "gpu": {"name": "Imaginary GPU"}}, {"device": "cpu", "gpu": None}
CPU |= {"cuda": None, "driver": None, "cudnn": None, "tf32": {"matmul": False}, "cpu": {"name": "Imaginary CPU"}}


def banded(slower: float, low: float, high: float, **of):
    r = record(slower, **of)
    return dataclasses.replace(r, ms_20=low * r.ms, ms_80=high * r.ms)


def environment(of: dict, gpu: bool, **values) -> dict:
    return of | {"method": timing.method(gpu, launch=False), "date": "today", "finished": "today"} | values


TIES = [  # ours beside rivals: apart from all, below one, within one's band, and of a band that holds them all
    *(banded(1.0, 0.9, 1.1, side=64), banded(2.0, 0.9, 1.1, side=64, provider="eager")),
    *(banded(2.0, 0.9, 1.1, side=128), banded(1.0, 0.9, 1.1, side=128, provider="eager")),
    *(banded(2.0, 0.9, 1.1, side=256), banded(1.9, 0.9, 1.1, side=256, provider="eager")),
    *(banded(1.0, 0.7, 40, side=512), banded(2.0, 0.9, 1.1, side=512, provider="eager")),
    banded(3.0, 0.9, 1.1, side=512, provider="compile"),
]
FAILED = dataclasses.replace(record(provider="eager", C=128), ms=None, status="failed: out of memory")
CURVES = [
    dataclasses.replace(r, point=dataclasses.replace(r.point, provider=p), peak_memory=None)
    for r in sweep(timer="cpu", channels=(32,))
    if (p := {"segattn": "reference", "eager": "eager"}.get(r.point.provider))
]


def kernels(records, of: dict, gpu: bool, **values):
    return lambda out: write(out, records, environment(of, gpu, **values))


def trained(seeds: int, runs: int):
    """The log of a training of so many seeds, of which so many runs are there."""

    def make(out: Path) -> None:
        settings = dict(seeds=seeds, encoder="resnet18", steps=10, batch=2, side=32, data=None)
        about = environment(CPU, False, settings=settings, packages={"torch": "2"})
        todo = [(v, d, s) for s in range(seeds) for d in whole.TRAINED_DTYPES for v in whole.VARIANT_LABELS][:runs]
        rows = [
            dict(variant=v, dtype=d, seed=s, status="ok", loss=1.0 + s / 10, val_loss=1.0, miou=0.5 + s / 20)
            for v, d, s in todo
        ]
        logged(out, "training", rows, about)

    return make


def timed_models(of: dict, wanted: int, rows: list[dict]):
    def make(out: Path) -> None:
        sizes = dict(models=["m"], sizes=[[8, 512, 512]] * wanted, dtype="bfloat16", layout="channels_last")
        logged(out, "models", rows, environment(of, of is GPU, settings=sizes, packages={"torch": "2"}))

    return make


def logged(out: Path, name: str, rows: list[dict], about: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (out / f"{name}.json").write_text(json.dumps(about))


def your_model(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    time = {"ms": 10.0, "ms_20": 9.0, "ms_80": 11.0, "peak_memory": None}
    values = {"model": "a:b", "input": [1, 3, 8, 8], "gates": ["g"], "gates_ms": 5.0, "share": 0.5, "limit": 2.0}
    variants = {"eager": time, "accelerated": time | {"ms": 10.5}}
    values |= {"variants": variants, "failed": {"both": "no compiler"}, "environment": environment(CPU, False)}
    (out / "model.json").write_text(json.dumps(values))


def together(*parts):
    def make(out: Path) -> None:
        for part in parts:
            part(out)

    return make


def with_maps(make):
    def made(out: Path) -> None:
        make(out)
        np.savez(out / "maps.npz", photo=np.zeros((8, 9, 3), np.uint8), spatial_gate=np.eye(8))

    return made


EVERY_WAY = [whole_model(mode, p) for mode in whole.MODEL_MODES for p in whole.WAYS]
RUNS = {
    "gpu": kernels([*copies(), *sweep(), FAILED], GPU, True, left_out={"compile": 12}),
    "gpu, all measured": with_maps(kernels([*copies(), *sweep()], GPU, True)),
    "ties": kernels([*copies(), *TIES], GPU, True),
    "interrupted": kernels([*copies(), *sweep()], {**GPU}, True, finished=None),
    "launch": kernels([record(timer="launch"), record(4.0, provider="eager", timer="launch")], GPU, True),
    "cpu": kernels([*copies("cpu"), *CURVES], CPU, False, left_out={"compile": 3, "segattn (predicted)": 7}),
    "predictions": kernels([record(timer="predicted"), *copies("predicted")], CPU, False),
    "nothing": kernels([], CPU, False),
    "training": trained(2, 12),
    "training, half": trained(2, 5),
    "models": timed_models(GPU, 1, EVERY_WAY),
    "models, some": timed_models(CPU, 2, [whole_model("training", p, p20_ms=70, p80_ms=99) for p in whole.WAYS]),
    "models, failed": timed_models(GPU, 1, [*EVERY_WAY[1:], EVERY_WAY[0] | {"status": "failed: no memory"}]),
    "your model": your_model,
    "all": together(kernels([*copies(), *TIES], GPU, True), trained(2, 5), timed_models(GPU, 1, EVERY_WAY[:3])),
}
