"""`segattn show`: what the gates of a model look at, on a photograph, as one picture."""

import contextlib
from pathlib import Path

import torch
from PIL import Image

from ... import accelerate, acceleration_report, capture_attention, viz
from ..measure import photo
from ..measure.child import one_line
from ..options import Failure, Usage, short
from .scenes import normalised
from .yours import factory_of, made

MOST = 2**13
MULTIPLE = 32  # sides that any encoder divides
MODEL = "segattn_triton.perf.portrait:model"  # that is shown without another
TITLE = "What the gates look at: yellow passes, violet is held back; every panel has its own scale"
WIDEST = 640  # pixels of the photograph in the picture


def run(spec: str, image: Path | None, names: tuple[str, ...], out: Path, side: int) -> Path:
    """Write the picture, and return its path."""
    if not MULTIPLE <= side <= MOST:
        raise Usage(f"--side: got {short(side)}, expected at least {MULTIPLE} pixels, at most {MOST}")
    if out.is_dir():
        raise Usage(f"--out: cannot write {out}: it is a folder")
    model = made(factory_of(spec), spec)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.eval().to(device)
    if acceleration_report(model):
        accelerate(model)
    width, height = _size(image)
    seen = photo.load(image, *(_rounded(n * side / max(width, height)) for n in (height, width)))
    with contextlib.ExitStack() as stack:
        try:
            maps = stack.enter_context(capture_attention(model, names or "*"))
        except ValueError as error:
            raise Usage(f"--model {spec}: {error}") from None
        try:
            with torch.no_grad():
                model(normalised(seen)[None].to(device))
        except Exception as error:
            raise Failure(f"{spec} failed on an image {seen.shape}: {one_line(error)}") from error
    scale = min(1.0, WIDEST / max(width, height))
    picture = photo.load(image, *(max(1, round(n * scale)) for n in (height, width)))
    named = {f"{name} ({type(model.get_submodule(name)).__name__})": gate for name, gate in maps.items()}
    figure = viz.plot_gates(named, picture, TITLE, caption(spec, image, names))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, format=out.suffix[1:] or "png", bbox_inches="tight", facecolor="white")
    except (OSError, ValueError) as error:
        raise Usage(f"--out: cannot write {out}: {getattr(error, 'strerror', None) or error}") from None
    return out


def caption(spec: str, image: Path | None, names: tuple[str, ...]) -> str:
    """The command."""
    options = [f"--model {spec}"] * (spec != MODEL) + ([f"--image {image.name}"] if image else [])
    return " ".join(["segattn show", *options, *(f"--names {name!r}" for name in names)])


def _size(path: Path | None) -> tuple[int, int]:
    """(width, height) of the photograph."""
    with Image.open(photo.path_of(path)) as image:
        return image.size


def _rounded(pixels: float) -> int:
    return max(MULTIPLE, round(pixels / MULTIPLE) * MULTIPLE)
