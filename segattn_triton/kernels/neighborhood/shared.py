"""Neighbourhood attention: what its kernels share. Every pixel attends to the K x K pixels around it.

Tensors are views (N, H, W, heads, D) of any strides. With dilation d the image falls into d * d classes of pixels,
(i mod d, j mod d), that never meet; inside a class, *positions* count its pixels and the dilation is gone. A program
works on a tile of BLOCK_Y x BLOCK_X positions of one image, head and class. Kernels run over *offsets* (oy, ox), key
position minus query position: addresses stay affine at every border, and an offset fixes its entry of the relative
bias. Borders, along an axis of length L (see `segattn_triton.reference.neighborhood`): "shift" moves the window
inside, so a query at a border has offsets up to K - 1; "mask" and "zero" leave it, and cut what lies outside.

NaN and Inf: an excluded pair contributes nothing, not 0 * value, so they reach only the pixels whose window
contains them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import ALIGNMENTS, Layout
from ...tuning.choice import config_for
from ...tuning.model import Config, Footprint, Model, space
from ...tuning.target import capability, with_all_registers
from ..common.tile import LN2 as LN2
from ..common.tile import LOG2E as LOG2E
from ..common.tile import in_elements

SPACE = space(BLOCK_Y=(1, 2, 4, 8), BLOCK_X=(4, 8, 16, 32, 64), num_warps=(1, 2, 4, 8))


class Window(NamedTuple):
    """What the problem fixes at compile time; a constexpr."""

    kernel: int
    border: str
    scale: float
    group: int  # query heads per key head
    dim: int  # D
    block_d: int  # D rounded up to a power of two
    int64: bool  # an image reaches past 2^31 elements
    align: int  # elements: divides every stride but that of D, so that accesses along D can be wide


@triton.jit
def locate(size, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """The place of this program, (image, head, class row, class column, dilation), the rows and columns of the class,
    and the first position of the tile.

    size = (H, W, heads, dilation, classes_y, classes_x, tiles_y, tiles_x)
    """
    H, W, heads, dilation, classes_y, classes_x, tiles_y, tiles_x = size
    pid = tl.program_id(0)
    head = pid % heads
    pid = pid // heads
    x0 = pid % tiles_x * BLOCK_X
    pid = pid // tiles_x
    y0 = pid % tiles_y * BLOCK_Y
    pid = pid // tiles_y
    gx = pid % classes_x
    pid = pid // classes_x
    gy = pid % classes_y
    rows = (H - gy + dilation - 1) // dilation
    cols = (W - gx + dilation - 1) // dilation
    return (pid // classes_y, head, gy, gx, dilation), rows, cols, y0, x0


@triton.jit
def positions(y0, x0, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """The positions y, x [BLOCK_P] of a tile, in row-major order."""
    offs = tl.arange(0, BLOCK_Y * BLOCK_X)
    return y0 + offs // BLOCK_X, x0 + offs % BLOCK_X


@triton.jit
def is_inner(y0, x0, rows, cols, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, WINDOW: tl.constexpr):
    """No window of this tile, and no window that contains a position of it, is cut or moved."""
    inner_y = (y0 >= WINDOW.kernel) & (y0 + BLOCK_Y + WINDOW.kernel <= rows)
    return inner_y & (x0 >= WINDOW.kernel) & (x0 + BLOCK_X + WINDOW.kernel <= cols)


@triton.jit
def wide(i, WINDOW: tl.constexpr):
    """An index, in 64 bits where an image reaches past 2^31 elements."""
    return i.to(tl.int64) if WINDOW.int64 else i


@triton.jit
def rows_at(ptr, stride, place, head, y, x, WINDOW: tl.constexpr, ALIGN: tl.constexpr = 1):
    """One value per position: (origin, offsets [BLOCK_P], steps of one position down and right) for `shifted`."""
    n, _, gy, gx, dilation = place
    head, gy, gx, y, x = wide(head, WINDOW), wide(gy, WINDOW), wide(gx, WINDOW), wide(y, WINDOW), wide(x, WINDOW)
    stride_y = in_elements(stride[1], ALIGN, WINDOW.int64)
    stride_x = in_elements(stride[2], ALIGN, WINDOW.int64)
    stride_head = in_elements(stride[3], ALIGN, WINDOW.int64)
    base = ptr + n.to(tl.int64) * stride[0] * ALIGN + (head * stride_head + gy * stride_y + gx * stride_x)
    step_y, step_x = stride_y * dilation, stride_x * dilation
    return base, y * step_y + x * step_x, step_y, step_x


@triton.jit
def vectors_at(ptr, stride, place, head, y, x, WINDOW: tl.constexpr):
    """One vector per position: as `rows_at`, with offsets [BLOCK_P, BLOCK_D]; strides in units of WINDOW.align."""
    base, offs, step_y, step_x = rows_at(ptr, stride, place, head, y, x, WINDOW, WINDOW.align)
    offs_d = wide(tl.arange(0, WINDOW.block_d), WINDOW)
    return base, offs[:, None] + offs_d[None, :] * stride[4], step_y, step_x


@triton.jit
def shifted(at, oy, ox, WINDOW: tl.constexpr):
    """Pointers to what lies (oy, ox) positions down and right."""
    if WINDOW.int64:
        oy, ox = tl.full([], oy, tl.int64), tl.full([], ox, tl.int64)
    return at[0] + (oy * at[2] + ox * at[3]) + at[1]


@triton.jit
def load_shifted(at, oy, ox, mask, WINDOW: tl.constexpr, ACC: tl.constexpr):
    """What lies (oy, ox) away, [BLOCK_P] or [BLOCK_P, BLOCK_D], in the accumulator's precision.

    0 where mask [BLOCK_P] is false; None: load all.
    """
    ptrs = shifted(at, oy, ox, WINDOW)
    if len(ptrs.shape) == 1:
        value = tl.load(ptrs) if mask is None else tl.load(ptrs, mask, other=0.0)
    elif WINDOW.dim < WINDOW.block_d:
        wanted = (tl.arange(0, WINDOW.block_d) < WINDOW.dim)[None, :]
        wanted = wanted if mask is None else wanted & mask[:, None]
        value = tl.load(ptrs, wanted, other=0.0)
    else:
        value = tl.load(ptrs) if mask is None else tl.load(ptrs, mask[:, None], other=0.0)
    return value.to(ACC)


@triton.jit
def store_at(at, value, mask, WINDOW: tl.constexpr):
    """Store [BLOCK_P] or [BLOCK_P, BLOCK_D] where mask [BLOCK_P] is true."""
    if len(value.shape) == 2:
        mask = mask[:, None] & (tl.arange(0, WINDOW.block_d) < WINDOW.dim)[None, :]
    tl.store(at[0] + at[1], value.to(at[0].dtype.element_ty), mask)


@triton.jit
def first_key(i, length, WINDOW: tl.constexpr):
    """First key position of the query at position i, along one axis."""
    if WINDOW.border == "shift":
        return tl.minimum(tl.maximum(i - WINDOW.kernel // 2, 0), length - WINDOW.kernel)
    else:
        return i - WINDOW.kernel // 2


@triton.jit
def offsets_to_keys(i, length, WINDOW: tl.constexpr):
    """Along one axis: the smallest and the largest offset of a query at i to its keys; an i outside has none."""
    first = first_key(i, length, WINDOW)
    low, high = tl.maximum(first, 0) - i, tl.minimum(first + WINDOW.kernel, length) - 1 - i
    return tl.where(i < length, low, 0), tl.where(i < length, high, -1)


@triton.jit
def offsets_to_queries(j, length, WINDOW: tl.constexpr):
    """Along one axis: the smallest and the largest offset of a key at j from the queries that have it."""
    first, last = tl.maximum(j - WINDOW.kernel // 2, 0), tl.minimum(j + WINDOW.kernel // 2, length - 1)
    if WINDOW.border == "shift":  # the moved windows of the outermost queries reach further
        first = tl.where(j < WINDOW.kernel, 0, first)
        last = tl.where(j >= length - WINDOW.kernel, length - 1, last)
    return tl.where(j < length, j - last, 0), tl.where(j < length, j - first, -1)


@triton.jit
def bias_index(oy, ox, WINDOW: tl.constexpr):
    """Entry of the (2K-1, 2K-1) table for the offset key minus query."""
    return (oy + WINDOW.kernel - 1) * (2 * WINDOW.kernel - 1) + ox + WINDOW.kernel - 1


@triton.jit
def head_bias(bias_ptr, head, WINDOW: tl.constexpr):
    """Pointer to the table of one query head."""
    return bias_ptr + head * ((2 * WINDOW.kernel - 1) * (2 * WINDOW.kernel - 1))


@triton.jit
def add_at(sums, index, value):
    """sums [n] with `value` added to one entry."""
    return sums + tl.where(tl.arange(0, sums.shape[0]) == index, value, 0.0)


@triton.jit
def store_bias(dbias_ptr, db, head, heads, programs_per_tile, WINDOW: tl.constexpr):
    """Store this tile's sums per offset for one query head into its row of the partial sums."""
    entries = (2 * WINDOW.kernel - 1) * (2 * WINDOW.kernel - 1)
    offs = tl.arange(0, db.shape[0])
    tile = tl.program_id(0) // programs_per_tile
    tl.store(dbias_ptr + (tile.to(tl.int64) * heads + head) * entries + offs, db, offs < entries)


def strides_of(t: Tensor, align: int = 1) -> tuple[int, ...]:
    """Strides of a view with axes (N, H, W, heads, D), all but the last in units of `align`.

    An axis of length 1 fits any stride; D then counts as contiguous.
    """
    *outer, inner = zip(t.shape, t.stride(), strict=True)
    return *(stride // align if size > 1 else 0 for size, stride in outer), inner[1] if inner[0] > 1 else 1


def row_strides_of(t: Tensor | None) -> tuple[int, ...] | None:
    """Strides of values (N, H, W, heads) for `rows_at`."""
    return None if t is None else strides_of(t[..., None])


def window(
    kernel_size: int, border: str, scale: float, group: int, views: Sequence[Tensor], others: Sequence[Tensor] = ()
) -> Window:
    """The constants for vectors like those of the first view; `others` are scores."""
    D = views[0].shape[-1]
    strides = [strides_of(t) for t in views]
    common = math.gcd(*(s for *outer, inner in strides for s in (outer if inner == 1 else (1,))))
    align = next(a for a in ALIGNMENTS if common % a == 0)
    spans = [sum(n * s for n, s in zip(t.shape[1:], t.stride()[1:], strict=True)) for t in (*views, *others)]
    return Window(kernel_size, border, scale, group, D, triton.next_power_of_2(D), max(spans) >= 2**31, align)


def tiles(t: Tensor, heads: int, dilation: int, BLOCK_Y: int, BLOCK_X: int) -> tuple[tuple[int, ...], int]:
    """`size` of `locate`, and the grid, for tiles over the positions of t (N, H, W, ...)."""
    N, H, W = t.shape[:3]
    tiles_y, tiles_x = triton.cdiv(triton.cdiv(H, dilation), BLOCK_Y), triton.cdiv(triton.cdiv(W, dilation), BLOCK_X)
    classes_y, classes_x = classes(H, W, dilation)
    grid = N * heads * classes_y * classes_x * tiles_y * tiles_x
    return (H, W, heads, dilation, classes_y, classes_x, tiles_y, tiles_x), grid


def classes(H: int, W: int, dilation: int) -> tuple[int, int]:
    """How many classes of rows and of columns have a pixel."""
    return min(dilation, H), min(dilation, W)


def row_model(t: Tensor, heads: int, dilation: int, kernel_size: int, loads: int, live: float) -> Model:
    """For kernels that gather rows: tiles as square as the layout's vectors allow, few repeated halo reads."""
    (N, H, W, _, D), itemsize = t.shape, t.element_size()
    rows, cols = triton.cdiv(H, dilation), triton.cdiv(W, dilation)
    block_d = triton.next_power_of_2(D)
    w_contiguous = t.stride(2) == 1 and D > 1
    live *= 2.6 if w_contiguous else 1.7 if block_d > D else 1  # every value has its own address, or mask

    def footprint(config: Config) -> Footprint | None:
        block_y, block_x = config.blocks["BLOCK_Y"], config.blocks["BLOCK_X"]
        if block_y >= 2 * rows or block_x >= max(2 * cols, 8):
            return None
        count = triton.cdiv(rows, block_y) * triton.cdiv(cols, block_x)
        padding = count * block_y * block_x / max(rows * cols, 1)
        halo = (block_y + kernel_size - 1) * (block_x + kernel_size - 1) / (block_y * block_x)
        row_bytes = (block_x if w_contiguous else D * heads) * itemsize
        programs = N * heads * math.prod(classes(H, W, dilation)) * count
        tile = block_y * block_x * block_d
        return Footprint(tile, itemsize, loads, live, programs, padding * halo**0.5, row_bytes)

    return footprint


def choose_for(
    kernel: str,
    configs: tuple[Config, ...],
    model: Model,
    t: Tensor,
    heads: int,
    dilation: int,
    constants: Window,
    also: str = "",
) -> Config:
    """The config for tiles over the positions of t (N, H, W, ..., D), for each of so many heads."""
    N, H, W, *_, D = t.shape
    layout = Layout(t.stride(-1) == 1 or D == 1, constants.align, constants.int64)
    what = (f"D{D}", f"K{constants.kernel}", f"d{dilation}", *([also] if also else []))
    exact = (N, H, W, t.stride(2) == 1, *(stride % 16 == 0 for stride in t.stride()))
    how = dict(C=heads * D, pixels=N * H * W, layout=layout, also=what, exact=exact)
    config = config_for(configs, model, kernel, t, **how)
    if "BLOCK_T" in config.blocks:
        return with_all_registers(config, t.device, hopper="STEPS" not in config.blocks)
    squeezed = t.element_size() >= 4 and (constants.kernel > 1 or capability(t.device) >= 100)
    return with_all_registers(config, t.device) if squeezed else config
