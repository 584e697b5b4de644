"""Records and reports that no machine ever made."""

import json
import random
from pathlib import Path

from segattn_triton.perf.records import Point, Record, append

COPY_GBPS = 1000.0
SLOWER = {"segattn": 1.25, "eager": 3.0, "compile": 2.0, "compile-best": 1.5}  # than the copy


def point(op="spatial_gate", provider="segattn", timer="events", mode="fwd", C=64, side=256, **other) -> Point:
    values = dict(dtype="bfloat16", layout="contiguous", N=8, H=side, W=side) | other
    return Point(op=op, provider=provider, mode=mode, C=C, timer=timer, **values)


def record(slower=1.0, **of) -> Record:
    p = point(**of)
    moved = 4 * p.N * p.C * p.H * p.W
    ms = moved / COPY_GBPS / 1e6 * slower
    return Record(p, ms, 0.95 * ms, 1.1 * ms, moved, moved, 3 * moved, peak_memory=moved, error=2e-3)


def copies(timer="events") -> list[Record]:
    made = [record(op="copy", provider="copy", C=1, N=1, side=side, timer=timer) for side in (64, 1024, 8192)]
    return made if timer != "predicted" else made[:1]


def sweep(op="spatial_gate", timer="events", channels=(32, 64), sides=(64, 256, 1024)) -> list[Record]:
    noise = random.Random(0)
    return [
        record(slower * noise.uniform(0.98, 1.02), op=op, provider=provider, timer=timer, C=C, side=side)
        for C in channels
        for side in sides
        for provider, slower in SLOWER.items()
    ]


def write(out: Path, records, environment=None) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    (out / "records.jsonl").touch()
    for r in records:
        append(out / "records.jsonl", r)
    if environment is not None:
        (out / "environment.json").write_text(json.dumps(environment))
    return out


def whole_model(mode: str, provider: str, **values) -> dict:
    """A record of a model "m" that was timed; every provider by its own speed."""
    ms = {"eager": 80.0, "accelerated": 64.0, "compiled": 40.0, "both": 38.0}[provider]
    made = dict(model="m", mode=mode, provider=provider, N=8, H=512, W=512, status="ok", images_per_second=8e3 / ms)
    times = dict(p20_ms=0.97 * ms, p50_ms=ms, p80_ms=1.03 * ms, p99_ms=1.2 * ms if mode == "latency" else None)
    return made | times | dict(calls=30, peak_memory=2**30) | values
