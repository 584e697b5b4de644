"""Neighbourhood attention with tensor cores, small windows: strips of the tiles that `patch` describes.

A warp walks down a strip of STEPS tiles, BLOCK_T of them side by side in a program. What is the same for every tile of a
strip, addresses and masks along x, is computed once, and the next tiles and their patches are on their way to shared
memory while one is computed: a whole patch at a time, BLOCK_J pixels, so that its softmax is one and not a running one.

Positions are [BLOCK_T, n], vectors [BLOCK_T, n, BLOCK_D]; those whose products are sums over D lie as columns
[BLOCK_T, BLOCK_D, n]: a copy to shared memory can be read by tensor cores as it lies, or transposed where the axis in
question is the contiguous one.
"""

import triton
import triton.language as tl

from .patch import led
from .shared import LOG2E, rows_at, wide


@triton.jit
def tile_at(x0, PATCH: tl.constexpr, BLOCK_T: tl.constexpr):
    """Of tiles side by side: the first columns [BLOCK_T, 1], and of their positions the row in the tile and the column
    [BLOCK_T, 16]."""
    left = x0 + tl.arange(0, BLOCK_T)[:, None] * PATCH.tile_x
    i = tl.arange(0, 16)[None, :]
    x = left + i % PATCH.tile_x
    return left, x * 0 + i // PATCH.tile_x, x


@triton.jit
def patch_at(first, PATCH: tl.constexpr, BLOCK_J: tl.constexpr):
    """Of patches from the columns `first` [BLOCK_T, 1]: the row in the patch and the column [BLOCK_T, BLOCK_J]."""
    j = tl.arange(0, BLOCK_J)[None, :]
    x = led(first, PATCH) + j % PATCH.columns
    return x * 0 + j // PATCH.columns, x


@triton.jit
def vectors_along(ptr, stride, place, head, y, x, COLUMNS: tl.constexpr, WINDOW: tl.constexpr):
    """(origin, offsets, step of one position down): offsets [BLOCK_T, BLOCK_D, n] of columns, else with D last."""
    base, offs, step, _ = rows_at(ptr, stride, place, head, y, x, WINDOW, WINDOW.align)
    offs_d = wide(tl.arange(0, WINDOW.block_d), WINDOW) * stride[4]
    return base, offs[:, None, :] + offs_d[None, :, None] if COLUMNS else offs[:, :, None] + offs_d[None, None, :], step


@triton.jit
def _vectors(at, y, mask, COLUMNS: tl.constexpr, WINDOW: tl.constexpr):
    """Pointers to vectors y positions down, and which of them to move."""
    offs_d = tl.arange(0, WINDOW.block_d)
    mask = mask[:, None, :] if COLUMNS else mask[:, :, None]
    if WINDOW.dim < WINDOW.block_d:
        mask &= (offs_d < WINDOW.dim)[None, :, None] if COLUMNS else (offs_d < WINDOW.dim)[None, None, :]
    return at[0] + wide(y, WINDOW) * at[2] + at[1], mask


@triton.jit
def load_along(at, y, mask, COLUMNS: tl.constexpr, WINDOW: tl.constexpr):
    """What lies y positions down; 0 where mask [BLOCK_T, n] is false."""
    ptrs, mask = _vectors(at, y, mask, COLUMNS, WINDOW)
    return tl.load(ptrs, mask, other=0.0)


@triton.jit
def store_along(at, y, value, mask, WINDOW: tl.constexpr):
    ptrs, mask = _vectors(at, y, mask, False, WINDOW)
    tl.store(ptrs, value.to(at[0].dtype.element_ty), mask)


@triton.jit
def load_rows_along(at, y, mask, WINDOW: tl.constexpr):
    """One value per position; 0 where mask is false."""
    return tl.load(at[0] + wide(y, WINDOW) * at[2] + at[1], mask, other=0.0)


@triton.jit
def bad_of(sums, mask):
    """[BLOCK_T, n]: not 0 where a vector [BLOCK_T, n, BLOCK_D] of the mask is not finite."""
    return tl.where(mask, tl.sum(sums * 0.0, 2), 0.0)


@triton.jit
def any_of(bad):
    """Whether one is not 0, once the whole program has stored what it has."""
    tl.debug_barrier()
    return tl.sum(tl.reshape(bad, (bad.numel,))) != 0.0
