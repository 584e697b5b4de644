"""Neighbourhood attention with tensor cores, small windows: strips of the tiles that `patch` describes.

A warp walks down a strip of STEPS tiles; a program has BLOCK_T of them side by side. What all tiles of a strip have in
common, addresses and masks along x, is computed once; the next tiles and their patches are on their way to shared
memory while one is computed. A patch is taken whole, BLOCK_J pixels: one softmax, not a running one.

Positions are [BLOCK_T, n], vectors [BLOCK_T, n, BLOCK_D]; those whose products are sums over D lie as columns
[BLOCK_T, BLOCK_D, n]: tensor cores read a copy in shared memory as it lies, or transposed where the axis that they sum
over is the contiguous one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...tuning.model import SMS, Config, Model, space
from ...tuning.target import shared_memory
from .patch import TILES, Patch, exclusion, first_of, is_wide, led, patch_of, takes_products
from .shared import choose_for, classes, first_key, rows_at, strides_of, tiles, wide, window

MOST = 4096  # values of a patch, so that an SM holds the copies of many warps
WARPS, WARPS_ALONG_W = 11, 8  # that an SM holds, as compiled
SPACE = tuple(
    config
    for config in space(BLOCK_T=(1, 2, 4, 8), STEPS=(4, 8, 16, 32), num_warps=(1, 2, 4, 8), num_stages=(2, 3))
    if config.num_warps == config.blocks["BLOCK_T"]
)


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
def within(tap, WINDOW: tl.constexpr):
    """Whether, along one axis, the tap-th key of a query is one of its window."""
    return (tap >= 0) & (tap < WINDOW.kernel)


@triton.jit
def keys_at(left, x, cols, PATCH: tl.constexpr, BLOCK_J: tl.constexpr, WINDOW: tl.constexpr):
    """Of the patches of tiles of queries: the row in the patch, the column, whether its keys are to be loaded
    [BLOCK_T, BLOCK_J], and what excludes pairs along x [BLOCK_T, 16, BLOCK_J]."""
    row, kx = patch_at(first_key(left, cols, WINDOW), PATCH, BLOCK_J)
    inside_x = (left < cols) & (kx >= 0) & (kx < cols) & (row < PATCH.rows)
    if PATCH.lead == 1:  # else columns that no window has are loaded, too: accesses stay whole
        inside_x &= tl.arange(0, BLOCK_J)[None, :] % PATCH.columns < PATCH.tile_x + WINDOW.kernel - 1
    near = within(kx[:, None, :] - first_of(x, cols, WINDOW)[:, :, None], WINDOW)
    return row, kx, inside_x, exclusion(near & inside_x[:, None, :] if WINDOW.border == "mask" else near)


@triton.jit
def near_rows(ky, y, rows, WINDOW: tl.constexpr):
    """[BLOCK_T, 16, BLOCK_J]: whether, along y, the queries at y have the keys at ky."""
    near = within(ky[:, None, :] - first_of(y, rows, WINDOW)[:, :, None], WINDOW)
    return near & ((ky >= 0) & (ky < rows))[:, None, :] if WINDOW.border == "mask" else near


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
    """Whether one is not 0. The warps meet here: what is stored again comes after what they have stored."""
    return tl.sum(tl.reshape(bad, (bad.numel,))) != 0.0


def pixels_of(patch: Patch) -> int:
    """BLOCK_J: of a whole patch."""
    return triton.next_power_of_2(patch.rows * patch.columns)


def takes_strips(
    views: Sequence[Tensor],
    reads: int,
    kernel_size: int,
    dilation: int,
    border: str,
    rel_bias: Tensor | None,
    scale: float,
) -> bool:
    """Whether the maps of vectors (the queries first) have windows so small, and accesses so wide that they are
    copied to shared memory. Not with a bias: its entries, and where they are, would not fit the registers. `reads`: how
    many of the maps are loaded; the others are stored."""
    q, patch = views[0], patch_of(views[0], kernel_size, dilation)
    known = all(is_wide(t, along=4) or patch_of(t, kernel_size, dilation).lead > 1 for t in views[:reads])
    wide = known or window(kernel_size, border, scale, 1, views).align * q.element_size() >= 8
    fits = pixels_of(patch) * triton.next_power_of_2(q.shape[4]) <= MOST
    suits = rel_bias is None and kernel_size == 3 and wide and fits
    return suits and takes_products(q, kernel_size, dilation, None, scale)


def strip_model(t: Tensor, heads: int, dilation: int, patch: Patch) -> Model:
    """As measured on an H200: one warp a program, but where W is contiguous, and neighbours share what they load."""
    N, H, W, _, D = t.shape
    rows, cols = triton.cdiv(H, dilation), triton.cdiv(W, dilation)
    values = (2 * pixels_of(patch) + 32) * triton.next_power_of_2(D)

    def price(config: Config) -> float | None:
        block_t, steps = config.blocks["BLOCK_T"], config.blocks["STEPS"]
        copies = (config.num_stages - 1) * block_t * values * t.element_size()
        if copies + 8192 > shared_memory(t.device) or (block_t > 1 and block_t * patch.tile_x >= 2 * cols):
            return None
        if steps > 4 and steps * patch.tile_y >= 2 * rows:
            return None
        beside, down = triton.cdiv(cols, patch.tile_x * block_t), triton.cdiv(rows, patch.tile_y * steps)
        programs = N * heads * math.prod(classes(H, W, dilation)) * beside * down
        resident = max(1, min((WARPS_ALONG_W if patch.lead > 1 else WARPS) // block_t, 232448 // (copies + 2048)))
        waves = programs / (SMS * resident)
        width = abs(math.log2(block_t / (4 if patch.lead > 1 else 1)))
        late = 1.0 if config.num_stages > 2 else 1.2
        return (waves + 0.7 if waves > 1 else 1.0) * (steps + 1) * (1 + 0.1 * width) * late

    return price


def plan_strips(
    name: str,
    views: Mapping[str, Tensor | None],
    kernel_size: int,
    dilation: int,
    border: str,
    scale: float,
) -> tuple[Patch, Config, int, dict[str, Any]]:
    """Patch, config, grid, and the arguments that all kernels of strips have. The tiles are those of the last view."""
    q, k, tiled = views["q"], views["k"], list(views)[-1]
    heads = (k if tiled in ("dk", "dv") else q).shape[3]
    given = [t for t in views.values() if t is not None]
    constants = window(kernel_size, border, scale, q.shape[3] // k.shape[3], given)
    near = q if tiled in ("dk", "dv") else k  # whose patches are loaded
    patch = patch_of(near, kernel_size, dilation)
    wanted = "+".join(n for n in ("dk", "dv") if views.get(n) is not None)
    if given[-1].stride(2) == 1 and patch.lead == 1:  # 8 columns of what is stored are an access, too
        patch, wanted = patch_of(near, kernel_size, dilation, TILES[1:]), f"{wanted}@W"
    config = choose_for(
        name, SPACE, strip_model(near, heads, dilation, patch), near, heads, dilation, constants, wanted
    )
    block_t, steps = config.blocks["BLOCK_T"], config.blocks["STEPS"]
    size, grid = tiles(q, heads, dilation, patch.tile_y * steps, patch.tile_x * block_t)
    args = dict(
        **{f"{n}_ptr": t for n, t in views.items()},
        **{f"{n}_stride": None if t is None else strides_of(t, constants.align) for n, t in views.items()},
        size=size,
        WINDOW=constants,
        ACC=accumulator(q),
        PATCH=patch,
        BLOCK_J=pixels_of(patch),
    )
    return patch, config, grid, args
