"""What the compiler makes of a plan, without a GPU: registers, spills, shared memory, vector widths, instructions.

Needs a process in which Triton does not interpret. `compile_plan` is what a launch on that GPU would compile.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from segattn_triton.launch import Plan

POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
    torch.int8: "*i8",
}
DIVISIBLE = [["tt.divisibility", 16]]


def _specialise(path, value, constexprs: dict, attrs: dict):
    """The signature of a runtime argument, as Triton's launcher specialises it."""
    if value is None or (isinstance(value, int) and value == 1):
        constexprs[path] = value
        return "constexpr"
    if isinstance(value, Tensor):
        if value.data_ptr() % 16 == 0:
            attrs[path] = DIVISIBLE
        return POINTERS[value.dtype]
    if isinstance(value, tuple):
        return tuple(_specialise((*path, i), v, constexprs, attrs) for i, v in enumerate(value))
    if isinstance(value, int):
        if value % 16 == 0:
            attrs[path] = DIVISIBLE
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    raise TypeError(f"{path}: no signature for a {type(value).__name__}")


def source_of(plan: Plan) -> ASTSource:
    values = {**plan.args, **plan.config.blocks}
    signature, constexprs, attrs = {}, {}, {}
    for i, param in enumerate(plan.kernel.params):
        value = values[param.name]
        if param.is_constexpr:
            signature[param.name] = "constexpr"
            constexprs[(i,)] = value
        else:
            signature[param.name] = _specialise((i,), value, constexprs, attrs)
    return ASTSource(fn=plan.kernel, signature=signature, constexprs=constexprs, attrs=attrs)


@dataclass(frozen=True)
class Compiled:
    """A kernel as compiled for one target. The figures are read from the machine code; NVIDIA only."""

    name: str
    shared: int  # bytes of shared memory per program
    asm: dict

    @cached_property
    def sass(self) -> str:
        return _cuobjdump(self.asm["cubin"], "-sass")

    @cached_property
    def _usage(self) -> str:
        return _cuobjdump(self.asm["cubin"], "-res-usage")

    @property
    def registers(self) -> int:
        return int(re.search(r"REG:(\d+)", self._usage)[1])

    @property
    def spills(self) -> int:
        """Loads and stores of local memory, or bytes of stack where there is one without them."""
        local = len(re.findall(r"\b(?:LDL|STL)\b", self.sass))
        return local or int(re.search(r"STACK:(\d+)", self._usage)[1])

    def accesses(self) -> list[tuple[str, int]]:
        """(opcode, bits) of every global load, store and asynchronous copy in the code."""
        found = re.findall(r"\b(LDG|STG|LDGSTS)((?:\.\w+)*)", self.sass)
        return [(op, _bits(suffix)) for op, suffix in found]

    def has(self, pattern: str) -> bool:
        return re.search(pattern, self.sass) is not None


def _bits(suffix: str) -> int:
    width = re.search(r"\.(U8|S8|U16|S16|64|128|256)(?:\.|$)", suffix)
    return int(width[1].lstrip("US")) if width else 32


def _cuobjdump(cubin: bytes, flag: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True).stdout


def target(arch: int | str) -> GPUTarget:
    """90 -> sm_90; "gfx942" -> that AMD GPU."""
    return GPUTarget("cuda", arch, 32) if isinstance(arch, int) else GPUTarget("hip", arch, 64)


def compile_plan(plan: Plan, arch: int | str = 90) -> Compiled:
    options = {"num_warps": plan.config.num_warps, "num_stages": plan.config.num_stages, "enable_fp_fusion": True}
    kernel = triton.compile(source_of(plan), target=target(arch), options=options)
    return Compiled(plan.name, kernel.metadata.shared, kernel.asm)
