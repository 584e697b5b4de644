"""The second stage of every two-stage reduction: out[j] = sum over i of partial[i, j], in a fixed order.

By itself a launch, of several partials at once; beside the work of a launch that follows anyway, some programs more of
that.
"""

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import L2_BANDWIDTH, SM_BANDWIDTH, STEP, Config, space
from ...tuning.target import sms
from .dependent import begin

SPACE = space(BLOCK_ROWS=(32, 64, 128, 256, 512, 1024), BLOCK_COLS=(8, 16, 32), num_warps=(4, 8))
COLS = 8  # of a program beside others: a sector of the L2 cache
VALUES = 32  # of a thread, which are on their way together


@triton.jit
def finish_columns(
    partial_ptr,
    out_ptr,
    tail_ptr,
    extent,
    block,
    ACC: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """Columns block * BLOCK_COLS and on: the first `head` of all go to `out`, those after them to `tail`."""
    rows, cols, head, row_stride = extent
    offs_col = block * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    mask_col = offs_col < cols
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLS], ACC)
    for row in range(0, rows, BLOCK_ROWS):
        offs_row = row + tl.arange(0, BLOCK_ROWS)
        mask = (offs_row < rows)[:, None] & mask_col[None, :]
        offs = offs_row.to(tl.int64)[:, None] * row_stride + offs_col[None, :]
        total += tl.load(partial_ptr + offs, mask, other=0.0)
    out = tl.sum(total, 0)
    tl.store(out_ptr + offs_col, out.to(out_ptr.dtype.element_ty), offs_col < head)
    if tail_ptr is not None:
        offs_tail = offs_col - head
        tl.store(tail_ptr + offs_tail, out.to(tail_ptr.dtype.element_ty), (offs_tail >= 0) & mask_col)


@triton.jit
def finish_next(
    partial_ptr,
    out_ptr,
    tail_ptr,
    extent,
    block,
    ACC: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """The block, if it is one of this partial's; what it is of those that come after it, negative if of none."""
    if partial_ptr is not None:
        blocks = tl.cdiv(extent[1], BLOCK_COLS)
        if (block >= 0) & (block < blocks):
            finish_columns(partial_ptr, out_ptr, tail_ptr, extent, block, ACC, BLOCK_ROWS, BLOCK_COLS)
        block -= blocks
    return block


@triton.jit
def _finish_kernel(
    partial_ptr,
    out_ptr,
    tail_ptr,
    extent,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    begin(DEPENDENT)
    finish_columns(partial_ptr, out_ptr, tail_ptr, extent, tl.program_id(0), ACC, BLOCK_ROWS, BLOCK_COLS)


@triton.jit
def _finish_several_kernel(
    a_partial_ptr,
    a_out_ptr,
    a_tail_ptr,
    b_partial_ptr,
    b_out_ptr,
    b_tail_ptr,
    c_partial_ptr,
    c_out_ptr,
    c_tail_ptr,
    d_partial_ptr,
    d_out_ptr,
    d_tail_ptr,
    a_extent,
    b_extent,
    c_extent,
    d_extent,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """Of up to four partials: the blocks of the first come first."""
    begin(DEPENDENT)
    block = tl.program_id(0)
    block = finish_next(a_partial_ptr, a_out_ptr, a_tail_ptr, a_extent, block, ACC, BLOCK_ROWS, BLOCK_COLS)
    block = finish_next(b_partial_ptr, b_out_ptr, b_tail_ptr, b_extent, block, ACC, BLOCK_ROWS, BLOCK_COLS)
    block = finish_next(c_partial_ptr, c_out_ptr, c_tail_ptr, c_extent, block, ACC, BLOCK_ROWS, BLOCK_COLS)
    finish_next(d_partial_ptr, d_out_ptr, d_tail_ptr, d_extent, block, ACC, BLOCK_ROWS, BLOCK_COLS)


def finish_args(partial: Tensor | None, out: Tensor | None, tail: Tensor | None) -> dict[str, Any]:
    """Of partial (rows, cols): the first columns fill `out`, those after it `tail` if there is one. `extent` is rows,
    columns in all, columns of `out`, and the stride of a row."""
    if partial is None or out is None:
        return dict(partial_ptr=None, out_ptr=None, tail_ptr=None, extent=(0, 0, 0, 0))
    cols = out.numel() + (0 if tail is None else tail.numel())
    extent = (partial.shape[0], cols, out.numel(), partial.stride(0))
    return dict(partial_ptr=partial, out_ptr=out, tail_ptr=tail, extent=extent)


def finish_traffic(args: dict[str, Any]) -> dict[str, tuple[float, float]]:
    partial = args["partial_ptr"]
    read = 0 if partial is None else args["extent"][1] / partial.shape[1]
    return {"partial_ptr": (read, 0), "out_ptr": (0, 1), "tail_ptr": (0, 1)}


def rows_at_once(rows: int, num_warps: int) -> int:
    """BLOCK_ROWS of programs with COLS columns beside others: all loads on their way together, where that fits."""
    return min(max(triton.next_power_of_2(rows), 16), VALUES * 32 * num_warps // COLS)


def plan_finish(partial: Tensor, out: Tensor, tail: Tensor | None = None) -> Plan:
    """Sum partial (rows, cols) over its rows. The first columns fill `out`, those after it `tail` if there is one."""
    args = finish_args(partial, out, tail)
    rows, cols, *_ = args["extent"]
    config = _config("finish", partial, rows, cols)
    args |= dict(ACC=accumulator(partial), DEPENDENT=config.dependent)
    return Plan(_finish_kernel, args, config, -(-cols // config.blocks["BLOCK_COLS"]), finish_traffic(args))


def plan_finish_several(parts: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> Plan:
    """`plan_finish` of one to four (partial, out, tail), of one dtype, in one launch."""
    each = [finish_args(*part) for part in parts]
    each += [finish_args(None, None, None)] * (4 - len(each))
    rows, cols, *_ = zip(*(a["extent"] for a in each), strict=True)
    config = _config("finish_several", parts[0][0], max(rows), sum(cols))
    args: dict[str, Any] = {}
    traffic: dict[str, tuple[float, float]] = {}
    grid = sum(-(-size // config.blocks["BLOCK_COLS"]) for size in cols)
    for letter, a in zip("abcd", each, strict=True):
        args |= {f"{letter}_{name}": value for name, value in a.items()}
        traffic |= {f"{letter}_{name}": value for name, value in finish_traffic(a).items()}
    args |= dict(ACC=accumulator(parts[0][0]), DEPENDENT=config.dependent)
    return Plan(_finish_several_kernel, args, config, grid, traffic)


def _config(kernel: str, partial: Tensor, rows: int, cols: int) -> Config:
    size = sms(partial.device)

    def microseconds(config: Config) -> float | None:
        """Rounds of a program, each a latency long, and what they bring."""
        block_rows, block_cols = config.blocks["BLOCK_ROWS"], config.blocks["BLOCK_COLS"]
        values, programs = block_rows * block_cols / (32 * config.num_warps), -(-cols // block_cols)
        if not 1 <= values <= VALUES or (block_rows >= 2 * rows and block_rows > 32):
            return None
        rounds = -(-rows // block_rows) * max(1.0, programs / (8 * size))
        each = 4 * rows * block_cols / SM_BANDWIDTH * max(1.0, programs / size)
        return rounds * STEP + max(each, 4 * rows * cols / L2_BANDWIDTH) + 1e-3 * (values + config.num_warps)

    return config_for(SPACE, microseconds, kernel, partial, C=cols, pixels=rows)
