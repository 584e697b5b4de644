"""The kernels against the reference, as `segattn check` and the report do it.

On a GPU in this process, compiled; without one in Triton's interpreter, in a child process. The interpreter gets
bfloat16 wrong, so that bfloat16 is left to a GPU.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import torch

from ... import testing
from ...catalog import BY_NAME, Problem
from ..absent import need
from ..options import LAYOUT_NAMES
from . import child

CHECKED_DTYPES = ("float16", "bfloat16", "float32", "float64")
SMALL = ((2, 5, (7, 9)), (1, 33, (8, 16)), (2, 1, (1, 1)))
LARGE = (*SMALL, (2, 64, (64, 64)), (1, 128, (65, 33)), (1, 96, (128, 130)))
VOLUMES = ((2, 6, (19,)), (1, 6, (3, 4, 5)))


@dataclass(frozen=True)
class Outcome:
    """What came of a case. `use` is the largest share of the error budget that any tensor needed."""

    case: Problem
    use: float
    worst: str  # the tensor that needed it
    failure: str = ""

    @classmethod
    def of(cls, values: Mapping) -> "Outcome":
        return cls(**{**values, "case": Problem.of(values["case"])})


def cases(ops, *, gpu: bool) -> Iterator[Problem]:
    for op in ops:
        for dtype in CHECKED_DTYPES if gpu else [d for d in CHECKED_DTYPES if d != "bfloat16"]:
            for layout in LAYOUT_NAMES.values():
                for N, C, S in LARGE if gpu else SMALL:
                    yield _problem(op, dtype, layout, N, C, S)
            for N, C, S in VOLUMES:
                if len(S) in BY_NAME[op].dims:
                    yield _problem(op, dtype, "contiguous", N, C, S)


def _problem(op: str, dtype: str, layout: str, N: int, C: int, S: tuple[int, ...]) -> Problem:
    """With as many images, and as many pixels along each axis, as the row needs."""
    row = BY_NAME[op]
    return Problem(op, dtype, layout, max(N, row.fewest), C, tuple(max(s, row.smallest) for s in S))


def run(case: Problem, device="cpu", backend: str = "triton", maps=(False, True)) -> Outcome:
    """Forward and every gradient, without and with the map; never raises."""
    row = case.row
    try:
        inputs = case.inputs(device)
        found = []
        for return_map in maps:
            found += testing.matches(row, *inputs, backend=backend, **{row.second: return_map})
    except Exception as error:
        return Outcome(case, float("inf"), "", child.one_line(error))
    worst = max(found, key=lambda m: (not m.ok, m.use))
    return Outcome(case, worst.use, worst.name, "" if worst.ok else f"{worst.name}: {worst.detail}")


def outcomes(ops) -> Iterator[Outcome]:
    """One for every case, as they come, where the kernels run: on the GPU, else in the interpreter."""
    if torch.cuda.is_available():
        for case in cases(ops, gpu=True):
            yield run(case, "cuda")
        return
    todo = list(cases(ops, gpu=False))
    answers = child.results(__name__, [asdict(case) for case in todo], {"TRITON_INTERPRET": "1"})
    for case, values in zip(todo, answers, strict=False):
        yield Outcome(case, float("inf"), "", values[child.DIED]) if child.DIED in values else Outcome.of(values)


HEAD = ("", "cases", "budget used", "worst at", "result")
NO_BFLOAT16 = "bfloat16 needs a GPU: the interpreter's is unfaithful"


def table(found: list[Outcome], *, gpu: bool, total: int = 0):
    """To print: op by dtype by layout, the worst use of the budget and where; how many of `total` there are so far."""
    from rich.console import Group
    from rich.text import Text

    from ..terminal import TableRow, listing

    alike: dict[tuple, list[Outcome]] = {}
    for o in found:
        alike.setdefault((o.case.op, o.case.dtype, o.case.layout), []).append(o)
    groups: dict[str, list[TableRow]] = {}
    for (op, dtype, layout), cases in alike.items():
        worst = max(cases, key=lambda o: (bool(o.failure), o.use))
        use = f"{100 * worst.use:.0f} %" if worst.use < 1e6 else "-"
        cells = (f"  {dtype} {layout}", str(len(cases)), use, f"{worst.worst} {worst.case.size}", worst.failure or "ok")
        groups.setdefault(op, []).append(TableRow(cells, "red" if worst.failure else None))
    title = "Kernels against the reference" + ("" if gpu else ", in Triton's interpreter on the CPU")
    title += f": {len(found)} of {total} cases" * (len(found) < total)
    return Group(listing(title, HEAD, groups, left=(0, 3, 4)), *[Text(NO_BFLOAT16, "yellow")] * (not gpu))


def main(ops) -> int:
    """The table, on a terminal as results arrive; 1 if any kernel does not match."""
    from rich.live import Live

    from ..terminal import Progress, console

    gpu, found, out = torch.cuda.is_available(), [], console()
    need("triton", *(() if gpu else ("numpy",)))  # Triton's interpreter computes with numpy
    total = sum(1 for _ in cases(ops, gpu=gpu))
    if out.is_terminal:
        with Live(console=out, refresh_per_second=2) as live:
            for outcome in outcomes(ops):
                found.append(outcome)
                live.update(table(found, gpu=gpu, total=total))
    else:
        found += Progress("cases checked", total).of(outcomes(ops))
        out.print(table(found, gpu=gpu))
    return int(any(o.failure for o in found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    child.serve(lambda piece: asdict(run(Problem.of(piece))))
