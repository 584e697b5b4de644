"""The error budget, and the check of a kernel against the reference: for our tests, our commands and your CI.

The rule. Inputs are rounded to their dtype first. y64 is the reference in float64 on those values, e32 the error of
the reference in float32: its maximum over each plane of a map (over the whole of a parameter's gradient, and of that
of a map that reaches y by its pool alone, a number per plane), and over four samples, the problem itself and the
problem scaled by a per cent or two, because one sample of a rounding error can be small by luck; over twelve where
the errors of a plane are those of a few numbers: with a norm, or a perceptron of each row and column. Every element of
every output and gradient must satisfy

    |y - y64| <= u |y64| (1 + 1e-3) + 4 e32 + 4 * 2^-24 |y64| + tiny

with u half a unit in the last place of the output's dtype and tiny half its smallest subnormal: one rounding of the
output, and four times the local error that float32 arithmetic makes anyway. A row of the catalog that names
`rounding_points` computes e32 with exactly these intermediates rounded to 16 bits, as its kernels do. For float64
tensors the float32 errors are scaled by 2^-29. NaN and infinities must be where the reference has them.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .catalog import ROWS, Op, row_of
from .catalog.problem import LAYOUTS as LAYOUTS
from .catalog.problem import make_inputs as make_inputs
from .catalog.problem import make_map as make_map
from .catalog.row import is_map
from .reference._precision import rounded

UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24, torch.float64: 2.0**-53}
TINY = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133, torch.float32: 2.0**-149, torch.float64: 0.0}
SCALES = (1.0, 1 + 2.0**-6, 1 - 2.0**-6, 1 + 3 * 2.0**-7)  # exact on 16-bit values: ties stay ties
SCALES_OF_FEW = (*SCALES, *(1 + k * 2.0**-7 for k in (-4, -3, -1, 1, 4, 5, 6, 7)))


@dataclass(frozen=True)
class Match:
    """One output or gradient against its budget. `use` is the largest error over budget: at most 1 is a match."""

    name: str
    use: float
    failures: int
    detail: str

    @property
    def ok(self) -> bool:
        return self.failures == 0


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Matrix products and convolutions in full float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def compare(name: str, got: Tensor, y64: Tensor, error32: Tensor, whole: bool = False) -> Match:
    """One tensor against its budget; `error32` is the elementwise error of the reference in float32."""
    got, y64, u = got.detach(), y64.detach(), UNIT[got.dtype]
    if got.dtype == torch.float64:
        error32 = error32 * 2.0**-29
    plane = tuple(range(2, y64.dim())) if y64.dim() > 2 and not whole else tuple(range(y64.dim()))
    if y64.numel() and plane:
        error32 = error32.amax(plane, keepdim=True)
    relative = u * (1 + 1e-3) + 4 * (2.0**-53 if got.dtype == torch.float64 else 2.0**-24)
    budget = relative * y64.abs() + 4 * error32 + TINY[got.dtype]
    wanted = y64.to(got.dtype)
    finite = wanted.isfinite() & y64.isfinite()
    over = torch.where(finite, (got.double() - y64).abs() / budget.clamp_min(2.0**-1070), 0.0)
    over = torch.where((got.double() == y64) | ~finite, 0.0, over)
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    near_overflow = ~finite & y64.isfinite() & got.isfinite() & ((got.double() - y64).abs() <= budget)
    bad = torch.where(finite, ~(over <= 1), ~same & ~near_overflow)
    failures = int(bad.sum())
    detail = ""
    if failures:
        index = tuple(bad.nonzero()[0].tolist())
        detail = (
            f"{failures} of {bad.numel()} elements, first at {index}: got {got[index].item():.9g}, "
            f"expected {y64[index].item():.9g} +- {budget.expand_as(y64)[index].item():.3g}"
        )
    return Match(name, float(over.max()) if over.numel() else 0.0, failures, detail)


def outputs_and_gradients(
    fn: Callable, inputs: Sequence[Tensor | None], needs: Sequence[bool], douts: Sequence[Tensor], options: Mapping
) -> list[Tensor]:
    """The outputs of fn, then the gradients of the needed inputs for these gradients of the outputs."""
    leaves = [t if t is None else t.detach().requires_grad_(n) for t, n in zip(inputs, needs, strict=True)]
    outputs = fn(*leaves, **options)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    wanted = [t for t in leaves if t is not None and t.requires_grad]
    if not wanted:
        return outputs
    paired = [(o, d.to(o.dtype)) for d, o in zip(douts, outputs, strict=True) if o.requires_grad]
    differentiable, douts = map(list, zip(*paired, strict=True))
    return outputs + list(torch.autograd.grad(differentiable, wanted, douts))


def exact_and_error(
    run: Callable[[torch.dtype, float], list[Tensor]],
    points: Sequence[str],
    dtype: torch.dtype,
    few: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """The reference in float64, and its elementwise error in float32. `run(dtype, scale)` evaluates the reference."""
    points = points if dtype in (torch.float16, torch.bfloat16) else ()
    exact, errors = None, None
    for scale in SCALES_OF_FEW if few else SCALES:
        y64 = run(torch.float64, scale)
        with rounded(points, dtype):
            y32 = run(torch.float32, scale)
        sample = [(a.double() - b).abs().nan_to_num(0.0, 0.0, 0.0).detach() for a, b in zip(y32, y64, strict=True)]
        errors = sample if errors is None else [torch.maximum(a, b) for a, b in zip(errors, sample, strict=True)]
        exact = exact or y64
    return exact, errors


def _in_memory(t: Tensor) -> Tensor:
    """A lazy zero, on which backwards of torch that write in place fail, as zeros."""
    return t.clone() if t._is_zerotensor() else t


def matches(
    row: Op, *inputs: Tensor | None, needs: Sequence[bool] | None = None, backend="triton", seed=1, **options
) -> list[Match]:
    """Every output and gradient of a row's op on these inputs, against the reference."""
    needs = [t is not None for t in inputs] if needs is None else needs
    dtype = inputs[0].dtype
    names = [n.removesuffix("?") for n in row.inputs]
    values = [None if t is None else _in_memory(t.detach()) for t in inputs]
    probe = row.reference(*values, **options)
    generator = torch.Generator().manual_seed(seed)
    shapes = [o.shape for o in (probe if isinstance(probe, tuple) else (probe,))]
    douts = [torch.randn(s, generator=generator).to(inputs[0].device, dtype) for s in shapes]

    def run(wide, scale):
        scaled = [
            None if t is None else (t.to(torch.promote_types(t.dtype, torch.float32)) * scale).to(wide) for t in values
        ]
        return outputs_and_gradients(row.reference, scaled, needs, [d * scale for d in douts], options)

    with without_tf32():
        got = outputs_and_gradients(row.op, inputs, needs, douts, {**options, "backend": backend})
        exact, errors = exact_and_error(run, row.rounding_points, dtype, row.has_few_errors)
    labels = list(row.outputs)[: len(shapes)] + [f"d{n}" for n, need in zip(names, needs, strict=False) if need]
    specs = list(row.outputs.values())[: len(shapes)]
    specs += [spec for spec, need in zip(row.inputs.values(), needs, strict=False) if need]
    planes = [[row.as_map(spec, t) for spec, t in zip(specs, ts, strict=True)] for ts in (got, exact, errors)]
    whole = [is_map(spec) and "*S" not in spec.split() for spec in specs]
    return [compare(*values) for values in zip(labels, *planes, whole, strict=True)]


def _module_matches(
    module: nn.Module, inputs: Sequence[Tensor], maps: Mapping[str, Tensor], backend: str
) -> list[Match]:
    rows = [r for r in ROWS if type(module) is r.module]
    if len(rows) > 1:
        rows = [r for r in rows if r.fits(*_row_tensors(r, module, inputs[0], maps))]
    row = rows[0] if rows else None
    dtype = inputs[0].dtype
    labels: list[str] = []

    def run(wide, scale, chosen="reference"):
        twin = copy.deepcopy(module)
        for child in twin.modules():
            if "backend" in vars(child):
                child.backend = chosen
        with torch.no_grad():
            for p in twin.parameters():
                p.mul_(scale)
        twin = twin if wide is None else twin.to(wide)
        named = dict(twin.named_parameters())
        leaves = [(t.detach() * scale).to(wide or t.dtype).requires_grad_() for t in inputs]
        others = {n: (t.detach() * scale).to(wide or t.dtype).requires_grad_() for n, t in maps.items()}
        y = twin(*leaves, **others)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.device, dtype).to(y.dtype)
        labels[:] = ["y", *[f"d input {i}" for i in range(len(leaves))], *[f"d {n}" for n in (*others, *named)]]
        return [y, *torch.autograd.grad(y, [*leaves, *others.values(), *named.values()], dy)]

    with without_tf32():
        got = run(None, 1.0, backend)
        points = (*row.rounding_points, *row.module_points) if row else ()
        exact, errors = exact_and_error(run, points, dtype, row is not None and row.has_few_errors)
    return [compare(*values) for values in zip(labels, got, exact, errors, strict=True)]


def _row_tensors(row: Op, module: nn.Module, x: Tensor, maps: Mapping[str, Tensor]) -> list[Tensor | None]:
    state, given = dict(module.named_parameters()), {**maps, row.maps[0]: x}
    names = [name.removesuffix("?") for name in row.inputs]
    return [given.get(name, state.get(row.parameters.get(name))) for name in names]


def assert_matches_reference(
    op_or_module: Callable | nn.Module, *inputs: Tensor | None, backend: str = "triton", **options
) -> list[Match]:
    """Raise AssertionError unless every output and gradient agrees with the reference within the budget.

    `op_or_module` is a function of `segattn_triton.functional`, with its tensors and options, or a module of
    segattn_triton, with its input, and by name the maps that it needs beside. Runs where the kernels
    can run: on CUDA tensors, or on CPU tensors in Triton's interpreter (TRITON_INTERPRET=1 in the environment before
    the first import); elsewhere RuntimeError.
    Returns the matches, whose `use` says how much of the budget each tensor needed.
    """
    if isinstance(op_or_module, nn.Module):
        wrong = [name for name, value in options.items() if not isinstance(value, Tensor)]
        if wrong:
            raise TypeError(f"options: got {', '.join(wrong)} with a module, expected them on the module itself")
        name, found = type(op_or_module).__name__, _module_matches(op_or_module, inputs, options, backend)
    else:
        row = row_of(op_or_module, *inputs)
        inputs = (*inputs, *[None] * (len(row.inputs) - len(inputs)))
        name, found = row.name, matches(row, *inputs, backend=backend, **options)
    wrong = [f"  {m.name}: {m.detail}" for m in found if not m.ok]
    if wrong:
        raise AssertionError("\n".join([f"{name} does not match the reference:", *wrong]))
    return found
