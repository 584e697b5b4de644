"""Kernels in a graph, as Inductor generates code of it, for a GPU that is not there. Runs in processes in which Triton
does not interpret."""

import contextlib
import re
from collections import Counter
from typing import NamedTuple
from unittest import mock

import static_ledger  # noqa: F401, before Triton: it decides that this process compiles
import torch
import torch._inductor.compile_fx as inductor
import triton
from support import made
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.compiler import ASTSource

from segattn_triton import compiled as static
from segattn_triton.catalog import BY_NAME
from segattn_triton.catalog.problem import make_map
from segattn_triton.compiled.code import _cuobjdump
from segattn_triton.perf.compiler import inductor as generating
from segattn_triton.runtime.graph import adapted, kernel_calls
from segattn_triton.tuning.target import planning_for

SHAPE = (2, 32, 24, 40)


class Launch(NamedTuple):
    kernel: str
    grid: int
    arguments: list  # numbers, and of tensors shape, strides and dtype
    warps: int
    opcodes: Counter  # of the machine code for sm_90, without that of integers


def _of(name: str, layout: str, shape=SHAPE) -> tuple[nn.Module, Tensor]:
    """A row's module and a map of float16 on a GPU, without values."""
    with torch.device("cuda"):
        module = made(BY_NAME[name], SHAPE[1], dtype=torch.float16, backend="triton")
    map_ = make_map(shape, layout, None, torch.float16, "meta")
    x = torch.empty_strided(map_.shape, map_.stride(), dtype=map_.dtype, device="cuda")
    return module.eval().requires_grad_(False), x


def exported(name: str, layout: str, shape=SHAPE, **how):
    """A module's program, and as kernels."""
    with generating.a_gpu(90), FakeTensorMode(allow_non_fake_inputs=True):
        module, x = _of(name, layout, shape)
    with generating.a_gpu(90):
        program = torch.export.export(module, (x,), **how)
        return program, program.run_decompositions(kernel_calls(90))


def targets(program) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def generated(program) -> str:
    """The code of the wrapper that Inductor writes."""
    found: list[str] = []

    def capture(graph):
        found.append(graph.codegen()[0].value)
        raise generating._Captured

    graph = program.graph_module
    inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch._inductor.config.patch(force_disable_caches=True))
        stack.enter_context(generating.a_gpu(90))
        stack.enter_context(mock.patch.object(torch._inductor.utils.log, "disabled", True))
        stack.enter_context(mock.patch.object(inductor.GraphLowering, "compile_to_module", capture))
        try:
            inductor.compile_fx_inner(graph, inputs)
        except Exception as error:
            if "_Captured" not in str(error):
                raise
    return found[0]


def launched(code: str) -> list[Launch]:
    """What the wrapper launches, compiled from the source that it holds."""
    found = []
    for call in generating._calls(code, {}, 90):
        meta, (config,) = call.tuner.triton_meta, call.tuner.configs
        source = ASTSource(call.tuner.fn, meta["signature"], meta["constants"], meta["configs"][0])
        *arguments, grid, one, other = call.arguments
        assert (one, other) == (1, 1)
        how = dict(num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True)
        opcodes = _opcodes(triton.compile(source, target=static.target(90), options=how))
        found.append(Launch(call.tuner.fn.__name__, grid, list(map(_said, arguments)), config.num_warps, opcodes))
    return found


def planned(name: str, layout: str) -> list[Launch]:
    """What the operator launches by itself, its registers left to the compiler as in a graph."""
    row = BY_NAME[name]
    module, x = (
        made(row, SHAPE[1], dtype=torch.float16, device="meta"),
        make_map(SHAPE, layout, None, torch.float16, "meta"),
    )
    state = dict(module.named_parameters())
    given = [
        x,
        *(state[key].detach() if (key := row.parameters.get(n.removesuffix("?"))) else None for n in [*row.inputs][1:]),
    ]
    options = {**module.options, "return_map": False}
    with planning_for(90):
        plans, _ = static.planned(row.op, *given, needs=[False] * len(given), **options)
    found = []
    for plan in plans:
        adapter, arguments = adapted(plan)
        how = {n: v for n, v in plan.options.items() if n in ("num_warps", "num_stages", "enable_fp_fusion")}
        kernel = triton.compile(static.source_of(plan), target=static.target(90), options=how)
        said = [_said(v) for v in arguments.values()]
        found.append(Launch(adapter.fn.__name__, plan.grid, said, plan.config.num_warps, _opcodes(kernel)))
    return found


def _said(value):
    return (tuple(value.shape), value.stride(), value.dtype) if isinstance(value, Tensor) else value


def _opcodes(kernel) -> Counter:
    """Of memory, barriers, shuffles, floats and matrices: addresses are computed from parameters of another order."""
    sass = _cuobjdump(kernel.asm["cubin"], "-sass")
    found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", sass)
    return Counter(op for op in found if re.match("LD|ST|BAR|SHFL|MUFU|ATOM|RED|[FH]", op))


def both(name: str, layout: str) -> dict:
    program, graph = exported(name, layout)
    found = dict(before=targets(program), after=targets(graph))
    code = generated(graph)  # which writes into the graph
    return found | dict(code=code, generated=launched(code), planned=planned(name, layout))


def refused() -> list[str]:
    """Sizes that are symbols; a kernel that reads by tensor descriptors: rows of 64 pixels are whole tiles of them."""
    said = []
    for name, layout, how in (
        ("spatial_gate", "contiguous", dict(dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))),
        ("local_gate", "channels_last", dict(shape=(2, 32, 24, 64))),
    ):
        try:
            exported(name, layout, **how)
        except Exception as error:
            said.append(str(error))
    return said


def fuses_into_kernels() -> bool:
    """Inductor's fusion of what follows into a user's kernel."""
    return torch._inductor.config.epilogue_fusion_user_defined_triton_kernel
