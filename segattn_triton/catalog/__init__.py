"""The table of operations, which tests, perf and docs read, and the problems of its rows."""

from .norms import NORMED
from .problem import Problem, make_inputs
from .rows import BY_NAME, ROWS, Op, row_of

__all__ = ["BY_NAME", "NORMED", "ROWS", "Op", "Problem", "make_inputs", "row_of"]
