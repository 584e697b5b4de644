"""Masks refined by their image."""

from functools import partial
from math import prod

from ... import flops, functional, reference
from ..row import Case, Op, Sizes
from .shared import MAP


def neighbours(sizes: Sizes, dilations: int = 1) -> Sizes:
    """As many masks as channels, at half the resolution; what has a value for each neighbour."""
    return {"M": sizes["C"], "T": tuple(-(-s // 2) for s in sizes["S"]), "K": 8 * dilations}


def passes(sizes: Sizes, steps: int = 1) -> tuple[float, float]:
    """Values for each neighbour, masks and image, over the image. Forward the affinities of the image, the mask
    resized, and steps. Backward the affinities again, A^T of the steps, the mask's gradient along its columns, then its
    rows; for the image the steps but the last once more, the gradients after them into that of the affinities, and this
    into what neighbours and pixels get; but for torch's copy of dy, and what is gathered with a border around it."""
    C, M, K = (sizes[name] for name in ("C", "M", "K"))
    small, half, step = M * prod(sizes["T"]) / prod(sizes["S"]), M * sizes["T"][0] / sizes["S"][0], K + 2 * M
    forward = C + K + small + M + steps * step
    mask = C + K + steps * step + M + 2 * half + small
    image = small + M + (steps - 1) * step + 2 * steps * M + 2 * K + 5 * C + K + 6 * C + K
    return forward / C, (mask + image) / C


def of(name: str, dilations: tuple[int, ...], steps: int, use: str, cases: tuple[Case, ...], **others) -> Op:
    """A row of functions that have these dilations and steps by themselves; others: they, and options beside."""
    derived = partial(neighbours, dilations=len(dilations))
    return Op(
        name=name,
        **others,
        inputs={"image": MAP, "mask": "N M *T"},
        parameters={},
        outputs={"y": "N M *S", "map": "N K *S"},
        passes=passes(derived(cases[0].sizes) | dict(cases[0].sizes), steps),
        passes_of=lambda sizes, itemsize: passes(sizes, steps),
        derived=derived,
        between=2,  # the mask resized, and the affinities
        equation="y = A^steps m, of p and its neighbours k: A = softmax_k(mean_c -|x_p - x_k| / (0.1 sigma_p))",
        attends_to="the neighbours of every pixel, at one dilation or several, by how alike they are in the image",
        use=use,
        paper="Araslanov and Roth 2020, arXiv:2005.08104 (PAMR)",
        cases=cases,
    )


ROWS = (
    of(
        "pixel_adaptive_refinement",
        (1,),
        1,
        "a coarse mask, such as a class activation map, has to follow the edges of its image: weak supervision",
        (Case("pamr-cam-512", 2, 3, (512, 512), M=21),),
        op=functional.pixel_adaptive_refinement,
        reference=reference.pixel_adaptive_refinement,
        flops=flops.pixel_adaptive_refinement,
        options={"dilations": ((1,), (1, 2), (3, 1, 7)), "steps": (1, 0, 3)},
    ),
)
