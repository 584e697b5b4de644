"""Operators of other rows with wider windows: neighbourhood attention over 7 x 7 and 13 x 13 pixels, whose kernels work
differently, depthwise local gates, and the refinement of masks as its authors run it.

Rows by themselves: what is true of an operator is tested of the 3 x 3 row, what follows from the window of these.
"""

import functools
from collections.abc import Callable
from dataclasses import replace

from .. import flops, functional, reference
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


def _local(kernel_size: int, dilation: int, use: str, paper: str, case: Case) -> Op:
    size = f"{kernel_size}x{kernel_size}"
    apart = f", every {dilation}rd pixel" if dilation > 1 else ""
    window = {"dilation": dilation} if dilation > 1 else {}
    return replace(
        _DEPTHWISE,
        name=f"{_DEPTHWISE.name}_{size}" + "_dilated" * (dilation > 1),
        op=_of(functional.local_gate, **window),
        reference=_of(reference.local_gate, **window),
        inputs={**_DEPTHWISE.inputs, "weight": f"C 1 {kernel_size} {kernel_size}"},
        fixed={"depthwise": True, "kernel_size": kernel_size, **window},
        equation=f"y = x * gate(depthwise conv{size}{f', dilation {dilation}' * (dilation > 1)}(x) + b)",
        attends_to=f"single values, by their own channel's {size} surroundings{apart}",
        use=use,
        paper=paper,
        cases=(case,),
    )


WINDOWS = (_row(7, STAGES), _row(13, STAGES))
LARGE_KERNELS = (
    _local(
        *(5, 1, "as with 3x3, where finer structure is noise: large kernel attention, SegNeXt"),
        "the first window of SegNeXt's attention, arXiv:2209.08575, and of VAN's",
        Case("segnext-t-stage1", 8, 32, (128, 128)),
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
BY_NAME = {row.name: row for row in (*ROWS, *WINDOWS, *LARGE_KERNELS, *REFINEMENTS)}
