"""Neighbourhood attention over 7 x 7 and 13 x 13 pixels: the operator of the 3 x 3 row, whose kernels work differently.

Rows by themselves: what is true of an operator is tested of the 3 x 3 row, what follows from the window of these.
"""

import functools
from collections.abc import Callable
from dataclasses import replace

from .. import flops, functional, reference
from .row import Case, Op
from .rows import ROWS

STAGES = (  # whose windows are of 7, in the other row taken as 13; D = 32 and 64
    Case("nat-mini-stage1", 8, 64, (128, 128), heads=2),
    Case("hdit-1024-level1", 1, 128, (256, 256), heads=2),
)
_NEAR = next(row for row in ROWS if row.op is functional.neighborhood_attention)


def _of(function: Callable, kernel_size: int) -> Callable:
    """The function with this window, under its own name."""
    return functools.update_wrapper(functools.partial(function, kernel_size=kernel_size), function)


def _row(kernel_size: int, cases: tuple[Case, ...]) -> Op:
    size = f"{kernel_size}x{kernel_size}"
    return replace(
        _NEAR,
        name=f"{_NEAR.name}_{size}",
        op=_of(functional.neighborhood_attention, kernel_size),
        reference=_of(reference.neighborhood_attention, kernel_size),
        flops=functools.partial(flops.neighborhood_attention, kernel_size=kernel_size),
        fixed={"kernel_size": kernel_size},
        derived=lambda sizes: {**_NEAR.derived(sizes), "T": 2 * kernel_size - 1},
        smallest=kernel_size,
        attends_to=f"pixels, by their correlation to their {size} surroundings",
        use="a backbone's window is wider: stages of NAT, DiNAT, HDiT and SegMAN",
        cases=cases,
    )


WINDOWS = (_row(7, STAGES), _row(13, STAGES))
BY_NAME = {row.name: row for row in (*ROWS, *WINDOWS)}
