"""torchvision on a CPU build of torch: the perf suite's way."""

from segattn_triton.perf.torchvision_cpu import install

__all__ = ["install"]
