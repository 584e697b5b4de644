"""What the compiler makes of a plan, without a GPU: registers, spills, shared memory, access widths, instructions.

Needs a process in which Triton does not interpret. `plans` records what a row of the catalog would launch, on meta
tensors; `compile_plan` is what a launch on that GPU would compile.

Accesses are read from the PTX, which names the kernel's parameters: an address is followed back to the parameters
it was computed from, so that every access is known by its argument. ptxas keeps their widths. Registers and stack
come from the machine code's own record; a spilled value lives on the stack. Only `sass` disassembles (half a second).
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from .catalog import Op, Problem
from .catalog.problem import make_inputs
from .runtime.operator import OPERATORS
from .runtime.plan import Plan, recorded
from .runtime.schemas import library
from .tuning.model import REGISTERS
from .tuning.target import AMD, SHARED, planning_for

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
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{POINTERS[value.base.dtype][1:]}{list(value.block_shape)}>"
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


class Access(NamedTuple):
    """One load, store or asynchronous copy of global memory in the code of a thread."""

    op: str
    bits: int
    args: frozenset[str]  # the arguments that its address is computed from


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
    def accesses(self) -> list[Access]:
        return list(_accesses(self.asm["ptx"], _parameters(self.plan)))

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


_INSTRUCTION = re.compile(r"^\s*(?:@!?%\w+\s+)?([a-z][\w.:]*)\s+(.*?);")
_PARAM = re.compile(r"_param_(\d+)\b")


def _parameters(plan: Plan) -> dict[int, str]:
    """The arguments behind the pointer parameters of the PTX, by their place."""
    names, place = {}, 0
    for name, kind in _leaves(plan):
        if kind[0] == "*":
            names[place] = name
        if kind.startswith("tensordesc"):
            names[place] = name
            place += 2 * (kind.count(",") + 1)  # its shape and its strides follow
        place += 1
    return names


def _leaves(plan: Plan) -> Iterator[tuple[str, str]]:
    """(argument, type) of every runtime parameter, tuples flattened, in order."""

    def walk(name, kind):
        if isinstance(kind, tuple):
            for part in kind:
                yield from walk(name, part)
        elif kind != "constexpr":
            yield name, kind

    for name, kind in source_of(plan).signature.items():
        yield from walk(name, kind)


def _accesses(ptx: str, names: dict[int, str]) -> Iterator[Access]:
    code = [m.groups() for line in ptx.splitlines() if (m := _INSTRUCTION.match(line))]
    origin: dict[str, frozenset[str]] = {}  # 64-bit register -> arguments

    def origins(text: str) -> frozenset[str]:
        found = [origin.get(r, frozenset()) for r in re.findall(r"%rd\d+", text)]
        direct = [names[int(p)] for p in _PARAM.findall(text) if int(p) in names]
        return frozenset(direct).union(*found)

    changed = True
    while changed:  # a loop carries pointers back
        changed = False
        for opcode, operands in code:
            target, _, sources = operands.partition(",")
            if not target.startswith("%rd") or re.match(r"(ld|atom|cp|shfl)\.(?!param)", opcode):
                continue
            both = origins(sources) | origin.get(target, frozenset())
            changed |= both != origin.get(target, frozenset())
            origin[target] = both
    for opcode, operands in code:
        if m := re.match(r"(ld|st)\.global.*?(?:\.v(\d))?\.[busf](\d+)$", opcode):
            address = re.search(r"\[([^]]*)\]", operands)[1]
            yield Access("load" if m[1] == "ld" else "store", int(m[2] or 1) * int(m[3]), origins(address))
        elif opcode.startswith("cp.async.bulk"):
            yield Access("copy", 1024, origins(operands))
        elif re.match(r"cp\.async\.c[ag]\.", opcode):
            _, address, size, *_ = re.split(r"\]\s*,|,", operands)
            yield Access("copy", 8 * int(size, 0), origins(address))


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


class _Planning(TorchDispatchMode):
    """The implementations of our operators instead of their fakes: on meta tensors they plan, and launch nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == library.ns:
            op = OPERATORS[func._opname.removesuffix("_bwd")]
            return (op.run_forward if func._opname == op.name else op.run_backward)(*args)
        return func(*args, **(kwargs or {}))


def planned(
    function: Callable, *inputs: Tensor | None, needs: Sequence[bool] | None = None, **options
) -> tuple[list[Plan], list[Plan]]:
    """What a public function launches for these meta tensors: (forward, backward)."""
    needs = [t is not None for t in inputs] if needs is None else needs
    leaves = [t if t is None else t.detach().requires_grad_(n) for t, n in zip(inputs, needs, strict=True)]
    with recorded() as forward, _Planning():
        outputs = function(*leaves, backend="triton", **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    wanted = [t for t in leaves if t is not None and t.requires_grad]
    with recorded() as backward, _Planning():
        if wanted:
            torch.autograd.grad(outputs, wanted, [torch.empty_like(o) for o in outputs])
    return forward, backward


def maps_of(plan: Plan, sizes: Collection[int]) -> dict[str, Tensor]:
    """The arguments that are feature maps: those with one of these numbers of elements (see `map_sizes`)."""
    tensors = {k: getattr(v, "base", v) if not isinstance(v, Tensor) else v for k, v in plan.args.items()}
    return {k: t for k, t in tensors.items() if isinstance(t, Tensor) and t.numel() in sizes and t.dim() > 1}


def map_sizes(row: Op, sizes: Any) -> frozenset[int]:
    """The numbers of elements of a row's feature maps, inputs and outputs; maps of one channel, and outputs with
    fewer channels than y, do not count."""
    maps = [row.map_shape(spec, sizes) for spec in row.inputs.values() if "*" in spec]
    y = row.map_shape(row.outputs["y"], sizes)
    return frozenset(prod(shape) for shape in (*maps, y) if shape[1] > 1)


def plans(
    row: Op,
    sizes: Any,
    dtype: torch.dtype = torch.bfloat16,
    layout: str = "contiguous",
    arch: int | str = 90,
    needs: Sequence[bool] | None = None,
    **options,
) -> tuple[list[Plan], list[Plan]]:
    """What a row of the catalog launches forward and backward for a problem of these sizes, on that GPU."""
    inputs = make_inputs(row, sizes, dtype, layout=layout, device="meta")
    with planning_for(arch if isinstance(arch, int) else AMD):
        return planned(row.op, *inputs, needs=needs, **{**row.defaults, **options})


def plans_of(problem: Problem, arch: int) -> list[Plan]:
    """The same of a problem, forward and backward in order."""
    with planning_for(arch):
        return list(chain(*planned(problem.row.op, *problem.inputs("meta"), needs=problem.wants, **problem.keywords)))
