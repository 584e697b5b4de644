"""A mask refined by the affinities of its image's pixels: PAMR.

    m_t = A m_t-1,   y = m_steps,   m_0 = mask at the image's pixels,   A p's neighbours by a(p) = softmax_k(s_k(p))
    (Araslanov and Roth 2020, arXiv:2005.08104)

A is linear in the mask: dm_t-1 = A^T dm_t, gathered from the pixels that took from each, what arrives beyond the border
added to the pixels there; dmask likewise from dm_0. da_k = sum_tc dm_t m_t-1 at neighbour k, and from there through the
softmax, |x - x_k| and sigma to the image, as `kernels/refinement/scores` says. Saved are the inputs: the affinities are
computed again, and where the image wants a gradient the steps, all of which it needs.
"""

import torch
from torch import Tensor

from ..kernels.refinement.affinity import plan_refinement_affinity
from ..kernels.refinement.fold import plan_refinement_fold, plan_refinement_sides, sides_of
from ..kernels.refinement.gather import plan_refinement_gather, with_border
from ..kernels.refinement.resize import plan_refinement_resize, plan_refinement_unsize
from ..kernels.refinement.scores import plan_refinement_own, plan_refinement_scores
from ..kernels.refinement.shared import NEIGHBOURS, reached
from ..kernels.refinement.step import plan_refinement_step
from ..runtime import schemas
from ..runtime.maps import is_channels_last, is_channels_last_natively, partials
from ..runtime.operator import DifferentiableOp


def _as_image(image: Tensor, channels: int) -> Tensor:
    """An empty map of so many channels, in the memory order of the image."""
    if image.shape[1] == channels:
        return torch.empty_like(image)
    N, _, H, W = image.shape
    if is_channels_last_natively(image):
        return image.new_empty((N, H, W, channels)).permute(0, 3, 1, 2)
    return image.new_empty((N, channels, H, W))


def _allocate(tensors, options):
    image, mask = tensors
    around = image.shape[0], NEIGHBOURS * len(options.dilations), *image.shape[2:]
    return _as_image(image, mask.shape[1]), image.new_empty(around if options.return_map else (0,))


def _wide(image: Tensor, mask: Tensor, *more: int) -> Tensor:
    """Maps of the mask's channels between the kernels."""
    return partials(image, *more, *mask.shape[:2], *image.shape[2:])


def _resize(run, mask: Tensor, m: Tensor) -> None:
    if mask.shape[2:] == m.shape[2:]:
        run.call(Tensor.copy_, m, mask)
    else:
        run.launch(plan_refinement_resize(mask, m))


def _forward(run, outputs, tensors, options):
    (image, mask), y, steps = tensors, outputs.y, options.steps
    dilations = reached(options.dilations, image)
    gate_map = outputs.map if options.return_map else None
    if steps or gate_map is not None:
        a = run.launch(plan_refinement_affinity(image, dilations, gate_map)).a
    m, spare = mask, None
    if not steps or mask.shape[2:] != image.shape[2:] or is_channels_last(mask):
        m = run.empty(_wide(image, mask)) if steps else y
        _resize(run, mask, m)
    for left in reversed(range(steps)):
        made = y if not left else run.empty(_wide(image, mask)) if spare is None else spare
        run.launch(plan_refinement_step(m, a, dilations, made))
        m, spare = made, None if m is mask else m


def _turned(run, t: Tensor, a: Tensor, dilations, own, out: Tensor, buffers: tuple[Tensor, Tensor]) -> None:
    """out = A^T t; of an image, what its pixels get as neighbours and as themselves."""
    d, sides = buffers
    others = (own.rate, own.slope, own.mean) if own else ()
    run.launch(plan_refinement_gather(t, a, dilations, d, *others))
    run.launch(plan_refinement_sides(d, max(dilations), sides))
    run.launch(plan_refinement_fold(d, sides, own.own if own else None, out))


def _buffers(run, t: Tensor, dilations) -> tuple[Tensor, Tensor]:
    d = run.empty(with_border(t, dilations))
    return d, run.empty(sides_of(d))


def _mask_backward(run, dy: Tensor, a: Tensor | None, dmask: Tensor | None, image, mask, dm, steps: int, dilations):
    """dm (T, N, M, H, W), where it is given, gets the gradient after every step."""
    dm_t, spare, sized = dy, None, mask.shape[2:] == image.shape[2:]
    if steps or not sized:  # from here on the pixels of a channel side by side
        dm_t = dm[steps - 1] if steps and dm is not None else run.empty(_wide(image, mask))
        run.call(Tensor.copy_, dm_t, dy)
    buffers = _buffers(run, dm_t, dilations) if steps and (dmask is not None or steps > 1) else None
    for t in reversed(range(steps)):
        if t == 0 and dmask is None:
            return
        if t == 0 and sized:
            made = dmask
        elif t and dm is not None:
            made = dm[t - 1]
        else:
            made = run.empty(_wide(image, mask)) if spare is None else spare
        _turned(run, dm_t, a, dilations, None, made, buffers)
        dm_t, spare = made, dm_t if dm is None else None
    if dmask is not None and not sized:
        half = run.empty(partials(mask, *mask.shape[:3], image.shape[3]))
        run.launch(plan_refinement_unsize(dm_t, half, 2))
        run.launch(plan_refinement_unsize(half, dmask, 3))
    elif dmask is not None and not steps:
        run.call(Tensor.copy_, dmask, dy)


def _backward(run, grads, douts, saved, tensors, options):
    (dimage, dmask), (dy, dmap), (image, mask), steps = grads, douts, tensors, options.steps
    dilations, of_image = reached(options.dilations, image), dimage is not None
    a = run.launch(plan_refinement_affinity(image, dilations, None)).a if steps or of_image else None
    m, dm = (run.empty(_wide(image, mask, steps)) if of_image else None for _ in range(2))
    _mask_backward(run, dy, a, dmask, image, mask, dm, steps, dilations)
    if not of_image:
        return
    if steps:
        _resize(run, mask, m[0])
    for t in range(1, steps):
        run.launch(plan_refinement_step(m[t - 1], a, dilations, m[t]))
    da = run.launch(plan_refinement_scores(m, dm, a, dmap, dilations)).da
    own = run.launch(plan_refinement_own(image, da, dilations))
    _turned(run, image, da, dilations, own, dimage, _buffers(run, image, dilations))


_pixel_adaptive_refinement = DifferentiableOp(
    schemas.pixel_adaptive_refinement,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    maps=("image", "mask"),
)


def pixel_adaptive_refinement(*tensors: Tensor, **options):
    return _pixel_adaptive_refinement.call(tensors, options, options["return_map"])
