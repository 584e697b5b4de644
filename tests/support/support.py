"""What the tests share: the rows as parameters, small problems, the comparison with the reference, and its count."""

import inspect
import itertools
import math
import mmap
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segattn_triton import functional
from segattn_triton.catalog import ROWS, Op
from segattn_triton.ops.local_dense import VARIANTS
from segattn_triton.testing import LAYOUTS, make_inputs, matches

INTERPRETED = not torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

checked: set[tuple[str, str, str, str]] = set()  # op, dtype, layout, direction
compared = 0  # tensors
properties: dict[str, set[str]] = defaultdict(set)  # what passing tests recorded: kernels "probed", "hostile" inputs

GATES = [row for row in ROWS if row.is_gate]
MODULES = [row for row in ROWS if row.module]  # of functions without parameters there is none
each_module = pytest.mark.parametrize("row", MODULES, ids=lambda row: row.name)
each_gate_module = pytest.mark.parametrize("row", [r for r in MODULES if r.is_gate], ids=lambda row: row.name)
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
each_image_apart = pytest.mark.parametrize("row", [r for r in ROWS if not r.over_batch], ids=lambda row: row.name)
over_batch = pytest.mark.parametrize("row", [r for r in ROWS if r.over_batch], ids=lambda row: row.name)
PERCEPTRONS = [  # of two layers or one
    row
    for row in ROWS
    if "w2" in row.inputs
    and "ln_weight" not in row.inputs
    and row.op not in (functional.scse, functional.squeeze_excite_norms)
]
each_perceptron = pytest.mark.parametrize("row", PERCEPTRONS, ids=lambda row: row.name)
each_gate = pytest.mark.parametrize("row", GATES, ids=lambda row: row.name)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


def option_sets(row: Op) -> list[dict]:
    """The defaults; then every other value of each option beside the others' defaults, `ties` beside each maximum."""
    sets: list[dict] = [{}]
    for name, values in row.options.items():
        beside = [{"pool": p} for p in row.options["pool"] if "max" in p] if name == "ties" else [{}]
        sets += [{**others, name: value} for value in values[1:] for others in beside]
    return sets


def _options_of(rows: Sequence[Op]):
    sets = [(row, options) for row in rows for options in option_sets(row)]
    ids = ["-".join([row.name, *map(str, options.values())]) for row, options in sets]
    return pytest.mark.parametrize(("row", "options"), sets, ids=ids)


def is_read_by_descriptors(layout: str, dtype: torch.dtype) -> bool:
    """Whether the tensor memory accelerator can read a map of 16 channels."""
    return dtype.itemsize == 2 and layout == "channels_last"


each_dense_variant = pytest.mark.parametrize(
    ("variant", "layout", "dtype"),
    [
        (variant, layout, dtype)
        for variant, layout, dtype in itertools.product(VARIANTS, LAYOUTS, DTYPES)
        if variant != "descriptors" or is_read_by_descriptors(layout, dtype)
    ],
    ids=str,
)
each_option, each_option_of_gates = _options_of(ROWS), _options_of(GATES)
each_option_of_modules = _options_of([row for row in GATES if row.module])


def problem(
    row: Op, S: Sequence[int] = (5, 6), C: int = 5, N: int = 2, dtype=torch.float32, Cr: int = 0, **how
) -> list[Tensor]:
    """Random inputs of a row, on the device of these tests. `how`: layout, seed, param_dtype."""
    return make_inputs(row, sizes_of(row, S, C, N, Cr), dtype, device=DEVICE, **how)


def sizes_of(row: Op, S: Sequence[int], C: int, N: int, Cr: int = 0) -> dict:
    """With as many images, if any, and as many pixels along each axis as the row needs."""
    S = tuple(max(s, row.smallest) for s in S)
    N = max(N, row.fewest, images_of_a_norm(S) if row.over_batch else 1) if N else 0
    return {"N": N, "C": C, "S": S, "Cr": Cr or max(1, C // 2)}


def images_of_a_norm(S: Sequence[int]) -> int:
    """Whose pixels are eight values or more. Of two a norm makes 1 and -1 whatever they are, and every gradient through
    it is a difference of equal terms, of which only their rounding is left."""
    return -(-8 // math.prod(S))


def names(row: Op) -> list[str]:
    return [name.removesuffix("?") for name in row.inputs]


def without(row: Op, inputs: Sequence[Tensor], absent: Sequence[str]) -> list[Tensor | None]:
    return [None if name in absent else t for name, t in zip(names(row), inputs, strict=True)]


def one_map(row: Op, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """Without the optional maps beside the first: y is then x times the gate."""
    return without(row, inputs, [name for name in row.maps if f"{name}?" in row.inputs])


def beside(row: Op, x: Tensor) -> dict[str, Tensor]:
    """The maps that the row's module needs beside a map x (N, C, *S), by name: x itself in another order."""
    return {name: x.detach().flip(1) for name in _needed(row)}


def _needed(row: Op) -> list[str]:
    if row.module is None:
        return []
    taken = inspect.signature(row.module.forward).parameters
    return [name for name in row.maps[1:] if name in taken and name in row.inputs]


def one_product(row: Op) -> dict[str, str]:
    """The options with which y is x times a single gate, rounded once: of two gates the larger."""
    return {"reduce": "max"} if "reduce" in row.options else {}


class Alone(nn.Module):
    """A row's module on one map, of which another order is what the module needs beside it: torch.compile breaks the
    graph where a function is called with one tensor twice."""

    def __init__(self, row: Op, module: nn.Module):
        super().__init__()
        self.module, self.beside = module, _needed(row)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, **{name: x.flip(1) for name in self.beside})


class OfFunction(nn.Module):
    """A row without a module, on one map; the others are that in another order, and its mean over the channels."""

    def __init__(self, row: Op, backend: str | None = None):
        super().__init__()
        self.op, self.backend = row.op, backend
        self.shapes = [spec for name, spec in row.inputs.items() if not name.endswith("?")][1:]

    def forward(self, x: Tensor) -> Tensor:
        made = {"N 1 *S": lambda: x.mean(1, keepdim=True), "N C *T": lambda: x[:, :, ::2, ::2]}
        made |= {"N C *U": lambda: x.mean(3, keepdim=True), "N C *V": lambda: x.mean(2, keepdim=True)}
        made |= {"N R B *T": lambda: x.mean((*range(2, x.dim()),), keepdim=True)[:, None]}  # of one branch
        others = [made.get(spec, lambda: x.flip(1))() for spec in self.shapes]
        return self.op(x, *others, backend=self.backend)


def as_y(row: Op, inputs: Sequence[Tensor]) -> Tensor:
    """The first map, or so many of its channels as the result has: those of one branch."""
    return inputs[0][:, : row.reference(*inputs).shape[1]]


def replaced_map(row: Op, inputs: Sequence[Tensor | None], x: Tensor) -> list[Tensor | None]:
    """The inputs with the map x (N, C, *S) as the first one."""
    return [row.view(next(iter(row.inputs.values())), x, {"C": x.shape[1], "S": x.shape[2:]}), *inputs[1:]]


def module_of(row: Op, C: int, **options) -> nn.Module:
    """The row's module on the device of these tests, its kernels running."""
    return made(row, C, **{"backend": "triton", **options}).to(DEVICE)


def made(row: Op, C: int, **options) -> nn.Module:
    """The row's module for maps of C channels."""
    if row.module is None:
        return OfFunction(row, **options)
    known = inspect.signature(row.module).parameters
    sized = {name: value for name, value in {"in_channels": C, "num_heads": 2}.items() if name in known}
    return row.module(**{**sized, **row.fixed, **options})


def layout_of(x: Tensor) -> str:
    """Of a map (N, C, *S)."""
    order = "NCHW" if x.movedim(1, -1).stride(-1) != 1 or x.is_contiguous() else "channels_last"
    dense = x.is_contiguous() or x.movedim(1, -1).is_contiguous()
    return order if dense else f"{order} view"


def assert_right(row: Op, *inputs: Tensor | None, needs: Sequence[bool] | None = None, **options) -> None:
    """Outputs, map included, and gradients of the kernels agree with the reference within the error budget."""
    global compared
    options = {**row.both, **options}
    found = matches(row, *inputs, needs=needs, **options)
    compared += len(found)
    directions = ["forward"] + ["backward"] * (len(found) > 1 + options[row.second])
    layout = layout_of(row.as_map(next(iter(row.inputs.values())), inputs[0]))
    checked.update((row.name, str(inputs[0].dtype)[6:], layout, d) for d in directions)
    wrong = [f"{match.name}: {match.detail}" for match in found if not match.ok]
    assert not wrong, "\n".join([f"{row.name} {options}", *wrong])


def outputs_and_gradients(fn, inputs: Sequence[Tensor | None], douts=None, **options) -> list[Tensor]:
    """(y, map, *gradients of every given input) of one call, for the gradients `douts` of y and map.

    `fn` is the op or the reference of a row.
    """
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    outputs = fn(*leaves, **both(fn), **options)
    if douts is None:
        generator = torch.Generator().manual_seed(7)
        douts = [torch.randn(o.shape, generator=generator).to(o) for o in outputs]
    return [*outputs, *torch.autograd.grad(outputs, [t for t in leaves if t is not None], douts)]


def both(fn) -> dict[str, bool]:
    """The option of a row's op or reference that asks for both outputs."""
    return {name: True for name in {row.second for row in ROWS} & inspect.signature(fn).parameters.keys()}


def assert_equal(got: Tensor, expected: Tensor) -> None:
    """Without tolerance; NaN equals NaN."""
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


class Calls(TorchDispatchMode):
    """Records the calls of our operators: (operator, arguments, outputs)."""

    def __init__(self):
        super().__init__()
        self.made: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.namespace == "segattn":
            self.made.append((func, args, out if isinstance(out, (tuple, list)) else (out,)))
        return out


def summary(share: int) -> str:
    axes = ("ops", "dtypes", "layouts", "directions")
    counts = " x ".join(f"{len({c[i] for c in checked})} {axis}" for i, axis in enumerate(axes))
    where = "Triton's interpreter" if INTERPRETED else torch.cuda.get_device_name()
    part = "" if share == 1 else f" (by one in {share} of the cases)"
    return (
        f"{compared} tensors checked against the reference in {where}: {counts}, {len(checked)} combinations; "
        f"{len(properties['probed'])} kernels probed for memory faults and traffic; "
        f"{len(properties['hostile'])} hostile inputs tried, none silently wrong{part}"
    )


def write_summary(readme: Path, share: int) -> None:
    """Between the marks of the README."""
    start, end = "<!-- tests:checked -->\n", "\n<!-- end:checked -->"
    text, count = re.subn(
        f"{start}.*?{end}", lambda _: start + summary(share) + "." + end, readme.read_text(), flags=re.S
    )
    assert count == 1, f"{readme}: expected {start.strip()} ... {end.strip()} once"
    readme.write_text(text)


def replace_implementation(monkeypatch, by: Callable) -> None:
    """What every public function asks for its operation."""
    for name, module in sorted(sys.modules.items()):
        if name.startswith("segattn_triton.functional.") and hasattr(module, "implementation"):
            monkeypatch.setattr(module, "implementation", by)


def kernel_modules() -> list[ModuleType]:
    """Every module of kernels, of all families."""
    return [module for name, module in sorted(sys.modules.items()) if name.startswith("segattn_triton.kernels.")]


def reserved(shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros in any strides; memory is committed where it is touched, however far it reaches."""
    extent = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    no_reserve = 0x4000  # Linux's MAP_NORESERVE
    memory = mmap.mmap(-1, extent * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    return torch.frombuffer(memory, dtype=dtype).as_strided(shape, stride)
