"""The second stage of every two-stage reduction: out[j] = sum over i of partial[i, j], in a fixed order."""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import Footprint, space
from .dependent import begin

SPACE = space(BLOCK_ROWS=(32, 128, 64, 256), BLOCK_COLS=(8, 32, 16), num_warps=(4, 8))


@triton.jit
def _finish_kernel(
    partial_ptr,
    out_ptr,
    tail_ptr,
    rows,
    cols,
    head,
    row_stride,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    begin(DEPENDENT)
    offs_col = tl.program_id(0) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
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


def plan_finish(partial: Tensor, out: Tensor, tail: Tensor | None = None) -> Plan:
    """Sum partial (rows, cols) over its rows. The first columns fill `out`, those after it `tail` if there is one."""
    rows = partial.shape[0]
    cols = out.numel() + (0 if tail is None else tail.numel())

    def footprint(config):
        block_rows, block_cols = config.blocks["BLOCK_ROWS"], config.blocks["BLOCK_COLS"]
        programs = -(-cols // block_cols)
        padding = -(-rows // block_rows) * block_rows / max(rows, 1)
        return Footprint(block_rows * block_cols, 4, 1, 1, programs, padding, 4 * block_cols)

    config = config_for(SPACE, footprint, "finish", partial, C=cols, pixels=rows)
    args = dict(
        partial_ptr=partial,
        out_ptr=out,
        tail_ptr=tail,
        rows=rows,
        cols=cols,
        head=out.numel(),
        row_stride=partial.stride(0),
        ACC=accumulator(partial),
        DEPENDENT=config.dependent,
    )
    traffic = {"partial_ptr": (cols / partial.shape[1], 0), "out_ptr": (0, 1), "tail_ptr": (0, 1)}
    return Plan(_finish_kernel, args, config, -(-cols // config.blocks["BLOCK_COLS"]), traffic)
