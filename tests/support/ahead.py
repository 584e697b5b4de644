"""Compile ahead, on a machine without a GPU, what `make h200` launches on one.

    python tests/support/ahead.py FOLDER [--only numerics]

Run by an interpreter that has the Python, torch and Triton of that machine. FOLDER becomes Triton's cache; carried to
the same path there, with TRITON_CACHE_DIR=FOLDER, what is in it is not compiled again: on an H200 300 checks took 28
seconds. Machine code (.cubin), what describes it (.json), and Triton's launchers (.so) are all that has to travel.
"""

import argparse
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path


def problems(only: str | None) -> Iterator:
    """Those of the numerics, of the times, of single kernels, of the host's times."""
    from segattn_triton.perf.measure import plan
    from segattn_triton.perf.prepared import kernels, steps

    out = Path()
    checks = plan.schedule(steps.options(out, dtypes=("bfloat16", "float16", "float32")), gpu=True)
    yield from (plan.problem_of(job.first) for job in checks if job.kind == "check")
    if only == "numerics":
        return
    for options in (steps.MAIN, {}):
        jobs = plan.schedule(steps.options(out, **options), gpu=True)
        yield from (plan.problem_of(job.first) for job in jobs if job.kind in ("time", "launch"))
        yield from map(plan.problem_of, kernels.points())


def driver() -> None:
    import driver_worker

    driver_worker.Driver()


def compiled(problem) -> str:
    """What went wrong, if anything."""
    from segattn_triton.compiled import plans_of

    for plan in plans_of(problem, 90):
        try:
            plan.kernel.warmup(grid=(max(plan.grid, 1),), **plan.args, **plan.options)._init_handles()
        except Exception as error:
            return f"{problem}: {plan.name}: {type(error).__name__}: {error}"[:500]
    return ""


def main(folder: Path, only: str | None) -> int:
    os.environ.update(TRITON_CACHE_DIR=str(folder), TRITON_INTERPRET="0")
    todo, faults = list(dict.fromkeys(problems(only))), 0
    with multiprocessing.get_context("spawn").Pool(os.cpu_count() or 1, driver) as pool:
        for number, fault in enumerate(pool.imap(compiled, todo), 1):
            faults += bool(fault)
            if fault or number % 50 == 0:
                print(fault or f"{number} of {len(todo)} problems", flush=True)
    print(f"{len(todo)} problems, {faults} faults")
    return int(faults > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=("numerics",))
    given = parser.parse_args()
    raise SystemExit(main(given.folder, given.only))
