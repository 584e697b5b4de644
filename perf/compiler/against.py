"""`segattn against`: the account of our kernels beside that of what torch.compile launches; no GPU is needed or used.

Both sides are machine code for sm_90, compiled here, and one account (`perf/account`) takes the time of each kernel. Of
the configs that Inductor would time, the one with the least time by the account stands for its choice. A library's call
is taken at a share of the ceilings: bytes once over DRAM, or products, and one launch. Each time holds its launches.

A verdict is given only where it is the same for every round trip to DRAM that is assumed. *Predicted* from machine
code, not measured.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import compress, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ..account import assumptions as assumed

if TYPE_CHECKING:
    from ..account.account import Account
    from .inductor import Kernel
    from .libraries import Library

OURS, RIVAL = "ours", "torch.compile"
FORMS = {"compile": "listing", "compile-best": "best"}  # of torch.compile -> what it is given
HEAD = ("", "ours us", "limit", "compiled us", "times", "best us", "times", "faster")
TIE = 0.02
MOST = 8192  # channels, and pixels of a side
Names = Optional[list[str]]  # noqa: UP045, typer of Python 3.10 reads it at run time


def against(
    op: Annotated[Names, typer.Option(help="Ops, repeated or with commas; all by default.")] = None,
    layout: Annotated[Names, typer.Option(help="contiguous, channels_last; both by default.")] = None,
    channels: Annotated[int, typer.Option(help="Channels of the maps, of 8 images in bfloat16.")] = 64,
    side: Annotated[int, typer.Option(help="Height and width of the maps.")] = 512,
    ours: Annotated[bool, typer.Option("--ours", help="Our side alone: the rival's is kept.")] = False,
    out: Annotated[Optional[Path], typer.Option(help="A file of records to renew.")] = None,  # noqa: UP045
) -> None:
    """Our kernels against torch.compile's, predicted from the machine code of both; no GPU needed."""
    from triton import knobs

    from .. import options, terminal

    ops, layouts = (tuple(name.strip() for v in values or () for name in v.split(",")) for values in (op, layout))
    layouts = options.choose("--layout", layouts, options.LAYOUTS.values(), options.LAYOUTS)
    ops = options.choose_ops(ops)
    for name, value in (("--channels", channels), ("--side", side)):
        if not 1 <= value <= MOST:
            raise options.Usage(f"{name}: got {options.short(value)}, expected at least 1, at most {MOST}")
    if knobs.runtime.interpret:
        raise options.Usage("TRITON_INTERPRET: set, so that nothing would be compiled; expected it unset")
    known = read(out.read_text()) if out is not None and out.exists() else []
    todo = list(product(ops, layouts or tuple(options.LAYOUTS.values())))
    for name, order in terminal.Progress("problems compared", len(todo)).of(todo):
        try:
            known = merged(known, sides(name, order, channels, side, () if ours else FORMS))
        except Exception as error:  # what a release of torch or the account does not know: said, and left out
            terminal.console().print(f"{name}, {order}: {type(error).__name__}: {str(error).splitlines()[0]}")
        if out is not None:
            out.write_text(write(known))
    terminal.console().print(_listing(known, ops))


@dataclass(frozen=True)
class Time:
    """Of one launch: microseconds for each round trip, and what limits it; of a library no account."""

    name: str
    us: tuple[float, ...]
    floor: float  # of its bytes alone
    limit: str
    code: str = ""  # digest of the machine code and the grid


@dataclass(frozen=True)
class Side:
    """What one provider launches, forward or backward."""

    op: str
    C: int
    side: int
    layout: str
    mode: str
    provider: str
    launches: tuple[Time, ...]

    @property
    def key(self) -> tuple:
        return self.op, self.C, self.side, self.layout, self.mode, self.provider

    @property
    def us(self) -> tuple[float, ...]:
        """For each round trip."""
        return tuple(
            sum(t) + assumed.LAUNCH * len(self.launches) for t in zip(*(x.us for x in self.launches), strict=True)
        )


def sides(op: str, layout: str, C: int, side: int, providers: Sequence[str] = tuple(FORMS)) -> Iterator[Side]:
    """Ours, and each of torch.compile's, forward and backward, of 8 images in bfloat16."""
    import torch

    from ... import compiled as static
    from ...catalog import BY_NAME, make_inputs
    from ..measure import rivals
    from .libraries import Noting

    row = BY_NAME[op]
    sizes = {**row.cases[0].sizes, "N": 8, "C": C, "S": (side, side), "Cr": max(C // 2, 1)}
    sizes |= {"heads": C // 32} if "heads" in sizes else {}
    what = op, C, side, layout
    called: list = []
    with Noting(called):
        both = static.plans(row, sizes, torch.bfloat16, layout)
    for mode, plans in zip(("fwd", "bwd"), both, strict=True):
        products = [c for c in called if c.flops and c.name.endswith("backward") == (mode == "bwd")]
        launches = [*map(_ours, plans), *(_theirs(call, layout) for call in products)]
        yield Side(*what, mode, OURS, tuple(launches))
    known = rivals.RIVALS.get(op)
    for provider in providers:
        if known is None or (function := getattr(known, FORMS[provider])) is None:
            continue
        made = make_inputs(row, sizes, torch.bfloat16, layout=layout, device="meta")
        kept = (name.removesuffix("?") not in known.left_out for name in row.inputs)
        inputs = list(compress(made, kept))
        for mode, calls in zip(("fwd", "bwd"), _generated(function, inputs), strict=True):
            yield Side(*what, mode, provider, tuple(_theirs(call, layout) for call in calls))


def _generated(function: Callable, inputs: Sequence) -> Any:
    from .inductor import generated

    return generated(function, inputs)


def _ours(plan: Any) -> Time:
    from ... import compiled as static
    from ..account.account import account_of
    from ..account.launch import launch_of

    return _time(account_of(launch_of(static.compile_plan(plan))))


def _theirs(call: "Kernel | Library", layout: str) -> Time:
    from .libraries import Library

    if isinstance(call, Library):
        return library(call.name, call.nbytes, call.flops, layout)
    from .flex import accounts

    return min((_time(*accounts(launch)) for launch in call.launches()), key=lambda t: t.us[1])


def _time(*accounts: "Account") -> Time:
    """The mean over the kinds of programs of a launch; the limit is that of the first."""
    first, count = accounts[0], len(accounts)
    times = tuple(round(sum(account.at(trip).time for account in accounts) / count, 3) for trip in assumed.ROUND_TRIPS)
    floor = round(sum(account.floor for account in accounts) / count, 3)
    return Time(first.launch.name, times, floor, first.limit, first.launch.digest)


def library(name: str, nbytes: int, flops: int, layout: str) -> Time:
    """By a rule, the same for all: its bytes once, or its products, at a share of the ceilings. A convolution's
    backward reads the incoming gradient twice; one on maps in NCHW is computed in NHWC: they are copied there and back.
    """
    if name.startswith("convolution"):
        nbytes *= (1.25 if name.endswith("backward") else 1) * (1 if layout == "channels_last" else 3)
    floor = nbytes / assumed.DRAM
    products = flops / assumed.MATRIX_RATE
    time = round(max(floor, products) / assumed.LIBRARY + assumed.LIBRARY_LEAST, 3)
    return Time(f"library: {name}", (time,) * len(assumed.ROUND_TRIPS), round(floor, 3), "by the rule for libraries")


def verdict(ours: Side, theirs: Side) -> tuple[tuple[float, ...], str]:
    """The rival's time over ours for each round trip, and which is faster; near one another, neither."""
    ratios = tuple(b / a for a, b in zip(ours.us, theirs.us, strict=True))
    for who, holds in (
        (OURS, lambda r: r > 1 + TIE),
        (RIVAL, lambda r: r < 1 - TIE),
        ("equal", lambda r: abs(r - 1) <= TIE),
    ):
        if all(map(holds, ratios)):
            return ratios, who
    return ratios, "undecided"


@dataclass(frozen=True)
class Line:
    """One problem and direction: ours, and what torch.compile makes of the listing and of the best form."""

    ours: Side
    rivals: dict[str, Side]

    @property
    def limit(self) -> str:
        """Of our slowest launch."""
        return max(self.ours.launches, key=lambda t: t.us[1]).limit

    @property
    def outcome(self) -> str:
        """Against the fastest of the rival's."""
        best = min(self.rivals.values(), key=lambda side: side.us[1], default=None)
        return "" if best is None else verdict(self.ours, best)[1]

    def cells(self) -> list[str]:
        found = [f"{self.ours.us[1]:.4g}", self.limit]
        for provider in FORMS:
            rival = self.rivals.get(provider)
            ratios = verdict(self.ours, rival)[0] if rival else ()
            found += [f"{rival.us[1]:.4g}", _span(ratios)] if rival else ["", ""]
        return [*found, self.outcome]


def _span(ratios: Sequence[float]) -> str:
    """1.41, or from the least to the most over the round trips."""
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low}-{high}"


def lines(found: Sequence[Side]) -> list[Line]:
    by_problem: dict[tuple, dict[str, Side]] = {}
    for side in found:
        by_problem.setdefault((side.op, side.C, side.side, side.layout, side.mode), {})[side.provider] = side
    return [Line(own, them) for them in by_problem.values() if (own := them.pop(OURS, None)) is not None]


def merged(known: Sequence[Side], new: Iterator[Side]) -> list[Side]:
    """What is new takes the place of what was known of the same, in order of the names."""
    sides = {side.key: side for side in (*known, *new)}
    return [sides[key] for key in sorted(sides)]


def read(text: str) -> list[Side]:
    found = []
    for line in text.splitlines():
        values = json.loads(line)
        launches = tuple(Time(**{**t, "us": tuple(t["us"])}) for t in values.pop("launches"))
        found.append(Side(**values, launches=launches))
    return found


def write(found: Sequence[Side]) -> str:
    return "".join(json.dumps(asdict(side)) + "\n" for side in found)


def _listing(found: Sequence[Side], ops: Sequence[str]) -> Any:
    from ..terminal import Row, listing

    groups: dict[str, list[Row]] = {}
    for line in lines(found):
        if line.ours.op in ops:
            order = {"contiguous": "NCHW"}.get(line.ours.layout, "NHWC")
            name = f"{line.ours.op}, {order}, 8x{line.ours.C}x{line.ours.side}x{line.ours.side}"
            groups.setdefault(name, []).append(Row([f"  {line.ours.mode}", *line.cells()]))
    return listing("Predicted from machine code for sm_90, not measured", HEAD, groups, left=(0, 2, 7))
