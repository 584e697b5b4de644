"""The second stage of sums over rows and over columns, both in one launch.

partials (T, N C S), out (N, C, S) in any strides, S rows or columns: out = the sum over T, in a fixed order.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import L2_BANDWIDTH, STEP, Config, space
from ...tuning.target import sms
from ..common.dependent import begin
from .shared import reaches_far, vector_strides

SPACE = space(BLOCK_T=(1, 4, 16, 64), BLOCK=(64, 256, 1024), num_warps=(4,))


@triton.jit
def _finish(
    partial_ptr,
    out_ptr,
    out_stride,
    parts,
    S,
    size,
    block,
    C: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of the values (N, C, S) as one row."""
    offs = block * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK_T, BLOCK], ACC)
    for part in range(0, parts, BLOCK_T):
        offs_t = part + tl.arange(0, BLOCK_T)
        mask = (offs_t < parts)[:, None] & (offs < size)[None, :]
        total += tl.load(partial_ptr + (offs_t.to(tl.int64)[:, None] * size + offs[None, :]), mask, other=0.0)
    n = (offs // S // C).to(tl.int64)
    ptrs = out_ptr + (n * out_stride[0] + offs // S % C * out_stride[1] + offs % S * out_stride[2])
    tl.store(ptrs, tl.sum(total, 0).to(out_ptr.dtype.element_ty), offs < size)


@triton.jit
def _coordinate_finish_kernel(
    rows_ptr,
    cols_ptr,
    out_h_ptr,
    out_w_ptr,
    strides,
    parts,
    lengths,
    sizes,
    C: tl.constexpr,
    INT64: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The blocks of the rows come first. Of None there are no blocks."""
    begin(DEPENDENT)
    block = tl.program_id(0)
    if INT64:
        block = block.to(tl.int64)
    blocks = 0
    if rows_ptr is not None:
        blocks = tl.cdiv(sizes[0], BLOCK)
        if block < blocks:
            _finish(rows_ptr, out_h_ptr, strides[0], parts[0], lengths[0], sizes[0], block, C, ACC, BLOCK_T, BLOCK)
    if cols_ptr is not None:
        block -= blocks
        if block >= 0:
            _finish(cols_ptr, out_w_ptr, strides[1], parts[1], lengths[1], sizes[1], block, C, ACC, BLOCK_T, BLOCK)


def plan_coordinate_finish(rows: Tensor, cols: Tensor, out_h: Tensor | None, out_w: Tensor | None) -> Plan:
    """Fills out_h (N, C, H) or (N, C, H, 1), out_w (N, C, W) or (N, C, 1, W), each if it is there."""
    outs, partials = (out_h, out_w), (rows, cols)
    first = next(out for out in outs if out is not None)
    (N, C), parts, multiprocessors = first.shape[:2], tuple(len(p) for p in partials), sms(first.device)
    sizes = tuple(0 if out is None else p.shape[1] for p, out in zip(partials, outs, strict=True))
    lengths = tuple(p.shape[1] // max(N * C, 1) for p in partials)

    def microseconds(config: Config) -> float | None:
        block_t, block = config.blocks.values()
        programs, values = sum(-(-size // block) for size in sizes), block_t * block / 128
        rounds = -(-max(parts) // block_t)
        if not 1 <= values <= 32:
            return None
        waves = max(1.0, programs / (8 * multiprocessors))
        moved = 4 * sum(p * size for p, size in zip(parts, sizes, strict=True)) / L2_BANDWIDTH
        few = 0.3 if values < 8 else 0.0  # its warps wait for each other as long
        return max(waves * (rounds * STEP + 1e-2 * values + few), moved) + 1e-3 * values

    how = dict(C=C, pixels=N * sum(lengths), exact=(N, lengths, parts, sizes))
    config = config_for(SPACE, microseconds, "coordinate_finish", rows, **how)
    (rows_given, cols_given), block = (size > 0 for size in sizes), config.blocks["BLOCK"]
    args = dict(rows_ptr=rows if rows_given else None, cols_ptr=cols if cols_given else None)
    args |= dict(out_h_ptr=out_h, out_w_ptr=out_w, strides=tuple(map(vector_strides, outs)), parts=parts)
    args |= dict(
        lengths=lengths,
        sizes=sizes,
        C=C,
        INT64=max(sizes) + block >= 2**31 or reaches_far(*outs),
        ACC=accumulator(rows),
    )
    args |= dict(DEPENDENT=config.dependent)
    traffic = dict(rows_ptr=(1, 0), cols_ptr=(1, 0), out_h_ptr=(0, 1), out_w_ptr=(0, 1))
    return Plan(_coordinate_finish_kernel, args, config, sum(-(-size // block) for size in sizes), traffic)
