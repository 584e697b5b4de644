"""Masks refined by the image that they are of. What all functions share is in `__init__`."""

from collections.abc import Sequence

from torch import Tensor

from ..runtime import checks as check
from ..runtime.dispatch import implementation, recalled


@recalled
def pixel_adaptive_refinement(
    image: Tensor,
    mask: Tensor,
    *,
    dilations: Sequence[int] = (1,),
    steps: int = 1,
    backend: str | None = None,
    return_map: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """m_t(p) = sum_k a_k(p) m_t-1(p + o_k): a mask drawn to the edges of its image, y = m_steps.

    image (N, C, H, W); mask (N, M, h, w), of any resolution, in the image's dtype: m_0 is mask at the image's pixels,
    bilinear with align_corners=True. y (N, M, H, W), in the memory order of the image. o_k are the 8 neighbours at each
    of the dilations, in pixels, K = 8 len(dilations) in all; beyond the border the nearest pixel counts. The affinities

        a = softmax_k(mean_c -|x_c(p) - x_c(p + o_k)| / (1e-8 + 0.1 sigma_c(p)))

    are those of the image x, whose scale and units do not matter: sigma_c is the unbiased deviation of the 9
    len(dilations) values of channel c in the pixel's surroundings. map (N, K, H, W): a, a dilation after the other, the
    neighbours of each row by row. Without a step y is m_0. The defaults are those of the published module; its authors
    refine by dilations (1, 2, 4, 8, 12, 24) in 10 steps, at the resolution of the mask, to which they bring the image.

    Differentiable by the mask and by the image, whose gradient is 0 where sigma_c is, and that of |e| at 0. Saved are
    the inputs. Where the image wants a gradient, the backward computes the steps again, and holds 8 N M H W steps bytes
    in float32 while it runs: detach the image otherwise, as its authors detach all of it. Without atomics.
    Errors: ValueError for a dilation below 1, no dilation, steps below 0, and a mask of another batch than the image.
    Source: Araslanov and Roth 2020, arXiv:2005.08104 (PAMR), whose code is github.com/visinf/1-stage-wseg.
    """
    check.feature_map(image, (2,), "image")
    check.coarse_mask("mask", mask, image)
    dilations = check.dilations(dilations, image)
    check.number("steps", steps, int, 0)
    run = implementation("pixel_adaptive_refinement", backend, image)
    return run(image, mask, dilations=dilations, steps=int(steps), return_map=return_map)
