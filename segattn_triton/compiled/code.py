"""A kernel as compiled: registers, spills, shared memory, widths of its accesses, instructions.

Registers and stack come from the machine code's own record; a spilled value lives on the stack. Only `sass`
disassembles (half a second).
"""

import re
import subprocess
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

from ..runtime.plan import Plan
from ..tuning.model import REGISTERS
from ..tuning.target import SHARED
from .accesses import GlobalAccess, accesses
from .source import source_of


@dataclass(frozen=True)
class Compiled:
    """A kernel as compiled for one target. `shared` is all that is known of an AMD one."""

    plan: Plan
    arch: int | str
    shared: int  # bytes of shared memory per program
    asm: dict

    @property
    def threads(self) -> int:
        return target(self.arch).warp_size * self.plan.config.num_warps

    @cached_property
    def _usage(self) -> str:
        return _cuobjdump(self.asm["cubin"], "-res-usage")

    @property
    def registers(self) -> int:
        return int(re.search(r"REG:(\d+)", self._usage)[1])

    @property
    def spills(self) -> int:
        """Bytes of stack per thread: spilled registers, or an array that the compiler could not keep in them."""
        return int(re.search(r"STACK:(\d+)", self._usage)[1]) + int(re.search(r"LOCAL:(\d+)", self._usage)[1])

    @cached_property
    def accesses(self) -> list[GlobalAccess]:
        return list(accesses(self.asm["ptx"], self.plan))

    @property
    def atomics(self) -> list[str]:
        return re.findall(r"^\s*(?:@!?%\w+\s+)?((?:atom|red)\.[\w.:]+)", self.asm["ptx"], re.M)

    @property
    def matrix(self) -> list[str]:
        """Shapes and types of the matrix instructions: "wgmma.m64n64k16.f32.bf16.bf16"."""
        found = re.findall(r"\b(wgmma|mma|tcgen05)\.[\w.:]*?((?:\.m\d+n\d+k\d+|\.kind::)[\w.:]*)", self.asm["ptx"])
        return sorted({op + shape for op, shape in found})

    @cached_property
    def sass(self) -> str:
        return _cuobjdump(self.asm["cubin"], "-sass")

    @property
    def waits_first(self) -> bool:
        """Whether every thread waits for what was launched before, ahead of its first access to memory: the wait is
        ahead of all loads, stores and copies of the machine code, and of whatever might jump over it."""
        wait = re.search(r"\bACQBULK\b", self.sass)
        reached = re.search(
            r"\b(LDG|STG|LDGSTS|LD|ST|ATOMG?|RED|UBLKCP|UTMALDG|UTMASTG|BRA|BRX|CALL|EXIT|RET)\b", self.sass
        )
        return wait is not None and (reached is None or wait.start() < reached.start())

    def has(self, pattern: str) -> bool:
        return re.search(pattern, self.sass) is not None

    def maps(self, sizes: Collection[int]) -> dict[str, Tensor]:
        return maps_of(self.plan, sizes)

    def wide_share(self, sizes: Collection[int]) -> float | None:
        """The share of the bytes of feature maps that move in accesses of 128 bits or more."""
        names = self.maps(sizes).keys()
        bits = [a.bits for a in self.accesses if a.args & names]
        return sum(b for b in bits if b >= 128) / sum(bits) if bits else None

    def faults(self, sizes: Collection[int]) -> list[str]:
        """What no kernel of a chosen config may have, on a GPU of NVIDIA's."""
        layout, wide = self.plan.layout, self.wide_share(sizes)
        itemsize = max((t.element_size() for t in self.maps(sizes).values()), default=0)
        aligned = layout is None or layout.align * itemsize >= 16
        found = {
            f"{self.spills} bytes of stack": self.spills > 0,
            f"atomics: {self.atomics}": self.atomics,
            f"{self.shared} bytes of shared memory": self.shared > SHARED[self.arch],
            f"{self.registers} registers for {self.threads} threads": self.programs_per_sm < 1,
            f"{self.plan.config.programs} programs planned an SM, {self.programs_per_sm} fit": (
                self.plan.config.programs > self.programs_per_sm
            ),
            f"{wide or 0:.0%} of the bytes in 128-bit accesses": aligned and wide is not None and wide < 0.85,
        }
        return [fault for fault, present in found.items() if present]

    @property
    def programs_per_sm(self) -> int:
        """How many programs one multiprocessor holds, by registers, threads and shared memory."""
        warps, arch = self.plan.config.num_warps, self.arch
        registers_of_a_warp = -(-self.registers * 32 // 256) * 256
        return min(
            REGISTERS // registers_of_a_warp // warps,
            (32 if arch == 75 else 48 if arch in (86, 89, 120) else 64) // warps,
            (SHARED[arch] + 1024) // (self.shared + (0 if arch == 75 else 1024)) if self.shared else 32,
            {75: 16, 86: 16, 89: 24, 120: 24}.get(arch, 32),
        )


def maps_of(plan: Plan, sizes: Collection[int]) -> dict[str, Tensor]:
    """The arguments that are feature maps: those with one of these numbers of elements (see `map_sizes`)."""
    tensors = {k: getattr(v, "base", v) if not isinstance(v, Tensor) else v for k, v in plan.args.items()}
    return {k: t for k, t in tensors.items() if isinstance(t, Tensor) and t.numel() in sizes and t.dim() > 1}


@lru_cache(64)  # other sizes of a problem often run the same code
def _cuobjdump(cubin: bytes, flag: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True).stdout


def target(arch: int | str) -> GPUTarget:
    """90 -> sm_90; "gfx942" -> that AMD GPU, whose warps are of 64 threads, from "gfx1100" on of 32."""
    if isinstance(arch, int):
        return GPUTarget("cuda", arch, 32)
    return GPUTarget("hip", arch, 64 if arch.startswith("gfx9") else 32)


def compile_plan(plan: Plan, arch: int | str = 90) -> Compiled:
    options = {name: value for name, value in plan.options.items() if name not in plan.config.blocks}
    kernel = triton.compile(source_of(plan), target=target(arch), options=options)
    return Compiled(plan, arch, kernel.metadata.shared, kernel.asm)
