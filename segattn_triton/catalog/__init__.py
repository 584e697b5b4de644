"""The table of operations, which tests, perf and docs read, and the problems of its rows."""

from .problem import Problem, make_inputs
from .rows import ROWS, Op, row_of
from .windows import ALONG, BY_NAME, LARGE_KERNELS, WINDOWS

__all__ = ["ALONG", "BY_NAME", "LARGE_KERNELS", "ROWS", "WINDOWS", "Op", "Problem", "make_inputs", "row_of"]
