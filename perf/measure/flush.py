"""Emptying the L2 cache, of lines that were loaded to stay as well.

What a kernel loads with `evict_last` outlives fills of normal priority: a buffer that is only written over may leave
the first part of a map in the cache, and the next call is timed warm. So the buffer is read at that very priority,
which displaces the old ones, and then written over at the normal one, so that no line of its own stays.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096


@triton.jit
def _read_kernel(x_ptr, sum_ptr, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    x = tl.load(x_ptr + pid.to(tl.int64) * BLOCK + tl.arange(0, BLOCK), eviction_policy="evict_last")
    tl.store(sum_ptr + pid, tl.sum(x, 0))  # what nothing uses is not loaded


class Flush:
    def __init__(self, nbytes: int, device: torch.device | str):
        self.programs = -(-nbytes // (4 * BLOCK))
        self.buffer = torch.zeros(self.programs * BLOCK, dtype=torch.int32, device=device)
        self.sums = torch.empty(self.programs, dtype=torch.int32, device=device)

    def __call__(self) -> Tensor:
        """Enqueue both; the sums of what was read."""
        _read_kernel[(self.programs,)](self.buffer, self.sums, BLOCK=BLOCK, num_warps=4)
        self.buffer.zero_()
        return self.sums
