"""`segattn_triton.distributed`: gates of maps that are sharded along one spatial axis, a part on each rank.

from segattn_triton.distributed import sharded

gate = sharded(functional.scse, mesh["rows"], dim=2)
y = gate(x, w1, b1, w2, b2, weight, bias)  # x (N, C, rows of this rank, W), y as x
"""

from .api import sharded

__all__ = ["sharded"]
