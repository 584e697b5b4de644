"""Every launch of every operation by itself, forward and backward, with a cold cache: a line each in kernels.jsonl.

What a call takes says that something is slow; this says what, beside the bytes that its plan states.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from ..measure import points as measure
from ..measure import timing
from ..measure.backends import Cpu
from ..measure.child import one_line
from ..measure.plan import problem_of
from ..options import LAYOUT_NAMES, OPS
from ..records import Point
from ..store import append_line, lines

LINES = "kernels.jsonl"
SIDE, SECONDS, WARM_UP = 512, 0.02, 0.005


def run(out: Path, backend: Cpu, seconds: float, console: Console) -> None:
    """Those that are not known yet, as many as there is time for."""
    end, known = backend.now() + seconds, {(line["op"], line["layout"]) for line in lines(out / LINES)}
    for point in points():
        if backend.now() >= end:
            break
        if (point.op, point.layout) in known:
            continue
        try:
            found = timed(point, backend)
        except Exception as error:
            console.print(f"{point.op} {point.layout}: {one_line(error)}", markup=False, soft_wrap=True)
            found = []
        for line in found:
            append_line(out / LINES, line)
        measure.recover(backend)


def points() -> Iterator[Point]:
    for op in OPS:
        for layout in LAYOUT_NAMES.values():
            yield Point(op, "segattn", "bwd", "bfloat16", layout, 8, 64, SIDE, SIDE)


def timed(point: Point, backend: Cpu) -> list[dict]:
    """A line for each launch, in their order."""
    launches = backend.launches(problem_of(point))
    calls = {str(i): call for i, (_, call) in enumerate(launches)}
    times = timing.interleaved(calls, backend, seconds=SECONDS, warm_up=WARM_UP)
    return [
        dict(
            op=point.op,
            layout=point.layout,
            side=SIDE,
            i=i,
            kernel=q.name,
            ms=times[str(i)].ms,
            bytes=moved(q),
            grid=q.grid,
            config=words(q),
            index=q.config.choice.index if q.config.choice else None,
            key=q.config.choice.key if q.config.choice else None,
        )
        for i, (q, _) in enumerate(launches)
    ]


def moved(plan: Any) -> float:
    """Bytes, by the plan's traffic."""
    named = ((plan.args[name], sum(times)) for name, times in plan.traffic.items())
    tensors = ((getattr(t, "base", t), times) for t, times in named if t is not None)
    return sum(t.numel() * t.element_size() * times for t, times in tensors)


def words(plan: Any) -> str:
    """P64 w4 s1 p4: block sizes, warps, stages, programs an SM"""
    blocks = " ".join(f"{name.removeprefix('BLOCK_')}{value}" for name, value in plan.config.blocks.items())
    return f"{blocks} w{plan.config.num_warps} s{plan.config.num_stages} p{plan.config.programs}"
