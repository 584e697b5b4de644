"""Kernels that ask a GPU one question each: how long a load takes, how fast the L2 cache is, what a launch costs."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

LINE = 32  # int32 values of 128 bytes
BLOCK = 4096  # int32 values that a program reads at once


@triton.jit
def _chase_kernel(next_ptr, last_ptr, hops):
    """Each load waits for the one before; past the L1 cache."""
    at = tl.load(last_ptr)
    for _ in range(hops):
        at = tl.load(next_ptr + at, cache_modifier=".cg")
    tl.store(last_ptr, at)


@triton.jit
def _reread_kernel(x_ptr, sum_ptr, blocks, rounds, BLOCK: tl.constexpr):
    """Every program reads other blocks each round, past the L1 cache."""
    pid = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.int32)
    for i in tl.range(rounds, num_stages=3):
        at = (pid + i * tl.num_programs(0)) % blocks
        total += tl.load(x_ptr + at.to(tl.int64) * BLOCK + tl.arange(0, BLOCK), cache_modifier=".cg")
    tl.store(sum_ptr + pid, tl.sum(total, 0))


@triton.jit
def _step_kernel(x_ptr, DEPENDENT: tl.constexpr, BLOCK: tl.constexpr):
    """x + 1, which the next launch reads."""
    if DEPENDENT:
        gdc_wait()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at) + 1)
    if DEPENDENT:
        gdc_launch_dependents()


def circle(nbytes: int, device) -> Tensor:
    """One circle through all lines of 128 bytes, in random order: at each line's start, where the next one starts."""
    lines = nbytes // (4 * LINE)
    order = torch.randperm(lines, device=device, generator=torch.Generator(device).manual_seed(0)).to(torch.int32)
    chain = torch.zeros(lines * LINE, dtype=torch.int32, device=device)
    chain[order.long() * LINE] = order.roll(-1) * LINE
    return chain


def chase(chain: Tensor, last: Tensor, hops: int) -> None:
    _chase_kernel[(1,)](chain, last, hops, num_warps=1)


def reread(x: Tensor, sums: Tensor, rounds: int) -> None:
    """All of x, `rounds` times as many blocks as there are programs."""
    _reread_kernel[(sums.numel(),)](x, sums, x.numel() // BLOCK, rounds, BLOCK=BLOCK, num_warps=8)


def step(x: Tensor, dependent: bool) -> None:
    options = {"launch_pdl": True} if dependent else {}
    _step_kernel[(x.numel() // BLOCK,)](x, DEPENDENT=dependent, BLOCK=BLOCK, num_warps=4, **options)
