"""`segattn against`: the account of our kernels beside that of what torch.compile launches; no GPU is needed or used.

Both sides are machine code for sm_90, compiled here (`sides`), and one account (`perf/account`) takes the time of each
kernel; each time holds its launches. With `--target sm_80` to `sm_120` it is the machine code for another GPU, and the
account of that. With `--curve` maps have every side from 32 to 2048. With `--named` everything that is committed
(`problems`) is renewed: what was computed from the same text by the same versions (`digests`) is kept, so that a second
run goes on where one ended.

A verdict is given only where it is the same for every round trip to DRAM that is assumed. *Predicted* from machine
code, not measured.
"""

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ...draft import write_text
from .. import terminal
from ..account.assumptions import MACHINES
from ..measure import child
from .problems import CURVE, PREDICTED_SIZES, WITH_ALL_FORMS, providers
from .sides import FORMS, OURS, Side, has, merged, of_json, read, sides, write
from .verdicts import lines

COMMITTED_TIMES = Path(__file__).parents[1] / "predicted" / "sm_90.jsonl"
HEAD = ("", "ours us", "limit", "compiled us", "times", "best us", "times", "faster")
LONG = 1e6  # seconds
MOST = 8192  # channels, and pixels of a side
TARGETS = {f"sm_{arch}": arch for arch in MACHINES}
OURS_SECONDS, RIVAL_SECONDS = 6.0, 11.0  # of a core, for a forward and a backward; a rival's is generated first
Names = Optional[list[str]]  # noqa: UP045, typer of Python 3.10 reads it at run time


def against(
    op: Annotated[Names, typer.Option(help="Ops, repeated or with commas; all by default.")] = None,
    layout: Annotated[Names, typer.Option(help="contiguous, channels_last; both by default.")] = None,
    channels: Annotated[int, typer.Option(help="Channels of the maps, of 8 images in bfloat16.")] = 64,
    side: Annotated[int, typer.Option(help="Height and width of the maps.")] = 512,
    curve: Annotated[bool, typer.Option("--curve", help="Sides from 32 to 2048 instead, 64 channels.")] = False,
    target: Annotated[str, typer.Option(help=f"The GPU: {', '.join(TARGETS)}.")] = "sm_90",
    named: Annotated[bool, typer.Option("--named", help="All that is committed; what changed is renewed.")] = False,
    ours: Annotated[bool, typer.Option("--ours", help="Our side alone: the rival's is kept.")] = False,
    out: Annotated[Path, typer.Option(help="Of --named: the records to renew.")] = COMMITTED_TIMES,
) -> None:
    """Our kernels against torch.compile's, predicted from the machine code of both; no GPU needed."""
    from triton import knobs

    from .. import options

    ops, layouts = (tuple(name.strip() for v in values or () for name in v.split(",")) for values in (op, layout))
    layouts = options.choose("--layout", layouts, options.LAYOUT_NAMES.values(), options.LAYOUT_NAMES)
    layouts, ops = layouts or tuple(options.LAYOUT_NAMES.values()), options.choose_ops(ops)
    for name, value in (("--channels", channels), ("--side", side)):
        if not 1 <= value <= MOST:
            raise options.Usage(f"{name}: got {options.short(value)}, expected at least 1, at most {MOST}")
    options.choose("--target", [target], TARGETS)
    if named and TARGETS[target] != TARGETS["sm_90"] and out == COMMITTED_TIMES:
        raise options.Usage(f"--out: those of sm_90, expected another file for --target {target}")
    if named and curve:
        raise options.Usage("--curve: given with --named, which has the curves; expected one of them")
    if knobs.runtime.interpret:
        raise options.Usage("TRITON_INTERPRET: set, so that nothing would be compiled; expected it unset")
    sizes = PREDICTED_SIZES if named else CURVE if curve else (f"8x{channels}x{side}x{side}",)
    known = read(out.read_text()) if named and out.exists() else []
    for some in (sizes[:WITH_ALL_FORMS], sizes[WITH_ALL_FORMS:]):
        todo = [
            (size, name, order, _asked(size, name, order, known, named, ours))
            for name, order, size in product(ops, layouts, some)
        ]
        for new in _answers(todo, known, TARGETS[target]):
            known = merged(known, new)
            if named and new:
                write_text(out, write(known))
    terminal.console().print(_listing([s for s in known if s.op in ops and s.size in sizes], target))


def _asked(size: str, op: str, layout: str, known: Sequence[Side], named: bool, ours: bool) -> tuple[str, ...]:
    if ours:
        return (OURS,)
    return providers(op, size, layout, known) if named else (OURS, *FORMS)


def _answers(todo: Sequence[tuple], known: Sequence[Side], arch: int) -> Iterator[list[Side]]:
    """The new sides of each problem, as they come from a process for each core."""
    made: dict[tuple, set[str]] = {}
    for s in known:
        made.setdefault((s.size, s.op, s.layout), set()).add(s.made)
    pieces = [
        dict(size=size, op=op, layout=order, providers=asked, known=sorted(made.get((size, op, order), ())), arch=arch)
        for size, op, order, asked in todo
    ]
    if not pieces:
        return
    cores = os.cpu_count() or 1
    asked = [who for _, op, _, providers in todo for who in providers if who == OURS or has(op, who)]
    wait = sum(OURS_SECONDS if who == OURS else RIVAL_SECONDS for who in asked) / 60 / cores
    print(f"{len(pieces)} problems: about {math.ceil(wait)} minutes, less what is known", file=sys.stderr)
    progress = terminal.Progress("problems", len(pieces))
    for done, (piece, answer) in enumerate(child.shared(__name__, pieces, cores, LONG, LONG), 1):
        if reason := answer.get("failure") or answer.get(child.DIED):
            terminal.console().print(f"{piece['op']}, {piece['layout']}, {piece['size']}: {reason}")
        yield [of_json(values) for values in answer.get("sides", ())]
        progress(done)
    progress.end()


def _listing(found: Sequence[Side], target: str) -> Any:
    groups: dict[str, list[terminal.TableRow]] = {}
    for line in lines(found):
        order = {"contiguous": "NCHW"}.get(line.ours.layout, "NHWC")
        name = f"{line.ours.op}, {order}, {line.ours.size}"
        groups.setdefault(name, []).append(terminal.TableRow([f"  {line.ours.mode}", *line.cells()]))
    title = f"Predicted from machine code for {target}, {MACHINES[TARGETS[target]].name}, not measured"
    return terminal.listing(title, HEAD, groups, left=(0, 2, 7))


def _work(piece: Mapping) -> dict:
    """What a release of torch or the account does not know is said, and left out; what was found before it stays."""
    found, asked = [], (piece["op"], piece["layout"], piece["size"])
    try:
        for side in sides(*asked, piece["providers"], piece["known"], piece["arch"]):
            found.append(asdict(side))
    except Exception as error:
        return {"sides": found, "failure": child.one_line(error)}
    return {"sides": found}


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    child.serve(_work)
