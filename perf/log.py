"""OUT/NAME.jsonl and OUT/NAME.json: records of whole models, a line each, and what they were measured with."""

import json
from pathlib import Path
from typing import Any

from ..draft import write_text
from .folder import identity
from .options import Failure, Usage
from .store import append_line, lines

KEYS = {  # name -> what tells its records apart
    "training": ("variant", "dtype", "seed"),
    "models": ("model", "mode", "provider", "N", "H", "W"),
}


class Log:
    """Opened to `resume` what is there, with the same settings on the same machine; else an earlier one is set aside.

    `environment["settings"]` must be the same to resume.
    """

    def __init__(self, out: Path, name: str, environment: dict[str, Any], *, resume: bool):
        self.path, self.about = out / f"{name}.jsonl", out / f"{name}.json"
        if resume:
            self._same(json.loads(json.dumps(environment, default=str)))
        elif self.path.exists():
            number = next(i for i in range(1, 10**6) if not out.joinpath(f"{name}-{i}.jsonl").exists())
            for path in (self.path, self.about):
                if path.exists():
                    path.rename(path.with_name(f"{name}-{number}{path.suffix}"))
        self.records = {key_of(record, name): record for record in read(out, name)}
        self.name = name
        write_text(self.about, json.dumps(environment, indent=1, default=str))

    def done(self, *key) -> bool:
        return key in self.records and self.records[key]["status"] == "ok"

    def save(self, record: dict[str, Any]) -> None:
        try:
            append_line(self.path, record)
        except OSError as error:
            raise Failure(f"{self.path} cannot be written: {error.strerror}; --resume goes on from there") from None
        self.records[key_of(record, self.name)] = record

    def _same(self, environment: dict[str, Any]) -> None:
        if not self.about.exists():
            return
        try:
            before = json.loads(self.about.read_text())
            known = identity(before) | before["settings"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise Usage(f"--resume: {self.about} does not describe a report; choose another --out") from None
        now = identity(environment) | environment["settings"]
        for name in {**known, **now}:
            if known.get(name) != now.get(name):
                raise Usage(
                    f"--resume: {self.path} was measured with {name} {known.get(name)}, here it is {now.get(name)}; "
                    "choose another --out"
                )


def key_of(record: dict[str, Any], name: str) -> tuple:
    return tuple(record[key] for key in KEYS[name])


FIELDS = {  # name -> what its finished records hold
    "training": ("loss", "val_loss", "miou"),
    "models": ("p50_ms", "p99_ms", "images_per_second", "peak_memory"),
}


def read(out: Path, name: str) -> list[dict[str, Any]]:
    """The last record of every key, in the order of their first; a line that a kill cut short, or of another version,
    is passed over."""
    latest = {}
    for record in lines(out / f"{name}.jsonl"):
        try:
            for field in FIELDS[name] if record["status"] == "ok" else ():
                if record[field] is not None and type(record[field]) not in (int, float):
                    raise TypeError(field)
            latest[key_of(record, name)] = record
        except (ValueError, KeyError, TypeError):
            continue
    return list(latest.values())
