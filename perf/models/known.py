"""`segattn report --models`: what a whole model gains: time, its tail at batch 1, and peak memory.

Each model runs eager and compiled, each with its own gates and accelerated, all four interleaved, in channels_last.
Latency is of inference at batch 1; throughput and memory are of inference and of a training step (forward, loss,
backward, AdamW) at a larger batch. Memory is the peak of one call above what was allocated before: on a GPU only.
"""

import contextlib
import io
import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from ... import accelerate
from .. import terminal, torchvision_cpu
from ..log import Log
from ..measure import backends, env
from ..measure.backends import TimedCall, tuned_convolutions
from ..measure.budget import Budget
from ..measure.child import one_line
from ..measure.points import DeviceLost, recover
from ..options import Failure, Usage, choose, writable
from ..report.render import render_and_print, whole
from .train import models_or_usage

CLASSES = 19  # of Cityscapes
PROVIDERS = tuple(whole.WAYS)
COMPILED_WAYS = ("compiled", "both")


def _smp(architecture: str, encoder: str, **options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        models_or_usage()
        import segmentation_models_pytorch as smp

        made = getattr(smp, architecture)
        return made(encoder, encoder_weights=None, classes=CLASSES, decoder_attention_type="scse", **options)

    return make


def _lraspp() -> nn.Module:
    torchvision_cpu.install()
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)


MODELS: dict[str, Callable[[], nn.Module]] = {  # most valuable first
    "Unet resnet34, scSE": _smp("Unet", "resnet34"),
    "Unet se_resnet50, scSE": _smp("Unet", "se_resnet50"),
    "LRASPP mobilenet_v3_large": _lraspp,
    "Unet efficientnet_b0, scSE": _smp("Unet", "tu-efficientnet_b0"),
    "Unet++ resnet34, scSE": _smp("UnetPlusPlus", "resnet34"),
    "Unet resnet18 of depth 3, scSE": _smp("Unet", "resnet18", encoder_depth=3, decoder_channels=(64, 32, 16)),
}


@dataclass(frozen=True)
class TimingSettings:
    models: tuple[str, ...]
    sizes: tuple[tuple[int, int, int], ...]  # batch of throughput and training, height, width
    dtype: str
    layout: str
    calls: int  # timed, of each provider at batch 1: the p99 needs many
    steps: int  # timed, of each provider at the larger batch, TOGETHER calls each


GPU_PRESETS = {
    "quick": TimingSettings(tuple(MODELS)[:3], ((8, 512, 512), (2, 1024, 2048)), "bfloat16", "channels_last", 200, 30),
    "full": TimingSettings(
        tuple(MODELS)[:5], ((16, 512, 512), (4, 1024, 2048)), "bfloat16", "channels_last", 1000, 100
    ),
}
CPU_PRESETS = {
    "quick": TimingSettings(tuple(MODELS)[5:], ((2, 64, 64),), "float32", "channels_last", 100, 10),
    "full": TimingSettings(
        (*tuple(MODELS)[5:], *tuple(MODELS)[:3]), ((2, 128, 128),), "float32", "channels_last", 200, 20
    ),
}
BUDGETS = {"quick": 900.0, "full": 3600.0}  # seconds; most of them the compiler's
TOGETHER = 3  # calls of throughput that are timed as one: the host runs ahead
WARM_UPS = 3
LEAST_ROUNDS = 5  # however late it is
LEAST_TAIL = 100  # calls that a 99th percentile needs
RESERVE = 15.0  # seconds, for the page


def run(
    *,
    preset: str = "quick",
    budget: float | None = None,
    out: Path = Path("report"),
    resume: bool = False,
    cpu: bool = False,
    backend: backends.Cpu | None = None,
    settings: TimingSettings | None = None,
    console: Console | None = None,
) -> Path:
    """Time what there is time for; the page's path."""
    choose("--preset", [preset], BUDGETS)
    if budget is not None and not RESERVE < budget < math.inf:
        raise Usage(f"--budget: got {budget:g}, expected more than {RESERVE:g} seconds")
    if backend is None:
        if not cpu and (problem := env.unusable_gpu()):
            raise Usage(problem)
        backend = backends.find(cpu)
    if settings is None:
        models_or_usage()
        settings = (GPU_PRESETS if backend.gpu else CPU_PRESETS)[preset]
    console = console or terminal.console()
    described = {"device": backend.name, "settings": asdict(settings)}
    log = Log(writable(Path(out)), "models", env.collect() | described, resume=resume)
    seconds = Budget(BUDGETS[preset] if budget is None else budget, backend.now)
    backend.wake()
    try:
        with tuned_convolutions(True):
            _measure(settings, backend, log, seconds, console)
    except KeyboardInterrupt:
        raise Failure("interrupted; --resume continues") from None
    except DeviceLost as error:
        raise Failure(f"the device is lost: {error}; --resume goes on in a new process") from None
    return render_and_print(Path(out), console)


def _measure(settings: TimingSettings, backend, log: Log, budget: Budget, console: Console) -> None:
    """What is not measured yet, and there is time for; last what failed before: it may take the process with it."""
    groups = [
        ModelPoint(name, mode, 1 if mode == "latency" else N, H, W)
        for (N, H, W), name, mode in itertools.product(settings.sizes, settings.models, whole.MODEL_MODES)
    ]
    tried = {group: [group.key(p) for p in PROVIDERS if group.key(p) in log.records] for group in groups}
    for group in sorted(groups, key=lambda group: not all(log.done(*key) for key in tried[group])):
        if budget.left > RESERVE and not all(log.done(*group.key(p)) for p in PROVIDERS):
            begin = backend.now()
            _Timing(group, settings, backend, budget, log.save).run()
            spent = backend.now() - begin
            console.print(f"{group.name}, {group.mode}, {group.N} x {group.H} x {group.W}: {spent:.0f} s", markup=False)


class ModelPoint(NamedTuple):
    """What all providers are timed at together."""

    name: str
    mode: str
    N: int
    H: int
    W: int

    def key(self, provider: str) -> tuple:
        """Of its record in the log."""
        return self.name, self.mode, provider, self.N, self.H, self.W


class _Timing:
    """The records of a group: of each provider that there is time for, and one that fails has the reason as its status
    and costs the others nothing."""

    def __init__(
        self, group: ModelPoint, settings: TimingSettings, backend, budget: Budget, save: Callable[[dict], None]
    ):
        self.group, self.settings, self.backend, self.budget, self.save = group, settings, backend, budget, save
        self.calls: dict[str, TimedCall] = {}
        self.memory: dict[str, int | None] = {}
        self.times: dict[str, list[float]] = {}

    def run(self) -> None:
        for provider in PROVIDERS:
            kind = ("compile " if provider in COMPILED_WAYS else "measure ") + self.group.mode
            work = self.group.N * self.group.H * self.group.W
            if self.budget.left > RESERVE + self.budget.predict(kind, 1.0 if provider in COMPILED_WAYS else work):
                begin = self.backend.now()
                self._attempt(provider, self._prepare)
                self.budget.learn(kind, self.backend.now() - begin, 1.0 if provider in COMPILED_WAYS else work)
        rounds = self.settings.calls if self.group.mode == "latency" else self.settings.steps
        for i in range(rounds):
            if i >= LEAST_ROUNDS and self.budget.left < RESERVE:
                break
            for provider in list(self.calls) if i % 2 == 0 else list(reversed(self.calls)):
                self._attempt(provider, self._time)
        for provider, times in self.times.items():
            self.save(self._record(provider, times))
        self.calls.clear()
        recover(self.backend)

    def _attempt(self, provider: str, step: Callable[[str], None]) -> None:
        """A provider that raises drops out. What the others had compiled is gone after that: they warm up anew."""
        if (reason := self._reason(provider, step)) is None:
            return
        self.save(self._blank(provider, f"failed: {reason}"))
        for part in (self.calls, self.times, self.memory):
            part.pop(provider, None)
        recover(self.backend)
        for other in list(self.calls):
            self._attempt(other, self._warm)

    def _reason(self, provider: str, step: Callable[[str], None]) -> str | None:
        """Why the step fails. The tensors of a failed step are free when this returns."""
        try:
            step(provider)
        except Exception as error:
            return one_line(error)
        return None

    def _prepare(self, provider: str) -> None:
        shape = (self.group.N, 3, self.group.H, self.group.W)
        self.calls[provider] = prepared(self.group.name, self.group.mode, provider, shape, self.settings, self.backend)
        self._warm(provider)
        self.memory[provider] = self.backend.peak_memory(self.calls[provider])
        self.times[provider] = []

    def _warm(self, provider: str) -> None:
        for _ in range(WARM_UPS):
            self.calls[provider]()
        self.backend.synchronize()

    def _time(self, provider: str) -> None:
        if provider in self.calls:  # another's failure may have shown that this one fails, too
            self.times[provider].append(_timed(self.calls[provider], self._together, self.backend))

    @property
    def _together(self) -> int:
        return 1 if self.group.mode == "latency" else TOGETHER

    def _blank(self, provider: str, status: str) -> dict[str, Any]:
        name, mode, N, H, W = self.group
        return {"model": name, "mode": mode, "N": N, "H": H, "W": W, "provider": provider, "status": status}

    def _record(self, provider: str, times: list[float]) -> dict[str, Any]:
        p20, p50, p80, p99 = map(float, np.quantile(times, [0.2, 0.5, 0.8, 0.99]))
        tail = self.group.mode == "latency" and len(times) >= LEAST_TAIL
        return self._blank(provider, "ok") | {
            **{"p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "p99_ms": p99 if tail else None},
            **{"calls": self._together * len(times)},
            **{"images_per_second": 1e3 * self.group.N / p50, "peak_memory": self.memory[provider]},
        }


def _timed(call: TimedCall, together: int, backend) -> float:
    """Milliseconds a call, of so many enqueued one after the other, as a loop would."""
    start, end = backend.event(), backend.event()
    start.record()
    for _ in range(together):
        backend.run(call)
    end.record()
    backend.synchronize()
    return start.elapsed_time(end) / together


def prepared(
    name: str, mode: str, provider: str, shape: tuple[int, ...], settings: TimingSettings, backend
) -> TimedCall:
    """One inference or one training step, of the same weights and the same images for every provider."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[name]()
        images = torch.randn(shape)
        labels = torch.randint(CLASSES, (shape[0], *shape[2:]))
    memory_format = getattr(torch, "contiguous_format" if settings.layout == "contiguous" else settings.layout)
    model = model.to(backend.device, memory_format=memory_format).train(mode == "training")
    images, labels = images.to(backend.device).to(memory_format=memory_format), labels.to(backend.device)
    if provider in ("accelerated", "both"):
        with contextlib.redirect_stdout(io.StringIO()):
            accelerate(model, strict=True)
    function = backend.compile_model(model) if provider in COMPILED_WAYS else model
    dtype = getattr(torch, settings.dtype)

    def forward():
        with torch.autocast(backend.device.type, dtype, enabled=dtype != torch.float32):
            y = function(images)
        return y["out"] if isinstance(y, dict) else y

    if mode != "training":
        return TimedCall(torch.inference_mode()(forward), provider, images.nbytes)
    optimizer = torch.optim.AdamW(model.parameters(), fused=backend.device.type == "cuda")

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(forward().float(), labels).backward()
        optimizer.step()

    return TimedCall(step, provider, images.nbytes)
