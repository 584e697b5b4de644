"""One measured point is one JSON line, appended the moment it is known: a killed run loses nothing."""

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
    mode: str  # "fwd", "bwd"
    dtype: str  # "bfloat16", ...
    layout: str  # "contiguous", "channels_last"
    N: int
    C: int
    H: int
    W: int
    timer: str = "events"  # "events", "graph", "cpu", "launch"; "predicted" is never a result


@dataclass(frozen=True)
class Record:
    point: Point
    ms: float | None = None  # median
    ms_20: float | None = None
    ms_80: float | None = None
    floor_bytes: int = 0  # each input once, each output once
    planned_bytes: int = 0  # the passes that the catalog's row states
    flops: int = 0
    peak_memory: int | None = None  # bytes above what was allocated before the call
    error: float | None = None  # largest |y - y64| over max |y64|
    status: str = "ok"  # "ok", or why there is no time: "failed: ...", "skipped: ..."
    extra: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


def append(path: Path, record: Record) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(record)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> Iterator[Record]:
    """The records of a file; a line cut short by a kill is passed over."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
            yield Record(**{**values, "point": Point(**values["point"])})
        except (json.JSONDecodeError, TypeError, KeyError):
            continue
