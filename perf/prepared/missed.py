"""Which times miss what they should be, the most lost time first; and how far prediction and measurement are apart."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median

from ...catalog import BY_NAME
from ..records import SEGATTN, Point, Record

SHARE = 0.9  # of a device copy's speed


def ceilings(records: Iterable[Record]) -> dict[str, float]:
    """Bytes a millisecond of a copy, FLOP a millisecond of a matrix product: the best that was measured."""
    best: dict[str, float] = {}
    for r in records:
        if r.point.op in ("copy", "matmul") and r.ms:
            rate = (r.flops if r.point.op == "matmul" else r.floor_bytes) / r.ms
            best[r.point.op] = max(rate, best.get(r.point.op, 0.0))
    return best


def points(records: Sequence[Record]) -> list[Point]:
    """Ours that are below `SHARE` of a copy of the same bytes, or behind a rival."""
    copy = ceilings(records).get("copy")
    of = {r.point: r for r in records}
    rivals = defaultdict(list)
    for r in records:
        rivals[replace(r.point, provider=SEGATTN)].append(r.ms)
    lost = {}
    for point, r in of.items():
        if point.provider == SEGATTN and point.timer == "events" and point.op in BY_NAME and copy:
            lost[point] = r.ms - min(r.floor_bytes / copy / SHARE, *rivals[point])
    return sorted((p for p, ms in lost.items() if ms > 0), key=lambda p: -lost[p])


def predictions(records: Sequence[Record]) -> list[tuple[str, str, str, int, float, float]]:
    """(op, direction, layout, points, median and largest ratio of the time to the bound of the planned passes).

    The bound is the larger of bytes over the copy's speed and FLOP over the matrix rate, both as measured.
    """
    rates = ceilings(records)
    if len(rates) < 2:
        return []
    ratios = defaultdict(list)
    for r in records:
        p = r.point
        if p.provider == SEGATTN and p.timer == "events" and p.mode in ("fwd", "bwd"):
            bound = max(r.planned_bytes / rates["copy"], r.flops / rates["matmul"])
            ratios[p.op, p.mode, p.layout].append(r.ms / bound)
    return [(*key, len(found), median(found), max(found)) for key, found in sorted(ratios.items())]
