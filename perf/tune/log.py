"""The log of a tuner, FILE.log.jsonl beside its table: a line for every unit, with every time that was taken."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import triton

from ...tuning import tables as tuned
from ..store import append_line, lines

Id = tuple[str, int, str]  # key, log2 of the pixels, digest of the space


@dataclass
class Result:
    """What is known of a unit: a line of the log."""

    key: str
    bucket: int
    digest: str
    op: str
    before: int  # the config that ran
    best: int
    ms: dict[int, float]  # every config that was timed
    excluded: dict[int, str] = field(default_factory=dict)
    size: str = ""
    floor_bytes: int = 0
    triton: str = ""
    config: str = ""  # the best in words

    @property
    def id(self) -> Id:
        return self.key, self.bucket, self.digest

    @property
    def saved(self) -> float:
        return self.ms[self.before] - self.ms[self.best]

    @property
    def sentence(self) -> str:
        best, before = self.ms[self.best], self.ms[self.before]
        gain = f"{before / best:.2f} times faster" if self.saved > 0 else "kept"
        excluded = f", {len(self.excluded)} excluded" if self.excluded else ""
        what = f"{self.key} 2^{self.bucket}: {self.config}, the best of {len(self.ms)}"
        return f"{what}, {1e3 * best:.1f} us, {gain}{excluded}"


def read(path: Path) -> dict[Id, Result]:
    """The lines of this version of Triton, the last of each unit; one that a kill cut short is passed over."""
    found = {}
    for values in lines(path):
        try:
            ms = {int(i): float(t) for i, t in values["ms"].items()}
            result = Result(**{**values, "ms": ms, "excluded": {int(i): t for i, t in values["excluded"].items()}})
            if result.best in ms and result.before in ms and result.triton == triton.__version__:
                found[result.id] = result
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return found


def add(path: Path, result: Result) -> None:
    with tuned.locked(path):
        append_line(path, asdict(result))
