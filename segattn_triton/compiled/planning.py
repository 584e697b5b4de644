"""What a public function, a row of the catalog or a problem would launch: plans, recorded on meta tensors."""

from collections.abc import Callable, Collection, Sequence
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..catalog import Op, Problem
from ..catalog.problem import make_inputs
from ..runtime.operator import OPERATORS
from ..runtime.plan import Plan, recorded
from ..runtime.schema import library
from ..tuning.target import AMD, planning_for


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


def map_sizes(row: Op, sizes: Any) -> frozenset[int]:
    """The numbers of elements of a row's feature maps, inputs and outputs; maps of one channel, outputs with fewer
    channels than y, and maps of another resolution, which are read a value at a time, do not count."""
    maps = [row.map_shape(spec, sizes) for spec in row.inputs.values() if "*" in spec]
    y = row.map_shape(row.outputs["y"], sizes)
    return frozenset(prod(shape) for shape in (*maps, y) if shape[1] > 1 and shape[2:] == y[2:])


def plans(
    row: Op,
    sizes: Any,
    dtype: torch.dtype = torch.bfloat16,
    layout: str = "contiguous",
    arch: int | str = 90,
    needs: Sequence[bool] | None = None,
    absent: Collection[str] = (),
    **options,
) -> tuple[list[Plan], list[Plan]]:
    """What a row of the catalog launches forward and backward for a problem of these sizes, on that GPU; without the
    optional inputs that are absent."""
    inputs = make_inputs(row, sizes, dtype, layout=layout, device="meta")
    inputs = [None if name in absent else t for name, t in zip(row.shapes(sizes), inputs, strict=True)]
    with planning_for(arch if isinstance(arch, int) else AMD):
        return planned(row.op, *inputs, needs=needs, **{**row.defaults, **options})


def plans_of(problem: Problem, arch: int) -> list[Plan]:
    """The same of a problem, forward and backward in order."""
    with planning_for(arch):
        return list(chain(*planned(problem.row.op, *problem.inputs("meta"), needs=problem.wants, **problem.keywords)))
