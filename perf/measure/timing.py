"""How a time is taken.

All providers of one problem are warmed up, then run in interleaved rounds, the order reversed every other round, so
that a drift of the clocks meets all alike. Before every call the L2 cache is read through and overwritten: see
`flush`. The host enqueues a whole round without waiting for the device: while the device overwrites its cache, the
host launches the call, and the events enclose the call alone. The time is the median, with the 20 and 80 % quantiles.

Where a call takes little time the events still enclose the host's launches. There a CUDA graph of the same call over
several sets of tensors, more than the cache holds, is timed as well, and divided by their number.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .backends import Cpu, TimedCall

SECONDS = 0.1  # of measuring, a provider
WARM_UP = 0.05  # seconds, a provider: clocks fall while the host compiles
LEAST, MOST = 5, 200  # repetitions
HOST_ROUNDS, HOST_CALLS = 41, 20  # few calls, so that the device's queue never fills
GRAPH_BYTES = 86_000_000  # 20 us at 4.3 TB/s: below this, a CUDA graph is timed as well
GRAPH_CACHES = 4  # the sets of tensors in a graph fill the L2 cache as many times

_METHOD = {
    "statistic": "median, 20 % and 80 % quantiles of at least 5 repetitions",
    "order": "providers of a problem interleaved, the order reversed every other round",
    "cache": "L2 read through at evict_last and overwritten before every call",
    "backward": "torch.autograd.grad with a prepared dy, retain_graph=True, for x and all parameters",
    "memory": "peak of one untimed call; for the backward, of forward and backward",
    "graph": "CUDA graph over sets of tensors of 4 times the L2 cache, time divided by their number",
    "launch": "host's clock over 20 calls without waiting for the device, 41 interleaved rounds",
    "inputs": "seeded normal values",
    "seconds_per_provider": SECONDS,
    "warm_up_seconds": WARM_UP,
    "repetitions": [LEAST, MOST],
    "graph_below_bytes": GRAPH_BYTES,
}
_ON_GPU = ("cache", "memory", "graph", "graph_below_bytes")


def method(gpu: bool, launch: bool) -> dict[str, object]:
    """What applies of it, on a GPU or not, with the host's time of a launch or without."""
    asked = {"launch": launch} | dict.fromkeys(_ON_GPU, gpu)
    return {name: value for name, value in _METHOD.items() if asked.get(name, True)}


@dataclass(frozen=True)
class Sample:
    """Times of one provider, in milliseconds."""

    ms: float
    ms_20: float
    ms_80: float
    repetitions: int


def interleaved(
    calls: Mapping[str, TimedCall],
    backend: Cpu,
    parts: int = 1,
    on_error: Callable[[str, Exception], None] | None = None,
    seconds: float = SECONDS,
    warm_up: float = WARM_UP,
) -> dict[str, Sample]:
    """The times of calls by name, each divided by `parts`. One that raises goes to `on_error` and drops out."""
    running = dict(calls)
    times: dict[str, list[tuple]] = {name: [] for name in calls}

    def attempt(name: str, step: Callable[[TimedCall], object]):
        try:
            return step(running[name])
        except Exception as error:
            del running[name]
            if on_error is None:
                raise
            on_error(name, error)

    def once(call: TimedCall) -> tuple:
        start, end = backend.event(), backend.event()
        backend.flush()
        start.record()
        backend.run(call)
        end.record()
        return start, end

    def warm(call: TimedCall) -> float:
        begin = backend.now()
        for i in range(MOST):
            backend.run(call)
            backend.synchronize()
            if i >= 2 and backend.now() - begin >= warm_up:
                break
        begin = backend.now()
        for _ in range(2):
            once(call)
        backend.synchronize()
        return (backend.now() - begin) / 2

    cost = sum(attempt(name, warm) or 0.0 for name in list(running))
    if not running:
        return {}
    rounds = min(MOST, max(LEAST, math.ceil(seconds * len(running) / max(cost, 1e-9))))
    for i in range(rounds):
        for name in list(running) if i % 2 == 0 else list(reversed(running)):
            pair = attempt(name, once)
            if pair is not None:
                times[name].append(pair)
    backend.synchronize()
    return {name: _sample(times[name], parts) for name in running}


def hosts(calls: Mapping, backend: Cpu) -> dict:
    """The host's time of a call, in milliseconds by key: medians of rounds of `HOST_CALLS`, the device idle before."""
    times: dict = {key: [] for key in calls}
    for i in range(HOST_ROUNDS):
        for key in list(calls) if i % 2 == 0 else list(reversed(calls)):
            backend.synchronize()
            begin = backend.clock()
            for _ in range(HOST_CALLS):
                backend.run(calls[key])
            times[key].append(1e3 * (backend.clock() - begin) / HOST_CALLS)
    backend.synchronize()
    quantiles = {key: np.quantile(t, [0.2, 0.5, 0.8]) for key, t in times.items()}
    return {key: Sample(float(m), float(low), float(high), HOST_ROUNDS) for key, (low, m, high) in quantiles.items()}


def _sample(pairs: list[tuple], parts: int) -> Sample:
    low, median, high = np.quantile([start.elapsed_time(end) / parts for start, end in pairs], [0.2, 0.5, 0.8])
    return Sample(float(median), float(low), float(high), len(pairs))
