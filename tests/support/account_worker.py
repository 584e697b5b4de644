"""Accounts of kernels compiled ahead of time. Runs in processes in which Triton does not interpret."""

import dataclasses
import itertools

import static_ledger  # noqa: F401, before Triton: it decides that this process compiles
import torch
import triton
import triton.language as tl

from segattn_triton import compiled as static
from segattn_triton.catalog import BY_NAME, make_inputs
from segattn_triton.perf.account import assumptions as assumed
from segattn_triton.perf.account import loops
from segattn_triton.perf.account.account import Account, account_of
from segattn_triton.perf.account.launch import launch_of
from segattn_triton.perf.account.warp import play_all
from segattn_triton.runtime.plan import Plan
from segattn_triton.tuning.choice import SPACES, using
from segattn_triton.tuning.model import SMS, Config
from segattn_triton.tuning.target import planning_for

STEPS = 37  # of the chase


@triton.jit
def _copy_kernel(x_ptr, y_ptr, size, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + offs, tl.load(x_ptr + offs, offs < size), offs < size)


@triton.jit
def _chase_kernel(x_ptr, y_ptr, steps):
    """Every load waits for the one before it."""
    at = tl.program_id(0)
    for _ in range(steps):
        at = tl.load(x_ptr + at)
    tl.store(y_ptr + tl.program_id(0), at)


@triton.jit
def _sum_kernel(x_ptr, y_ptr, steps, STAGES: tl.constexpr, BLOCK: tl.constexpr):
    """So many rounds of a loop, each of which loads a block."""
    offs = tl.program_id(0) * steps * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for i in tl.range(0, steps, num_stages=STAGES):
        total += tl.load(x_ptr + offs + i * BLOCK)
    tl.store(y_ptr + tl.program_id(0), tl.sum(total))


@triton.jit
def _gather_kernel(x_ptr, y_ptr, steps, BLOCK: tl.constexpr):
    """A loop with a load of four bytes a thread in flight."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    for _ in range(steps):
        at = tl.load(x_ptr + at)
    tl.store(y_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), at)


def _account(kernel, grid: int, arch: int = 90, **args) -> Account:
    plan = Plan(kernel, args, Config({}, 4), grid)
    return account_of(launch_of(static.compile_plan(plan, arch)))


def copy(arch: int) -> tuple[float, float]:
    """Bytes moved, and the time over that of a device copy of as many."""
    size = 2**27
    x, y = (torch.empty(size, dtype=torch.bfloat16, device="meta") for _ in range(2))
    account = _account(_copy_kernel, size // 2048, arch, x_ptr=x, y_ptr=y, size=size, BLOCK=2048)
    return account.dram_bytes, account.time / (4 * size / assumed.MACHINES[arch].dram)


def passes_elsewhere(question: tuple[str, str, int]) -> list[tuple[float, float]]:
    """Forward and backward of a row on a map that no cache holds: passes over it by the account for a GPU, and for an
    H200, of their own choices of configs."""
    name, layout, arch = question
    row, found = BY_NAME[name], []
    sizes = {**row.cases[0].sizes, "N": 8, "C": 64, "S": (256, 256)}
    for target in (arch, 90):
        both = static.plans(row, sizes, torch.bfloat16, layout, target)
        compiled = [[static.compile_plan(plan, target) for plan in plans] for plans in both]
        nbytes = (sum(account_of(launch_of(each)).dram_bytes for each in some) for some in compiled)
        found.append([moved / (2 * 8 * 64 * 256**2) for moved in nbytes])
    return list(zip(*found, strict=True))


def chase(_) -> dict[float, tuple[int, float]]:
    """Round trip -> round trips that are exposed, and the time in round trips."""
    x, y = (torch.empty(2**24, dtype=torch.int32, device="meta") for _ in range(2))
    account = _account(_chase_kernel, 132, x_ptr=x, y_ptr=y, steps=STEPS)
    return {t: (account.at(t).warp.trips, account.at(t).time / t) for t in assumed.ROUND_TRIPS}


def rounds(stages: int) -> tuple[int, int]:
    """Of 24 rounds of a loop: round trips exposed, and bytes that the program loads."""
    x, y = (torch.empty(2**24, dtype=torch.float32, device="meta") for _ in range(2))
    account = _account(_sum_kernel, 132, x_ptr=x, y_ptr=y, steps=24, STAGES=stages, BLOCK=512)
    return account.warp.trips, account.work.moved[0][0]


@triton.jit
def _overlapping_kernel(x_ptr, y_ptr, BLOCK: tl.constexpr):
    """Every eighth value, moved by one, then all."""
    offs = tl.arange(0, BLOCK)
    some = tl.load(x_ptr + offs // 8 * 8 + 1)
    tl.store(y_ptr + offs, some + tl.load(x_ptr + offs))


def overlapping(_) -> tuple[int, int]:
    """Bytes of x that one warp's program loads, and those of x."""
    x, y = (torch.empty(256, dtype=torch.float16, device="meta") for _ in range(2))
    plan = Plan(_overlapping_kernel, dict(x_ptr=x, y_ptr=y, BLOCK=256), Config({}, 1), 1)
    work = account_of(launch_of(static.compile_plan(plan))).work
    return work.moved[0][0], 2 * x.numel()


def descriptors(_) -> dict[str, float]:
    """What a program of the dense gate by descriptors loads and computes: 128 pixels of a row, all 64 channels."""
    row = BY_NAME["local_gate"]
    sizes = {**row.cases[0].sizes, "N": 8, "C": 64, "S": (512, 512)}
    wanted = {"ROWS": 1, "BLOCK_P": 128, "BLOCK_C": 64, "BLOCK_K": 64}
    name = "conv_descriptors_fwd"

    def plan() -> Plan:
        return next(p for p in static.plans(row, sizes, torch.bfloat16, "channels_last")[0] if p.name == name)

    choice = plan().config.choice
    index = next(i for i, c in enumerate(SPACES[choice.kernel]) if dict(c.blocks) == wanted and c.num_warps == 4)
    with using(forced={choice.key: index}):
        account = account_of(launch_of(static.compile_plan(plan())))
    kinds = [access.kind for access in account.path.accesses.values()]
    moved = {account.launch.buffers[place].name: loaded for place, (loaded, _) in account.work.moved.items()}
    return {
        **dict(boxes=kinds.count("box"), waits=kinds.count("wait"), x=moved["x_desc"], weight=moved["weight_desc"]),
        **dict(matrix=account.work.cycles["matrix"], time=account.time, L2=account.limits["L2"]),
    }


def loop_faults(question: tuple[str, int]) -> list[str]:
    """What the guard says of the gathering loop, or of a pipelined sum, with so many programs."""
    name, grid = question
    if name == "gather":
        x, y = (torch.empty(1, 2**24, dtype=torch.int32, device="meta") for _ in range(2))
        plan = Plan(_gather_kernel, dict(x_ptr=x, y_ptr=y, steps=9, BLOCK=128), Config({}, 4), grid)
    else:
        x, y = torch.empty(1, 2**24, device="meta"), torch.empty(grid, device="meta")
        plan = Plan(_sum_kernel, dict(x_ptr=x, y_ptr=y, steps=24, STAGES=3, BLOCK=2048), Config({}, 4), grid)
    return loops.faults(static.compile_plan(plan), {x.numel()})


def earlier(op: str, kernel: str, layout: str, C: int, side: int, blocks: dict, warps: int) -> tuple[float, str]:
    """The time of a kernel in one config, its loop a plain range, and the largest of its limits."""
    row = BY_NAME[op]
    sizes = {**row.cases[0].sizes, "N": 8, "C": C, "S": (side, side), "Cr": C // 2}

    def plan(sms: int) -> Plan:
        inputs = make_inputs(row, sizes, torch.bfloat16, layout=layout, device="meta")
        with planning_for(90, sms):
            both = itertools.chain(*static.planned(row.op, *inputs, **row.defaults))
        return next(p for p in both if p.name == kernel)

    space = SPACES[plan(SMS).config.choice.kernel]
    wanted = [i for i, c in enumerate(space) if blocks.items() <= dict(c.blocks).items() and c.num_warps == warps]
    index = max(wanted, key=lambda i: space[i].programs)
    # as it was: eight programs an SM, however many registers they leave
    sms = SMS * 8 // (space[index].programs or 8)
    with using(forced={plan(sms).config.choice.key: index}):
        forced = plan(sms)
    args = {**forced.args, "STAGES": 1} if "STAGES" in forced.args else forced.args
    config = dataclasses.replace(forced.config, maxnreg=None)
    account = account_of(launch_of(static.compile_plan(dataclasses.replace(forced, args=args, config=config))))
    return account.time, account.limit


def covered(op: str, layout: str) -> list[str]:
    """What is wrong with the accesses of a row's kernels, when every warp of every program of a small problem plays:
    an unknown address, one outside of its buffer, or a part of y or dx that none stores."""
    row, wrong = BY_NAME[op], []
    sizes = {**row.cases[0].sizes, "N": row.fewest, "C": 16, "S": (8,) * len(row.cases[0].S), "Cr": 8}
    sizes |= {"heads": 1} if "heads" in sizes else {}
    for plan in itertools.chain(*static.plans(row, sizes, torch.bfloat16, layout)):
        launch = launch_of(static.compile_plan(plan))
        stored: dict[str, set[int]] = {}
        for program in range(plan.grid):
            paths = play_all(launch.code, launch.constants, (program, 0, 0), launch.warps)
            for access in itertools.chain(*(path.accesses.values() for path in paths)):
                if access.kind in ("box", "wait"):
                    wrong += [f"{plan.name}: a box or its barrier is unknown"] * (
                        access.barrier is None or (access.kind == "box" and launch.box(access.address) is None)
                    )
                    continue
                owner = launch.owner(access.address)
                if access.kind != "shared" and owner is None:
                    wrong.append(f"{plan.name}: an address is unknown")
                elif owner is not None and access.kind != "shared":
                    first, last = min(access.sectors) * 32 - owner.address, max(access.sectors) * 32 - owner.address
                    wrong += [f"{plan.name}: outside of {owner.name}"] * (first < 0 or last >= max(owner.nbytes, 32))
                    stored.setdefault(owner.name, set()).update(access.sectors if access.kind == "store" else ())
        for name in {"y_ptr", "dx_ptr", "dq_ptr"} & stored.keys():
            if stored[name] and len(stored[name]) * 32 != (size := _size(launch, name)):
                wrong.append(f"{plan.name}: {len(stored[name]) * 32} of {size} bytes of {name} are stored")
    return sorted(set(wrong))


def _size(launch, name: str) -> int:
    return next(b.nbytes for b in launch.buffers.values() if b.name == name)
