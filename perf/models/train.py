"""`segattn report --train`: does a model learn the same with accelerated gates, and what do the gates buy?

The same U-Net is trained without gates, with scSE gates as its library computes them, and with the same accelerated;
in float32 and under bfloat16 autocast, from several seeds. Accelerated is right where its mean loss and mIoU are as
close to the plain ones' as these are, seed to seed, to each other.
"""

import contextlib
import io
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ... import accelerate, capture_attention, viz
from .. import terminal, torchvision_cpu
from ..estimate import left
from ..log import Log
from ..measure import backends, env
from ..options import Failure, Usage, choose, short, writable
from ..report.render import render_and_print, style, whole
from . import scenes, training

VARIANTS = tuple(whole.VARIANT_LABELS)
MAPPED = ("accelerated", "float32", 0)  # the run whose gates are drawn
SHAPES = 10_000, 64  # made for training and for validation


@dataclass(frozen=True)
class TrainingSettings:
    """Of all runs."""

    encoder: str
    depth: int
    steps: int
    seeds: int
    batch: int
    side: int
    peak_rate: float
    data: str | None = None
    ignore: int = scenes.IGNORE


PRESETS = {
    "quick": TrainingSettings("resnet18", depth=4, steps=120, seeds=3, batch=8, side=64, peak_rate=3e-3),
    "full": TrainingSettings("resnet34", depth=5, steps=2000, seeds=3, batch=16, side=128, peak_rate=1e-3),
}


def run(
    *,
    preset: str = "quick",
    data: Path | None = None,
    ignore: int = scenes.IGNORE,
    steps: int | None = None,
    seeds: int | None = None,
    side: int | None = None,
    encoder: str | None = None,
    out: Path = Path("report"),
    resume: bool = False,
    cpu: bool = False,
    console: Console | None = None,
) -> Path:
    """Train all that is not trained yet; the page's path."""
    settings = _settings(preset, data, ignore, steps=steps, seeds=seeds, side=side, encoder=encoder)
    if not cpu and (problem := env.unusable_gpu()):
        raise Usage(problem)
    sets, checkpoint = datasets(settings), Path(out) / "training.pt"
    if checkpoint.exists() and not training.is_checkpoint(checkpoint):
        raise Usage(f"--out: {checkpoint} is no checkpoint of a report and would be lost; expected a folder without it")
    models_or_usage()
    make(settings, "without", sets[0].classes)  # an encoder that does not exist is said now
    console = console or terminal.console()
    backend = backends.find(cpu)
    described = {"device": backend.name, "settings": asdict(settings)}
    log = Log(writable(Path(out)), "training", env.collect() | described, resume=resume)
    if not resume:
        checkpoint.unlink(missing_ok=True)
    todo = [(v, d, s) for s in range(settings.seeds) for d in whole.TRAINED_DTYPES for v in VARIANTS]
    begin, before = time.monotonic(), len(log.records)
    for number, (variant, dtype, seed) in enumerate(todo):
        if log.done(variant, dtype, seed):
            continue
        try:
            record = one(settings, sets, variant, dtype, seed, backend.device, checkpoint)
        except KeyboardInterrupt:
            raise Failure("interrupted; --resume continues") from None
        log.save(record)
        said = f"loss {record['loss']:.4f}, mIoU {record['miou']:.4f}"
        done, elapsed = len(log.records) - before, time.monotonic() - begin
        far = f"{number + 1} of {len(todo)}{left(elapsed, done, done + len(todo) - number - 1)}"
        console.print(f"[{far}] {variant}, {dtype}, seed {seed}: {said}", markup=False, soft_wrap=True)
    page = render_and_print(Path(out), console)
    if outside := [line for line in whole.training_lines(list(log.records.values())) if line.inside is False]:
        raise Failure(f"outside the seed-to-seed band: {', '.join(line.dtype for line in outside)}")
    return page


def _settings(preset: str, data: Path | None, ignore: int, **given) -> TrainingSettings:
    """The preset's, but for what is given."""
    choose("--preset", [preset], PRESETS)
    settings = replace(PRESETS[preset], **{name: value for name, value in given.items() if value is not None})
    for name, least, most in (("steps", 1, 10**9), ("seeds", 2, 10**4), ("side", 32, 2**13)):
        value = getattr(settings, name)
        if not least <= value <= most or (name == "side" and value % 32):
            wanted = f"at least {least}" * (value <= most) + f"at most {most}" * (value > most)
            wanted += " and a multiple of 32" * (name == "side")
            raise Usage(f"--{name}: got {short(value)}, expected {wanted}")
    if not abs(ignore) < 2**31:
        raise Usage(f"--ignore: got {short(ignore)}, expected the value of a label")
    return replace(settings, data=str(data) if data else None, ignore=ignore)


def one(
    settings: TrainingSettings, sets, variant: str, dtype: str, seed: int, device, checkpoint: Path
) -> dict[str, Any]:
    """The record of one run."""
    train, val = sets
    torch.manual_seed(seed)
    model = make(settings, variant, train.classes).to(device)
    about = {**asdict(settings), "variant": variant, "dtype": dtype, "seed": seed}
    if checkpoint.exists() and not _is_of(checkpoint, about):
        checkpoint.unlink()  # of a run that is finished: its record was written before the checkpoint went
    options = dict(seed=seed, steps=settings.steps, batch=settings.batch, side=settings.side)
    options |= dict(peak_rate=settings.peak_rate, dtype=dtype, checkpoint=checkpoint)
    losses, seconds = training.train(model, train, about=about, **options)
    scores = training.evaluate(model, val, dtype)
    if (variant, dtype, seed) == MAPPED:
        draw_maps(model, val, checkpoint.parent / "plots")
    checkpoint.unlink(missing_ok=True)
    last = losses[-max(1, len(losses) // 10) :]
    return {
        **{"variant": variant, "dtype": dtype, "seed": seed, "status": "ok"},
        **{"loss": float(np.mean(last)), "val_loss": scores.loss, "miou": scores.miou, "ious": scores.ious},
        **{"step_ms": 1e3 * float(np.median(seconds)), "losses": [round(loss, 6) for loss in losses]},
    }


@torch.no_grad()
def draw_maps(model: torch.nn.Module, data, folder: Path) -> Path:
    """What the trained gates look at in the first validation image, as whole.GATE_FIGURE in the folder."""
    image, _ = scenes.padded(data[0], 32)
    with capture_attention(model.eval()) as maps:
        model(image[None].to(next(model.parameters()).device))
    return style.save(style.styled(viz.plot_gates)(maps, scenes.picture(image)), folder, whole.GATE_FIGURE)


def _is_of(checkpoint: Path, about: dict[str, Any]) -> bool:
    try:
        return training.load(checkpoint, about) is not None
    except ValueError:
        return False


def make(settings: TrainingSettings, variant: str, classes: int) -> torch.nn.Module:
    try:
        model = training.unet(settings.encoder, classes, variant != "without", settings.depth)
    except KeyError:
        raise Usage(f"--encoder: got {settings.encoder!r}, expected one of segmentation_models_pytorch") from None
    if variant == "accelerated":
        with contextlib.redirect_stdout(io.StringIO()):
            accelerate(model, strict=True)
    return model


def models_or_usage() -> None:
    """segmentation_models_pytorch can be imported after this."""
    try:
        torchvision_cpu.install()
        import segmentation_models_pytorch  # noqa: F401
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise Usage(f"the models extra is needed, pip install 'segattn_triton[perf,models]': {reason}") from None


def datasets(settings: TrainingSettings):
    """What to train and to validate on; every problem of a folder is said before the training starts."""
    if settings.data is None:
        return tuple(scenes.Shapes(count, settings.side, seed) for count, seed in zip(SHAPES, (1, 2), strict=True))
    try:
        return scenes.folders(Path(settings.data), settings.ignore)
    except ValueError as problem:
        raise Usage(f"--data: {problem}") from None
