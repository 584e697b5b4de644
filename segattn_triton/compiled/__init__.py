"""What the compiler makes of a plan, without a GPU.

Needs a process in which Triton does not interpret. `plans` records what a row of the catalog would launch, on meta
tensors; `compile_plan` is what a launch on that GPU would compile.
"""

from .accesses import GlobalAccess
from .code import Compiled, compile_plan, maps_of, target
from .planning import map_sizes, planned, plans, plans_of
from .source import source_of

__all__ = [
    "Compiled",
    "GlobalAccess",
    "compile_plan",
    "map_sizes",
    "maps_of",
    "planned",
    "plans",
    "plans_of",
    "source_of",
    "target",
]
