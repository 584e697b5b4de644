"""`segattn tune`: the fastest configs for the problems that `segattn report` times, the most valuable first."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...catalog import Problem
from ...tuning import choice as tuning
from ..measure import backends, rivals
from ..measure.backends import Cpu
from ..options import check_budget
from .tuner import Tuner

LEAST_BUDGET = 10.0


def problems(
    ops: Sequence[str],
    dtypes: Sequence[str],
    layouts: Sequence[str],
    sides: Sequence[int] = (512, 256, 1024, 128, 64),
    channels: Sequence[int] = (64, 128, 32, 256),
) -> Iterator[Problem]:
    """The problems that `segattn report` times, the most valuable first: all inputs but those that no rival takes."""
    for dtype in dtypes:
        for side in sides:
            for C in channels:
                for layout in layouts:
                    for op in ops:
                        yield Problem(op, dtype, layout, 8, C, (side, side), absent=rivals.left_out(op))


def main(
    ops: Sequence[str],
    dtypes: Sequence[str],
    layouts: Sequence[str],
    budget: float,
    out: Path | None,
    backend: Cpu | None = None,
    say: Callable[[str], None] = print,
    **how: Any,
) -> Path:
    """Tune; the path of the table."""
    check_budget(budget, LEAST_BUDGET)
    tuner = Tuner(backend or backends.find(), out, budget, say, **how)
    tuner.run(problems(ops, dtypes, layouts))
    tuning.forget()
    say(tuner.summary())
    say(f"the table: {tuner.path}")
    return tuner.path
