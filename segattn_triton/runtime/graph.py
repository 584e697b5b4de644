"""The launches of an operator as calls of Triton's kernels in a graph, for compilers that cannot see into an operator.

`kernel_calls()` goes where `decompositions()` goes: a program of torch.export for a GPU then holds allocations and
`triton_kernel_wrapper` calls, of which AOTInductor takes machine code along, so that no Python is there at run time.
Compiled and compared as code (`tests/runtime/test_graph.py`), and never run: no GPU was at hand.

A call of a kernel there has numbers and tensors for arguments, no tuples, and no constants but plain ones. So each
launch gets an adapter, a kernel of its own that hands on: strides come one by one, and the kernel and its constants are
what functions of the compilation return, which import them. Its parameters are what is read, numbers, what is written.
"""

import hashlib
import linecache
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table, triton_kernel_wrapper_functional
from triton.tools.tensor_descriptor import TensorDescriptor

from ..tuning.target import planning_for
from .operator import OPERATORS, DifferentiableOp
from .plan import INTERPRETED, Plan
from .program import Place, Step
from .run import Run

PASSED_ON = ("num_warps", "num_stages")  # of a launch's options: what a call in a graph takes


def kernel_calls(capability: int) -> dict:
    """{operator: its forward as calls of kernels}, for `ExportedProgram.run_decompositions`.

    capability: 10 * major + minor of the GPU that the graph is for, 90 for an H200.
    Errors, where an operator is taken apart: ValueError for sizes that are symbols, because a program is of one shape,
    and for kernels that read by tensor descriptors; RuntimeError in a process in which Triton interprets.
    """
    if INTERPRETED:
        raise RuntimeError("kernel_calls: Triton interprets in this process, and a graph holds compiled kernels")
    return {op.op: partial(_called, op, capability) for op in OPERATORS.values()}


def _called(op: DifferentiableOp, capability: int, *args: Any):
    """What the operator returns, by the steps that its program would have."""
    given = args[: op.num_tensors]
    if any(not isinstance(size, int) for t in given if t is not None for size in (*t.shape, *t.stride())):
        raise ValueError(f"{op.name}: got symbolic sizes, expected numbers: export without dynamic shapes")
    with ThreadPoolExecutor(1) as another:  # which nobody traces: what is planned is no part of the graph
        run, outputs = another.submit(_planned, op, capability, args).result()
    places = [run._place(output) for output in outputs]
    tensors = [*given]
    for step in run.steps:
        step(tensors, 0)
    found = [place.tensor(tensors) for place in places]
    return tuple(found) if len(found) > 1 else found[0]


def _planned(op: DifferentiableOp, capability: int, args: Sequence) -> tuple["_Graph", list[Tensor]]:
    """What was noted, and the outputs, on tensors like these that have no memory."""
    twins = [None if t is None else _twin(t) for t in args[: op.num_tensors]]
    run = _Graph(twins)
    with planning_for(capability):
        return run, op.forward_by(run, [*twins, *args[op.num_tensors :]], complete=True)


def _twin(t: Tensor) -> Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")


class _Graph(Run):
    """Steps that work on the tensors of a graph."""

    def __init__(self, given: Sequence[Tensor | None]):
        super().__init__(given, writes=True)

    def empty(self, made: Tensor) -> Tensor:
        shape, stride, dtype = tuple(made.shape), made.stride(), made.dtype

        def allocate(tensors: list, stream: int) -> None:
            device = next(t.device for t in tensors if t is not None)
            tensors.append(torch.empty_strided(shape, stride, dtype=dtype, device=device))

        self.steps.append(allocate)
        self.tensors.append(made)
        return made

    def _launched(self, plan: Plan, compiled: Any) -> None:
        if plan.grid:
            self.steps.append(_launching(plan, self._place))


def _launching(plan: Plan, place_of: Callable[[Tensor], Place]) -> Step:
    """The functional call: one that writes into its arguments has no result, and would be taken out of a graph."""
    adapter, arguments = adapted(plan)
    places = {name: place_of(value) for name, value in arguments.items() if isinstance(value, Tensor)}
    written = [name for name in places if plan.traffic.get(name, (0, 1))[1]]
    if any(places[name].view for name in written):
        raise ValueError(f"{plan.name}: writes into a part of a tensor, expected whole ones")
    how = dict(
        kernel_idx=kernel_side_table.add_kernel(adapter),
        constant_args_idx=kernel_side_table.add_constant_args({}),
        grid=[(plan.grid, 1, 1)],
        tma_descriptor_metadata={},
        tensors_to_clone=written,  # Inductor leaves out the copies of what is new
    )

    def launch(tensors: list, stream: int) -> None:
        given = arguments | {name: place.tensor(tensors) for name, place in places.items()}
        for name, made in triton_kernel_wrapper_functional(kwargs=given, **how).items():
            tensors[places[name].index] = made

    return launch


class Part(NamedTuple):
    """How an adapter hands on one argument: parameters of its own with their values, and an expression of them."""

    values: Mapping[str, Any]
    expression: str
    made: str = ""  # instead: the body of a function of the compilation, which returns it


def adapted(plan: Plan) -> tuple[Any, dict[str, Any]]:
    """The adapter of a launch, and its arguments in order."""
    values = {**plan.args, **plan.config.blocks}
    parts = {p.name: _part(p.name, values[p.name], p.is_constexpr) for p in plan.kernel.params}
    arguments = {name: value for part in parts.values() for name, value in part.values.items()}
    arguments = dict(sorted(arguments.items(), key=lambda pair: _order(plan, *pair)))
    own, written = plan.kernel.fn, [(name, part.expression) for name, part in parts.items()]
    # what Triton's cache knows the adapter by: its own text names the sources of all that it hands on
    sources = [plan.kernel.cache_key, *(v.cache_key for v in values.values() if hasattr(v, "cache_key"))]
    # of one graph's many adapters the functions share one space of names
    digest = hashlib.sha256(f"{sources} {[*arguments]} {written}".encode()).hexdigest()[:8]
    made = {f"{name}_{digest}": part.made for name, part in parts.items() if part.made}
    made[f"kernel_{digest}"] = _returned(own.__name__, {own.__name__: own.__module__})
    handed = [f"{name}={f'{name}_{digest}()' if part.made else part.expression}" for name, part in parts.items()]
    text = "".join(f"@triton.constexpr_function\ndef {name}():\n{lines}\n\n" for name, lines in made.items())
    text += f"@triton.jit\ndef {plan.name}_{digest}({', '.join(arguments)}):\n"
    text += f"    # {own.__module__}.{own.__name__} as of {' '.join(sources)}\n"
    text += f"    kernel_{digest}()({', '.join(handed)})\n"
    kernel = _compiled(f"{plan.name}_{digest}", text)
    options = {name: value for name, value in plan.config.launch_options.items() if name in PASSED_ON}
    return triton.autotune([triton.Config({}, **options)], key=[])(kernel), arguments


def _order(plan: Plan, name: str, value: Any) -> int:
    """What is read, then numbers, then what is written."""
    if not isinstance(value, Tensor):
        return 1
    loads, stores = plan.traffic.get(name, (1, 0))
    return 2 if stores and not loads else 0


def _part(name: str, value: Any, is_constant: bool) -> Part:
    if isinstance(value, TensorDescriptor):
        raise ValueError(f"{name}: got a tensor descriptor, which an adapter cannot hand on: choose another variant")
    if value is None or (is_constant and isinstance(value, bool | int | float | str)):
        return Part({}, repr(value))
    if is_constant:
        modules: dict[str, str] = {}
        expression = _written(value, modules)
        return Part({}, expression, _returned(expression, modules))
    if isinstance(value, tuple):
        inner = [_part(f"{name}_{i}", v, False) for i, v in enumerate(value)]
        values = {name: v for part in inner for name, v in part.values.items()}
        return Part(values, f"({', '.join(part.expression for part in inner)},)")
    return Part({name: value}, name)


def _written(value: Any, modules: dict[str, str]) -> str:
    """The expression of a constant; the names in it by the modules that they come from."""
    if isinstance(value, triton.JITFunction):
        modules[value.fn.__name__] = value.fn.__module__
        return value.fn.__name__
    if isinstance(value, triton.language.dtype):
        modules["language"] = "triton"
        return f"language.{_spelled(value)}"
    if isinstance(value, tuple):
        inner = "".join(f"{_written(v, modules)}, " for v in value)
        if not hasattr(value, "_fields"):
            return f"({inner})"
        modules[type(value).__name__] = type(value).__module__
        return f"{type(value).__name__}({inner})"
    return repr(value)


def _spelled(dtype: triton.language.dtype) -> str:
    """ "float32" of what Triton calls fp32."""
    return next(name for name, value in vars(triton.language).items() if value is dtype)


def _returned(expression: str, modules: Mapping[str, str]) -> str:
    lines = [f"    from {module} import {name}\n" for name, module in modules.items()]
    return "".join([*lines, f"    return {expression}\n"])


@cache
def _compiled(name: str, text: str) -> triton.JITFunction:
    """The kernel of that source, which Triton asks for."""
    file = f"<segattn_triton.{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    names: dict[str, Any] = {"triton": triton, "__name__": __name__}
    exec(compile(text, file, "exec"), names)
    return names[name]
