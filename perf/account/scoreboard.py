"""When a warp's instructions issue, one warp alone: by the stalls and barriers that the compiler put into the code.

A barrier is down until every load, shuffle or the like that set it has come; an asynchronous copy has come when its
group is waited for. A round trip is *exposed* where the warp waits for data of DRAM with nothing else to do.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from . import assumptions as assumed
from .accesses import Access
from .assumptions import Machine
from .products import products
from .sass import Instruction
from .warp import Path

SPECIAL = {"MUFU", "F2F", "I2F", "F2I", "I2FP", "POPC", "FLO", "BREV"}


@dataclass(frozen=True)
class Played:
    """Of one warp."""

    cycles: float  # from its first instruction to its last
    trips: int  # to DRAM, exposed
    issued: int  # instructions


def played(path: Path, trip: Callable[[Access, int], float], machine: Machine) -> Played:
    """`trip`: the microseconds that an access to global memory, at a place of the path, takes."""
    time, trips, issued = 0.0, 0, 0
    up = [0.0] * 8  # when each barrier will be
    group, groups = 0.0, deque()  # when the copies since the last group, and those of each group, will have come
    landed: dict[int | None, float] = {}  # barrier in shared memory -> when its boxes will have come
    ready, done = 0.0, deque()  # when a warpgroup's products will be, and those of each group
    known = [(ins, ins.stall, ins.sets, ins.waits, _latency(ins)) for ins in path.code]
    for place, number in enumerate(path.steps):
        ins, stall, (result, operands), waits, latency = known[number]
        if ins.name == "NOP":
            continue
        issued += 1
        come = max((up[b] for b in waits), default=0.0)
        if ins.name == "DEPBAR" and ins.operands[:1] == ("SB0",):
            while len(groups) > int(ins.operands[1], 0):
                come = max(come, groups.popleft())
        if ins.opcode == "WARPGROUP.DEPBAR.LE":
            while len(done) > int(ins.operands[1], 0):
                come = max(come, done.popleft())
        access = path.accesses.get(place)
        if access is not None and access.kind == "wait":
            come = max(come, landed.get(access.barrier, 0.0))
        if come > time:
            trips += come - time > 0.3 * assumed.ROUND_TRIP * machine.clock
            time = come
        if access is not None and access.kind in ("load", "copy", "box"):
            latency = trip(access, place) * machine.clock
        if access is not None and access.kind == "box":
            landed[access.barrier] = max(landed.get(access.barrier, 0.0), time + latency)
        if ins.name == "HGMMA":
            ready = max(ready, time) + assumed.SCHEDULERS * products(ins, machine)
            if ins.operands[-1] == "gsb0":
                done.append(ready + assumed.MATRIX_CYCLES)
        if ins.name == "LDGSTS":
            group = max(group, time + latency)
        elif ins.name == "LDGDEPBAR":
            groups.append(group)
            group = 0.0
        if result < 6 and ins.name not in ("LDGDEPBAR", "LDGSTS"):
            up[result] = max(up[result], time + latency)
        if operands < 6:
            up[operands] = max(up[operands], time + assumed.OPERAND_CYCLES)
        time += max(stall, 1) + (assumed.BARRIER_CYCLES if ins.name == "BAR" else 0)
    return Played(time, trips, issued)


def _latency(ins: Instruction) -> float:
    """Cycles to its result, where a barrier waits for it: a masked load has none."""
    if ins.name in ("LDS", "LDSM", "SHFL", "LDL"):
        return assumed.SHARED_CYCLES
    if ins.name in SPECIAL:
        return assumed.SPECIAL_CYCLES
    if ins.name in ("HMMA", "HGMMA", "IMMA", "DMMA"):
        return assumed.MATRIX_CYCLES
    if ins.name in ("LDC", "ULDC", "S2R", "S2UR"):
        return assumed.CONSTANT_CYCLES
    return assumed.OPERAND_CYCLES
