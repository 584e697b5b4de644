"""The static guard of the named problems, all for sm_90 and a row's first for each other architecture, and a ledger
of those without faults.

A line of `static.txt` is a problem (row, case, dtype, layout, and options beside the row's defaults) with hashes and
their architectures: each of all that the compiled code follows from, and of what is asked of it. What is in the ledger
was compiled and had no faults. On sm_90 a loop over a map must have enough in flight, too, and fill its last wave. A
hash takes a millisecond, a kernel a quarter of a second.

As a script it compiles what the ledger lacks on all cores, `--all` everything; it says what it finds,
exits 1 if that is anything, and writes the rest into the ledger (`make static`). `--sample COMMIT` compiles what the
ledger lacks and a share that the commit draws, and writes nothing (`make test`): an old ledger costs time, not proof.
"""

import os
import sys

if "triton" not in sys.modules:  # a process that compiles: not pytest's own, where Triton interprets
    os.environ.pop("TRITON_INTERPRET", None)

import argparse
import hashlib
import inspect
import itertools
import multiprocessing
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import static_exceptions
import torch
import triton
from triton.runtime.jit import JITCallable

from segattn_triton import compiled as static
from segattn_triton.catalog import BY_NAME
from segattn_triton.perf.account import loops
from segattn_triton.runtime.plan import Plan
from segattn_triton.tuning.model import REGISTERS
from segattn_triton.tuning.target import SHARED

torch.set_num_threads(1)
LEDGER = Path(__file__).with_name("static.txt")
ARCHES = (90, 80, 75, 120, 86, 89, 100, "gfx942")
DTYPES = ("bfloat16", "float16", "float32")
LAYOUTS = ("contiguous", "channels_last")
BATCH = 100  # problems after which the ledger is written
SAMPLE = 4  # problems of each architecture that a commit draws
ASKED = f"{inspect.getsource(static.compile_plan)}{inspect.getsource(static.Compiled.faults)}{SHARED} {REGISTERS}"
ASKED += inspect.getsource(loops)


class Job(NamedTuple):
    row: str
    case: str
    dtype: str
    layout: str
    arch: int | str
    options: tuple[tuple[str, object], ...] = ()  # beside the row's defaults

    @property
    def problem(self) -> str:
        chosen = (f"{name}={str(value).replace(' ', '')}" for name, value in self.options)
        return " ".join([self.row, self.case, self.dtype, self.layout, *chosen])


Lines = Mapping[tuple[str, str], str]  # (problem, architecture) -> hash


def variants() -> list[Job]:
    """For sm_90, each other value of every option that changes more than an activation, on the row's first case."""
    found = []
    for row in BY_NAME.values():
        names = [name for name in row.options if name not in ("gate", "act")]
        sets = [((name, value),) for name in names for value in row.options[name][1:]]
        maximum = (("pool", "max"),) if "max" in row.options.get("pool", ()) else ()
        sets = [(*maximum, *chosen) if chosen[0][0] == "ties" else chosen for chosen in sets]
        for i, chosen in enumerate(sets):
            found.append(Job(row.name, row.cases[0].name, DTYPES[i % 3], LAYOUTS[i % 2], 90, chosen))
    return found


def jobs() -> list[Job]:
    """All there is to compile: every case for sm_90, and of the other architectures the first of each row. sm_75 has no
    bfloat16."""
    named = [
        Job(row.name, case.name, dtype, layout, arch)
        for arch in ARCHES
        for row in BY_NAME.values()
        for case, dtype, layout in itertools.product(row.cases if arch == 90 else row.cases[:1], DTYPES, LAYOUTS)
        if (arch, dtype) != (75, "bfloat16")
    ]
    return named + variants()


def drawn(commit: str) -> list[Job]:
    """The share of a commit: some problems of each architecture."""
    draw, all_jobs = random.Random(commit), jobs()
    return [job for arch in ARCHES for job in draw.sample([job for job in all_jobs if job.arch == arch], SAMPLE)]


def plans_of(job: Job) -> tuple[list[Plan], frozenset[int]]:
    """What a job launches, and the sizes of its feature maps."""
    row = BY_NAME[job.row]
    sizes = next(case.sizes for case in row.cases if case.name == job.case)
    both = static.plans(row, sizes, getattr(torch, job.dtype), job.layout, job.arch, **dict(job.options))
    return list(itertools.chain(*both)), static.map_sizes(row, sizes)


def forget_lines() -> None:
    """Let Triton's hash of a kernel follow from its text, not from its place in a file: where nothing is compiled."""
    JITCallable.starting_line_number = property(lambda self: 0, lambda self, line: None)


def _hash(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def kernel_hash(plan: Plan, sizes: Iterable[int]) -> str:
    """Of the kernel's source with all it calls, types, constants and divisibility (Triton's own), blocks, warps, stages
    registers, programs an SM and in all; and of the arguments whose accesses must be wide."""
    config = plan.config
    source, maps = static.source_of(plan).hash(), static.maps_of(plan, sizes)
    return _hash(source, plan.options, config.programs, plan.grid, *maps)


def job_hash(kernels: Iterable[str], job: Job | None = None) -> str:
    """Of a job with these kernels, and what is excused in it, under this Triton."""
    excused = [] if job is None else static_exceptions.named(job.problem, job.arch)
    return _hash(triton.__version__, ASKED, *kernels, *excused)[:12]


def read(path: Path = LEDGER) -> tuple[str, Lines]:
    """The Triton that compiled, and what the lines say."""
    title, *lines = path.read_text().splitlines()
    known = {}
    for line in lines:
        problem, _, found = line.partition(" | ")
        for item in found.split():
            digest, _, arches = item.partition(":")
            known |= {(problem, arch): digest for arch in arches.split(",")}
    return title.split()[-1], known


def write(known: Lines, path: Path = LEDGER) -> None:
    lines: dict[str, dict[str, list[str]]] = {}
    for (problem, arch), digest in known.items():
        lines.setdefault(problem, {}).setdefault(digest, []).append(arch)
    title = f"# written by `make static` (see static_ledger.py): compiled without faults by Triton {triton.__version__}"
    text = [
        " ".join([problem, "|", *(f"{digest}:{','.join(arches)}" for digest, arches in found.items())])
        for problem, found in lines.items()
    ]
    path.write_text("\n".join([title, *text, ""]))


def chosen(
    hashes: Mapping[Job, str], known: Lines | None, everything: bool = False, commit: str | None = None
) -> list[Job]:
    """The jobs to compile. `known`: None if the ledger is of another Triton; then a commit's share is all there is."""
    share = [job for job in drawn(commit) if job in hashes] if commit else []
    if known is None and commit:
        return share
    old = [
        job for job, digest in hashes.items() if everything or (known or {}).get((job.problem, str(job.arch))) != digest
    ]
    return list(dict.fromkeys([*share, *old]))


def proven(hashes: Mapping[Job, str], todo: Collection[Job], faults: Mapping[Job, list[str]]) -> Lines:
    """What the ledger may say: what was not to be compiled, and what of it was, without faults."""
    left = {job for job in todo if faults.get(job) != []}
    return {(job.problem, str(job.arch)): digest for job, digest in hashes.items() if job not in left}


class Fault(NamedTuple):
    kernel: str
    config: str
    text: str


def found(task: tuple[Job, list[int] | None]) -> list[list[Fault]]:
    """What is wrong with each of these kernels of a job, or with each of all, excused or not."""
    (job, places), wrong = task, []
    plans, sizes = plans_of(job)
    for plan in plans if places is None else (plans[place] for place in places):
        try:
            kernel = static.compile_plan(plan, job.arch)
            faults = kernel.faults(sizes) if isinstance(job.arch, int) else []
            faults += loops.faults(kernel, sizes) if job.arch == 90 else []
        except Exception as error:
            while error.__cause__ is not None:
                error = error.__cause__
            faults = [f"does not compile: {type(error).__name__}: {str(error).splitlines()[-1]}"]
        wrong.append([Fault(plan.name, str(plan.config.launch_options), fault) for fault in faults])
    return wrong


def _left(job: Job, fault: Fault) -> list[str]:
    """The fault of this job in words, unless it is excused."""
    known = static_exceptions.excused(job.problem, job.arch, fault.kernel, fault.text)
    return [] if known else [f"{job.problem} {job.arch}: {fault.kernel} {fault.config}: {fault.text}"]


def compiled(task: tuple[Job, list[int] | None]) -> list[list[str]]:
    """What is wrong with each of these kernels of a job, or with each of all, and not excused."""
    return [list(itertools.chain(*(_left(task[0], fault) for fault in kernel))) for kernel in found(task)]


def judged(job: Job, faults: Sequence[Fault]) -> list[str]:
    """What is wrong with the kernels of a job: faults that are not excused, and excuses that none of them needs."""
    needless = [
        f"{job.problem} {job.arch}: {kernel} is excused without need: {end}"
        for kernel, end in static_exceptions.named(job.problem, job.arch)
        if not any(fault.kernel == kernel and f" {fault.text}".endswith(f" {end}") for fault in faults)
    ]
    return [*itertools.chain(*(_left(job, fault) for fault in faults)), *needless]


def faults_of(
    todo: Collection[Job], kernels: Mapping[Job, list[str]], run: Callable = map, say: Callable = print
) -> tuple[dict[Job, list[str]], int]:
    """What is wrong with each of these jobs, and how many kernels were compiled: those with equal hashes once."""
    seen, tasks = set(), []  # task: a job, and the places of its kernels with new hashes
    for job in todo:
        places = {(kernel, job.arch): i for i, kernel in enumerate(kernels[job])}
        places = {key: i for key, i in places.items() if key not in seen}
        seen |= places.keys()
        tasks += [(job, places)] if places else []
    known: dict[tuple[str, int | str], list[Fault]] = {}
    results = run(found, [(job, list(places.values())) for job, places in tasks])
    for (_, places), wrong in zip(tasks, results, strict=True):
        known |= zip(places, wrong, strict=True)
    faults = {
        job: judged(job, list(itertools.chain(*(known[kernel, job.arch] for kernel in kernels[job])))) for job in todo
    }
    for fault in itertools.chain(*faults.values()):
        say(fault)
    return faults, len(seen)


def pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="compile what is in the ledger, too")
    parser.add_argument("--sample", metavar="COMMIT", help="compile the share of this commit, too; write nothing")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    forget_lines()
    kernels = {job: [kernel_hash(plan, sizes) for plan in plans] for job in jobs() for plans, sizes in [plans_of(job)]}
    hashes = {job: job_hash(found, job) for job, found in kernels.items()}
    compiler, known = read() if LEDGER.exists() else ("", {})
    todo = chosen(hashes, known if compiler == triton.__version__ else None, options.all, options.sample)
    print(f"{len(todo)} of {len(hashes)} problems to compile", flush=True)
    faults, count = {}, 0
    with pool(options.workers) as workers:
        for start in range(0, len(todo), BATCH):
            found, new = faults_of(todo[start : start + BATCH], kernels, workers.map, partial(print, flush=True))
            faults, count = faults | found, count + new
            print(f"{len(faults)} problems, {count} kernels", flush=True)
            if not options.sample:
                write(proven(hashes, todo, faults))
    wrong = sum(map(bool, faults.values()))
    print(f"compiled {count} kernels of {len(todo)} problems, {len(hashes)} in all: {wrong} problems with faults")
    return 1 if wrong or not all(kernels.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
