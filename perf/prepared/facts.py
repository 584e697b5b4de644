"""What the account of time assumes, measured: each a line of facts.jsonl, by name, with the assumption beside it.

Latency by the footprint of a chain of loads, L2 bandwidth by the footprint that is read again, so that both show the
usable size of the cache; the cost of a launch, plain and dependent; and whether a call is timed warm: the same
inputs again, over inputs that were last used several caches before.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from ..account import assumptions as assumed
from ..measure import points as measure
from ..measure import timing
from ..measure.backends import Cpu
from ..measure.child import one_line
from ..measure.workload import Workload
from ..records import Point
from ..store import append_line
from . import folder

CHAINS = (8, 32, 48, 64, 1024)  # megabytes
FOOTPRINTS = (8, 16, 24, 32, 40, 48, 64, 128, 1024)
HOPS, LAUNCHES = 20_000, 100
PROGRAMS = 132 * 8
BYTES = 2**31  # that a bandwidth is taken over
WARM = (("spatial_gate", 512), ("squeeze_excite", 256), ("squeeze_excite", 512), ("channel_gate", 256), ("scse", 512))
ASSUMED = {  # by the account; its round trip is one while memory is busy
    "latency_ns 1024 MB": 1e3 * assumed.ROUND_TRIP,
    "latency_ns 8 MB": 1e3 * assumed.L2_TRIP,
    "bandwidth_gbs 32 MB": assumed.L2 / 1e3,
    "bandwidth_gbs 1024 MB": assumed.DRAM / 1e3,
    "launch_us plain": assumed.LAUNCH,
}


class Fact(NamedTuple):
    name: str
    measure: Callable[[Cpu], float]


def run(out: Path, backend: Cpu, seconds: float, console: Console) -> None:
    """Those that are not known yet, as many as there is time for."""
    end, known = backend.now() + seconds, folder.facts(out)
    todo = [fact for fact in all_facts() if fact.name not in known]
    for number, fact in enumerate(todo):
        if backend.now() >= end:
            console.print(f"{len(todo) - number} facts left out", markup=False)
            return
        try:
            value = fact.measure(backend)
        except Exception as error:
            console.print(f"{fact.name}: {one_line(error)}", markup=False, soft_wrap=True)
            measure.recover(backend)
            continue
        append_line(out / folder.FACTS, {"name": fact.name, "value": value, "assumed": ASSUMED.get(fact.name)})
        console.print(f"{fact.name}: {value:.4g}", markup=False)
        measure.recover(backend)


def all_facts() -> Iterator[Fact]:
    """The most valuable first."""
    for mb in CHAINS[::-1]:
        yield Fact(f"latency_ns {mb} MB", lambda backend, mb=mb: latency(backend, mb << 20))
    for mb in FOOTPRINTS:
        yield Fact(f"bandwidth_gbs {mb} MB", lambda backend, mb=mb: bandwidth(backend, mb << 20))
    for op, side in WARM:
        name = f"again over fresh, {op} {side}"
        yield Fact(name, lambda backend, op=op, side=side: again_over_fresh(backend, op, side))
    for name in ("plain", "dependent"):
        yield Fact(f"launch_us {name}", lambda backend, name=name: launch(backend, name == "dependent"))


def latency(backend: Cpu, nbytes: int) -> float:
    """Nanoseconds of a load that waits for the one before."""
    from . import probes

    small = nbytes if backend.runs_kernels else 4 * probes.LINE
    chain = probes.circle(small, backend.device)
    last = torch.zeros(1, dtype=torch.int32, device=backend.device)
    call = backend.kernel(lambda: probes.chase(chain, last, HOPS))
    for _ in range(max(1, min(16, nbytes // (128 * HOPS)))):
        backend.run(call)  # a chain that fits is in the cache after this
    start, end = backend.event(), backend.event()
    start.record()
    backend.run(call)
    end.record()
    backend.synchronize()
    return 1e6 * start.elapsed_time(end) / HOPS


def bandwidth(backend: Cpu, nbytes: int) -> float:
    """Gigabytes a second, of a footprint that is read again and again."""
    from . import probes

    rounds = BYTES // (4 * probes.BLOCK * PROGRAMS)
    x = torch.ones(nbytes // 4 if backend.runs_kernels else probes.BLOCK, dtype=torch.int32, device=backend.device)
    sums = torch.empty(PROGRAMS, dtype=torch.int32, device=backend.device)
    call = backend.kernel(lambda: probes.reread(x, sums, rounds), 4 * probes.BLOCK * PROGRAMS * rounds)
    ms = timing.interleaved({"": call}, backend)[""].ms
    if backend.runs_kernels and not (sums == rounds * probes.BLOCK).all():
        raise ArithmeticError("not every block was read")
    return 4 * probes.BLOCK * PROGRAMS * rounds / ms / 1e6


def launch(backend: Cpu, dependent: bool) -> float:
    """Microseconds of a small kernel in a CUDA graph of many, each reading what the one before wrote."""
    from . import probes

    x = torch.zeros(probes.BLOCK, dtype=torch.int32, device=backend.device)
    make = lambda: backend.kernel(lambda: probes.step(x, dependent))  # noqa: E731
    graph = backend.capture([make] * LAUNCHES)
    x.zero_()
    backend.run(graph)
    backend.synchronize()
    if backend.runs_kernels and not (x == LAUNCHES).all():
        raise ArithmeticError("a launch read before the one before it had written")
    return 1e3 * timing.interleaved({"": graph}, backend, LAUNCHES)[""].ms


def again_over_fresh(backend: Cpu, op: str, side: int) -> float:
    """The time of the same inputs again over that of fresh ones: 1 where the flush leaves the cache cold."""
    workload = Workload(Point(op, "segattn", "fwd", "bfloat16", "contiguous", 8, 64, side, side), backend)
    again, fresh = workload.again_and_fresh("segattn", workload.function("segattn"))
    found = timing.interleaved({"again": again, "fresh": fresh}, backend)
    return found["again"].ms / found["fresh"].ms
