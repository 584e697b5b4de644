"""Dependent launches, on and off: first that no bit differs, then which is faster; the table says so of each kernel.

A kernel that waits by itself may be on the GPU before what it follows has ended. It is off until this says otherwise.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from rich.console import Console

from ...compiled import plans_of
from ...tuning import choice as tuning
from ...tuning import tables as tuned
from ..measure import points as measure
from ..measure import timing
from ..measure.backends import Cpu
from ..measure.child import one_line
from ..measure.plan import problem_of
from ..measure.workload import Workload
from ..records import Point
from ..store import append_line, lines
from . import folder

LINES = "dependent.jsonl"
TRIED_OPS, SIDES = ("squeeze_excite", "scse", "eca", "spatial_gate", "channel_gate"), (64, 128, 256)
GAIN = 0.02  # less than this is noise


@dataclass(frozen=True)
class OffAndOn:
    point: str
    kernels: tuple[str, ...]  # that can wait by themselves
    equal: bool  # to the bit
    off: float = 0.0  # milliseconds
    on: float = 0.0


def run(out: Path, backend: Cpu, seconds: float, console: Console) -> None:
    """Those that are not known yet, as many as there is time for; then the table."""
    end, known = backend.now() + seconds, {line["point"] for line in lines(out / LINES)}
    folder.install_table(out, backend)
    for point in points():
        if backend.now() >= end:
            break
        if name(point) in known:
            continue
        try:
            found = compare(point, backend)
        except Exception as error:
            console.print(f"{name(point)}: {one_line(error)}", markup=False, soft_wrap=True)
        else:
            append_line(out / LINES, vars(found))
            said = f"{1e3 * found.off:.4g} us off, {1e3 * found.on:.4g} us on" if found.equal else "other bits on"
            console.print(f"{name(point)}: {said}", markup=False)
        measure.recover(backend)
    if said := verdict([OffAndOn(**line) for line in lines(out / LINES)]):
        table = tuned.Table(backend.name, backend.capability, triton.__version__, dependent=said)
        with folder.retiming(out, backend, "dependent since") as moved:
            tuned.write(out / folder.TABLE, table)
        folder.install_table(out, backend)
        on = [kernel for kernel, dependent in said.items() if dependent]
        console.print(
            f"dependent from here on: {', '.join(on) or 'none'}; {moved()} times are taken again", markup=False
        )


def points() -> Iterator[Point]:
    """Small maps, where a launch is much of the time, first."""
    for side in SIDES:
        for op in TRIED_OPS:
            for mode in ("fwd", "bwd"):
                if (op, mode) != ("spatial_gate", "fwd"):  # a single launch
                    yield Point(op, "segattn", mode, "bfloat16", "channels_last", 8, 64, side, side)


def name(p: Point) -> str:
    return f"{p.op} {p.mode} {p.layout} {p.N}x{p.C}x{p.H}x{p.W}"


def choosing(kernels: Collection[str], on: bool, backend: Cpu) -> AbstractContextManager:
    """By today's tables, but for whether these kernels are dependent."""
    said = tuned.Table(backend.name, backend.capability, dependent=dict.fromkeys(kernels, on))
    return tuning.using([said, *tuning.tables(backend.device)])


def kernels_of(p: Point, backend: Cpu) -> tuple[str, ...]:
    return tuple(sorted({q.name for q in plans_of(problem_of(p), backend.capability) if "DEPENDENT" in q.args}))


def early(p: Point, backend: Cpu) -> list[str]:
    """Those that would be launched before what they follow has ended, as chosen now."""
    return [q.name for q in plans_of(problem_of(p), backend.capability) if q.options.get("launch_pdl")]


def compare(p: Point, backend: Cpu) -> OffAndOn:
    kernels, results, graphs, sets = kernels_of(p, backend), {}, {}, 1
    for on in (False, True):
        with choosing(kernels, on, backend):
            if backend.runs_kernels and bool(early(p, backend)) != (on and len(kernels) > 1):
                raise RuntimeError(f"dependent launches {'on' if on else 'off'}: {early(p, backend)} are")
            workload = Workload(p, backend)
            fn = workload.function(p.provider)
            results[on] = [workload.whole(p.provider, fn)() for _ in range(3)]  # planned, written down, repeated
            backend.synchronize()
            graphs[on], sets = workload.graph(p.provider, fn)
    if not all(same(results[False][0], found) for found in (*results[False], *results[True])):
        return OffAndOn(name(p), kernels, False)
    times = timing.interleaved({str(on): graph for on, graph in graphs.items()}, backend, sets)
    return OffAndOn(name(p), kernels, True, times["False"].ms, times["True"].ms)


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """To the bit."""
    return all(torch.equal(a[k].contiguous().view(torch.uint8), b[k].contiguous().view(torch.uint8)) for k in a)


def verdict(found: Sequence[OffAndOn]) -> dict[str, bool]:
    """A kernel is dependent if all that launches it has the same bits, and together is faster."""
    said = {}
    for kernel in sorted({k for f in found for k in f.kernels}):
        its = [f for f in found if kernel in f.kernels]
        faster = sum(f.on for f in its) < (1 - GAIN) * sum(f.off for f in its)
        said[kernel] = all(f.equal for f in its) and faster
    return said
