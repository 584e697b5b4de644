"""One measured point is one JSON line, appended the moment it is known: a killed run loses nothing."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from .store import append_line, lines

RECORD_SCHEMA = 1
SEGATTN = "segattn"  # the provider of what is ours


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
    floor_bytes: float = 0  # each input once, each output once
    planned_bytes: float = 0  # the passes that the catalog's row states
    flops: float = 0
    peak_memory: int | None = None  # bytes above what was allocated before; in "bwd" of a forward and a backward
    error: float | None = None  # largest |y - y64| over max |y64|; in "bwd" the largest of all gradients
    status: str = "ok"  # "ok", or why there is no time: "failed: ...", "skipped: ..."
    extra: dict[str, Any] = field(default_factory=dict)
    schema: int = RECORD_SCHEMA

    @property
    def failed(self) -> bool:
        return self.status.startswith("failed")


def append(path: Path, record: Record) -> None:
    append_line(path, dataclasses.asdict(record))


def other_schema(path: Path) -> int | None:
    """The number of another form of records that a line has: it is of another version."""
    return next(
        (values["schema"] for values in lines(path) if values.get("schema", RECORD_SCHEMA) != RECORD_SCHEMA), None
    )


def _checked(values):
    """A point or a record whose values are of the types that it names; TypeError where they are not. An error alone may
    be no number, or without an end."""
    for one in dataclasses.fields(values):
        value, kinds = getattr(values, one.name), get_args(one.type) if isinstance(one.type, UnionType) else [one.type]
        if not any(_is_a(value, kind) for kind in kinds) and not (one.name == "error" and type(value) is float):
            raise TypeError(one.name)
    return values


def _is_a(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        return type(value) in (int, kind) and abs(value) < 2**63
    return isinstance(value, get_origin(kind) or kind)


def load(path: Path) -> Iterator[Record]:
    """The last record of every point, in the order of their first; a line that a kill cut short, or whose values are of
    other types, is passed over."""
    latest: dict[Point, Record] = {}
    for values in lines(path):
        try:
            record = _checked(Record(**{**values, "point": _checked(Point(**values["point"]))}))
            latest[record.point] = record
        except (ValueError, TypeError, KeyError):
            continue
    yield from latest.values()
