"""Attention over windows, the pre-pass of its backward: delta_i = <y_i, dy_i> - dlse_i. Reads y and dy once."""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from .layout import Reach, choose_for, constants_of, gather_model, row_strides_of, strides_of, tiles
from .shared import (
    dot,
    load_shifted,
    locate,
    rows_at,
    store_at,
    vectors_at,
)

ALONE = Reach((1, 1, 1), (1, 1, 1), (False, False, False), "shift")


@triton.jit
def _window_delta_kernel(
    y_ptr, dy_ptr, dlse_ptr, delta_ptr, y_stride, dy_stride, row_stride, size,
    WINDOW: tl.constexpr, ACC: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    n, head, z, y, x, mask = locate(size, BLOCK_P, WINDOW)
    out = load_shifted(vectors_at(y_ptr, y_stride, n, head, z, y, x, size, WINDOW), 0, 0, 0, mask, WINDOW, ACC)
    dy = load_shifted(vectors_at(dy_ptr, dy_stride, n, head, z, y, x, size, WINDOW), 0, 0, 0, mask, WINDOW, ACC)
    delta = dot(out, dy, WINDOW)
    if dlse_ptr is not None:
        at = rows_at(dlse_ptr, row_stride, n, head, z, y, x, size, WINDOW)
        delta -= load_shifted(at, 0, 0, 0, mask, WINDOW, ACC)
    store_at(rows_at(delta_ptr, row_stride, n, head, z, y, x, size, WINDOW), delta, mask, WINDOW)


def plan_window_delta(y: Tensor, dy: Tensor, dlse: Tensor | None, delta: Tensor) -> Plan:
    """delta and dlse (N, *S, heads), contiguous."""
    heads = y.shape[-2]
    constants = constants_of(ALONE, 1.0, 1, (y, dy), (delta[..., None],))
    config = choose_for("window_delta", gather_model(y, heads, loads=2, live=2.2), y, ALONE, heads, constants)
    size, grid = tiles(y, ALONE, heads, **config.blocks)
    args = dict(
        y_ptr=y,
        dy_ptr=dy,
        dlse_ptr=dlse,
        delta_ptr=delta,
        y_stride=strides_of(y, constants.align),
        dy_stride=strides_of(dy, constants.align),
        row_stride=row_strides_of(delta),
        size=size,
        WINDOW=constants,
        ACC=accumulator(y),
    )
    traffic = dict(y_ptr=(1, 0), dy_ptr=(1, 0), dlse_ptr=(1, 0), delta_ptr=(0, 1))
    return Plan(_window_delta_kernel, args, config, grid, traffic)
