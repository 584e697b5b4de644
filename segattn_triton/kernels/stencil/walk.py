"""The forward in channels_last: a program walks along its rows and holds one column of them at a time.

The column is ROWS + 2 tiles [BLOCK_C, STRIPS] of strips of ROWS rows: of each strip the row above it, its own, and the
one below. What lies above and below a value is in another tile at the same place, so that nothing moves between
threads, and only the outer rows of a strip are loaded twice.
"""

import triton
import triton.language as tl

from ..common.tile import only_when, store_tile, tile_ptrs
from .window import inverse_count, roll

ROWS = tl.constexpr(4)


@triton.jit
def _load_column(x_ptr, x_stride, n, offs_c, offs_h, col, H, W, mask, STENCIL: tl.constexpr, LAYOUT: tl.constexpr):
    """The rows offs_h - 1 to offs_h + ROWS of a column as they lie in memory, and what is beyond the image."""
    outside: tl.constexpr = float("-inf") if STENCIL == "max" else 0.0
    rows = ()
    for r in tl.static_range(ROWS + 2):
        h = offs_h + (r - 1)
        inside = mask & ((h >= 0) & (h < H))[None, :]
        rows += (tl.load(tile_ptrs(x_ptr, x_stride, n, offs_c, h * W + col, LAYOUT), inside, other=outside),)
    return rows


@triton.jit
def walk(
    x_ptr,
    y_ptr,
    map_ptr,
    strides,
    sizes,
    spot,
    w,
    b,
    C: tl.constexpr,
    STENCIL: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
):
    """y of the columns w0 to w1 of the strips that begin at the rows offs_h [STRIPS], where `spot` says."""
    x_stride, y_stride, map_stride = strides
    H, W = sizes
    n, w0, w1, offs_h, offs_c = spot
    mask_c = (offs_c < C)[:, None]
    if STENCIL == "dot":  # columns are what rolls
        w = w[0], w[3], w[6], w[1], w[4], w[7], w[2], w[5], w[8]
    zero = tl.zeros([offs_c.shape[0], offs_h.shape[0]], ACC)
    x1 = zero, zero, zero, zero  # of each row of a strip the column before, and its window
    windows = (zero, zero), (zero, zero), (zero, zero), (zero, zero)
    for col in tl.range(w0 - 1, w1 + 1, num_stages=STAGES):
        mask = only_when((col >= 0) & (col < W), mask_c)
        rows = _load_column(x_ptr, x_stride, n, offs_c, offs_h, col, H, W, mask, STENCIL, LAYOUT)
        x2, rolled = (), ()
        for r in tl.static_range(ROWS + 2):
            x2 += (rows[r].to(ACC),)
        for r in tl.static_range(ROWS):
            h = offs_h + r
            z, _, window = roll((x2[r], x2[r + 1], x2[r + 2]), col, h, w, b, windows[r], STENCIL)
            rolled += (window,)
            if STENCIL == "avg":
                z *= inverse_count(col - 1, h, W, H, ACC)
            g = GATE.f(z, GATE.a, GATE.b)
            mask = only_when(col > w0, mask_c & (h < H)[None, :])
            offs_p = h * W + (col - 1)
            store_tile(y_ptr, y_stride, n, offs_c, offs_p, x1[r] * g, mask, LAYOUT)
            if map_ptr is not None:
                store_tile(map_ptr, map_stride, n, offs_c, offs_p, g, mask, LAYOUT)
        x1, windows = (x2[1], x2[2], x2[3], x2[4]), rolled
