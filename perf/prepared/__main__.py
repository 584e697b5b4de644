"""`python -m segattn_triton.perf.prepared`: see `make help`, and "A new GPU" of perf/NOTES.md.

measure  [--budget 540] [--out FOLDER] [--pack FOLDER] [--again OP ...] [--rehearse]
keep     ARCHIVE [--out FOLDER]
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from ..measure import env
from ..measure.rehearsal import Rehearsal
from ..options import Usage
from . import folder, keep, run
from .steps import STEPS

OUT, MADE_UP = Path("perf/results/nvidia-h200"), Path("build/rehearsal")


def main(argv: list[str] | None = None) -> int:
    begun = time.monotonic()
    parser = argparse.ArgumentParser(prog="segattn_triton.perf.prepared", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    measure = actions.add_parser("measure", help="every step, as many as there is time for")
    measure.add_argument("--budget", type=float, default=540.0, help="seconds, the start of this process included")
    measure.add_argument("--pack", type=Path, help="a folder for the archive, renewed while it runs")
    measure.add_argument("--again", nargs="*", default=[], metavar="OP", help="ops that were changed since")
    measure.add_argument("--rehearse", action="store_true", help="without a GPU: every time is made up")
    worker = actions.add_parser("worker")
    worker.add_argument("--end", type=float, required=True)
    worker.add_argument("--first")
    keeper = actions.add_parser("keep", help="an archive into the places from which it is committed")
    keeper.add_argument("archive", type=Path)
    for each in (measure, worker, keeper):
        each.add_argument("--out", type=Path, help=f"{OUT} by default; of a rehearsal {MADE_UP}")
    given = parser.parse_args(argv)
    given.out = given.out or (MADE_UP if getattr(given, "rehearse", False) else OUT)
    try:
        if given.action == "worker":
            run.worker(given.out, given.end, given.first)
        elif given.action == "keep":
            print(keep.keep(given.archive, given.out))
        else:
            _measure(given, begun)
    except Usage as error:
        print(f"segattn: {error}", file=sys.stderr)
        return 2
    return 0


def _measure(given: argparse.Namespace, begun: float) -> None:
    if not given.rehearse and (problem := env.unusable_gpu() or ("" if torch.cuda.is_available() else "no GPU here")):
        raise Usage(f"{problem}; --rehearse runs all of it with times that are made up")
    name = Rehearsal.name if given.rehearse else torch.cuda.get_device_name()
    if apart := folder.keep_apart(given.out, name):
        print(f"measured on another machine, or with other versions: now in {apart}")
    given.out.mkdir(parents=True, exist_ok=True)
    if given.again:
        folder.set_aside(given.out, "changed since", lambda p: p.op in given.again)
    if given.pack:
        given.pack.mkdir(parents=True, exist_ok=True)
    if given.rehearse:
        small = [step for step in STEPS if step.name != "models"]  # a whole model cannot be made small
        run.steps(given.out, Rehearsal(), given.budget - run.FINAL_SECONDS, Console(width=160), todo=small)
        if given.pack:
            folder.pack(given.out, given.pack)
    else:
        own = [sys.executable, "-m", __spec__.name, "worker", "--out", str(given.out)]
        left = given.budget - run.FINAL_SECONDS - (time.monotonic() - begun)
        run.watched(
            given.out,
            left,
            given.pack,
            lambda first, end: [*own, "--end", str(end), *(["--first", first] if first else [])],
        )
    print(keep.summary(given.out))


if __name__ == "__main__":
    sys.exit(main())
