"""Attention to windows at the sizes of backbones' stages: what it is to reach by the account, and how it is judged.

What a bar allows over what is taken, picoseconds an element of q, its bytes' time or a share of a rival's time, is how
often it is met: once and more, or missed. Forward and backward, memory orders and stages stand apart. A bar that is
missed is named in MISSED, with what it reaches today, below which it may not fall; why stands in perf/NOTES.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod

from .sides import Side

ORDERS_IN_MEMORY = ("channels_last", "contiguous")
RIVALS = {  # window -> rival -> times as fast
    3: {"flex": 3.0, "shifted": 3.0, "unfolded": 5.0},
    **{kernel_size: {"flex": 2.0} for kernel_size in (5, 7, 9, 11, 13)},
}
MOST_PS = {"fwd": 3.8, "bwd": 8.5}  # of 3 x 3, an element of q; where W is contiguous twice that
OF_FLOOR = 1.5  # times its bytes' time, the forward of 3 x 3 with 64 channels a head
ALONG_W = 2.0


@dataclass(frozen=True)
class Stage:
    """Maps of one stage, N images; heads of D channels."""

    name: str
    kernel_size: int
    N: int
    S: tuple[int, int]
    heads: int
    D: int
    dilation: int = 1

    @property
    def size(self) -> str:
        return "x".join(map(str, (self.N, self.heads * self.D, *self.S)))

    @property
    def elements(self) -> int:
        return self.N * prod(self.S) * self.heads * self.D


WINDOW_STAGES = (
    Stage("nat-mini-stage1", 7, 8, (128, 128), 2, 32),
    Stage("hdit-1024-level1", 7, 1, (256, 256), 2, 64),
    Stage("nat-mini-stage1-13x13", 13, 8, (128, 128), 2, 32),
    Stage("hdit-1024-level1-13x13", 13, 1, (256, 256), 2, 64),
    Stage("segman-s-stage1", 11, 8, (128, 128), 2, 32),
    Stage("segman-s-stage2", 9, 8, (64, 64), 4, 36),
    Stage("dinat-mini-stage1", 7, 8, (128, 128), 2, 32, dilation=16),
    Stage("dinat-mini-stage2", 7, 8, (64, 64), 4, 32, dilation=8),
    Stage("nat-mini-stage1-5x5", 5, 8, (128, 128), 2, 32),
    Stage("hdit-1024-level1-5x5", 5, 1, (256, 256), 2, 64),
    Stage("nat-mini-stage2", 7, 8, (64, 64), 4, 32),
    Stage("hdit-1024-level2", 7, 1, (128, 128), 4, 64),
    Stage("segman-t-stage2", 9, 8, (64, 64), 2, 32),
    Stage("large-32", 3, 8, (512, 512), 2, 32),
    Stage("large-64", 3, 8, (512, 512), 1, 64),
)


def _missed(layout: str, bar: str, **stages: tuple[float, float]) -> dict[tuple[str, str, str, str], float]:
    """(stage, layout, mode, bar) -> times, of the forward and the backward of each; 1 is met."""
    each = ((name.replace("_", "-"), both) for name, both in stages.items())
    return {
        (name, layout, mode, bar): times
        for name, both in each
        for mode, times in zip(("fwd", "bwd"), both, strict=True)
        if times < 1
    }


MISSED = {
    **_missed(
        *("channels_last", "2 times flex"),
        segman_s_stage2=(0.71, 0.43),  # 36 channels a head
        segman_t_stage2=(1.0, 0.82),
        hdit_1024_level2=(0.97, 0.84),
    ),
    **_missed(
        *("contiguous", "2 times flex"),  # which is given channels_last, and copies nothing
        segman_s_stage2=(0.58, 0.4),
        nat_mini_stage2=(0.91, 0.79),
        hdit_1024_level2=(0.63, 0.68),
        segman_t_stage2=(0.75, 0.63),
    ),
}


def asked() -> Iterator[tuple[Stage, str]]:
    return product(WINDOW_STAGES, ORDERS_IN_MEMORY)


def rivals_of(stage: Stage, layout: str) -> dict[str, float]:
    """Rival -> times as fast; where W is contiguous FlexAttention alone, whose time there is no less."""
    return {name: x for name, x in RIVALS[stage.kernel_size].items() if layout == "channels_last" or name == "flex"}


def reached(stage: Stage, own: Side, rivals: Mapping[str, Side]) -> dict[str, tuple[float, ...]]:
    """Of each bar, how many times, for each round trip to DRAM; of rivals as far as there are records."""
    wide = ALONG_W if own.layout == "contiguous" else 1.0
    goals = {}
    if stage.kernel_size == 3:
        floor = sum(t.floor for t in own.launches if t.name != "turn")  # a copy that others do without is no floor
        by_floor = own.mode == "fwd" and stage.D == 64
        name = f"{wide * OF_FLOOR:g} floors" if by_floor else f"{wide * MOST_PS[own.mode]:g} ps"
        most = floor * OF_FLOOR if by_floor else stage.elements * MOST_PS[own.mode] * 1e-6
        goals[name] = (wide * most,) * len(own.us)
    for rival, times in rivals_of(stage, own.layout).items():
        if rival in rivals:
            goals[f"{times:g} times {rival}"] = tuple(us / times for us in rivals[rival].us)
    return {name: tuple(g / us for g, us in zip(goal, own.us, strict=True)) for name, goal in goals.items()}


def faults(stage: Stage, own: Side, rivals: Mapping[str, Side]) -> list[str]:
    """Bars that are missed and not named so, what falls below what is named, and names that none needs."""
    found = []
    for bar, times in reached(stage, own, rivals).items():
        place, least = (stage.name, own.layout, own.mode, bar), min(times)
        wanted = MISSED.get(place, 1.0)
        if least < wanted:
            found.append(f"{' '.join(place)}: {least:.3f} times, expected {wanted:g}")
        elif place in MISSED and least >= 1.0:
            found.append(f"{' '.join(place)}: is named as missed without need")
    return found
