"""What each provider launches for a problem, forward and backward, each launch with its time by the account.

Ours, torch.compile of the listing, torch.compile of the best form. Of the configs that Inductor would time, the one
with the least time by the account stands for its choice. A library's call is taken at a share of the ceilings.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any

from ..account import assumptions as assumed

if TYPE_CHECKING:
    from ...catalog import Op
    from ..account.account import Account
    from .inductor import Kernel
    from .libraries import Library

OURS, RIVAL = "ours", "torch.compile"
FORMS = {"compile": "listing", "compile-best": "best"}  # of torch.compile -> what it is given


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
    size: str  # 8x64x512x512
    layout: str
    mode: str
    provider: str
    launches: tuple[Time, ...]
    made: str = ""  # digest of all that it was computed from

    @property
    def problem(self) -> tuple[str, str, str, str]:
        return self.op, self.size, self.layout, self.mode

    @property
    def us(self) -> tuple[float, ...]:
        """For each round trip, launches included."""
        return tuple(
            sum(t) + assumed.LAUNCH * len(self.launches) for t in zip(*(x.us for x in self.launches), strict=True)
        )

    @property
    def share(self) -> float:
        """The time of its bytes alone over its time."""
        return sum(t.floor for t in self.launches) / self.us[1]

    @property
    def limit(self) -> str:
        """Of its slowest launch; "launches", where more of the time is theirs."""
        slowest = max(self.launches, key=lambda t: t.us[1])
        return "launches" if assumed.LAUNCH * len(self.launches) > self.us[1] / 2 else slowest.limit


def sizes_of(op: str, size: str) -> dict[str, Any]:
    """Of the row's first named case, but for these."""
    from ...catalog import BY_NAME

    N, C, *S = (int(n) for n in size.split("x"))
    sizes = {**BY_NAME[op].cases[0].sizes, "N": N, "C": C, "S": tuple(S), "Cr": max(C // 2, 1)}
    return sizes | ({"heads": C // 32} if "heads" in sizes else {})


def sides(
    op: str,
    layout: str,
    size: str,
    providers: Sequence[str] = (OURS, *FORMS),
    known: Iterable[str] = (),
    arch: int = 90,
) -> Iterator[Side]:
    """Of bfloat16; but those whose digest is known."""
    what, known = (op, size, layout, arch), set(known)
    if OURS in providers:
        yield from _ours(*what, known)
    for provider in FORMS:
        function = _form(op, provider)
        if provider in providers and function is not None:
            yield from _theirs(*what, provider, function, known)


def has(op: str, provider: str) -> bool:
    """Whether torch.compile has such a form of it."""
    return _form(op, provider) is not None


def _form(op: str, provider: str) -> Callable | None:
    from ..measure import rivals

    return getattr(rivals.RIVALS.get(op), FORMS[provider], None)


def _ours(op: str, size: str, layout: str, arch: int, known: set[str]) -> Iterator[Side]:
    import torch

    from ...catalog import BY_NAME
    from . import digests

    both = launched(BY_NAME[op], sizes_of(op, size), layout, torch.bfloat16, arch)
    for mode, (plans, calls) in zip(("fwd", "bwd"), both, strict=True):
        made = digests.of_plans(plans, [arch, *calls])
        if made not in known:
            launches = (
                *(launched_time(plan, arch) for plan in plans),
                *(time_of(call, layout, arch) for call in calls),
            )
            yield Side(op, size, layout, mode, OURS, launches, made)


def launched(row: "Op", sizes: Mapping, layout: str, dtype: Any, arch: int = 90) -> list[tuple[list, list["Library"]]]:
    """The plans of ours and what else is called, a library's products, forward and backward; of what rivals take."""
    from ... import compiled as static
    from ..measure import rivals
    from .libraries import Noting

    how = dict(dtype=dtype, layout=layout, arch=arch, absent=rivals.left_out(row.name))
    alone: list = []
    with Noting(alone):
        static.plans(row, sizes, **how, needs=[False] * len(row.inputs))  # the forward, which comes first in both
    called: list = []
    with Noting(called):
        both = static.plans(row, sizes, **how)
    products, first = [call for call in called if call.flops], sum(call.flops > 0 for call in alone)
    calls = products[:first], products[first:]
    return list(zip(both, calls, strict=True))


def _theirs(
    op: str, size: str, layout: str, arch: int, provider: str, function: Callable, known: set[str]
) -> Iterator[Side]:
    import torch

    from ...catalog import BY_NAME, make_inputs
    from ..measure import rivals
    from . import digests
    from .inductor import generated

    made = digests.of_rival(function, op, size, layout, arch)
    if made in known:
        return
    row = BY_NAME[op]
    inputs = make_inputs(row, sizes_of(op, size), torch.bfloat16, layout=layout, device="meta")
    kept = (name.removesuffix("?") not in rivals.left_out(op) for name in row.inputs)
    for mode, calls in zip(("fwd", "bwd"), generated(function, list(compress(inputs, kept)), arch), strict=True):
        yield Side(op, size, layout, mode, provider, tuple(time_of(call, layout, arch) for call in calls), made)


def launched_time(plan: Any, arch: int = 90) -> Time:
    from ... import compiled as static
    from ..account.account import account_of
    from ..account.launch import launch_of

    return _time(account_of(launch_of(static.compile_plan(plan, arch))))


def time_of(call: "Kernel | Library", layout: str, arch: int = 90) -> Time:
    from .libraries import Library

    if isinstance(call, Library):
        return library(call.name, call.nbytes, call.flops, layout, assumed.MACHINES[arch])
    from .flex import accounts

    return min((_time(*accounts(launch)) for launch in call.launches()), key=lambda t: t.us[1])


def _time(*accounts: "Account") -> Time:
    """The mean over the kinds of programs of a launch; the limit is that of the first."""
    first, count = accounts[0], len(accounts)
    times = tuple(round(sum(account.at(trip).time for account in accounts) / count, 3) for trip in assumed.ROUND_TRIPS)
    floor = round(sum(account.floor for account in accounts) / count, 3)
    return Time(first.launch.name, times, floor, first.limit, first.launch.digest)


def library(name: str, nbytes: int, flops: int, layout: str, machine: assumed.Machine = assumed.H200) -> Time:
    """By a rule, the same for all: its bytes once, or its products, at a share of the ceilings. A convolution's
    backward reads the incoming gradient twice; one on maps in NCHW is computed in NHWC: they are copied there and back.
    """
    if name.startswith("convolution"):
        nbytes *= (1.25 if name.endswith("backward") else 1) * (1 if layout == "channels_last" else 3)
    floor = nbytes / machine.dram
    products = flops / machine.matrix_rate
    time = round(max(floor, products) / assumed.LIBRARY + assumed.LIBRARY_LEAST, 3)
    return Time(f"library: {name}", (time,) * len(assumed.ROUND_TRIPS), round(floor, 3), "by the rule for libraries")


def merged(known: Iterable[Side], new: Iterable[Side]) -> list[Side]:
    """What is new takes the place of what was known of the same, in order of the names."""
    found = {(*side.problem, side.provider): side for side in (*known, *new)}
    return [found[key] for key in sorted(found, key=_place)]


def _place(key: tuple[str, ...]) -> tuple:
    op, size, *rest = key
    return op, [int(n) for n in size.split("x")], rest


def read(text: str) -> list[Side]:
    return [of_json(json.loads(line)) for line in text.splitlines()]


def of_json(values: Mapping) -> Side:
    launches = tuple(Time(**{**t, "us": tuple(t["us"])}) for t in values["launches"])
    return Side(**{**values, "launches": launches})


def write(found: Iterable[Side]) -> str:
    return "".join(json.dumps(asdict(side), separators=(",", ":")) + "\n" for side in found)
