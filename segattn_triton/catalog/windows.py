"""Operators of other rows with other windows: neighbourhood attention over 7 x 7 and 13 x 13 pixels, whose kernels work
differently, and along one and three axes, depthwise local gates, and the refinement of masks as its authors run it.

Rows by themselves: what is true of an operator is tested of the 3 x 3 row, what follows from the window of these.
"""

import functools
from collections.abc import Callable
from dataclasses import replace

from .. import flops, functional, modules, reference
from .row import Case, Op
from .rows import ROWS, refinement

STAGES = (  # whose windows are of 7, in the other row taken as 13; D = 32 and 64
    Case("nat-mini-stage1", 8, 64, (128, 128), heads=2),
    Case("hdit-1024-level1", 1, 128, (256, 256), heads=2),
)
_NEAR = next(row for row in ROWS if row.op is functional.neighborhood_attention)
_DEPTHWISE = next(row for row in ROWS if row.name == "local_gate_depthwise")


def _of(function: Callable, **window: int) -> Callable:
    """The function with this window, under its own name."""
    return functools.update_wrapper(functools.partial(function, **window), function)


SEQUENCES = (Case("all-in-one-frames", 8, 96, (3600,), heads=4),)  # 36 s of music; its windows of 5 taken as causal
VOLUMES = (Case("clip-16-frames", 2, 128, (16, 32, 32), heads=4),)  # of 32 x 32 patches


def _row(kernel_size: int, cases: tuple[Case, ...]) -> Op:
    size = f"{kernel_size}x{kernel_size}"
    return replace(
        _NEAR,
        name=f"{_NEAR.name}_{size}",
        op=_of(functional.neighborhood_attention, kernel_size=kernel_size),
        reference=_of(reference.neighborhood_attention, kernel_size=kernel_size),
        flops=functools.partial(flops.neighborhood_attention, kernel_size=kernel_size),
        fixed={"kernel_size": kernel_size},
        derived=lambda sizes: {**_NEAR.derived(sizes), "T": 2 * kernel_size - 1},
        smallest=kernel_size,
        attends_to=f"pixels, by their correlation to their {size} surroundings",
        use="a backbone's window is wider: stages of NAT, DiNAT, HDiT and SegMAN",
        cases=cases,
    )


def _along(name: str, table: str, attends_to: str, use: str, cases: tuple[Case, ...], **window) -> Op:
    """Neighbourhood attention along as many axes as the cases have."""
    return replace(
        _NEAR,
        name=f"{_NEAR.name}_{name}",
        op=_of(functional.neighborhood_attention, **window),
        reference=_of(reference.neighborhood_attention, **window),
        inputs={**_NEAR.inputs, "rel_bias?": f"heads {table}"},
        flops=functools.partial(flops.neighborhood_attention, kernel_size=window["kernel_size"]),
        fixed=window,
        module=getattr(modules, f"NeighborhoodAttention{len(cases[0].S)}d"),
        rounding_points=("y",),
        passes=(4, 17),
        dims=(len(cases[0].S),),
        smallest=max(window["kernel_size"]) * max(window.get("dilation", [1])),
        attends_to=attends_to,
        use=use,
        cases=cases,
    )


def _local(kernel_size: int, dilation: int, use: str, paper: str, *cases: Case) -> Op:
    """Cases with a k have a window of that size."""
    size = f"{kernel_size}x{kernel_size}"
    apart = f", every {dilation}rd pixel" if dilation > 1 else ""
    window = {"dilation": dilation} if dilation > 1 else {}
    return replace(
        _DEPTHWISE,
        name=f"{_DEPTHWISE.name}_{size}" + "_dilated" * (dilation > 1),
        op=_of(functional.local_gate, **window),
        reference=_of(reference.local_gate, **window),
        inputs={**_DEPTHWISE.inputs, "weight": "C 1 k k"},
        derived=lambda sizes: {"k": kernel_size},
        fixed={"depthwise": True, "kernel_size": kernel_size, **window},
        equation=f"y = x * gate(depthwise conv{size}{f', dilation {dilation}' * (dilation > 1)}(x) + b)",
        attends_to=f"single values, by their own channel's {size} surroundings{apart}",
        use=use,
        paper=paper,
        cases=cases,
    )


WINDOWS = (_row(7, STAGES), _row(13, STAGES))
ALONG = (
    _along(
        *("causal", "13", "samples, by their correlation to seven before them, every second one"),
        "a sequence, such as the frames of a sound: what comes later is not known yet",
        *(SEQUENCES,),
        **{"kernel_size": (7,), "dilation": (2,), "is_causal": (True,)},
    ),
    _along(
        *("3x5x3", "5 9 5", "voxels, by their correlation to their 3x5x3 surroundings"),
        "volumes and video: a window of its own along each axis",
        *(VOLUMES,),
        **{"kernel_size": (3, 5, 3)},
    ),
)
LARGE_KERNELS = (
    _local(
        *(5, 1, "as with 3x3, where finer structure is noise: large kernel attention, SegNeXt"),
        "the first window of SegNeXt's attention, arXiv:2209.08575, and of VAN's",
        Case("segnext-t-stage1", 8, 32, (128, 128)),
        Case("convnext-t-stage2-11x11", 8, 192, (64, 64), k=11),
    ),
    _local(
        *(7, 3, "a context of 19 pixels for 49 products: large kernel attention, VAN"),
        "the second window of VAN's attention, arXiv:2202.09741",
        Case("van-b0-stage2", 8, 64, (64, 64)),
    ),
)
_VOC = {"dilations": (1, 2, 4, 8, 12, 24), "steps": 10}
REFINEMENTS = (
    refinement.of(
        "pixel_adaptive_refinement_voc",
        **_VOC,
        use="as its authors run it on masks of PASCAL VOC, in training and to make pseudo labels",
        cases=(Case("pamr-voc-321", 8, 3, (321, 321), M=21),),
        op=_of(functional.pixel_adaptive_refinement, **_VOC),
        reference=_of(reference.pixel_adaptive_refinement, **_VOC),
        flops=functools.partial(flops.pixel_adaptive_refinement, **_VOC),
        options={},
    ),
)
BY_NAME = {row.name: row for row in (*ROWS, *WINDOWS, *ALONG, *LARGE_KERNELS, *REFINEMENTS)}
