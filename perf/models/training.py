"""Training a U-Net: the loop of `segattn report --train`; what it shares with examples/train_unet.py.

What a step sees depends on seed and step alone, so that a run that was interrupted goes on as if it had not been.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...draft import replacing
from . import scenes
from .scenes import IGNORE

VALIDATION_BATCH = 8
DEPTHS = {3: (64, 32, 16), 4: (64, 32, 16, 16), 5: (256, 128, 64, 32, 16)}  # decoder channels; 5 is smp's default
SAVE_SECONDS = 30.0


class Scores(NamedTuple):
    """On the validation images: mean cross entropy a pixel, mean intersection over union, and that of each class."""

    loss: float
    miou: float
    ious: list[float]


def unet(encoder: str, classes: int, gates: bool = True, depth: int = 5) -> nn.Module:
    """smp's U-Net from random weights, with scSE in the decoder or without."""
    import segmentation_models_pytorch as smp

    attention = "scse" if gates else None
    size = dict(encoder_depth=depth, decoder_channels=DEPTHS[depth])
    return smp.Unet(encoder, encoder_weights=None, decoder_attention_type=attention, classes=classes, **size)


def autocast(device: torch.device, dtype: str) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the pixels that have a label; of none, 0."""
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp_min(1)


def rate(step: int, steps: int, peak: float) -> float:
    """Learning rate: up over a twentieth of the steps, then down along a cosine."""
    warm = max(1, steps // 20)
    return peak * min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def evaluate(model: nn.Module, data, dtype: str = "float32") -> Scores:
    """Over whole images, padded to multiples of 32 whose pixels do not count. A class that is nowhere does not, too."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    confusion, total, pixels = torch.zeros(data.classes, data.classes, dtype=torch.long), 0.0, 0
    for begin in range(0, len(data), VALIDATION_BATCH):
        items = [scenes.padded(data[i], 32) for i in range(begin, min(begin + VALIDATION_BATCH, len(data)))]
        images, labels = (torch.stack(part).to(device) for part in zip(*items, strict=True))
        with autocast(device, dtype):
            logits = model(images)
        known = labels != IGNORE
        total += F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="sum").item()
        pixels += int(known.sum())
        pairs = labels[known] * data.classes + logits.argmax(1)[known]
        confusion += torch.bincount(pairs, minlength=data.classes**2).reshape(confusion.shape).cpu()
    model.train(was_training)
    both, either = confusion.diag().double(), (confusion.sum(0) + confusion.sum(1) - confusion.diag()).double()
    ious = (both / either)[either > 0]
    return Scores(total / max(pixels, 1), float(ious.mean()), ious.tolist())


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Never seen half written."""
    with replacing(path) as draft:
        torch.save(dict(state), draft)


def is_checkpoint(path: Path) -> bool:
    """Whether `save` wrote it."""
    try:
        return {"about", "model", "losses"} <= dict(torch.load(path, map_location="cpu", weights_only=True)).keys()
    except Exception:
        return False


def load(path: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state that `save` wrote, None without a file. ValueError if it is `about` something else."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        kept = dict(state["about"])
    except Exception as error:
        raise ValueError(f"{path}: not a checkpoint of this training: {str(error).splitlines()[0]}") from None
    if apart := [name for name in {**kept, **about} if kept.get(name) != about.get(name)]:
        differences = ", ".join(f"{name} {kept.get(name)!r}, here {about.get(name)!r}" for name in apart)
        raise ValueError(f"{path}: a checkpoint of another training: {differences}")
    return state


def train(
    model: nn.Module,
    data,
    *,
    about: Mapping[str, Any],
    seed: int,
    steps: int,
    batch: int,
    side: int,
    peak_rate: float,
    dtype: str,
    checkpoint: Path,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[list[float], list[float]]:
    """The loss and the seconds of every step. Goes on from the checkpoint where that is `about` the same."""
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=1e-2)
    losses, seconds = [], []
    if (state := load(checkpoint, about)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        losses, seconds = state["losses"], state["seconds"]
    saved = time.monotonic()
    model.train()

    def keep() -> None:
        parts = dict(model=model.state_dict(), optimizer=optimizer.state_dict(), losses=losses, seconds=seconds)
        save(checkpoint, {"about": dict(about), **parts})

    try:
        for step in range(len(losses), steps):
            begin = time.perf_counter()
            rng = np.random.default_rng((seed, step))
            images, labels = scenes.batch(data, rng.integers(len(data), size=batch), side, rng)
            optimizer.param_groups[0]["lr"] = rate(step, steps, peak_rate)
            optimizer.zero_grad()
            with autocast(device, dtype):
                loss = loss_of(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            seconds.append(time.perf_counter() - begin)
            progress(step, losses[-1])
            if time.monotonic() - saved > SAVE_SECONDS:
                keep()
                saved = time.monotonic()
    except KeyboardInterrupt:
        del seconds[len(losses) :]
        keep()
        raise
    return losses, seconds
