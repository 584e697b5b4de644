"""One measured point is one JSON line, appended the moment it is known: a killed run loses nothing."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Point:
    """What is measured: the key by which a run resumes."""

    op: str  # a row of the catalog, or "copy", "matmul" for a ceiling
    provider: str  # "segattn", "eager", "compile", "compile-best", "reference", "copy", ...
    mode: str  # "fwd", "bwd"; "train", a forward that a backward may follow; "check" for numerics, without a time
    dtype: str  # "bfloat16", ...
    layout: str  # "contiguous", "channels_last"
    N: int
    C: int
    H: int
    W: int
    timer: str = "events"  # "events", "graph", "cpu", "launch", "check"; "predicted" is never a result
    inputs: str = "normal"  # "normal": seeded random values; "photo": activations of a photograph


@dataclass(frozen=True)
class Record:
    point: Point
    ms: float | None = None  # median
    ms_20: float | None = None
    ms_80: float | None = None
    floor_bytes: int = 0  # each input once, each output once
    planned_bytes: int = 0  # the passes that the catalog's row states
    flops: int = 0
    peak_memory: int | None = None  # bytes above what was allocated before; in "bwd" of a forward and a backward
    error: float | None = None  # largest |y - y64| over max |y64|; in "bwd" the largest of all gradients
    status: str = "ok"  # "ok", or why there is no time: "failed: ...", "skipped: ..."
    extra: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def failed(self) -> bool:
        return self.status.startswith("failed")


def append(path: Path, record: Record) -> None:
    append_line(path, dataclasses.asdict(record))


def append_line(path: Path, values: dict[str, Any]) -> None:
    line = json.dumps(values).encode() + b"\n"
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line  # after a line that a kill cut short
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def other_schema(path: Path) -> int | None:
    """The number of another form of records that a line has: it is of another version."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            values = json.loads(line)
            if isinstance(values, dict) and values.get("schema", SCHEMA) != SCHEMA:
                return values["schema"]
    return None


def load(path: Path) -> Iterator[Record]:
    """The last record of every point, in the order of their first; a line cut short by a kill is passed over."""
    if not path.exists():
        return
    latest: dict[Point, Record] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
            record = Record(**{**values, "point": Point(**values["point"])})
            latest[record.point] = record
        except (ValueError, TypeError, KeyError):
            continue
    yield from latest.values()
