"""Who is faster by the account, and which bars are met: only where it is so for every round trip that is assumed.

A verdict that another round trip to DRAM would turn is "undecided". Layouts, sizes and directions stand apart.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .sides import FORMS, OURS, RIVAL, Side

TIE_BAND = 0.02
UNDECIDED = "undecided"
SMALL_MAP = "1x128x64x128"  # the map of a real-time network
AT_ONCE = 1.2  # times the compiled best, of such a map


@dataclass(frozen=True)
class Bar:
    """What an op is to reach: its bytes' time over its time, and the compiled best's time over its own."""

    share: tuple[float, float] | None  # forward, backward
    times: tuple[float, float]


BARS = {
    **dict.fromkeys(("spatial_gate", "spatial_pool_gate"), Bar((0.92, 0.9), (1.0, 1.0))),
    **dict.fromkeys(("channel_gate", "squeeze_excite", "effective_se", "eca"), Bar((0.9, 0.9), (1.0, 1.0))),
    "scse": Bar((0.9, 0.85), (1.3, 1.2)),
    **dict.fromkeys(("local_gate_depthwise", "local_pool_gate"), Bar((0.75, 0.6), (1.3, 1.3))),
}
REST = Bar(None, (1.0, 1.0))  # no slower than the compiled best in either layout


def verdict(ours: Sequence[float], theirs: Sequence[float]) -> tuple[tuple[float, ...], str]:
    """The rival's time over ours for each round trip, and which is faster; near one another, neither."""
    ratios = tuple(b / a for a, b in zip(ours, theirs, strict=True))
    holds: dict[str, Callable[[float], bool]] = {
        OURS: lambda r: r > 1 + TIE_BAND,
        RIVAL: lambda r: r < 1 - TIE_BAND,
        "equal": lambda r: abs(r - 1) <= TIE_BAND,
    }
    return ratios, next((who for who, test in holds.items() if all(map(test, ratios))), UNDECIDED)


def met(values: Iterable[float], bar: float) -> str:
    """Of one value for each round trip; 2 % below an equal rival is none."""
    found = [value >= bar for value in values]
    return "met" if all(found) else UNDECIDED if any(found) else "missed"


@dataclass(frozen=True)
class BothSides:
    """One problem and direction: ours, and what torch.compile makes of the listing and of the best form."""

    ours: Side
    rivals: dict[str, Side]

    @property
    def best(self) -> tuple[float, ...]:
        """The fastest of the rival's for each round trip; none without one."""
        return tuple(map(min, zip(*(side.us for side in self.rivals.values()), strict=True)))

    @property
    def outcome(self) -> str:
        return verdict(self.ours.us, self.best)[1] if self.rivals else ""

    @property
    def bar(self) -> Bar:
        return Bar(None, (AT_ONCE, AT_ONCE)) if self.ours.size == SMALL_MAP else BARS.get(self.ours.op, REST)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of our own bytes' time, for each round trip."""
        floor = sum(t.floor for t in self.ours.launches)
        return tuple(floor / us for us in self.ours.us)

    @property
    def bars(self) -> tuple[str, str]:
        """Of the share, and against the compiled best: met, missed, undecided, or nothing where there is no bar."""
        backward = self.ours.mode == "bwd"
        share = met(self.shares, self.bar.share[backward]) if self.bar.share else ""
        slack = TIE_BAND if self.bar.times[backward] == 1.0 else 0.0
        ratios = verdict(self.ours.us, self.best)[0] if self.rivals else ()
        return share, met(ratios, self.bar.times[backward] - slack) if ratios else ""

    def cells(self) -> list[str]:
        found = [f"{self.ours.us[1]:.4g}", self.ours.limit]
        for provider in FORMS:
            rival = self.rivals.get(provider)
            found += [f"{rival.us[1]:.4g}", span(verdict(self.ours.us, rival.us)[0])] if rival else ["", ""]
        return [*found, self.outcome]


def span(ratios: Sequence[float]) -> str:
    """1.41, or from the least to the most over the round trips."""
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low}-{high}"


def lines(found: Iterable[Side]) -> list[BothSides]:
    by_problem: dict[tuple, dict[str, Side]] = {}
    for side in found:
        by_problem.setdefault(side.problem, {})[side.provider] = side
    return [BothSides(own, them) for them in by_problem.values() if (own := them.pop(OURS, None)) is not None]
