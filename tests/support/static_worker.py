"""Compiles ahead of time what the rows of the catalog launch. Runs in processes in which Triton does not interpret."""

import importlib.util
import itertools
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import static_exceptions
import static_ledger  # before Triton: it decides that this process compiles
import torch
import triton
import triton.language as tl

from segattn_triton import compiled as static
from segattn_triton import functional
from segattn_triton.catalog import BY_NAME
from segattn_triton.catalog.problem import make_map
from segattn_triton.ops.local_dense import local_gate_dense
from segattn_triton.perf.account import loops
from segattn_triton.runtime.plan import Plan
from segattn_triton.tuning.choice import SPACES, CannotRun, using
from segattn_triton.tuning.model import Config
from segattn_triton.tuning.tables import Table
from segattn_triton.tuning.target import AMD, planning_for

DTYPES, LAYOUTS = static_ledger.DTYPES, static_ledger.LAYOUTS
SPILLED = 1e6  # cost by the model of what does not fit the registers
ALLOWED = ("bytes of stack", "128-bit accesses")  # of a config that was not chosen


def unchosen(question: tuple[str, str]) -> tuple[list[str], int]:
    """What is wrong with a config that a tuner may try, one of each kernel of a row; (row, seed) says which.

    Such a config may spill: the tuner times it.
    """
    row = BY_NAME[question[0]]
    draw = zlib.crc32(" ".join(question).encode())
    case = row.cases[draw % len(row.cases)]
    dtype, layout = getattr(torch, DTYPES[draw % 3]), LAYOUTS[draw // 3 % 2]

    def plans() -> list[Plan]:
        return list(itertools.chain(*static.plans(row, case.sizes, dtype, layout)))

    others, wrong = {}, []  # of a key: what all of its problems can run
    for choice in filter(None, (plan.config.choice for plan in plans())):
        found = [i for i, cost in choice.costs().items() if cost < SPILLED and i != choice.index]
        others[choice.key] = [i for i in others.get(choice.key, found) if i in found]
    forced = {key: found[draw % len(found)] for key, found in others.items() if found}
    while (key := _that_cannot_run(plans, forced)) is not None:
        del forced[key]
    with using(forced=forced):
        for plan in plans():
            compiled = static.compile_plan(plan, 90)
            faults = [f for f in compiled.faults(static.map_sizes(row, case.sizes)) if not f.endswith(ALLOWED)]
            wrong += [
                f"{row.name} {case.name} {dtype} {layout}: {plan.name} {plan.config.launch_options}: {f}"
                for f in faults
            ]
    return wrong, len(forced)


def _that_cannot_run(plans: Callable, forced: Mapping[str, int]) -> str | None:
    """The key whose config cannot run, since how many sums it adds follows from another's config."""
    try:
        with using(forced=forced):
            plans()
    except CannotRun as error:
        return str(error).partition(":")[0]
    return None


def matrix_instructions(variant: str, dtype: str, layout: str) -> list[str]:
    """Those of the forward of a dense local gate for sm_90, and "stack" if it spills."""

    def gate(*tensors, backend):
        return local_gate_dense(*tensors, gate=("sigmoid", 0.0, 0.0), return_map=False, variant=variant)()

    x = make_map((8, 64, 64, 64), layout, None, getattr(torch, dtype), "meta")
    with planning_for(90):
        (plan,), _ = static.planned(gate, x, x.new_empty(64, 64, 3, 3), x.new_empty(64))
    compiled = static.compile_plan(plan, 90)
    return compiled.matrix + ["stack"] * (compiled.spills > 0)


def attention_faults(dtype: str, layout: str, D: int, kernel_size: int = 3) -> list[str]:
    """Of neighbourhood attention at 256 x 256 for sm_90: spills, narrow accesses, and other matrix instructions than
    those of 16-bit operands that accumulate in float32."""
    row = BY_NAME["neighborhood_attention"]
    sizes = {"N": 2, "C": 2 * D, "S": (256, 256), "Cr": 1, "heads": 2, "T": 2 * kernel_size - 1}
    wrong = []
    both = static.plans(row, sizes, getattr(torch, dtype), layout, kernel_size=kernel_size)
    for plan in itertools.chain(*both):
        compiled = static.compile_plan(plan, 90)
        wrong += [f"{plan.name}: {fault}" for fault in compiled.faults(static.map_sizes(row, sizes))]
        kind = {"bfloat16": "bf16", "float16": "f16"}.get(dtype)
        if plan.name.endswith(("_fwd", "_dq", "_dkv")) and kind:
            right = bool(compiled.matrix) and all(f".f32.{kind}.{kind}.f32" in op for op in compiled.matrix)
            wrong += [] if right else [f"{plan.name}: {compiled.matrix}"]
            wrong += [] if compiled.has(r"\bHG?MMA\b") else [f"{plan.name}: no HMMA in the machine code"]
        elif compiled.matrix:
            wrong.append(f"{plan.name}: {compiled.matrix}, where no product is to be rounded")
    return wrong


def pair_faults(dtype: str, layout: str, arch: int | str, kernel_size: int) -> list[str]:
    """Of the split pair of neighbourhood attention, forward and backward, at D = 32 with a bias; a spilled register or
    two (at most 16 bytes of stack) are none."""
    q, k, v = (
        make_map((2, 64, 64, 64), layout, None, getattr(torch, dtype), "meta")
        .unflatten(1, (2, 32))
        .permute(0, 3, 4, 1, 2)
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


def dependent(name: str) -> list[str]:
    """What is wrong with the kernels of a row as a tuned table may have them launched, dependently: a wait ahead of
    every access where they are, nothing of it where they are not, on older GPUs whatever a table says."""
    wrong = [plan.name for plan in _dependent(name, 80, True) if plan.args["DEPENDENT"] or "launch_pdl" in plan.options]
    wrong += [p.name for p in _dependent(name, 90, False) if "griddep" in static.compile_plan(p, 90).asm["ptx"]]
    for arch in (90, 120):
        wrong += [plan.name for plan in _dependent(name, arch, True) if not static.compile_plan(plan, arch).waits_first]
    return wrong


def names_of_dependent(name: str) -> list[str]:
    return [plan.name for plan in _dependent(name, 90, True)]


def _dependent(name: str, arch: int, on: bool) -> list[Plan]:
    """A word after the row's name is the variant of its forward; "vector", logits that stand for all pixels; a layout,
    that of every GPU."""
    name, _, variant = name.partition(" ")
    row = BY_NAME[name]
    if variant == "vector":
        row = replace(row, inputs={**row.inputs, "z": "N C 1 1"})
    elif variant and variant not in LAYOUTS:
        row = replace(row, op=partial(_dense_gate, variant))
    layout = "channels_last" if arch > 90 or variant == "descriptors" else "contiguous"
    how = row, row.cases[0].sizes, torch.float16, variant if variant in LAYOUTS else layout, arch
    static.plans(*how)  # its kernels are in SPACES from here on
    with using([Table("", arch, dependent=dict.fromkeys(SPACES, on))]):
        found = itertools.chain(*static.plans(*how))
    return [replace(plan, follows=True) for plan in found if "DEPENDENT" in plan.args]


def _dense_gate(variant: str, *tensors, backend: str, gate: str):
    return local_gate_dense(*tensors, gate=(gate, 0.0, 0.0), return_map=False, variant=variant)()


def thin_loops(name: str, arch: int) -> tuple[list[str], int]:
    """Of a row's first case in float16, the kernels that loop over a map with too little of it on its way; and how many
    loop."""
    row, wrong, count = BY_NAME[name], [], 0
    sizes = row.cases[0].sizes
    for layout in LAYOUTS:
        for plan in itertools.chain(*static.plans(row, sizes, torch.float16, layout, arch)):
            loop = loops.loop_of(static.compile_plan(plan, arch), static.map_sizes(row, sizes))
            count += loop is not None
            thin = loop is not None and loop.in_flight < loops.IN_FLIGHT[arch]
            wrong += [f"{name} {layout} {arch}: {plan.name}: {loop.in_flight} bytes in flight"] if thin else []
    return wrong, count


def pipelined(name: str, layout: str) -> tuple[list[str], list[str]]:
    """Kernels of a row whose arithmetic is another where loads are not ahead of it, config and grid as they are; and
    those that have loads ahead."""
    row, wrong, found = BY_NAME[name], [], []
    for plan in itertools.chain(*static.plans(row, row.cases[0].sizes, torch.bfloat16, layout)):
        if plan.args.get("STAGES", 1) > 1:
            plain = replace(plan, args={**plan.args, "STAGES": 1})
            ours, theirs = (static.compile_plan(p, 90) for p in (plan, plain))
            found += [plan.name] if ours.asm["ptx"] != theirs.asm["ptx"] else []
            wrong += [] if _arithmetic(ours) == _arithmetic(theirs) else [f"{name} {layout}: {plan.name}"]
    return wrong, found


def _arithmetic(compiled: static.Compiled) -> tuple[list[tuple[str, str]], Counter]:
    """Operations on floating-point tensors in order, with how their values lie in threads, and sums over threads with
    them; and the floating-point instructions, as they were fused."""
    code = compiled.asm["ttgir"]
    lie = dict(re.findall(r"^#(\w+) = (#ttg\.[^\n]*)$", code, re.M))
    ops = re.findall(
        r"^\s*(?:%\S+ = \"?([\w.]+)|(\}\)))[^\n]*? : ([^\n]*?(?:x|\b)b?f(?:16|32|64)\b[^\n]*?)(?: loc\(.*)?$",
        code,
        re.M,
    )
    ops = [(op, types.split(" -> ")[-1] if "dot" in op else types) for op, _, types in ops]
    ops = [(op, re.sub(r"#(\w+)", lambda m: lie.get(m[1], m[1]), types)) for op, types in ops]
    sums = [
        (op, types)
        for op, types in ops
        if re.match(r"arith\.(?!constant)|math\.|tt\.reduce|tt\.dot|.*group_dot$|$", op)
    ]
    instruction = r"^\s*(?:@!?%\w+\s+)?((?:fma|add|sub|mul|div|max|min|ex2|rcp|sqrt|neg|abs|cvt|mma|wgmma)\.[\w.:]*)"
    issued = (op for op in re.findall(instruction, compiled.asm["ptx"], re.M) if re.search(r"f16|f32|f64", op))
    return sums, Counter(issued)


def arithmetic_of_two_configs(_) -> bool:
    """Whether it is the same of four warps and of eight."""
    row = BY_NAME["channel_gate"]
    plan = static.plans(row, row.cases[0].sizes, torch.bfloat16, "channels_last")[0][0]
    configs = (replace(plan.config, num_warps=warps, maxnreg=None) for warps in (4, 8))
    one, other = (_arithmetic(static.compile_plan(replace(plan, config=config), 90)) for config in configs)
    return one[0] == other[0] or one[1] == other[1]


@triton.jit
def _hasty_kernel(x_ptr, y_ptr, SIZE: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, SIZE))
    tl.extra.cuda.gdc_wait()
    tl.store(y_ptr + tl.arange(0, SIZE), x)


def loads_before_it_waits(_) -> bool:
    return static.compile_plan(_plan(_hasty_kernel, 64), 90).waits_first


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


def _planted(name: str) -> tuple[Plan, int, int]:
    """(plan, architecture, size of its maps) of a kernel that was made to have a fault."""
    kernel, size, warps, arch = {
        "spilling": (_spilling_kernel, 16384, 1, 90),
        "narrow": (_narrow_kernel, 1024, 4, 90),
        "atomic": (_atomic_kernel, 1024, 4, 90),
        "greedy": (_greedy_kernel, 65536, 32, 75),
    }[name]
    return _plan(kernel, size, warps, **({"shift": 3} if name == "narrow" else {})), arch, size


def _plan(kernel: triton.JITFunction, size: int, warps: int = 4, dtype: torch.dtype = torch.float32, **args) -> Plan:
    x, y = (torch.empty(1, size, dtype=dtype, device="meta") for _ in range(2))
    return Plan(kernel, dict(x_ptr=x, y_ptr=y, SIZE=size, **args), Config({}, warps), 1)


def planted(name: str) -> list[str]:
    """The faults found in such a kernel."""
    plan, arch, size = _planted(name)
    return static.compile_plan(plan, arch).faults({size})


def hashes_of_changes(_) -> list[str]:
    """Of a kernel; of the same further down in its file; then with another text, another called function, and another
    of each thing beside its text that the compiled code or what is asked of it follows from."""
    static_ledger.forget_lines()
    with tempfile.TemporaryDirectory() as folder:
        same, lower, outer, inner = (
            _module(Path(folder), _SOURCE.format(*parts)).k
            for parts in (("x", "x", ""), ("x", "x", "\n\n"), ("-x", "x", ""), ("x", "-x", ""))
        )
    plans = [_plan(kernel, 64) for kernel in (same, lower, outer, inner)]
    plans += [_plan(same, 128), _plan(same, 64, warps=8), _plan(same, 64, dtype=torch.float16)]
    hashes = [static_ledger.kernel_hash(plan, {64}) for plan in plans] + [static_ledger.kernel_hash(plans[0], {32})]
    return [static_ledger.job_hash([found]) for found in hashes]


_SOURCE = """import triton
import triton.language as tl
{2}

@triton.jit
def g(x):
    return {1}


@triton.jit
def k(x_ptr, y_ptr, SIZE: tl.constexpr):
    offs = tl.arange(0, SIZE)
    x = g(tl.load(x_ptr + offs))
    tl.store(y_ptr + offs, {0})
"""


def lines_of_a_fault(_) -> dict[str, list]:
    """Of a problem whose kernel spills: what is found with a ledger that has another hash, and with one that has this
    hash though it spills; and what is then written of it."""
    commit = "some commit"
    plain = (j for j in static_ledger.drawn(commit) if j.arch == 90 and not j.options)
    job = next(j for j in plain if not static_exceptions.named(j.problem, 90))
    plan, _, size = _planted("spilling")
    kernels = {job: [static_ledger.kernel_hash(plan, {size})]}
    hashes = {job: static_ledger.job_hash(kernels[job])}
    place, found = (job.problem, "90"), {}
    before, static_ledger.plans_of = static_ledger.plans_of, lambda job: ([plan], {size})
    try:
        for name, known, sample in (("old", "another", None), ("wrong", hashes[job], commit)):
            todo = static_ledger.chosen(hashes, {place: known}, commit=sample)
            faults, count = static_ledger.faults_of(todo, kernels, say=lambda text: None)
            found[name] = [count, *faults[job]]
    finally:
        static_ledger.plans_of = before
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "static.txt"
        static_ledger.write({**static_ledger.proven(hashes, todo, faults), ("another", "75"): "0"}, file)
        found["written"] = list(static_ledger.read(file)[1])
    found["unchanged"] = static_ledger.chosen(hashes, {place: hashes[job]})
    spill = static_ledger.Fault("planted", "", "8 bytes of stack")
    excuses, static_exceptions.EXEMPTIONS = static_exceptions.EXEMPTIONS, ()
    for problems in ((job.problem,), (f"{job.row},b {job.case} * *",), (f"b {job.case} * *",)):
        static_exceptions.EXEMPTIONS = (static_exceptions.Exemption("planted", 90, "8 bytes of stack", "", problems),)
        found["excused"] = [
            *found.get("excused", []),
            [len(static_ledger.judged(job, faults)) for faults in ([spill], [], [spill._replace(kernel="another")])],
        ]
    static_exceptions.EXEMPTIONS = excuses
    return found


def _module(folder: Path, text: str) -> ModuleType:
    file = folder / f"kernels_{zlib.crc32(text.encode())}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
