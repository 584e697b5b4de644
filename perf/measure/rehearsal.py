"""A machine that only simulates time. It answers the same calls as those of `backends`, so that the loop that runs on a
GPU is the loop that runs in the tests."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .backends import Cpu, TimedCall


class Rehearsal(Cpu):
    """A GPU that is not there: calls run once, small, on the CPU; their time and memory are made up.

    The device's time is a queue behind the host's: launches cost the host, bytes cost the device. Deterministic.
    """

    gpu, timer = True, "events"
    name = "rehearsal"
    l2_bytes = 2**26
    SPEED = MappingProxyType({"segattn": 0.9, "compile-best": 0.8, "compile": 0.7, "eager": 0.4})  # of the bandwidth
    BANDWIDTH = 4e12  # bytes per second
    LAUNCH = 1e-5  # seconds of the host per call
    COMPILE = 3.0
    capability = 90
    runs_kernels = False

    def __init__(self, memory: int = 2**37, largest: tuple[int, int] = (8, 12), seed: int = 0):
        """Memory in bytes; the largest (C, side) that tensors really get."""
        self.memory, self.largest = memory, largest
        self.host = self.queue = 0.0
        self._noise = random.Random(seed)
        self._seen: dict[int, TimedCall] = {}

    class Event:
        def __init__(self, backend):
            self.backend = backend

        def record(self):
            self.at = max(self.backend.host, self.backend.queue)

        def elapsed_time(self, end) -> float:
            return 1e3 * (end.at - self.at)

    def now(self) -> float:
        return self.host

    def clock(self) -> float:
        return self.host

    def sizes(self, C: int, H: int, W: int) -> tuple[int, int, int]:
        return min(C, self.largest[0]), min(H, self.largest[1]), min(W, self.largest[1])

    def compile(self, fn: Callable) -> Callable:
        self.host += self.COMPILE
        return fn

    compile_model = compile

    def run(self, call: TimedCall) -> None:
        if self._seen.get(id(call)) is not call:
            self._seen[id(call)] = call
            call()
        self._enqueue(call.bytes / (self.BANDWIDTH * self.SPEED.get(call.provider, 1.0)))

    def _enqueue(self, seconds: float) -> None:
        self.host += self.LAUNCH
        self.queue = max(self.host, self.queue) + (seconds + 2e-6) * self._noise.uniform(0.98, 1.04)

    def event(self):
        return self.Event(self)

    def synchronize(self) -> None:
        self.host = max(self.host, self.queue)

    def flush(self) -> None:
        self._enqueue(4 * self.l2_bytes / self.BANDWIDTH)

    def capture(self, makers: Sequence[Callable[[], TimedCall]]) -> TimedCall:
        calls = [make() for make in itertools.islice(makers, 1)] * len(makers)
        return TimedCall(calls[0].run, calls[0].provider, sum(c.bytes for c in calls), calls)

    def table(self, out: Path) -> Path | None:
        return out / "tuned.json"

    def kernel(self, launch: Callable[[], Any], nbytes: int = 0) -> TimedCall:
        return TimedCall(lambda: None, "kernel", nbytes)

    def answers(self, work: Callable, pieces: Sequence, workers: int, seconds: float, each: float) -> Iterator[tuple]:
        """Each takes a second of a process, and what it takes of this clock, shared by all."""
        end = self.host + seconds
        for piece in pieces:
            begin = self.host
            answer = work(piece, self)
            self.host = begin + (1.0 + self.host - begin) / workers
            if self.host > end:
                self.host = end
                return
            yield piece, answer

    def launches(self, p: Any) -> list[tuple[Any, TimedCall]]:
        from ...compiled import plans_of

        return [(q, TimedCall(lambda: None, "segattn")) for q in plans_of(p, self.capability)]

    def verified(self, pieces: Sequence, device: str, seconds: float) -> list[str | None]:
        self.host += 0.05 * len(pieces)
        return [None] * len(pieces)

    def compiled(self, pieces: Sequence, workers: int, seconds: float) -> list[str | None]:
        self.host += 0.02 * len(pieces)
        return [None] * len(pieces)

    def candidate(self, unit: Any, index: int, cost: float) -> TimedCall:
        """Costs what the model says, more or less; a penalty by which it rules out a config is no time."""
        made_up = random.Random(f"{unit.choice.key} {index}").uniform(0.8, 1.25)
        relative = min(cost / min(unit.choice.costs().values()), 20.0)
        return TimedCall(lambda: None, "segattn", int(unit.choice.pixels * 256 * made_up * relative))

    def peak_memory(self, call: TimedCall) -> int | None:
        call()
        return int(call.bytes / self.SPEED.get(call.provider, 1.0))

    def free_memory(self) -> int:
        return self.memory

    def clocks(self) -> dict[str, Any]:
        return {"rehearsal": "times are made up"}

    def recover(self) -> None:
        self._seen.clear()
