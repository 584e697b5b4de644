"""The refinement of masks as its authors publish it, and as Inductor fuses it best."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared import Rivals


def refinement_listing(image: Tensor, mask: Tensor, dilations: tuple[int, ...], steps: int) -> Tensor:
    """The authors': neighbours, differences and deviations by convolutions with nine and eight fixed kernels."""
    each = torch.eye(9, dtype=image.dtype, device=image.device).view(9, 1, 3, 3)
    copies = torch.cat([each[:4], each[5:]])

    def convolved(t: Tensor, kernel: Tensor) -> Tensor:
        flat = t.reshape(-1, 1, *t.shape[2:])
        found = [F.conv2d(F.pad(flat, [d] * 4, mode="replicate"), kernel, dilation=d) for d in dilations]
        return torch.cat(found, 1).view(*t.shape[:2], -1, *t.shape[2:])

    mask = F.interpolate(mask, size=image.shape[2:], mode="bilinear", align_corners=True)
    sigma = convolved(image, each).std(2, keepdim=True)
    a = -convolved(image, each[4:5] - copies).abs() / (1e-8 + 0.1 * sigma)
    a = a.mean(1, keepdim=True).softmax(2)
    for _ in range(steps):
        mask = (convolved(mask, copies) * a).sum(2)
    return mask


def refinement_best(image: Tensor, mask: Tensor, dilations: tuple[int, ...], steps: int) -> Tensor:
    """Neighbours as slices, which Inductor fuses with what is made of them; deviations by sums, not by Welford."""
    H, W = image.shape[2:]

    def around(t: Tensor):
        for d in dilations:
            padded = F.pad(t, [d] * 4, mode="replicate")
            for row in range(3):
                for col in range(3):
                    if (row, col) != (1, 1):
                        yield padded[:, :, d * row : d * row + H, d * col : d * col + W]

    n, zero = 9 * len(dilations), torch.zeros_like(image)
    differences = [near - image for near in around(image)]
    total, squares = sum(differences, zero), sum((e * e for e in differences), zero)
    rate = 1 / (1e-8 + 0.1 * ((squares - total * total / n) / (n - 1)).clamp_min(1e-30).sqrt())
    scores = torch.stack([-(e.abs() * rate).mean(1) for e in differences])
    a = scores.softmax(0)[:, :, None]
    mask = F.interpolate(mask, size=(H, W), mode="bilinear", align_corners=True)
    for _ in range(steps):
        mask = sum((near * a[k] for k, near in enumerate(around(mask))), torch.zeros_like(mask))
    return mask


def _of_steps(dilations: tuple[int, ...], steps: int) -> Rivals:
    """As published the neighbours of all masks are in memory, in training those of every step."""
    how = dict(dilations=dilations, steps=steps)
    kept = 8 * len(dilations) * (2 * steps + 4)
    return Rivals(partial(refinement_listing, **how), partial(refinement_best, **how), most_maps=kept)


RIVALS = {
    "pixel_adaptive_refinement": _of_steps((1,), 1),
    "pixel_adaptive_refinement_voc": _of_steps((1, 2, 4, 8, 12, 24), 10),
}
