"""What people run today: per row of the catalog the published listing, and the best formulation known; a file a family.

Arguments are the row's inputs, in their order. Both are timed under torch.compile, the listing without it, too.
The reference is no rival: it computes in float32. A row without an entry is timed alone.
"""

from collections.abc import Callable

from . import (
    attention_gate,
    blend,
    cbam,
    channel,
    context,
    eca,
    local,
    neighborhood,
    refinement,
    response,
    scse,
    simam,
    spatial,
    strips,
)
from .shared import Rivals, as_compiled

FAMILIES = (
    spatial,
    channel,
    eca,
    cbam,
    attention_gate,
    scse,
    blend,
    strips,
    response,
    context,
    simam,
    local,
    neighborhood,
    refinement,
)
RIVALS: dict[str, Rivals] = {row: rivals for family in FAMILIES for row, rivals in family.RIVALS.items()}


def names(row: str) -> tuple[str, ...]:
    """The rivals of a row that there are to time."""
    rivals = RIVALS.get(row)
    if rivals is None:
        return ()
    return ("eager", "compile", *(("compile-best",) if rivals.best else ()), *rivals.others)


def left_out(row: str) -> tuple[str, ...]:
    """The row's inputs that are not timed."""
    return RIVALS[row].left_out if row in RIVALS else ()


def most_maps(row: str) -> int:
    return RIVALS[row].most_maps if row in RIVALS else 0


def make(row: str, provider: str, compiler: Callable[[Callable], Callable]) -> Callable:
    """The function of a rival; `compiler` turns one into its compiled form."""
    rivals = RIVALS[row]
    if provider == "eager":
        return rivals.listing
    if provider in rivals.others:
        return rivals.others[provider](compiler)
    return as_compiled(rivals.best if provider == "compile-best" else rivals.listing, compiler)
