"""`segattn spaces`: how good the choice without a table is, by the compiler's account; no GPU is needed, none is used.

The configs that the model of `segattn_triton.tuning` finds cheapest are compiled for sm_90, the choice among them, and
compared by what the model only estimates: with registers and shared memory as compiled, so many programs are resident
on an SM, and so many bytes of the maps in flight. A config's *bound*, in picoseconds per element of the map, is

    mean over the waves of max(DRAM floor * bytes needed / bytes in flight, issue floor * warps needed / warps)

with the floors of `segattn kernels` and quotients of at least 1. An SM issues at its rate with 16 warps, four for each
cycle of latency (CUDA C++ Programming Guide, "Multiprocessor Level"); in the last wave fewer programs are left. It
orders configs where these limits decide, and is no time: caches, latency within a program and collisions are not in it.
A config that spills has none, nor has a kernel without a map (its time is latency), or with matrix instructions (which
loop inside a program).
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import count
from statistics import median
from typing import Annotated, Optional

import typer

from ..measure import child
from ..terminal import Progress

ARCH = 90
WARPS = 16  # per SM, to issue at its rate
HEAD = ("", "configs", "can run", "compiled", "chosen", "its bound", "best", "its bound", "times")
Names = Optional[list[str]]  # noqa: UP045, typer of Python 3.10 reads it at run time


def spaces(
    op: Annotated[Names, typer.Option(help="Ops, repeated or with commas; all by default.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16, float32, float64.")] = "bfloat16",
    layout: Annotated[Names, typer.Option(help="contiguous, channels_last; both by default.")] = None,
    cases: Annotated[int, typer.Option(help="Named cases of each op, the first ones.")] = 1,
    most: Annotated[int, typer.Option(help="Configs of each kernel that are compiled.")] = 8,
) -> None:
    """How far the choice without a table is from the best of its space, as compiled for sm_90; no GPU needed."""
    from .. import options

    ops, layouts = (tuple(name.strip() for v in values or () for name in v.split(",")) for values in (op, layout))
    for name, value in (("--cases", cases), ("--most", most)):
        if value < 1:
            raise options.Usage(f"{name}: got {value}, expected at least 1")
    (dtype,) = options.choose("--dtype", [dtype], options.DTYPES.values(), options.DTYPES)
    layouts = options.choose("--layout", layouts, options.LAYOUTS.values(), options.LAYOUTS)
    report(options.choose_ops(ops), dtype, layouts or tuple(options.LAYOUTS.values()), cases, most)


def report(ops: Sequence[str], dtype: str, layouts: Sequence[str], cases: int, most: int) -> list[float]:
    """Print the table; the bound of each choice over the best one's."""
    from ...tuning import choice as tuning
    from ..terminal import Row, console, listing

    out, times = console(), []
    groups: dict[str, list[Row]] = {}
    for (name, case, order, choice), found in _bounds(list(_choices(ops, dtype, layouts, cases)), most):
        priced, space = choice.costs(), tuning.SPACES[choice.kernel]
        line = [f"  {choice.kernel}", str(len(space)), str(len(priced))]
        bounds = {i: answer["ps"] for i, answer in found.items() if answer.get("ps")}
        line.append(str(len(found)))
        if choice.index in bounds:
            best = min(bounds, key=lambda i: (bounds[i], i))
            times.append(bounds[choice.index] / bounds[best])
            line += [_words(space[choice.index]), f"{bounds[choice.index]:.3g}"]
            line += [_words(space[best]), f"{bounds[best]:.3g}", f"{times[-1]:.2f}"]
        else:
            line += [_words(space[choice.index]), found[choice.index].get("failure", "none"), "", "", ""]
        layout = {"contiguous": "NCHW"}.get(order, "NHWC")
        groups.setdefault(f"{name}, {case}, {layout}", []).append(Row(line))
    out.print(listing(f"Choices without a table for sm_{ARCH}, {dtype}", HEAD, groups, left=(0, 4, 6)))
    if times:
        out.print(
            f"{len(times)} choices: {median(times):.2f} times the least bound at the median, {max(times):.2f} at worst"
        )
    return times


def _words(config) -> str:
    blocks = " ".join(f"{k.removeprefix('BLOCK_')}{v}" for k, v in config.blocks.items())
    programs = f" p{config.programs}" if config.programs else ""
    return f"{blocks} w{config.num_warps} s{config.num_stages}{programs}"


def _choices(ops: Sequence[str], dtype: str, layouts: Sequence[str], cases: int) -> Iterator[tuple]:
    """((op, case, layout, choice), problem) of every entry that a tuned table could have, once."""
    from ...catalog import BY_NAME
    from ..measure.candidates import Problem

    seen = set()
    for name in ops:
        for case in BY_NAME[name].cases[:cases]:
            others = tuple((k, v) for k, v in case.sizes.items() if k not in ("N", "C", "S"))
            for layout in layouts:
                problem = Problem(name, dtype, layout, case.N, case.C, case.S, others)
                for plan in problem.plans(ARCH):
                    choice = plan.config.choice
                    if (choice.key, choice.bucket) not in seen:
                        seen.add((choice.key, choice.bucket))
                        yield (name, case.name, layout, choice), problem


def _bounds(choices: Sequence[tuple], most: int) -> Iterator[tuple]:
    """(a choice, {index: what its child said of a config}), in order."""
    indices = [list(dict.fromkeys([what[-1].index, *what[-1].costs()]))[:most] for what, _ in choices]
    pieces = [
        dict(problem=asdict(problem), key=what[-1].key, index=i)
        for (what, problem), tried in zip(choices, indices, strict=True)
        for i in tried
    ]
    workers, progress, done = min(os.cpu_count() or 1, len(pieces)), Progress("configs compiled", len(pieces)), count(1)
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        shares = [pool.submit(_ask, pieces[i::workers], lambda: progress(next(done))) for i in range(workers)]
        answers = [iter(share.result()) for share in shares]
    progress.end()
    said = [next(answers[i % workers]) for i in range(len(pieces))]
    for (what, _), tried in zip(choices, indices, strict=True):
        yield what, dict(zip(tried, said, strict=False))
        said = said[len(tried) :]


def _ask(pieces: Sequence[Mapping], one_more: Callable[[], None]) -> list[dict]:
    found = []
    for a in child.results(__name__, pieces, {"TRITON_INTERPRET": None}):
        found.append({"failure": a[child.DIED]} if child.DIED in a else a)
        one_more()
    return found


def bound(compiled, sizes) -> float | None:
    """Of the docstring above."""
    from ...tuning.model import BYTES_IN_FLIGHT, SMS

    dram, issue, resident = compiled.dram_floor(sizes), compiled.issue_floor(sizes), compiled.programs_per_sm
    if compiled.spills or compiled.matrix or dram is None or issue is None or not resident:
        return None
    names = compiled.maps(sizes).keys()
    loaded = sum(a.bits for a in compiled.accesses if a.op != "store" and a.args & names) / 8 * compiled.threads
    each_sm = compiled.plan.grid / SMS
    waves = each_sm / resident
    shares = [(int(waves), resident), (waves % 1, waves % 1 * resident)]  # (waves, programs per SM in them)

    def during(programs: float) -> float:
        warps = programs * compiled.threads / 32
        flying = programs * loaded or BYTES_IN_FLIGHT  # a kernel that only writes waits for nothing
        return max(dram * max(1.0, BYTES_IN_FLIGHT / flying), issue * max(1.0, WARPS / warps))

    return sum(n * during(programs) for n, programs in shares if n) / waves


def _work(piece: dict) -> dict:
    from ... import compiled as static
    from ...tuning import choice as tuning
    from ..measure.candidates import Problem

    problem = Problem.of(piece["problem"])
    try:
        with tuning.using((), {piece["key"]: piece["index"]}):
            plan = next(p for p in problem.plans(ARCH) if p.config.choice.key == piece["key"])
        sizes = static.map_sizes(problem.row, problem.row.complete(problem.sizes))
        if not static.Compiled(plan, ARCH, 0, {}).maps(sizes):
            return {"ps": None}
        return {"ps": bound(static.compile_plan(plan, ARCH), sizes)}
    except Exception as error:
        return {"failure": child.one_line(error)}


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    child.serve(_work)
