"""`segattn report --models`: what a whole model gains: time, its tail at batch 1, and peak memory.

Each model runs eager and compiled, each with its own gates and accelerated, all four interleaved, in channels_last.
Latency is of inference at batch 1; throughput and memory are of inference and of a training step (forward, loss,
backward, AdamW) at a larger batch. Memory is the peak of one call above what was allocated before: on a GPU only.
"""

import contextlib
import io
import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from segattn_triton import accelerate
from segattn_triton.perf import backends, env, terminal
from segattn_triton.perf.backends import Call, tuned_convolutions
from segattn_triton.perf.budget import Budget
from segattn_triton.perf.child import one_line
from segattn_triton.perf.log import Log
from segattn_triton.perf.options import Failure, Usage, choose, writable
from segattn_triton.perf.render import whole
from segattn_triton.perf.train import models_or_usage

CLASSES = 19  # of Cityscapes
PROVIDERS = ("eager", "accelerated", "compiled", "both")


def _smp(architecture: str, encoder: str, **options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import segmentation_models_pytorch as smp

        made = getattr(smp, architecture)
        return made(encoder, encoder_weights=None, classes=CLASSES, decoder_attention_type="scse", **options)

    return make


def _lraspp() -> nn.Module:
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
class Settings:
    models: tuple[str, ...]
    sizes: tuple[tuple[int, int, int], ...]  # batch of throughput and training, height, width
    dtype: str
    layout: str
    calls: int  # timed, of each provider at batch 1: the p99 needs many
    steps: int  # timed, of each provider at the larger batch, TOGETHER calls each


GPU = {
    "quick": Settings(tuple(MODELS)[:3], ((8, 512, 512), (2, 1024, 2048)), "bfloat16", "channels_last", 200, 30),
    "full": Settings(tuple(MODELS)[:5], ((16, 512, 512), (4, 1024, 2048)), "bfloat16", "channels_last", 1000, 100),
}
CPU = {
    "quick": Settings(tuple(MODELS)[5:], ((2, 64, 64),), "float32", "channels_last", 100, 10),
    "full": Settings((*tuple(MODELS)[5:], *tuple(MODELS)[:3]), ((2, 128, 128),), "float32", "channels_last", 200, 20),
}
BUDGETS = {"quick": 900.0, "full": 3600.0}  # seconds; most of them the compiler's
TOGETHER = 3  # calls of throughput that are timed as one: the host runs ahead
RESERVE = 15.0  # seconds, for the page


def run(
    *,
    preset: str = "quick",
    budget: float | None = None,
    out: Path = Path("report"),
    resume: bool = False,
    cpu: bool = False,
    backend: backends.Cpu | None = None,
    settings: Settings | None = None,
    console: Console | None = None,
) -> Path:
    """Time what there is time for; the page's path."""
    choose("--preset", [preset], BUDGETS)
    if budget is not None and not budget > RESERVE:
        raise Usage(f"--budget: got {budget:g}, expected more than {RESERVE:g} seconds")
    if backend is None:
        if not cpu and (problem := env.unusable_gpu()):
            raise Usage(problem)
        backend = backends.find(cpu)
    models_or_usage()
    settings = settings or (GPU if backend.gpu else CPU)[preset]
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
    wanted = len(settings.models) * len(settings.sizes) * 3 * len(PROVIDERS)
    if len(log.records) < wanted:
        console.print(f"{wanted - len(log.records)} left out for lack of time, --resume goes on", markup=False)
    return whole.finish(Path(out), console)


def _measure(settings: Settings, backend, log: Log, budget: Budget, console: Console) -> None:
    """What is not measured yet, and there is time for."""
    for (N, H, W), name in itertools.product(settings.sizes, settings.models):
        for mode, images in (("training", N), ("inference", N), ("latency", 1)):
            missing = [p for p in PROVIDERS if not log.done(name, mode, p, images, H, W)]
            if missing and budget.left > RESERVE:
                begin = backend.now()
                for record in measured(name, mode, images, H, W, settings, backend):
                    log.save(record)
                spent = backend.now() - begin
                console.print(f"{name}, {mode}, {images} x {H} x {W}: {spent:.0f} s", markup=False)


def measured(name: str, mode: str, N: int, H: int, W: int, settings: Settings, backend) -> list[dict[str, Any]]:
    """A record of every provider; one that fails has the reason as its status."""
    point = {"model": name, "mode": mode, "N": N, "H": H, "W": W}
    times: dict[str, list[float]] = {}
    memory: dict[str, int | None] = {}
    failed: dict[str, str] = {}
    calls: dict[str, Call] = {}
    for provider in PROVIDERS:
        try:
            call = prepared(name, mode, provider, (N, 3, H, W), settings, backend)
            for _ in range(3):
                call()
            memory[provider] = backend.peak_memory(call)
            calls[provider], times[provider] = call, []
        except Exception as error:
            failed[provider] = f"failed: {one_line(error)}"
            backend.recover()
    together = 1 if mode == "latency" else TOGETHER
    for i in range(settings.calls if mode == "latency" else settings.steps):
        for provider in list(calls) if i % 2 == 0 else list(reversed(calls)):
            times[provider].append(_timed(calls[provider], together, backend))
    calls.clear()
    backend.recover()
    records = []
    for provider in PROVIDERS:
        record = {**point, "provider": provider, "status": failed.get(provider, "ok")}
        if provider in times:
            p50, p99 = np.quantile(times[provider], [0.5, 0.99])
            record |= {"p50_ms": float(p50), "p99_ms": float(p99) if mode == "latency" else None}
            record |= {"calls": together * len(times[provider])}
            record |= {"images_per_second": 1e3 * N / float(p50), "peak_memory": memory[provider]}
        records.append(record)
    return records


def _timed(call: Call, together: int, backend) -> float:
    """Milliseconds a call, of so many enqueued one after the other, as a loop would."""
    start, end = backend.event(), backend.event()
    start.record()
    for _ in range(together):
        backend.run(call)
    end.record()
    backend.synchronize()
    return start.elapsed_time(end) / together


def prepared(name: str, mode: str, provider: str, shape: tuple[int, ...], settings: Settings, backend) -> Call:
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
    function = compiled(model) if provider in ("compiled", "both") else model
    dtype = getattr(torch, settings.dtype)

    def forward():
        with torch.autocast(backend.device.type, dtype, enabled=dtype != torch.float32):
            y = function(images)
        return y["out"] if isinstance(y, dict) else y

    if mode != "training":
        return Call(torch.inference_mode()(forward), provider)
    optimizer = torch.optim.AdamW(model.parameters(), fused=backend.device.type == "cuda")

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(forward().float(), labels).backward()
        optimizer.step()

    return Call(step, provider)


def compiled(model: nn.Module) -> Callable:
    return torch.compile(model, dynamic=False)
