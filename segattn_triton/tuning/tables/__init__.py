"""Tuned tables: the config that was the fastest on a GPU, by kernel and problem. Shipped ones lie beside this file.

A table is JSON, and holds indices into the spaces of this package, which kernels are launched dependently, and nothing
else that decides:

    {"schema": 2, "device": "NVIDIA H200", "capability": 90, "triton": "3.6.0",
     "spaces": {kernel: digest of its space}, "configs": {key: {log2 of the pixels: index}},
     "dependent": {kernel: true}}

Schema 1, without the last, is read. A file that is not such a table, or belongs to another GPU, is ignored with one
line in the log; so are the entries of a kernel whose space has changed.
"""

import contextlib
import json
import logging
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ...draft import replacing

SCHEMA = 2
NEAR = 2  # doublings of the pixel count over which an entry still serves
MOST_BYTES = 16_000_000
log = logging.getLogger("segattn_triton")


@dataclass(frozen=True)
class Table:
    device: str
    capability: int
    triton: str = ""
    spaces: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    dependent: Mapping[str, bool] = field(default_factory=dict)

    def index(self, kernel: str, digest: str, key: str, pixels: int) -> int | None:
        """The entry for about that many pixels, None without one for this space."""
        entries = self.configs.get(key)
        if not entries or self.spaces.get(kernel) != digest:
            return None
        at = bucket(pixels)
        nearest = min(entries, key=lambda b: (abs(b - at), b))
        return entries[nearest] if abs(nearest - at) <= NEAR else None


def bucket(pixels: int) -> int:
    """log2, rounded."""
    return round(math.log2(max(pixels, 1)))


def slug(device: str) -> str:
    """NVIDIA H200 -> nvidia_h200"""
    return re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_") or "unnamed"


def user_path(device: str) -> Path:
    return Path.home() / ".cache" / "segattn_triton" / f"{slug(device)}.json"


def read(path: Path, device: str | None = None) -> Table:
    """The table of a file, for that device; ValueError says why it is none."""
    try:
        found = json.loads(_content(path))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no table: {' '.join(str(error).split())[:80]}") from None
    table = _parsed(found)
    if device is not None and table.device != device:
        raise ValueError(f"is for {table.device[:80]!r}, this GPU is {device!r}")
    return table


def _content(path: Path) -> bytes:
    """Of a file that is one, and no larger than a table: nothing waits for a pipe, or reads a device to its end."""
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a file")
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES} bytes")
    return content


def _parsed(found) -> Table:
    shape = isinstance(found, dict) and {
        "device": str, "capability": int, "triton": str, "spaces": dict, "configs": dict,
    }  # fmt: skip
    schema = found.get("schema") if shape else None
    if (
        type(schema) is not int
        or not 1 <= schema <= SCHEMA
        or any(type(found.get(k)) is not t for k, t in shape.items())
    ):
        raise ValueError(f"is no table of schema {SCHEMA} or older")
    configs = {}
    for key, entries in found["configs"].items():
        if type(entries) is not dict or not all(
            re.fullmatch(r"\d{1,2}", b, re.ASCII) and type(i) is int and i >= 0 for b, i in entries.items()
        ):
            raise ValueError(f"is no table: its entry {key[:40]!r} holds no indices by log2 of the pixels")
        configs[key] = {int(b): i for b, i in entries.items()}
    if not all(type(digest) is str for digest in found["spaces"].values()):
        raise ValueError("is no table: a digest is no text")
    dependent = found.get("dependent") if schema > 1 else {}
    if type(dependent) is not dict or not all(type(value) is bool for value in dependent.values()):
        raise ValueError("is no table: it does not say of kernels whether they are dependent")
    return Table(found["device"], found["capability"], found["triton"], found["spaces"], configs, dependent)


def write(path: Path, table: Table) -> Table:
    """Add a table's entries to a file, which is never seen half written. Writers wait for each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        with contextlib.suppress(ValueError):
            table = merged(read(path, table.device), table)
        with replacing(path) as draft, draft.open("w") as file:
            json.dump({"schema": SCHEMA, **asdict(table)}, file, indent=1, sort_keys=True)
    return table


def merged(old: Table, new: Table) -> Table:
    """Both tables' entries, the new one's where both have one; none of a space that has changed."""
    spaces = {**old.spaces, **new.spaces}
    kept = {kernel for kernel, digest in old.spaces.items() if digest == spaces[kernel]}
    configs = {key: dict(entries) for key, entries in old.configs.items() if kernel_of(key) in kept}
    for key, entries in new.configs.items():
        configs[key] = {**configs.get(key, {}), **entries}
    return Table(new.device, new.capability, new.triton, spaces, configs, {**old.dependent, **new.dependent})


def kernel_of(key: str) -> str:
    return key.partition(" ")[0]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time, where the system has file locks. What a link points at is never opened."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    with open(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tables(device: str, capability: int) -> list[Table]:
    """For a GPU: the user's own table, the shipped one, else that of the nearest architecture."""
    found = []
    with contextlib.suppress(RuntimeError):  # without a home there is no user's table
        found += _readable(user_path(device), device)
    shipped = _readable(Path(__file__).parent / f"{slug(device)}.json", device)
    if not shipped and (near := _nearest(capability)):
        log.warning("no tuned table for %s: using that of %s; `segattn tune` makes one", device, near.device)
        shipped = [replace(near, dependent={})]  # another GPU's launches
    return found + shipped


def _readable(path: Path, device: str | None) -> list[Table]:
    try:
        return [read(path, device)]
    except ValueError as error:
        if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            return []
        log.warning("tuned table ignored: %s %s", path, error)
        return []


def _nearest(capability: int) -> Table | None:
    shipped = [t for path in sorted(Path(__file__).parent.glob("*.json")) for t in _readable(path, None)]
    return min(shipped, key=lambda t: (abs(t.capability - capability), t.device), default=None)
