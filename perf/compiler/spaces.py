"""`segattn spaces`: how good the choice without a table is, by the account of time; no GPU is needed, none is used.

Of each space are compiled for sm_90 the choice, the configs that the model of `segattn_triton.tuning` finds cheapest,
and some that are drawn from all others that can run, but those that spill by the model; the account of `perf/account`
says how long each takes, its launch included: microseconds on an H200, predicted from machine code, not measured. A
config that spills has none.

With `--named` every choice of every named case, into a file of records: what was computed from the same text by the
same versions (`digests`) is kept. The bars: at the median 1.1 times the best of its space, 1.25 at worst, by the round
trip to DRAM that is the worst for the choice of those assumed.
"""

import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ...draft import write_text
from .. import terminal
from ..account import assumptions as assumed
from ..measure import child

if TYPE_CHECKING:
    from ...catalog import Problem

ARCH = 90
COMMITTED_CHOICES = Path(__file__).parents[1] / "predicted" / "choices_sm_90.jsonl"
MEDIAN, WORST = 1.1, 1.25  # times the best of its space
MIDDLE = assumed.ROUND_TRIPS.index(assumed.ROUND_TRIP)
HEAD = ("", "configs", "can run", "compiled", "chosen", "its us", "best", "its us", "times")
LONG = 1e6  # seconds
Names = Optional[list[str]]  # noqa: UP045, typer of Python 3.10 reads it at run time


def spaces(
    op: Annotated[Names, typer.Option(help="Ops, repeated or with commas; all by default.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16, float32, float64.")] = "bfloat16",
    layout: Annotated[Names, typer.Option(help="contiguous, channels_last; both by default.")] = None,
    cases: Annotated[int, typer.Option(help="Named cases of each op, the first ones.")] = 1,
    most: Annotated[int, typer.Option(help="Configs of each kernel that are compiled, the cheapest by the model.")] = 4,
    drawn: Annotated[int, typer.Option(help="Others of each kernel that are compiled, drawn from its space.")] = 4,
    named: Annotated[bool, typer.Option("--named", help="All named cases; what changed is renewed in --out.")] = False,
    out: Annotated[Path, typer.Option(help="Of --named: the records to renew.")] = COMMITTED_CHOICES,
) -> None:
    """How far the choice without a table is from the best of its space, as compiled for sm_90; no GPU needed."""
    from .. import options

    ops, layouts = (tuple(name.strip() for v in values or () for name in v.split(",")) for values in (op, layout))
    for name, value, least in (("--cases", cases, 1), ("--most", most, 1), ("--drawn", drawn, 0)):
        if value < least:
            raise options.Usage(f"{name}: got {value}, expected at least {least}")
    (dtype,) = options.choose("--dtype", [dtype], options.DTYPE_NAMES.values(), options.DTYPE_NAMES)
    layouts = options.choose("--layout", layouts, options.LAYOUT_NAMES.values(), options.LAYOUT_NAMES)
    ops, layouts = options.choose_ops(ops), layouts or tuple(options.LAYOUT_NAMES.values())
    known = read(out.read_text()) if named and out.exists() else []
    found: dict[tuple, ChoiceRecord] = {}
    for new in report(ops, dtype, layouts, 99 if named else cases, most, drawn, known):
        found[new.place] = new
        if named:
            write_text(out, write(found.values()))
    terminal.console().print(table(found.values(), dtype), summary(found.values()))


@dataclass(frozen=True)
class ChoiceRecord:
    """The choice of one kernel for one problem, and the best of what was compiled of its space."""

    op: str
    case: str
    layout: str
    kernel: str
    key: str
    bucket: int
    configs: int
    can_run: int
    us: Mapping[str, Sequence[float]]  # index of a config -> its time for each round trip; none of one that spills
    chosen: int
    words: Mapping[str, str]  # of the chosen and of the best
    made: str  # digest of all that it was computed from

    @property
    def place(self) -> tuple[str, int]:
        return self.key, self.bucket

    @property
    def best(self) -> str | None:
        """By the round trip in the middle."""
        return _best(self.us)

    @property
    def times(self) -> float | None:
        """Its time over the least, a launch in both, for the round trip where that is the most; None without a time."""
        own = self.us.get(str(self.chosen))
        if own is None:
            return None
        least = map(min, zip(*self.us.values(), strict=True))
        return max((o + assumed.LAUNCH) / (t + assumed.LAUNCH) for o, t in zip(own, least, strict=True))


def _best(us: Mapping[str, Sequence[float]]) -> str | None:
    return min(us, key=lambda i: (us[i][MIDDLE], int(i)), default=None)


def report(
    ops: Sequence[str],
    dtype: str,
    layouts: Sequence[str],
    cases: int,
    most: int,
    drawn: int,
    known: Iterable[ChoiceRecord],
) -> Iterator[ChoiceRecord]:
    """Every choice that a tuned table could have, once, as they come from a process for each core."""
    kept = {c.place: c for c in known}
    pieces = []
    for problem, case, choice, made in choices(ops, dtype, layouts, cases):
        place = choice.key, choice.bucket
        if place in kept and kept[place].made == made:
            yield kept[place]
        else:
            pieces.append(piece_of(problem, case, choice, made, most, drawn))
    if not pieces:
        return
    progress = terminal.Progress("choices", len(pieces))
    for done, (piece, answer) in enumerate(child.shared(__name__, pieces, os.cpu_count() or 1, LONG, LONG), 1):
        if child.DIED in answer:
            terminal.console().print(f"{piece['key']}: {answer[child.DIED]}")
        else:
            yield ChoiceRecord(**answer)
        progress(done)
    progress.end()


def piece_of(problem: "Problem", case: str, choice: Any, made: str, most: int, drawn: int) -> dict:
    """What a child is asked: the choice first, the cheapest by the model, then some that its key draws."""
    from ...tuning.model import SPILLS

    costs = choice.costs()
    cheapest = list(costs)
    rest = [i for i in cheapest[most:] if costs[i] < SPILLS]
    tried = [choice.index, *cheapest[:most], *random.Random(choice.key).sample(rest, min(drawn, len(rest)))]
    asked = dict(problem=asdict(problem), case=case, key=choice.key, tried=list(dict.fromkeys(tried)))
    return asked | dict(can_run=len(costs), made=made)


def choices(ops: Sequence[str], dtype: str, layouts: Sequence[str], cases: int) -> Iterator[tuple]:
    """(problem, case, choice, digest) of every entry that a tuned table could have, once."""
    from ...catalog import BY_NAME, Problem
    from ...compiled import plans_of
    from ...tuning import choice as tuning
    from . import digests

    seen = set()
    for name in ops:
        for case in BY_NAME[name].cases[:cases]:
            others = tuple((k, v) for k, v in case.sizes.items() if k not in ("N", "C", "S"))
            for layout in layouts:
                problem = Problem(name, dtype, layout, case.N, case.C, case.S, others)
                for plan in plans_of(problem, ARCH):
                    choice = plan.config.choice
                    if (choice.key, choice.bucket) not in seen:
                        seen.add((choice.key, choice.bucket))
                        space = tuning.digest(tuning.SPACES[choice.kernel])
                        yield problem, case.name, choice, digests.of_plans([plan], [space, choice.index])


def work(piece: Mapping) -> dict:
    """Each config compiled, and its account."""
    from ... import compiled as static
    from ...catalog import Problem
    from ...tuning import choice as tuning
    from ..account.account import account_of
    from ..account.launch import launch_of

    problem, key, tried = Problem.of(piece["problem"]), piece["key"], piece["tried"]
    us: dict[str, list[float]] = {}
    for i in tried:
        with tuning.using((), {key: i}):
            plan = next(p for p in static.plans_of(problem, ARCH) if p.config.choice.key == key)
        compiled = static.compile_plan(plan, ARCH)
        if not compiled.spills:
            account = account_of(launch_of(compiled))
            us[str(i)] = [round(account.at(trip).time, 3) for trip in assumed.ROUND_TRIPS]
    space = tuning.SPACES[plan.config.choice.kernel]
    best = _best(us) or tried[0]
    return dict(
        op=problem.op,
        case=piece["case"],
        layout=problem.layout,
        kernel=plan.name,
        key=key,
        bucket=plan.config.choice.bucket,
        configs=len(space),
        can_run=piece["can_run"],
        us=us,
        chosen=tried[0],
        words={"chosen": _words(space[tried[0]]), "best": _words(space[int(best)])},
        made=piece["made"],
    )


def _words(config: Any) -> str:
    blocks = " ".join(f"{k.removeprefix('BLOCK_')}{v}" for k, v in config.blocks.items())
    programs = f" p{config.programs}" if config.programs else ""
    return f"{blocks} w{config.num_warps} s{config.num_stages}{programs}"


def table(found: Iterable[ChoiceRecord], dtype: str) -> Any:
    groups: dict[str, list[terminal.TableRow]] = {}
    for c in found:
        line = [f"  {c.kernel}", str(c.configs), str(c.can_run), str(len(c.us)), c.words["chosen"]]
        if c.times is None:
            line += ["none", "", "", ""]
        else:
            own, best = c.us[str(c.chosen)][MIDDLE], c.us[c.best][MIDDLE]
            line += [f"{own:.3g}", c.words["best"], f"{best:.3g}", f"{c.times:.2f}"]
        layout = {"contiguous": "NCHW"}.get(c.layout, "NHWC")
        groups.setdefault(f"{c.op}, {c.case}, {layout}", []).append(terminal.TableRow(line))
    return terminal.listing(f"Choices without a table for sm_{ARCH}, {dtype}", HEAD, groups, left=(0, 4, 6))


def summary(found: Iterable[ChoiceRecord]) -> str:
    times = [c.times for c in found if c.times is not None]
    if not times:
        return "no choice has a time"
    worse = sum(t > WORST for t in times)
    return (
        f"{len(times)} choices: {median(times):.2f} times the least time at the median, {max(times):.2f} at worst, "
        f"{worse} above {WORST} (predicted from machine code, not measured)"
    )


def read(text: str) -> list[ChoiceRecord]:
    return [ChoiceRecord(**json.loads(line)) for line in text.splitlines()]


def write(found: Iterable[ChoiceRecord]) -> str:
    ordered = sorted(found, key=lambda c: c.place)
    return "".join(json.dumps(asdict(c), separators=(",", ":")) + "\n" for c in ordered)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    child.serve(work)
