"""The folder of a report: its records, and the environment that they were measured in."""

import json
from pathlib import Path
from typing import Any

from ..draft import write_text
from .options import Failure, Usage
from .records import RECORD_SCHEMA, Point, Record, append, load, other_schema

FILES = ("records.jsonl", "environment.json", "maps.npz", "autotune.json")


class Folder:
    """Opened to `resume` what is there, or for a new report; an earlier one is then kept under other names."""

    def __init__(self, out: Path, environment: dict[str, Any], *, resume: bool):
        self.out, self.path = out, out / "records.jsonl"
        self.environment = environment | {"left_out": {}}
        self.set_aside: list[Path] = []
        if resume:
            self._continue()
        else:
            self._set_aside()
        self.records: dict[Point, Record] = {record.point: record for record in load(self.path)}
        self.describe()

    def save(self, record: Record) -> None:
        try:
            append(self.path, record)
        except OSError as error:
            raise Failure(
                f"{self.path} cannot be written: {error.strerror}; --resume goes on from what is there"
            ) from None
        self.records[record.point] = record

    def describe(self, **values) -> None:
        """Add to environment.json, which is never seen half written."""
        self.environment |= values
        self.write("environment.json", self.environment)

    def write(self, name: str, values: Any) -> None:
        write_text(self.out / name, json.dumps(values, indent=1, default=str))

    def _continue(self) -> None:
        """The records of one report come from one machine and one set of versions."""
        path = self.out / "environment.json"
        refuse_other_schema(self.path, "--resume")
        if not path.exists():
            return
        try:
            before = json.loads(path.read_text())
            known, date = identity(before), before["date"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise Usage(f"--resume: {path} does not describe a report; choose another --out") from None
        for name, now in identity(self.environment).items():
            if known[name] != now:
                raise Usage(
                    f"--resume: the report in {self.out} was measured with {name} {known[name]}, here it is {now}; "
                    "choose another --out"
                )
        self.environment["resumed_from"] = [*before.get("resumed_from", []), date]

    def _set_aside(self) -> None:
        if not self.path.exists():
            return
        number = next(i for i in range(1, 10**6) if not self._numbered(self.path, i).exists())
        for path in (self.out / name for name in FILES):
            if path.exists():
                self.set_aside.append(path.rename(self._numbered(path, number)))

    def _numbered(self, path: Path, number: int) -> Path:
        return path.with_name(f"{path.stem}-{number}{path.suffix}")


def refuse_other_schema(path: Path, argument: str) -> None:
    """Records that another version wrote are neither read as none nor written on."""
    if path.exists() and (found := other_schema(path)) is not None:
        raise Usage(
            f"{argument}: {path} is of another version: its records have form {found}, expected {RECORD_SCHEMA}"
        )


def identity(environment: dict) -> dict[str, Any]:
    """What must be the same for times to be compared."""
    gpu, packages = environment["gpu"] or {}, environment["packages"]
    versions = {name: packages[name] for name in ("segattn_triton", "torch", "triton")}
    return {"device": environment["device"], "GPU": gpu.get("name"), "driver": environment["driver"], **versions}
