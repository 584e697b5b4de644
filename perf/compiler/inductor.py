"""What torch.compile launches for a function on a GPU, found without one: Inductor's kernels, and calls of libraries.

AOTAutograd traces the function on tensors without memory and splits it into forward and backward, as torch.compile
does; their graphs are moved to a GPU that is not there, and Inductor generates its code for that. The code then runs on
tensors without memory, too: each kernel and each call of a library is noted, and none is launched. Needs a process of
its own, in which Triton does not interpret.
"""

import contextlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch._dynamo
import torch._functorch.config
import torch._inductor.compile_fx as inductor
import torch._inductor.config
import triton
from torch import Tensor
from torch._inductor.fx_passes import reinplace
from torch._inductor.runtime import triton_helpers, triton_heuristics
from torch._inductor.select_algorithm import extern_kernels
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from triton.compiler import ASTSource

from ...compiled import Compiled, target
from ...tuning.target import SHARED
from ..account.assumptions import MACHINES
from ..account.launch import Buffer, Launch
from .libraries import Library, Noting


def properties(arch: int) -> SimpleNamespace:
    """Those that torch would ask the GPU for."""
    machine, threads = MACHINES[arch], 1536 if arch in (86, 89, 120) else 2048
    return SimpleNamespace(
        **dict(name=machine.name, major=arch // 10, minor=arch % 10, multi_processor_count=machine.sms),
        **dict(max_threads_per_multi_processor=threads, regs_per_multiprocessor=65536, warp_size=32),
        **dict(shared_memory_per_block=49152, shared_memory_per_block_optin=SHARED[arch], max_threads_per_block=1024),
        **dict(shared_memory_per_multiprocessor=SHARED[arch] + 1024, L2_cache_size=60 * 2**20, gcnArchName=""),
        **dict(total_memory=141 * 2**30, is_integrated=False),
    )


@dataclass(frozen=True)
class Kernel:
    """One of Inductor's, with the tensors and numbers that it is launched with."""

    tuner: Any  # Inductor's own: the function, and the configs that it would time
    arguments: Sequence[Any]
    values: Mapping[int, Tensor] = field(default_factory=dict)  # storage of an argument -> what it holds
    arch: int = 90

    def launches(self) -> Iterator[Launch]:
        """By each of those configs."""
        for config in self.tuner.configs:
            yield self._launch(config)

    def _launch(self, config: triton.Config) -> Launch:
        meta, function = self.tuner.triton_meta, self.tuner.fn
        constants = {**meta["constants"], **config.kwargs}
        constants = {name: v for name, v in constants.items() if name in function.arg_names}
        source = ASTSource(function, meta["signature"], constants, meta["configs"][0])
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages, "enable_fp_fusion": True}
        made = triton.compile(source, target=target(self.arch), options=options)
        plan: Any = SimpleNamespace(config=SimpleNamespace(num_warps=config.num_warps))
        compiled = Compiled(plan, self.arch, made.metadata.shared, made.asm)
        names = [n for n in meta["signature"] if n not in config.kwargs]
        names += self.tuner.inductor_meta.get("extra_launcher_args", ())
        given = dict(zip(names, self.arguments, strict=True))
        known: dict[int, Buffer] = {}
        arguments = []
        for name, value in given.items():
            if isinstance(value, Tensor):  # of one storage: a buffer that is reused
                size = value.numel() * value.element_size()
                key = value.untyped_storage()._cdata
                held = self.values[key].flatten().long().numpy() if key in self.values else None
                value = known.setdefault(key, Buffer(name, size, len(known), held))
            if meta["signature"].get(name, "constexpr") != "constexpr":
                arguments.append((meta["signature"][name], value))
        numbers = {name: v for name, v in given.items() if not isinstance(v, Tensor)}
        grid = triton_heuristics.GridExpr.from_meta(self.tuner.inductor_meta, config).eval_slow(
            {**numbers, **constants}
        )
        resident, machine = compiled.programs_per_sm, MACHINES[self.arch]
        return Launch(function.__name__, compiled.sass, arguments, tuple(grid), config.num_warps, resident, machine)


class Generated(NamedTuple):
    forward: list[Kernel | Library]
    backward: list[Kernel | Library]


def generated(function: Callable, inputs: Sequence[Tensor], arch: int = 90) -> Generated:
    """What it launches for inputs like these, all of which need gradients; tensors of the meta device. A function may
    have a method `beside`: further inputs for these, integers that have values."""
    torch._dynamo.reset()  # of a mask, which it compiles: sizes that are others the second time stay constants
    known = function.beside(*inputs) if hasattr(function, "beside") else ()
    codes: list[str] = []
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def capture(graph: Any) -> None:
        code, _ = graph.codegen()
        codes.append(code.value)
        raise _Captured

    def compile_inner(gm: torch.fx.GraphModule, example: Sequence, **options: Any) -> Callable:
        _to_gpu(gm, mode)
        moved = [_moved(v, mode) for v in example]
        with a_gpu(arch), mock.patch.object(inductor.GraphLowering, "compile_to_module", capture):
            try:
                inductor.compile_fx_inner(gm, moved, **options)
            except Exception as error:
                if "_Captured" not in str(error):
                    raise
        return lambda *args: None

    with a_gpu(arch), mode:
        fakes = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) for t in (*inputs, *known)]
        graph = make_fx(function)(*fakes)
        fakes = [t.requires_grad_(t.is_floating_point()) for t in fakes]
    ours = dict(enable_autograd_cache=False, force_non_lazy_backward_lowering=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch._inductor.config.patch(force_disable_caches=True))
        stack.enter_context(torch._functorch.config.patch(**ours))
        stack.enter_context(a_gpu(arch))
        # what Inductor leaves where it is stopped, and says so
        folder = stack.enter_context(TemporaryDirectory())
        stack.enter_context(mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder))
        stack.enter_context(mock.patch.object(torch._inductor.utils.log, "disabled", True))
        inductor.compile_fx(graph, fakes, inner_compile=compile_inner)
    forward, backward = codes
    values = {f"primals_{len(inputs) + i + 1}": t for i, t in enumerate(known)}
    return Generated(_calls(forward, values, arch), _calls(backward, values, arch))


class _Captured(RuntimeError):
    def __str__(self) -> str:
        return "_Captured"


def _moved(value: Any, mode: FakeTensorMode) -> Any:
    if isinstance(value, FakeTensor):
        with mode:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
    return type(value)(_moved(v, mode) for v in value) if isinstance(value, (tuple, list)) else value


def _to_gpu(gm: torch.fx.GraphModule, mode: FakeTensorMode) -> None:
    graphs = [part.graph for part in gm.modules() if isinstance(part, torch.fx.GraphModule)]  # of a mask, too
    for node in chain.from_iterable(graph.nodes for graph in graphs):
        node.meta = {name: _moved(v, mode) if name == "val" else v for name, v in node.meta.items()}
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda")}


@contextlib.contextmanager
def a_gpu(arch: int) -> Iterator[None]:
    """torch and Triton believe in one."""
    capability, gpu = divmod(arch, 10), properties(arch)
    driver = SimpleNamespace(
        get_current_target=lambda: target(arch),
        get_current_device=lambda: 0,
        get_device_capability=lambda *args: capability,
    )
    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_properties": gpu,
        "_get_device_properties": gpu,
        "get_device_capability": capability,
        "synchronize": None,
        "set_device": None,
        "_lazy_init": None,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
    }
    before = triton.runtime.driver._active if hasattr(triton.runtime.driver, "_active") else None
    triton.runtime.driver.set_active(driver)
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *a, v=answer, **k: v, create=True))
        stack.enter_context(mock.patch.object(triton_helpers, "set_driver_to_gpu", lambda: None))
        stack.enter_context(mock.patch.object(reinplace, "graph_call_function", _call_function))
        stack.enter_context(mock.patch.object(FakeTensor, "copy_", lambda t, *args: t, create=True))
        yield
    if before is not None:
        triton.runtime.driver.set_active(before)


_call = reinplace.graph_call_function


def _call_function(graph: torch.fx.Graph, function: Any, *args: Any, **kwargs: Any) -> torch.fx.Node:
    """Inductor's, which computes what a new node gives: of a copy that is its target, and a copy would need a GPU."""
    if function is not torch.ops.aten.copy_.default and "generalized_scatter" not in function.__name__:
        return _call(graph, function, *args, **kwargs)
    node = graph.call_function(function, args, kwargs)
    node.meta["val"] = args[0].meta["val"]
    return node


def _calls(code: str, values: Mapping[str, Tensor], arch: int) -> list[Kernel | Library]:
    """What the code launches, in order. values: name of an input -> what it holds."""
    calls: list[Kernel | Library] = []
    held: dict[int, Tensor] = {}
    with TemporaryDirectory() as folder, a_gpu(arch):

        def kernel(name: str, source: str, **_: Any) -> Any:
            tuner = getattr(_module(Path(folder), name, source), name)
            return SimpleNamespace(run=lambda *args, stream: calls.append(Kernel(tuner, args, held, arch)))

        body = code[re.search(r"^async_compile = AsyncCompile\(\)$", code, re.M).end() :]
        body = re.sub(r"^empty_strided_p2p = .*$", "", body, flags=re.M)
        names: dict[str, Any] = {
            **dict(torch=torch, aten=torch.ops.aten, extern_kernels=extern_kernels, inf=float("inf"), nan=float("nan")),
            "async_compile": SimpleNamespace(triton=kernel, wait=lambda scope: None),
            "empty_strided_cuda": lambda size, stride, dtype: torch.empty_strided(
                size, stride, dtype=dtype, device="meta"
            ),
            "reinterpret_tensor": lambda t, size, stride, offset=0: t.as_strided(
                size, stride, t.storage_offset() + offset
            ),
            "copy_if_misaligned": lambda t: t,
            "get_raw_stream": lambda index: 0,
        }
        checks = ("assert_size_stride", "assert_size_stride_grouped", "assert_alignment")  # the second since torch 2.15
        names |= dict.fromkeys(checks, lambda *args: None)
        exec(compile(body, "inductor", "exec"), names)
        with mock.patch.object(torch._dynamo.testing, "rand_strided", _on_meta), Noting(calls):
            arguments = names["get_args"]()
            order = re.search(r"^    return \[(.*)\]$", code, re.M)[1].split(", ")
            storages = {name: t.untyped_storage()._cdata for name, t in zip(order, arguments, strict=True)}
            held |= {storages[name]: t for name, t in values.items() if name in storages}
            calls.clear()
            with mock.patch.object(torch.cuda, "_DeviceGuard", lambda index: contextlib.nullcontext()):
                names["call"](arguments)
    return calls


def _on_meta(size, stride, dtype, device=None) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="meta")


def _module(folder: Path, name: str, source: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
