"""The folder that all steps write into, and what of it travels.

It is the folder that its records are committed from, perf/results/<gpu>, so that a second call, on a fresh machine
with the same checkout, goes on from what the first one brought back. What is brought back is one archive, renewed
while a step runs: whatever ends the call, at most `EVERY` seconds are lost.
"""

import contextlib
import gzip
import json
import shutil
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...catalog import BY_NAME, Problem
from ...draft import replacing, write_text
from ...tuning import choice as tuning
from ...tuning import tables as tuned
from ..folder import Folder, identity
from ..measure import env, plan, timing
from ..measure.backends import Cpu
from ..options import MODES, Usage
from ..records import Point, Record, append, load
from ..store import lines

RECORDS, BEFORE, TABLE, FACTS = "records.jsonl", "before.jsonl", "tuned.json", "facts.jsonl"
LOG = f"{TABLE}.log.jsonl"  # the tuner's, which it names so
ARCHIVE = "results.tar.gz"
EVERY = 10.0  # seconds between two archives


def opened(out: Path, backend: Cpu, **options: Any) -> Folder:
    """To go on with the records that are there."""
    method = timing.method(backend.gpu, launch=True)
    described = {"device": backend.name, "options": options, "method": method}
    return Folder(out, env.collect() | described, resume=True)


def keep_apart(out: Path, device: str) -> Path | None:
    """What another machine, or other versions, measured gets a folder of its own: times of two are never mixed."""
    about = out / "environment.json"
    if not about.exists():
        return None
    try:
        same = identity(json.loads(about.read_text())) == identity(env.collect() | {"device": device})
    except (ValueError, KeyError, TypeError, AttributeError):
        same = False
    if same:
        return None
    number = next(i for i in range(1, 10**6) if not out.with_name(f"{out.name}-{i}").exists())
    return out.rename(out.with_name(f"{out.name}-{number}"))


def set_aside(out: Path, why: str, wanted: Callable[[Point], bool]) -> int:
    """Move records to BEFORE, so that their points are measured again; how many."""
    path = out / RECORDS
    moved = [r for r in load(path) if wanted(r.point)]
    kept = [r for r in load(path) if not wanted(r.point)]
    for record in moved:
        append(out / BEFORE, replace(record, extra={**record.extra, "set_aside": why}))
    if moved:
        write_text(path, "".join(json.dumps(asdict(record)) + "\n" for record in kept))
    return len(moved)


def install_table(out: Path, backend: Cpu) -> None:
    """What an earlier step tuned is what this machine's processes choose by."""
    if backend.device.type == "cuda" and (out / TABLE).exists():
        home = tuned.user_path(backend.name)
        home.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / TABLE, home)
        tuning.forget()


def configs(out: Path, backend: Cpu, problems: Collection[Problem]) -> dict[Problem, list[tuple[int, bool]]]:
    """What these problems launch by the folder's table, and whether dependently."""
    from ...compiled import plans_of

    own = []
    with contextlib.suppress(ValueError):  # none yet
        own = [tuned.read(out / TABLE, backend.name)]
    with tuning.using([*own, *tuning.tables(backend.device)]):
        return {
            problem: [(c.choice.index, c.dependent) for p in plans if (c := p.config).choice]
            for problem, plans in ((problem, plans_of(problem, backend.capability)) for problem in problems)
        }


@contextlib.contextmanager
def retiming(out: Path, backend: Cpu, why: str) -> Iterator[Callable[[], int]]:
    """Set aside the times of what launches something else after this, by the folder's table; how many there were."""
    points = [r.point for r in times(out) if r.point.op in BY_NAME and r.point.mode in MODES]
    ours, moved = {p: plan.problem_of(p) for p in points}, 0
    before = configs(out, backend, set(ours.values()))
    try:
        yield lambda: moved
    finally:
        after = configs(out, backend, set(ours.values()))
        moved = set_aside(
            out, why, {p for p, problem in ours.items() if before[problem] != after[problem]}.__contains__
        )


def facts(out: Path) -> dict[str, dict]:
    """What is known of the machine, by name; the last of each."""
    found = {}
    for values in lines(out / FACTS):
        found[values["name"]] = values
    return found


def times(out: Path) -> list[Record]:
    return [r for r in load(out / RECORDS) if r.ms is not None]


def pack(out: Path, to: Path) -> None:
    """The folder as one archive, never seen half written."""
    with replacing(to / ARCHIVE) as draft, tarfile.open(draft, "w:gz") as archive:
        for path in sorted(out.iterdir()):
            if path.suffix in (".jsonl", ".json", ".npz"):
                archive.add(path, path.name)


def unpack(archive: Path, out: Path) -> None:
    """What `pack` made, over what is there."""
    if not archive.is_file():
        raise Usage(f"got {archive}, expected the {ARCHIVE} that came back")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as file:
            file.extractall(out, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Usage(f"{archive} is no whole {ARCHIVE}: {error}; expected the one that came back") from None
