"""Between the passes over the map of a weighted mean over the pixels: see `context`.

    forward   context = sum_t exp(highest_t - h) sums_t / sum_t exp(highest_t - h) total_t,  h = max_t highest_t
              lse = h + log of that divisor
    backward  dcontext = sum_k of its partials,  inner = <dcontext, context>

of partials (N, T, C + 2) and (N, K, C). A bias of the logits counts for nothing, unless it is not finite.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import STEP, Config, space
from ..common.dependent import begin
from .context import finite

SPACE = space(BLOCK_T=(4, 16, 64), BLOCK_C=(16, 64, 256), num_warps=(2, 4))
VALUE_US = 1e-3  # of a value of a thread


@triton.jit
def _context_merge_kernel(
    partial_ptr,
    bias_ptr,
    context_ptr,
    lse_ptr,
    tiles,
    C: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A program has some channels of an image."""
    begin(DEPENDENT)
    CHUNKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    n = tl.program_id(0) // CHUNKS
    chunk = tl.program_id(0) % CHUNKS
    offs_c = chunk * BLOCK_C + tl.arange(0, BLOCK_C)
    rows = partial_ptr + n.to(tl.int64) * tiles * (C + 2)
    each = tl.full([BLOCK_T], float("-inf"), ACC)
    for tile in range(0, tiles, BLOCK_T):
        offs_t = tile + tl.arange(0, BLOCK_T)
        each = tl.maximum(each, tl.load(rows + offs_t * (C + 2) + C, offs_t < tiles, other=float("-inf")))
    highest = tl.max(each, 0)
    total = tl.zeros([BLOCK_T], ACC)
    context = tl.zeros([BLOCK_T, BLOCK_C], ACC)
    for tile in range(0, tiles, BLOCK_T):
        offs_t = tile + tl.arange(0, BLOCK_T)
        row = rows + offs_t * (C + 2)
        kept = tl.exp(tl.load(row + C, offs_t < tiles, other=float("-inf")) - finite(highest))
        total += kept * tl.load(row + C + 1, offs_t < tiles, other=0.0)
        mask = (offs_t < tiles)[:, None] & (offs_c < C)[None, :]
        context += kept[:, None] * tl.load(row[:, None] + offs_c[None, :], mask, other=0.0)
    whole = tl.sum(total, 0)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr).to(ACC)
        whole += bias - bias  # NaN where it is not finite
    tl.store(context_ptr + n.to(tl.int64) * C + offs_c, tl.sum(context, 0) / whole, offs_c < C)
    tl.store(lse_ptr + n, highest + tl.log(whole), chunk == 0)


@triton.jit
def _context_inner_kernel(
    partial_ptr,
    context_ptr,
    dcontext_ptr,
    inner_ptr,
    rows,
    C: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A program has an image."""
    begin(DEPENDENT)
    n = tl.program_id(0)
    inner = tl.zeros([BLOCK_C], ACC)
    for chunk in range(0, C, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        total = tl.zeros([BLOCK_T, BLOCK_C], ACC)
        for row in range(0, rows, BLOCK_T):
            offs_t = row + tl.arange(0, BLOCK_T)
            offs = (n.to(tl.int64) * rows + offs_t)[:, None] * C + offs_c[None, :]
            total += tl.load(partial_ptr + offs, (offs_t < rows)[:, None] & (offs_c < C)[None, :], other=0.0)
        dcontext = tl.sum(total, 0)
        offs = n.to(tl.int64) * C + offs_c
        tl.store(dcontext_ptr + offs, dcontext, offs_c < C)
        inner += dcontext * tl.load(context_ptr + offs, offs_c < C, other=0.0)
    tl.store(inner_ptr + n, tl.sum(inner, 0))


def _config(kernel: str, like: Tensor, N: int, rows: int, C: int, shared: bool) -> Config:
    """shared: whether programs share the channels of an image."""

    def microseconds(config: Config) -> float | None:
        block_t, block_c = config.blocks["BLOCK_T"], config.blocks["BLOCK_C"]
        values = block_t * block_c / (32 * config.num_warps)
        if not 1 <= values <= 32 or (block_t >= 2 * rows and block_t > 4) or (block_c >= 2 * C and block_c > 16):
            return None
        return (1 if shared else -(-C // block_c)) * -(-rows // block_t) * (STEP + VALUE_US * values)

    return config_for(SPACE, microseconds, kernel, like, C=C, pixels=N * rows, exact=(N, rows))


def plan_context_merge(partial: Tensor, bias: Tensor | None, lse: Tensor) -> Plan:
    """Fills lse (N,). Makes context (N, C)."""
    N, tiles, C = partial.shape[0], partial.shape[1], partial.shape[2] - 2
    config = _config("context_merge", partial, N, tiles, C, shared=True)
    chunks = -(-C // config.blocks["BLOCK_C"])
    args = dict(partial_ptr=partial, bias_ptr=bias, context_ptr=partials(lse, N, C), lse_ptr=lse, tiles=tiles, C=C)
    args |= dict(ACC=accumulator(partial), DEPENDENT=config.dependent)
    traffic = dict(partial_ptr=((C + 3 * chunks) / (C + 2), 0), bias_ptr=(N * chunks, 0))
    traffic |= dict(context_ptr=(0, 1), lse_ptr=(0, 1))
    return Plan(_context_merge_kernel, args, config, N * chunks, traffic, ("context",))


def plan_context_inner(partial: Tensor, context: Tensor) -> Plan:
    """Of partials (N, K, C). Makes dcontext (N, C) and inner (N,)."""
    N, rows, C = partial.shape
    config = _config("context_inner", partial, N, rows, C, shared=False)
    args = dict(partial_ptr=partial, context_ptr=context, dcontext_ptr=partials(context, N, C))
    args |= dict(inner_ptr=partials(context, N), rows=rows, C=C, ACC=accumulator(partial), DEPENDENT=config.dependent)
    traffic = dict(partial_ptr=(1, 0), context_ptr=(1, 0), dcontext_ptr=(0, 1), inner_ptr=(0, 1))
    return Plan(_context_inner_kernel, args, config, N, traffic, ("dcontext", "inner"))
