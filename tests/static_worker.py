"""Compiles ahead of time what the rows of the catalog launch. Runs in processes in which Triton does not interpret.

`python tests/static_worker.py` does every case, dtype, layout and architecture on all cores, says what it finds, and
exits 1 if that is anything (`make static`).
"""

import os
import sys

if "triton" not in sys.modules:  # a process that compiles: not pytest's own, where Triton interprets
    os.environ.pop("TRITON_INTERPRET", None)

import itertools
import multiprocessing
import zlib
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from segattn_triton import functional, static
from segattn_triton.catalog import BY_NAME, OPS
from segattn_triton.launch import Plan
from segattn_triton.ops.local_dense import local_gate_dense
from segattn_triton.tuning import AMD, Config, planning_for, using

torch.set_num_threads(1)
ARCHES = (90, 75, 80, 86, 89, 100, 120, "gfx942")
DTYPES = ("bfloat16", "float16", "float32")
LAYOUTS = ("contiguous", "channels_last")
SPILLED = 1e6  # cost by the model of what does not fit the registers
ALLOWED = ("bytes of stack", "128-bit accesses")  # of a config that was not chosen
HOPPER, OTHERS = 48, 36  # problems that a default run compiles for sm_90, and for the other architectures


class Job(NamedTuple):
    row: str
    case: str
    dtype: str
    layout: str
    arch: int | str
    options: tuple[tuple[str, object], ...] = ()  # beside the row's defaults


def variants() -> list[Job]:
    """For sm_90, each other value of every option that changes more than an activation, on the row's first case."""
    found = []
    for row in OPS:
        names = [name for name in row.options if name not in ("gate", "act")]
        sets = [((name, value),) for name in names for value in row.options[name][1:]]
        sets = [(("pool", "max"), *chosen) if chosen[0][0] == "ties" else chosen for chosen in sets]
        for i, chosen in enumerate(sets):
            found.append(Job(row.name, row.cases[0].name, DTYPES[i % 3], LAYOUTS[i % 2], 90, chosen))
    return found


def jobs() -> list[Job]:
    """All there is to compile; sm_75 has no bfloat16."""
    return [
        Job(row.name, case.name, dtype, layout, arch)
        for row in OPS
        for arch, case, dtype, layout in itertools.product(ARCHES, row.cases, DTYPES, LAYOUTS)
        if (arch, dtype) != (75, "bfloat16")
    ]


def selection(row: str) -> list[Job]:
    """A row's share of a default run: problems for sm_90, then for the others in turn; dtypes and layouts in turn."""
    mine, first = [job for job in jobs() if job.row == row], zlib.crc32(row.encode())

    def some(arch, count):
        its = [job for job in mine if job.arch == arch]
        kinds = len(its) // len(BY_NAME[row].cases)
        cases = [its[i : i + kinds] for i in range(0, len(its), kinds)][:: max(1, len(its) // kinds // count)][:count]
        return [case[(first + i) % kinds] for i, case in enumerate(cases)]

    hopper, *others = ARCHES
    chosen = [others[(first + i) % len(others)] for i in range(max(1, OTHERS // len(OPS)))]
    return some(hopper, max(2, HOPPER // len(OPS))) + [some(a, i + 1)[-1] for i, a in enumerate(chosen)]


def findings(job: Job) -> tuple[list[str], int]:
    """What is wrong with the kernels of a job, and how many there are."""
    row = BY_NAME[job.row]
    sizes = next(case.sizes for case in row.cases if case.name == job.case)
    maps, wrong, count = static.map_sizes(row, sizes), [], 0
    dtype, options = getattr(torch, job.dtype), dict(job.options)
    for plan in itertools.chain(*static.plans(row, sizes, dtype, job.layout, job.arch, **options)):
        count += 1
        try:
            compiled = static.compile_plan(plan, job.arch)
            faults = compiled.faults(maps) if isinstance(job.arch, int) else []
        except Exception as error:
            while error.__cause__ is not None:
                error = error.__cause__
            faults = [f"does not compile: {type(error).__name__}: {str(error).splitlines()[-1]}"]
        wrong += [f"{'/'.join(map(str, job))}: {plan.name} {plan.config.launch_options}: {fault}" for fault in faults]
    return wrong, count


def unchosen(question: tuple[str, str]) -> tuple[list[str], int]:
    """What is wrong with a config that a tuner may try, one of each kernel of a row; (row, seed) says which.

    Such a config may spill: the tuner times it.
    """
    name = question[0]
    row, draw = BY_NAME[name], zlib.crc32(" ".join(question).encode())
    case = row.cases[draw % len(row.cases)]
    dtype, layout = getattr(torch, DTYPES[draw % 3]), LAYOUTS[draw // 3 % 2]

    def plans() -> list[Plan]:
        return list(itertools.chain(*static.plans(row, case.sizes, dtype, layout)))

    forced, wrong = {}, []
    for choice in filter(None, (plan.config.choice for plan in plans())):
        others = [i for i, cost in choice.costs().items() if cost < SPILLED and i != choice.index]
        if others:
            forced[choice.key] = others[draw % len(others)]
    with using(forced=forced):
        for plan in plans():
            compiled = static.compile_plan(plan, 90)
            faults = [f for f in compiled.faults(static.map_sizes(row, case.sizes)) if not f.endswith(ALLOWED)]
            wrong += [
                f"{name} {case.name} {dtype} {layout}: {plan.name} {plan.config.launch_options}: {f}" for f in faults
            ]
    return wrong, len(forced)


def matrix_instructions(variant: str, dtype: str, layout: str) -> list[str]:
    """Those of the forward of a dense local gate for sm_90, and "stack" if it spills."""

    def gate(*tensors, backend):
        return local_gate_dense(*tensors, gate=("sigmoid", 0.0, 0.0), return_map=False, variant=variant)

    x = static.meta_map((8, 64, 64, 64), getattr(torch, dtype), layout)
    with planning_for(90):
        (plan,), _ = static.planned(gate, x, x.new_empty(64, 64, 3, 3), x.new_empty(64))
    compiled = static.compile_plan(plan, 90)
    return compiled.matrix + ["stack"] * (compiled.spills > 0)


def attention_faults(dtype: str, layout: str, D: int) -> list[str]:
    """Of neighbourhood attention at 256 x 256 for sm_90: spills, narrow accesses, and other matrix instructions than
    those of 16-bit operands that accumulate in float32."""
    row = BY_NAME["neighborhood_attention"]
    sizes = {"N": 2, "C": 2 * D, "S": (256, 256), "Cr": 1, "heads": 2}
    wrong = []
    for plan in itertools.chain(*static.plans(row, sizes, getattr(torch, dtype), layout)):
        compiled = static.compile_plan(plan, 90)
        wrong += [f"{plan.name}: {fault}" for fault in compiled.faults(static.map_sizes(row, sizes))]
        kind = {"bfloat16": "bf16", "float16": "f16"}.get(dtype)
        if plan.name.endswith("_fwd") and kind:
            right = bool(compiled.matrix) and all(f".f32.{kind}.{kind}.f32" in op for op in compiled.matrix)
            wrong += [] if right else [f"{plan.name}: {compiled.matrix}"]
            wrong += [] if compiled.has(r"\bHG?MMA\b") else [f"{plan.name}: no HMMA in the machine code"]
    return wrong


def pair_faults(dtype: str, layout: str, arch: int | str, kernel_size: int) -> list[str]:
    """Of the split pair of neighbourhood attention, forward and backward, at D = 32 with a bias; a spilled register or
    two (at most 16 bytes of stack) are none."""
    q, k, v = (
        static.meta_map((2, 64, 64, 64), getattr(torch, dtype), layout).unflatten(1, (2, 32)).permute(0, 3, 4, 1, 2)
        for _ in range(3)
    )
    bias, p = q.new_empty(2, *[2 * kernel_size - 1] * 2), q.new_empty(2, 64, 64, 2, kernel_size**2)
    with planning_for(arch if isinstance(arch, int) else AMD):
        calls = (functional.neighborhood_qk, q, k, bias), (functional.neighborhood_av, p, v)
        plans = [
            plan for op, *ts in calls for part in static.planned(op, *ts, kernel_size=kernel_size) for plan in part
        ]
    wrong = [] if len(plans) == 7 else [f"{[plan.name for plan in plans]}"]
    for plan in plans:
        compiled = static.compile_plan(plan, arch)
        maps = {q.numel()} if layout == "channels_last" else set()
        found = compiled.faults(maps) if isinstance(arch, int) else []
        wrong += [f"{plan.name}: {fault}" for fault in found if fault not in ("8 bytes of stack", "16 bytes of stack")]
    return wrong


@triton.jit
def _spilling_kernel(x_ptr, y_ptr, SIZE: tl.constexpr):
    offs = tl.arange(0, SIZE)
    x = tl.load(x_ptr + offs).to(tl.float32)
    tl.store(y_ptr + offs, x / tl.sum(tl.exp(x)))


@triton.jit
def _narrow_kernel(x_ptr, y_ptr, shift, SIZE: tl.constexpr):
    offs = tl.arange(0, SIZE)
    tl.store(y_ptr + offs + shift, tl.load(x_ptr + offs + shift))


@triton.jit
def _atomic_kernel(x_ptr, y_ptr, SIZE: tl.constexpr):
    offs = tl.arange(0, SIZE)
    tl.atomic_add(y_ptr + offs, tl.load(x_ptr + offs))


@triton.jit
def _greedy_kernel(x_ptr, y_ptr, SIZE: tl.constexpr):
    offs = tl.arange(0, SIZE)
    tl.store(y_ptr + offs, tl.gather(tl.load(x_ptr + offs), offs ^ 65, 0))


def planted(name: str) -> list[str]:
    """The faults found in a kernel that was made to have one."""
    kernel, size, warps, arch = {
        "spilling": (_spilling_kernel, 16384, 1, 90),
        "narrow": (_narrow_kernel, 1024, 4, 90),
        "atomic": (_atomic_kernel, 1024, 4, 90),
        "greedy": (_greedy_kernel, 65536, 32, 75),
    }[name]
    x, y = (torch.empty(1, size, dtype=torch.float32, device="meta") for _ in range(2))
    args = dict(x_ptr=x, y_ptr=y, SIZE=size) | ({"shift": 3} if name == "narrow" else {})
    return static.compile_plan(Plan(kernel, args, Config({}, warps), 1), arch).faults({size})


def pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


def main() -> int:
    todo, wrong, kernels = variants() + jobs(), [], 0
    with pool(os.cpu_count() or 1) as workers:
        for i, (faults, count) in enumerate(workers.map(findings, todo, chunksize=4), 1):
            kernels += count
            wrong += faults
            for fault in faults:
                print(fault, flush=True)
            if i % 100 == 0:
                print(f"{i} of {len(todo)} problems, {kernels} kernels, {len(wrong)} faults", flush=True)
    print(f"{len(todo)} problems, {kernels} kernels, {len(wrong)} faults")
    return 1 if wrong or not kernels else 0


if __name__ == "__main__":
    sys.exit(main())
