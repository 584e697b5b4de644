"""THE table: one row per operation, a file a family. Tests, the perf suite and the README read it; `segattn_triton`
itself does not.

See `segattn_triton.catalog.row` for what the columns mean, and for how shapes are written.
"""

from collections.abc import Callable
from itertools import chain

from torch import Tensor

from ..row import Op
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
from .norms import with_norms

FAMILIES = (
    spatial,
    channel,
    cbam,
    attention_gate,
    eca,
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
ROWS = tuple(chain.from_iterable(family.ROWS for family in FAMILIES))
ROWS += with_norms({row.name: row for row in ROWS})


def row_of(op: Callable, *tensors: Tensor | None) -> Op:
    """The row of a public function called with these tensors."""
    for row in ROWS:
        if row.op is op and row.fits(*tensors):
            return row
    shapes = [tuple(t.shape) for t in tensors if t is not None]
    raise KeyError(f"{getattr(op, '__name__', op)}: no row of the catalog fits tensors of the shapes {shapes}")
