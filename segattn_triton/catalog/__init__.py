"""The table of operations, which tests, perf and docs read."""

from .rows import BY_NAME, ROWS, Op, row_of

__all__ = ["BY_NAME", "ROWS", "Op", "row_of"]
