"""Activations of a real photograph, for errors, gate maps and one timed point an op.

The photograph becomes a feature map by two fixed random 3x3 convolutions with a ReLU between, at the resolution
wanted, of deviation 1 over all channels together: a channel's mean is the photograph's, for gates of channels see
nothing else of it. A batch holds its reflections and rotations.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...catalog import Op

HIDDEN = 16


def path_of(path: Path | None) -> Path:
    if path is not None:
        return path
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"  # US Navy, public domain


def rgb(image):
    """Three bytes a pixel of an image of any mode: values beyond a byte are scaled, where PIL would clip them."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0).clip(0)
        largest = values.max(initial=0)
        top = next((t for t in (1, 255, 65535) if largest <= t and (t > 1 or image.mode == "F")), largest)
        image = Image.fromarray((values * (255 / top)).round().astype(np.uint8))
    return image.convert("RGB")


def load(path: Path | None, height: int, width: int) -> np.ndarray:
    """The middle of the photograph as (height, width, 3) bytes; without a path, matplotlib's sample."""
    from PIL import Image, ImageOps

    with Image.open(path_of(path)) as image:
        return np.asarray(ImageOps.fit(rgb(image), (width, height)))


def activations(path: Path | None, N: int, C: int, H: int, W: int) -> Tensor:
    """(N, C, H, W) in float32, the same on every machine up to rounding."""
    side = max(H, W)
    image = torch.from_numpy(load(path, side, side).copy()).permute(2, 0, 1).float() / 255
    views = [torch.rot90(v, k, (1, 2)) for k in range(4) for v in (image, image.flip(2))]
    batch = torch.stack(list(itertools.islice(itertools.cycle(views), N)))[:, :, :H, :W]
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(HIDDEN, 3, 3, 3, generator=generator) / 27**0.5
    second = torch.randn(C, HIDDEN, 3, 3, generator=generator) / (9 * HIDDEN) ** 0.5
    x = F.conv2d(torch.relu(F.conv2d(batch - 0.5, first, padding=1)), second, padding=1)
    return x / x.std().clamp_min(1e-6)


def as_image(row: Op, gate_map: Tensor) -> np.ndarray:
    """A row's second output of the first image: (H, W), over channels the mean, over neighbours, whose shares have the
    sum 1, the largest; or (C,) where there is one value a channel."""
    spec = list(row.outputs.values())[1]
    first = row.as_map(spec, gate_map)[0].detach().float().cpu()
    if "K" in spec.split():
        return first.amax(0).numpy()
    return (first if first.dim() == 1 else first.mean(0)).numpy()
