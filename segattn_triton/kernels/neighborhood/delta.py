"""Neighbourhood attention, the pre-pass of its backward: delta_i = <y_i, dy_i> - dlse_i. Reads y and dy once, and may
write dy in the other memory order."""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from .shared import (
    SPACE,
    choose_for,
    load_shifted,
    locate,
    positions,
    row_model,
    row_strides_of,
    rows_at,
    store_at,
    strides_of,
    tiles,
    vectors_at,
    window,
)


@triton.jit
def _neighborhood_delta_kernel(
    y_ptr,
    dy_ptr,
    dlse_ptr,
    delta_ptr,
    turned_ptr,
    y_stride,
    dy_stride,
    turned_stride,
    row_stride,
    size,
    WINDOW: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    place, rows, cols, y0, x0 = locate(size, BLOCK_Y, BLOCK_X)
    y, x = positions(y0, x0, BLOCK_Y, BLOCK_X)
    mask = (y < rows) & (x < cols)
    head = place[1]
    out = load_shifted(vectors_at(y_ptr, y_stride, place, head, y, x, WINDOW), 0, 0, mask, WINDOW, ACC)
    dy = load_shifted(vectors_at(dy_ptr, dy_stride, place, head, y, x, WINDOW), 0, 0, mask, WINDOW, ACC)
    if turned_ptr is not None:
        store_at(vectors_at(turned_ptr, turned_stride, place, head, y, x, WINDOW), dy, mask, WINDOW)
    delta = tl.sum(out * dy, 1)
    if dlse_ptr is not None:
        delta -= load_shifted(rows_at(dlse_ptr, row_stride, place, head, y, x, WINDOW), 0, 0, mask, WINDOW, ACC)
    store_at(rows_at(delta_ptr, row_stride, place, head, y, x, WINDOW), delta, mask, WINDOW)


def plan_neighborhood_delta(
    y: Tensor, dy: Tensor, dlse: Tensor | None, delta: Tensor, turned: Tensor | None = None
) -> Plan:
    """delta and dlse (N, H, W, heads), contiguous; turned, if any, gets the values of dy."""
    heads = y.shape[3]
    constants = window(1, "mask", 1.0, 1, [t for t in (y, dy, turned) if t is not None])
    model = row_model(y, heads, 1, 1, loads=2, live=2.2)
    config = choose_for("neighborhood_delta", SPACE, model, y, heads, 1, constants, "turned" * (turned is not None))
    size, grid = tiles(y, heads, 1, **config.blocks)
    args = dict(
        y_ptr=y,
        dy_ptr=dy,
        dlse_ptr=dlse,
        delta_ptr=delta,
        turned_ptr=turned,
        y_stride=strides_of(y, constants.align),
        dy_stride=strides_of(dy, constants.align),
        turned_stride=None if turned is None else strides_of(turned, constants.align),
        row_stride=row_strides_of(delta),
        size=size,
        WINDOW=constants,
        ACC=accumulator(y),
    )
    traffic = dict(y_ptr=(1, 0), dy_ptr=(1, 0), dlse_ptr=(1, 0), delta_ptr=(0, 1), turned_ptr=(0, 1))
    return Plan(_neighborhood_delta_kernel, args, config, grid, traffic)
