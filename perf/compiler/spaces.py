"""`segattn spaces`: how good the choice without a table is, by the account of time; no GPU is needed, none is used.

The configs that the model of `segattn_triton.tuning` finds cheapest are compiled for sm_90, the choice among them, and
compared by the account of `perf/account`: microseconds on an H200, predicted from machine code, not measured. A config
that spills has none, nor has a kernel whose loads are not in its machine code (tensor descriptors).
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
HEAD = ("", "configs", "can run", "compiled", "chosen", "its us", "best", "its us", "times")
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
    """Print the table; the time of each choice over the best one's."""
    from ...tuning import choice as tuning
    from ..terminal import Row, console, listing

    out, times = console(), []
    groups: dict[str, list[Row]] = {}
    for (name, case, order, choice), found in _times(list(_choices(ops, dtype, layouts, cases)), most):
        priced, space = choice.costs(), tuning.SPACES[choice.kernel]
        line = [f"  {choice.kernel}", str(len(space)), str(len(priced))]
        us = {i: answer["us"] for i, answer in found.items() if answer.get("us")}
        line.append(str(len(found)))
        if choice.index in us:
            best = min(us, key=lambda i: (us[i], i))
            times.append(us[choice.index] / us[best])
            line += [_words(space[choice.index]), f"{us[choice.index]:.3g}"]
            line += [_words(space[best]), f"{us[best]:.3g}", f"{times[-1]:.2f}"]
        else:
            line += [_words(space[choice.index]), found[choice.index].get("failure", "none"), "", "", ""]
        layout = {"contiguous": "NCHW"}.get(order, "NHWC")
        groups.setdefault(f"{name}, {case}, {layout}", []).append(Row(line))
    out.print(listing(f"Choices without a table for sm_{ARCH}, {dtype}", HEAD, groups, left=(0, 4, 6)))
    if times:
        out.print(
            f"{len(times)} choices: {median(times):.2f} times the least time at the median, {max(times):.2f} at worst "
            "(predicted from machine code, not measured)"
        )
    return times


def _words(config) -> str:
    blocks = " ".join(f"{k.removeprefix('BLOCK_')}{v}" for k, v in config.blocks.items())
    programs = f" p{config.programs}" if config.programs else ""
    return f"{blocks} w{config.num_warps} s{config.num_stages}{programs}"


def _choices(ops: Sequence[str], dtype: str, layouts: Sequence[str], cases: int) -> Iterator[tuple]:
    """((op, case, layout, choice), problem) of every entry that a tuned table could have, once."""
    from ...catalog import BY_NAME, Problem
    from ...compiled import plans_of

    seen = set()
    for name in ops:
        for case in BY_NAME[name].cases[:cases]:
            others = tuple((k, v) for k, v in case.sizes.items() if k not in ("N", "C", "S"))
            for layout in layouts:
                problem = Problem(name, dtype, layout, case.N, case.C, case.S, others)
                for plan in plans_of(problem, ARCH):
                    choice = plan.config.choice
                    if (choice.key, choice.bucket) not in seen:
                        seen.add((choice.key, choice.bucket))
                        yield (name, case.name, layout, choice), problem


def _times(choices: Sequence[tuple], most: int) -> Iterator[tuple]:
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


def _work(piece: dict) -> dict:
    from ... import compiled as static
    from ...catalog import Problem
    from ...tuning import choice as tuning
    from ..account.account import account_of
    from ..account.launch import launch_of

    problem = Problem.of(piece["problem"])
    try:
        with tuning.using((), {piece["key"]: piece["index"]}):
            plan = next(p for p in static.plans_of(problem, ARCH) if p.config.choice.key == piece["key"])
        compiled = static.compile_plan(plan, ARCH)
        if compiled.spills:
            return {"failure": f"spills {compiled.spills} bytes"}
        return {"us": account_of(launch_of(compiled)).time}
    except Exception as error:
        return {"failure": child.one_line(error)}


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    child.serve(_work)
