"""A mask refined by how alike the pixels of its image are."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._precision import in_full_precision


def _around(t: Tensor, dilations: Sequence[int]) -> Tensor:
    """[N, C, 8 len(dilations), H, W]: the neighbours of every pixel, of each dilation row by row; the border
    replicated."""
    H, W = t.shape[2:]
    found = []
    for d in dilations:
        padded = F.pad(t, (d, d, d, d), mode="replicate")
        places = [(row, col) for row in (0, d, 2 * d) for col in (0, d, 2 * d) if (row, col) != (d, d)]
        found += [padded[:, :, row : row + H, col : col + W] for row, col in places]
    return torch.stack(found, 2)


def _affinities(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """[N, 8 len(dilations), H, W]"""
    D = len(dilations)
    e = _around(image, dilations) - image[:, :, None]
    values = F.pad(e, (0, 0, 0, 0, 0, D))  # the pixel itself is one of nine, of each dilation
    spread = values - values.mean(2, keepdim=True)
    sigma = torch.linalg.vector_norm(spread, dim=2, keepdim=True) / (9 * D - 1) ** 0.5
    return torch.softmax(-(e.abs() / (1e-8 + 0.1 * sigma)).mean(1), 1)


@in_full_precision
def pixel_adaptive_refinement(
    image: Tensor, mask: Tensor, *, dilations: Sequence[int] = (1,), steps: int = 1, return_map: bool = False
):
    """y = m_steps, m_t = sum_k a_k m_t-1 at neighbour k, m_0 = interpolate(mask); a = softmax_k(mean_c -|x - x_k| /
    (1e-8 + 0.1 sigma)), x the image, sigma the unbiased deviation of a pixel and its neighbours, its gradient 0 at 0.

    map (N, 8 len(dilations), H, W): a.
    """
    a = _affinities(image, dilations)
    m = F.interpolate(mask, size=image.shape[2:], mode="bilinear", align_corners=True)
    for _ in range(steps):
        m = (_around(m, dilations) * a[:, None]).sum(2)
    return (m, a) if return_map else m
