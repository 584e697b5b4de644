"""What was accelerated and what was left: rows that print as a table, the line of `accelerate`, and the log."""

import importlib.util
import logging
from collections.abc import Iterable
from typing import NamedTuple

import torch

log = logging.getLogger("segattn_triton")
NOT_CALLED = "accelerate() was not called for it"


class Row(NamedTuple):
    """One gate of a model. by: how it was found, by the "name" of its class, "register_adapter", its "structure", or
    only its "look". status: "accelerated", or "left" for the reason given, with what would help."""

    name: str
    cls: str
    kernel: str
    by: str
    status: str
    reason: str = ""


class Report(tuple[Row, ...]):
    """The gates of a model, row by row; prints as a table. own: its modules that are this package's."""

    own: int

    def __new__(cls, rows: Iterable[Row] = (), own: int = 0):
        report = super().__new__(cls, rows)
        report.own = own
        return report

    @property
    def accelerated(self) -> int:
        return sum(row.status == "accelerated" for row in self)

    @property
    def summary(self) -> str:
        gates = f"{self.accelerated} of {len(self)} gate{'s' * (len(self) != 1)} accelerated"
        if not self.own:
            return gates
        own = f"{self.own} attention module{' is' if self.own == 1 else 's are'} this package's own"
        return f"{gates}; {own}" if self else f"nothing to accelerate: {own}"

    def __str__(self) -> str:
        if not self:
            return self.summary
        rows = [Row._fields, *self]
        widths = [max(len(row[i]) for row in rows) for i in range(len(Row._fields))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self.summary, *lines])


def announce(report: Report, verbose: bool) -> None:
    """The line, which the first rank alone prints; and every gate, to the log."""
    if verbose and _is_first_rank():
        print(report.summary + (_what_runs_here() if report.accelerated else ""))
    for row in report:
        if row.status == "left":
            log.info("%s (%s) is left: %s", row.name or "the model", row.cls, row.reason)
        else:
            log.debug("%s (%s) runs %s", row.name or "the model", row.cls, row.kernel)


def _is_first_rank() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _what_runs_here() -> str:
    """Where no kernel can run, that nothing gets faster."""
    if importlib.util.find_spec("triton") is None:
        return "; without Triton they run the reference"
    return "" if torch.cuda.is_available() else "; on this CPU they run the reference"
