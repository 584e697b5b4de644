"""Dependent launches: a kernel may be on the GPU before the one that it follows has ended."""

import triton
import triton.language as tl


@triton.jit
def begin(DEPENDENT: tl.constexpr):
    """First of all in a kernel: wait until all that was launched before is in memory; then the next kernel may come,
    which waits here in its turn, until this one has ended. Without a dependent launch neither does anything."""
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
