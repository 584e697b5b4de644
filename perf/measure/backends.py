"""The machines that a point is timed on: a CUDA GPU and the CPU. See `rehearsal` for one that only simulates time."""

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from . import candidates, child


@contextlib.contextmanager
def tuned_convolutions(on: bool) -> Iterator[None]:
    """Whether the library tries its algorithms on the first call of a size."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@dataclass
class TimedCall:
    """One call to be timed. `bytes` and `provider` say what it does; only a rehearsal looks at them."""

    run: Callable[[], Any]
    provider: str = ""
    bytes: int = 0
    keep: Any = None  # what must outlive the call: the tensors of a CUDA graph

    def __call__(self):
        return self.run()


class Cpu:
    """The CPU: no queue, so that an event is the clock's reading, and the caches are as the last call left them."""

    gpu, timer, kernels = False, "cpu", "reference"
    device = torch.device("cpu")
    name = "cpu"

    class Event:
        def record(self):
            self.at = time.perf_counter()

        def elapsed_time(self, end) -> float:
            return 1e3 * (end.at - self.at)

    def now(self) -> float:
        """Seconds on a clock that only moves forward."""
        return time.monotonic()

    def clock(self) -> float:
        """Seconds, as fine as can be told."""
        return time.perf_counter()

    def wake(self) -> None:
        """Bring an idle device to its clocks."""

    def sizes(self, C: int, H: int, W: int) -> tuple[int, int, int]:
        """The size that the tensors of a point of this size really get."""
        return C, H, W

    def compile(self, fn: Callable) -> Callable:
        """One graph for every size: compiling takes the better part of a minute."""
        return torch.compile(fn, fullgraph=True, dynamic=True)

    def compile_model(self, model: Callable) -> Callable:
        return torch.compile(model, dynamic=False)

    def run(self, call: TimedCall) -> None:
        """Enqueue the call."""
        call()

    def event(self):
        return self.Event()

    def synchronize(self) -> None:
        pass

    def flush(self) -> None:
        """Evict the L2 cache."""

    def peak_memory(self, call: TimedCall) -> int | None:
        """Bytes allocated at the peak of the call, above what was allocated before."""
        return None

    def free_memory(self) -> int:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def clocks(self) -> dict[str, Any]:
        return {}

    def recover(self) -> None:
        """Free what the last problem, or a failed call, left behind. Raises if the device is lost."""
        torch._dynamo.reset()  # a function is compiled for each problem: beyond eight, dynamo would give up
        gc.collect()


class Cuda(Cpu):
    gpu, timer, kernels = True, "events", "triton"

    def __init__(self):
        from .flush import Flush  # Triton's, which a CPU may be without

        self.device = torch.device("cuda", torch.cuda.current_device())
        properties = torch.cuda.get_device_properties(self.device)
        self.name = properties.name
        self.l2_bytes = properties.L2_cache_size
        self._example: tuple | None = None  # the problem that the tuner is at, and its inputs
        # half a millisecond on the fastest GPUs, so that the host has launched a call before the device comes to it
        self.flush = Flush(max(2 * self.l2_bytes, min(2**30, properties.total_memory // 64)), self.device)

    def wake(self) -> None:
        a = torch.randn(4096, 4096, dtype=torch.float16, device=self.device)
        end = self.now() + 1.0
        while self.now() < end:
            a @ a
            self.synchronize()

    def compile(self, fn: Callable) -> Callable:
        return torch.compile(fn, fullgraph=True, dynamic=False)

    def event(self):
        return torch.cuda.Event(enable_timing=True)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def capture(self, makers: Sequence[Callable[[], TimedCall]]) -> TimedCall:
        """One CUDA graph of the calls that `makers` make, each on its own tensors."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            calls = [make() for make in makers]  # here, so that a backward runs on the stream that captures
            for call in [calls[0], calls[0], *calls]:
                call()
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            outputs = [call() for call in calls]
        return TimedCall(graph.replay, calls[0].provider, sum(c.bytes for c in calls), (calls, outputs))

    def peak_memory(self, call: TimedCall) -> int | None:
        self.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated() - before

    @property
    def capability(self) -> int:
        from ...tuning.target import capability

        return capability(self.device)

    verified, compiled = staticmethod(candidates.verified), staticmethod(candidates.compiled)
    runs_kernels = True

    def kernel(self, launch: Callable[[], Any], nbytes: int = 0) -> TimedCall:
        """The launch of a kernel that is no op's."""
        return TimedCall(launch, "kernel", nbytes)

    def answers(self, work: Callable, pieces: Sequence, workers: int, seconds: float, each: float) -> Iterator[tuple]:
        """(piece, answer) from processes that serve the module of `work`, as they come."""
        return child.shared(work.__module__, pieces, workers, seconds, each)

    def table(self, out: Path) -> Path | None:
        """Where a report in OUT keeps what it tunes: None for the user's table."""
        return None

    def candidate(self, unit: Any, index: int, cost: float) -> TimedCall:
        """The launch of a unit of the tuner with one config, into tensors of its own."""
        from ...tuning import choice as tuning

        with tuning.using(forced={unit.choice.key: index}):
            found = self.launches(unit.problem)
        key = unit.choice.key
        return next(call for q, call in found if q.config.choice is not None and q.config.choice.key == key)

    def launches(self, p: Any) -> list[tuple[Any, TimedCall]]:
        """(plan, launch) of all that a forward and a backward of a problem launch, on tensors that are kept."""
        from ...runtime.plan import launch, recorded

        if self._example is None or self._example[0] != p:
            leaves = zip(p.inputs(self.device, drawn_on=self.device), p.wants, strict=True)
            self._example = p, [t if t is None else t.requires_grad_(wanted) for t, wanted in leaves]
        leaves, wanted = self._example[1], [t for t in self._example[1] if t is not None and t.requires_grad]
        with recorded() as plans:
            y = p.row.op(*leaves, backend="triton", **p.keywords)
            if wanted:
                torch.autograd.grad(y, wanted, torch.randn_like(y))
        return [(q, TimedCall(partial(launch, q), "segattn", keep=q)) for q in plans]

    def free_memory(self) -> int:
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()

    def clocks(self) -> dict[str, Any]:
        from .env import gpu_state

        return gpu_state(self.device.index)

    def recover(self) -> None:
        super().recover()
        self._example = None
        self.synchronize()
        torch.cuda.empty_cache()


def find(cpu: bool = False) -> Cpu:
    """The GPU that torch can use, else the CPU."""
    return Cuda() if torch.cuda.is_available() and not cpu else Cpu()
