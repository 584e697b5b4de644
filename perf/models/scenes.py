"""Images and labels to train on: shapes that are made up, or folders of photographs, checked before the training.

An item is (image, label): float32 (3, H, W), normalised as ImageNet's, and int64 (H, W) of classes, IGNORE where the
label says nothing.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..measure import photo

IGNORE = 255
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPE_NAMES = ("background", "disc", "square", "triangle")
HUES = np.array([[190, 90, 80], [90, 170, 90], [90, 100, 190]])  # of the kinds but the background, in bytes
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LISTED = 5  # problems of a folder that an error lists

Item = tuple[Tensor, Tensor]


def normalised(image: np.ndarray) -> Tensor:
    """Bytes (H, W, 3) -> float32 (3, H, W), as encoders trained on ImageNet want it."""
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def picture(image: Tensor) -> np.ndarray:
    """The reverse of `normalised`."""
    values = image.cpu() * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return np.uint8((255 * values.clamp(0, 1)).round().permute(1, 2, 0).numpy())


class Shapes:
    """Discs, squares and triangles on a noisy slope. Each kind has a hue, which the slope may have, too: form counts as
    well. Made anew at every access."""

    classes = len(SHAPE_NAMES)

    def __init__(self, count: int, side: int = 64, seed: int = 0):
        self.count, self.side, self.seed = count, side, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng, side = np.random.default_rng((self.seed, index)), self.side
        y, x = np.mgrid[:side, :side] / side
        image = rng.uniform(60, 200, 3) + (x * rng.normal(0, 60) + y * rng.normal(0, 60))[..., None]
        label = np.zeros((side, side), np.int64)
        for kind in rng.integers(1, len(SHAPE_NAMES), rng.integers(2, 6)):
            cy, cx, r = *rng.uniform(0.1, 0.9, 2), rng.uniform(0.08, 0.2)
            inside = _inside(kind, (y - cy) / r, (x - cx) / r)
            image[inside], label[inside] = HUES[kind - 1] + rng.normal(0, 30, 3), kind
        image += rng.normal(0, 18, image.shape)
        return normalised(np.uint8(np.clip(image, 0, 255))), torch.from_numpy(label)


def _inside(kind: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    if kind == 1:
        return y**2 + x**2 <= 1
    if kind == 2:
        return np.maximum(abs(y), abs(x)) <= 0.89  # of a disc's area
    return (abs(x) <= (y + 1) * 0.85) & (abs(y) <= 1)


class LabelledImages:
    """Pairs of images/NAME.* and labels/NAME.png; a label's values are classes, and `ignore` says nothing.

    Everything is opened once: ValueError names each file that is missing, unreadable or of another size.
    """

    def __init__(self, root: Path, ignore: int = IGNORE):
        self.ignore, self.classes = ignore, 0
        self.pairs = _pairs(root)
        problems, sizes = [], set()
        for image, label in self.pairs:
            problem = self._check(image, label, sizes)
            problems += [problem] if problem else []
        _raise(root, problems)
        if not self.classes:
            raise ValueError(f"{root}: every pixel of every label is {ignore}, which is ignored, expected classes")

    def _check(self, image: Path, label: Path, sizes: set[tuple[int, int]]) -> str | None:
        """What is wrong with a pair."""
        try:
            size = _opened(image).size
            values = self._classes(label)
        except ValueError as problem:
            return str(problem)
        sizes.add(size)
        if values.shape != size[::-1]:
            return f"{label}: {values.shape[1]} x {values.shape[0]}, expected {size[0]} x {size[1]} as of its image"
        if len(sizes) > 1:
            sizes.remove(size)
            return f"{image}: {size[0]} x {size[1]}, expected {' x '.join(map(str, min(sizes)))} as of the others"
        known = values[values != IGNORE]
        self.classes = max(self.classes, int(known.max(initial=-1)) + 1)
        return None

    def _classes(self, path: Path) -> np.ndarray:
        image = _opened(path)
        if image.mode not in ("1", "L", "P", "I", "I;16"):
            raise ValueError(f"{path}: a colour image ({image.mode}), expected one class number a pixel")
        values = np.array(image).astype(np.int64)
        values = np.where(values == self.ignore, IGNORE, values)
        if values.min() < 0 or values.max() > IGNORE:
            raise ValueError(f"{path}: values from {values.min()} to {values.max()}, expected classes from 0 to 254")
        return values

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Item:
        image, label = self.pairs[index]
        return normalised(np.asarray(photo.rgb(_opened(image)))), torch.from_numpy(self._classes(label))


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Exception as error:
        raise ValueError(f"{path}: unreadable: {getattr(error, 'strerror', None) or error}") from None


def _pairs(root: Path) -> list[tuple[Path, Path]]:
    images, labels = root / "images", root / "labels"
    for folder in (images, labels):
        if not folder.is_dir():
            expected = f"{root.parent}/train and {root.parent}/val, each with images/ and labels/"
            raise ValueError(f"{folder}: no such folder, expected {expected}")
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"{images}: no images, expected files such as {', '.join(SUFFIXES[:3])}")
    pairs = [(path, labels / f"{path.stem}.png") for path in found]
    _raise(root, [f"{label}: missing, the label of {path.name}" for path, label in pairs if not label.exists()])
    return pairs


def _raise(root: Path, problems: Sequence[str]) -> None:
    if problems:
        more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        raise ValueError(f"{root}: {'; '.join([*problems[:LISTED], *more])}")


def folders(root: Path, ignore: int = IGNORE) -> tuple[LabelledImages, LabelledImages]:
    """ROOT/train and ROOT/val, with as many classes in both."""
    train, val = (LabelledImages(Path(root) / name, ignore) for name in ("train", "val"))
    train.classes = val.classes = max(train.classes, val.classes, 2)
    return train, val


def crop(item: Item, side: int, rng: np.random.Generator) -> Item:
    """A random square of the item, or of it padded where it is smaller, and its mirror image half of the time."""
    image, label = padded(item, least=side)
    top, left = (int(rng.integers(n - side + 1)) for n in label.shape)
    image, label = (t[..., top : top + side, left : left + side] for t in (image, label))
    return (image.flip(2), label.flip(1)) if rng.random() < 0.5 else (image, label)


def padded(item: Item, multiple: int = 1, least: int = 1) -> Item:
    """Height and width up to a multiple, and the least: zeros in the image, IGNORE in the label, right and below."""
    image, label = item
    bottom, right = (max(-(-n // multiple) * multiple, least) - n for n in label.shape)
    return F.pad(image, (0, right, 0, bottom)), F.pad(label, (0, right, 0, bottom), value=IGNORE)


def batch(data, indices: Sequence[int], side: int, rng: np.random.Generator) -> Item:
    """Crops of some items: images (N, 3, side, side), labels (N, side, side)."""
    images, labels = zip(*(crop(data[int(i)], side, rng) for i in indices), strict=True)
    return torch.stack(images), torch.stack(labels)
