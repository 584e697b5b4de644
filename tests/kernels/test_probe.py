"""Memory safety and traffic of every kernel, element by element; and the probe finds the faults planted here."""

import contextlib
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
import triton
import triton.language as tl
from probe import faults, probe
from support import (
    each_dense_variant,
    each_dtype,
    each_perceptron,
    each_row,
    kernel_modules,
    names,
    problem,
    reserved,
    sizes_of,
    without,
)

from segattn_triton import compiled, functional, testing
from segattn_triton.catalog import ALONG, BY_NAME, LARGE_KERNELS, ROWS, WINDOWS
from segattn_triton.kernels.conv.descriptors import takes_descriptors
from segattn_triton.ops import local_dense
from segattn_triton.runtime.maps import native
from segattn_triton.runtime.plan import MAX_GRID, Plan, launch
from segattn_triton.tuning.model import SMS, Config
from segattn_triton.tuning.target import planning_for

pytestmark = pytest.mark.interpreter


@pytest.fixture
def lazy_memory():
    """Memory that the system commits only where it is touched: the poison would touch all of it."""
    torch.use_deterministic_algorithms(False)


@triton.jit
def _scale_kernel(x_ptr, y_ptr, x_stride, y_stride, rows, COLS: tl.constexpr, FAULT: tl.constexpr, BLOCK: tl.constexpr):
    """y[row] = 2 x[row], a program per row, with one fault."""
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    mask = cols < COLS
    x_row = x_ptr + row * x_stride
    y_row = y_ptr + row * y_stride
    if FAULT == "load past the end":
        x = tl.load(x_row + cols + (rows - row) * x_stride, mask, other=0.0)
    elif FAULT == "load before the start":
        x = tl.load(x_row + cols - (row + 1) * x_stride, mask, other=0.0)
    elif FAULT == "load between the elements":
        x = tl.load(x_row + cols + 1, mask, other=0.0)
    elif FAULT == "load twice":
        x = tl.load(x_row + cols, mask, other=0.0) + 0 * tl.load(x_row + cols, mask, other=0.0)
    elif FAULT == "undefined lanes":
        x = tl.load(x_row + cols, mask)
        x += 0 * tl.sum(x, 0)
    else:
        x = tl.load(x_row + cols, mask, other=0.0)
    if FAULT == "store past the end":
        tl.store(y_row + cols + (rows - row) * y_stride, 2 * x, mask)
    elif FAULT == "store unmasked":
        tl.store(y_row + cols, 2 * x)
    elif FAULT == "last column dropped":
        tl.store(y_row + cols, 2 * x, cols < COLS - 1)
    elif FAULT == "every program stores row 0":
        tl.store(y_ptr + cols, 2 * x, mask)
    elif FAULT == "one address stored twice":
        tl.store(y_row + cols // 2 * 2, 2 * x, mask)
    elif FAULT == "store into the input":
        tl.store(x_row + cols, 2 * x, mask)
    elif FAULT == "stored in two passes":
        tl.store(y_row + cols, x, mask)
        tl.store(y_row + cols, 2 * x, mask)
    elif FAULT == "reads what a neighbour writes":
        tl.store(y_row + cols, 2 * x, mask)
        y = tl.load(y_ptr + (row + rows - 1) % rows * y_stride + cols, mask, other=0.0)
        tl.store(y_row + cols, 0 * y + 2 * x, mask)
    elif FAULT == "adds what the program before it wrote":
        y = tl.load(y_ptr + (row + rows - 1) % rows * y_stride + cols, mask, other=0.0)
        tl.store(y_row + cols, tl.where(y == y, y, 0.0) + 2 * x, mask)
    else:
        tl.store(y_row + cols, 2 * x, mask)


PLANTED = {
    "load past the end": "OOB: load",
    "load before the start": "OOB: load",
    "load between the elements": "GAP: load",
    "store past the end": "OOB: store",
    "store unmasked": "GAP: store",
    "load twice": "TRAFFIC: x_ptr loads 2, stated 1",
    "stored in two passes": "TRAFFIC: y_ptr stores 2, stated 1",
    "store into the input": "TRAFFIC: x_ptr stores",
    "last column dropped": "UNWRITTEN: y_ptr",
    "every program stores row 0": "RACE: y_ptr",
    "reads what a neighbour writes": "RACE: y_ptr",
    "adds what the program before it wrote": "RACE: y_ptr",
    "one address stored twice": "DUP-STORE: y_ptr",
}


def scale(fault: str, order: int | None = None) -> tuple[torch.Tensor, list[str]]:
    """2 x with a fault, and what the probe says. Between the rows of x and of y lie gaps of three elements."""
    x = torch.arange(24.0).reshape(3, 8)[:, :5]
    y = torch.full((3, 8), float("nan"))[:, :5]
    args = dict(x_ptr=x, y_ptr=y, x_stride=x.stride(0), y_stride=y.stride(0), rows=3, COLS=5, FAULT=fault, BLOCK=8)
    with probe(order) as launches:
        launch(Plan(_scale_kernel, args, Config({}), 3, {"x_ptr": (1, 0), "y_ptr": (0, 1)}))
    return y, faults(launches)


def test_planted_faults_are_found():
    for fault, expected in PLANTED.items():
        _, found = scale(fault)
        assert any(expected in f for f in found), (fault, found)


def test_a_right_kernel_has_no_faults():
    y, found = scale("none")
    assert not found
    assert torch.equal(y, torch.arange(24.0).reshape(3, 8)[:, :5] * 2)


def test_undefined_lanes_show_in_the_result():
    y, found = scale("undefined lanes")
    assert not found
    assert y.isnan().all()


def test_dependence_on_the_order_shows_in_the_result():
    fault, orders = "adds what the program before it wrote", (None, *range(4))
    assert any(not torch.equal(scale(fault)[0], scale(fault, order)[0]) for order in orders)
    assert all(torch.equal(scale("none")[0], scale("none", order)[0]) for order in orders)


def test_a_grid_over_the_limit_raises():
    x = torch.ones(4)
    args = dict(x_ptr=x, y_ptr=x, x_stride=4, y_stride=4, rows=1, COLS=4, FAULT="none", BLOCK=4)
    with probe() as launches, pytest.raises(ValueError, match="can be launched"):
        launch(Plan(_scale_kernel, args, Config({}), MAX_GRID + 1))
    assert not launches


@triton.jit
def _offset_kernel(x_ptr, stride, WIDE: tl.constexpr):
    row = tl.program_id(0)
    if WIDE:
        row = row.to(tl.int64)
    tl.store(x_ptr + row * stride, 1.0)


def test_an_int32_overflow_is_found(lazy_memory):
    x = torch.empty((3, 2**30 + 8), dtype=torch.float16)
    for wide in (True, False):
        args = dict(x_ptr=x, stride=x.stride(0), WIDE=wide)
        expected = contextlib.nullcontext() if wide else pytest.raises(Exception, match="overflow")
        with probe(only_last=True) as launches, expected:
            launch(Plan(_offset_kernel, args, Config({}), 3, {}))
        assert not faults(launches)


SIZES = (
    {"N": 2, "C": 5, "S": (4, 7), "Cr": 3},  # nothing divides anything
    {"N": 1, "C": 16, "S": (8, 8), "Cr": 4},  # every access is aligned
    {"N": 3, "C": 1, "S": (1, 5), "Cr": 1},  # axes of one
)
TILES = {"N": 2, "C": 20, "S": (19, 23), "Cr": 5}  # several programs an image, the last ones cut off
GATES_OF_TWO = [row for row in ROWS if row.name.startswith("attention_gate")]
GATED = (  # attention gates whose backward takes several kernels: many channels, many of g alone, many projections
    {"N": 2, "C": 70, "S": (5, 9), "Cr": 40, "G": 70},
    {"N": 1, "C": 5, "S": (4, 7), "Cr": 3, "G": 150},
    {"N": 2, "C": 6, "S": (3, 5), "Cr": 300, "G": 8},
)
ATTENTION = (  # kernels and branches that other windows, heads and head dimensions choose
    ({"N": 1, "C": 16, "S": (6, 9), "heads": 1}, {"return_lse": True}),  # tensor cores
    ({"N": 1, "C": 16, "S": (6, 9), "heads": 1}, {"border": "mask"}),
    ({"N": 1, "C": 16, "S": (6, 9), "heads": 1}, {"border": "zero"}),
    ({"N": 1, "C": 16, "S": (7, 9), "heads": 1, "T": 13}, {"kernel_size": 7}),
    ({"N": 1, "C": 16, "S": (5, 32), "heads": 1}, {}),  # in NCHW, tiles along W
    ({"N": 1, "C": 3, "S": (7, 8), "heads": 1}, {"dilation": 2}),
    ({"N": 1, "C": 6, "S": (5, 6), "heads": 2, "heads_kv": 1, "D": 3}, {}),
    ({"N": 1, "C": 2, "S": (5, 6), "heads": 1, "T": 9}, {"kernel_size": 5, "border": "mask"}),
)


def variants(row) -> Iterator[dict]:
    """The default options, and every other value of each option that changes what a kernel touches."""
    yield {}
    yield row.both
    for option in ("border", "out_act", "reduce", "circular", "spatial_pool", "residual"):
        for value in row.options.get(option, ())[1:]:
            yield {option: value}
    if "ties" in row.options:
        yield {"ties": "split"}
    for pool in row.options.get("pool", ())[1:]:
        for ties in row.options["ties"]:
            yield {"pool": pool, "ties": ties}


def calls(row) -> Iterator[tuple[dict, dict]]:
    """Sizes and options that together run every kernel of the row, and every branch of it that an option chooses."""
    for options in variants(row):
        yield sizes_of(row, **SIZES[0]), options
    for sizes in SIZES[1:]:
        yield sizes_of(row, **sizes), row.both


def assert_no_faults(row, inputs, record, needs=None, **options) -> None:
    with probe() as launches:
        found = testing.matches(row, *inputs, needs=needs, **options)
    assert launches
    assert not faults(launches), options
    assert all(match.ok for match in found), found
    for name in {one.plan.name for one in launches}:
        record("probed", name)


@pytest.mark.parametrize("layout", testing.LAYOUTS)
@each_dtype
@each_row
def test_every_kernel_touches_what_its_plan_states(row, dtype, layout, record_property):
    for sizes, options in calls(row):
        assert_no_faults(row, testing.make_inputs(row, sizes, dtype, layout=layout), record_property, **options)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("sms", [SMS, 1], ids=["one tile a program", "programs that loop"])
@each_row
def test_several_tiles(row, sms, dtype, layout, record_property):
    sizes = sizes_of(row, **TILES)
    with planning_for(90, sms):
        assert_no_faults(row, testing.make_inputs(row, sizes, dtype, layout=layout), record_property, **row.both)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_row
def test_what_is_left_out(row, layout, record_property):
    """Optional inputs, and gradients that nobody wants: what is not there is not touched."""
    inputs = testing.make_inputs(row, sizes_of(row, **SIZES[0]), layout=layout)
    optional = [name.removesuffix("?") for name in row.inputs if name.endswith("?")]
    for absent in {*((name,) for name in optional), tuple(optional)}:
        assert_no_faults(row, without(row, inputs, absent), record_property)
    for wanted in range(len(inputs)):
        assert_no_faults(row, inputs, record_property, [i == wanted for i in range(len(inputs))], **row.both)


@pytest.mark.parametrize("layout", testing.LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("sizes", GATED, ids=lambda sizes: f"C{sizes['C']}G{sizes['G']}F{sizes['Cr']}")
@pytest.mark.parametrize("row", GATES_OF_TWO, ids=lambda row: row.name)
def test_attention_gates_that_do_not_fit_on_chip(row, sizes, dtype, layout, record_property):
    inputs = testing.make_inputs(row, sizes, dtype, layout=layout)
    assert_no_faults(row, inputs, record_property, **row.both)
    for wanted in range(len(inputs)) if layout == "contiguous" else ():
        assert_no_faults(row, inputs, record_property, [i == wanted for i in range(len(inputs))])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_perceptron
def test_one_layer(row, layout, record_property):
    inputs = testing.make_inputs(row, sizes_of(row, **SIZES[0] | {"Cr": 5}), layout=layout)
    for absent in (("w2", "b2"), ("b1", "w2", "b2")):
        assert_no_faults(row, without(row, inputs, absent), record_property)


@each_dense_variant
def test_variants_of_the_dense_local_gate(variant, layout, dtype, record_property, monkeypatch):
    row, probed = BY_NAME["local_gate"], 0
    monkeypatch.setattr(local_dense, "choose_variant", lambda x, _="auto": variant)
    for sizes in (*SIZES, {"N": 2, "C": 24, "S": (2, 70)}):
        inputs = testing.make_inputs(row, sizes, dtype, layout=layout)
        if variant != "descriptors" or takes_descriptors(native(inputs[0])):
            assert_no_faults(row, inputs, record_property, **row.both)
            probed += 1
    assert probed


def split_pair(layout: str, dtype, device: str = "cpu", kernel_size: int = 3) -> list[tuple[Callable, list]]:
    """Scores and weighted sums, which are no rows of the catalog, with fewer key heads than heads."""
    T, K = 2 * kernel_size - 1, kernel_size**2
    row = BY_NAME["neighborhood_attention"]
    sizes = {"N": 1, "C": 6, "S": (5, 6), "heads": 2, "heads_kv": 1, "D": 3, "T": T}
    q, k, v, bias = (t.to(device) for t in testing.make_inputs(row, sizes, dtype, layout=layout))
    weights = torch.rand(1, 5, 6, 2, K, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    return [(functional.neighborhood_qk, [q, k, bias]), (functional.neighborhood_av, [weights, v])]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("sizes", "options"), ATTENTION)
@each_dtype
def test_windows_and_heads(sizes, options, dtype, layout, record_property):
    row = BY_NAME["neighborhood_attention"]
    assert_no_faults(row, testing.make_inputs(row, sizes, dtype, layout=layout), record_property, **options)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("border", ["shift", "mask", "zero"])
@pytest.mark.parametrize("row", WINDOWS, ids=lambda row: row.name)
def test_wide_windows_on_tensor_cores(row, border, layout, record_property):
    """A bias is read; its gradient goes row by row, with what a narrower window launches, and is left out."""
    K = row.smallest
    inputs = testing.make_inputs(row, {"N": 1, "C": 32, "S": (K, 16), "heads": 2}, torch.bfloat16, layout=layout)
    assert_no_faults(row, inputs, record_property, [True, True, True, False], border=border)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("row", LARGE_KERNELS, ids=lambda row: row.name)
def test_large_kernels(row, layout, record_property):
    """Strips and classes of rows, whose weights come once a program, or at each row."""
    inputs = testing.make_inputs(row, {"N": 1, "C": 2, "S": (4, 5)}, layout=layout)
    assert_no_faults(row, inputs, record_property)
    assert_no_faults(row, inputs, record_property, [False, True, False])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("border", ["shift", "mask", "zero"])
@each_dtype
def test_the_split_pair(border, dtype, layout, record_property):
    other = {"shift": (5, 1), "mask": (3, 2), "zero": (3, 2)}[border]
    for kernel_size, dilation in ((3, 1), other) if dtype == torch.float32 else ((3, 1),):
        window = dict(border=border, kernel_size=kernel_size, dilation=dilation)
        for op, inputs in split_pair(layout, dtype, kernel_size=kernel_size):
            leaves = [t.requires_grad_() for t in inputs]

            def results(op=op, leaves=leaves, window=window):
                y = op(*leaves, **window, backend="triton")
                return [y, *torch.autograd.grad(y, leaves, torch.ones_like(y).where(y.isfinite(), 0))]

            expected = results()
            for order in (None, 3):
                with probe(order) as launches:
                    got = results()
                assert not faults(launches), window
                assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
            for name in {one.plan.name for one in launches}:
                record_property("probed", name)


def test_no_kernel_is_forgotten(monkeypatch):
    """What the tests above launch are all kernels of the package, forward and backward."""
    planned: set[str] = set()

    def plan(op, inputs, **options):
        given = [t if t is None else t.to("meta") for t in inputs]
        planned.update(p.name for plans in compiled.planned(op, *given, **options) for p in plans)

    for row in ROWS:
        for sizes, options in calls(row):
            plan(row.op, testing.make_inputs(row, sizes, torch.bfloat16), **options)
    for sizes, options in ATTENTION:
        row = BY_NAME["neighborhood_attention"]
        plan(row.op, testing.make_inputs(row, sizes, torch.bfloat16), **options)
    # windows without a bias: tests/kernels/test_neighborhood_strips.py
    sizes = {"N": 1, "C": 16, "S": (5, 16), "heads": 1, "heads_kv": 1, "T": 5}
    plan(row.op, [*testing.make_inputs(row, sizes, torch.bfloat16, layout="channels_last")[:3], None])
    for row, sizes in itertools.product(GATES_OF_TWO, GATED):
        plan(row.op, testing.make_inputs(row, sizes, torch.bfloat16))
    for op, inputs in split_pair("contiguous", torch.float32):
        plan(op, inputs)
        plan(op, inputs, is_causal=True)
    for row in ALONG:  # tests/kernels/test_neighborhood_axes.py, as a causal pair
        plan(row.op, testing.make_inputs(row, row.cases[0].sizes, torch.bfloat16, device="meta"))
    x = torch.empty(2, 5, 3, 4, dtype=torch.bfloat16)  # logits of channels: tests/kernels/test_blend.py
    plan(functional.gate_mul, [x, x[..., :1, :1], x])
    with planning_for(90, 1):  # whose only SM any planes fill: tests/kernels/test_response.py
        plan(functional.simam, [x])
    for variant in local_dense.VARIANTS:
        monkeypatch.setattr(local_dense, "choose_variant", lambda x, _="auto", variant=variant: variant)
        plan(functional.local_gate, testing.make_inputs(BY_NAME["local_gate"], SIZES[1], layout="channels_last"))
    defined = {
        name[1 : -len("_kernel")]
        for family in kernel_modules()
        for name, value in vars(family).items()
        if name.startswith("_") and name.endswith("_kernel") and hasattr(value, "fn")
    }
    assert planned == defined


@each_row
def test_the_order_of_programs_does_not_matter(row):
    inputs = [t.requires_grad_() for t in problem(row, N=3, C=7, S=(9, 6), Cr=2)]

    def results(order):
        with probe(order):
            y = row.op(*inputs, backend="triton")
            return [y, *torch.autograd.grad(y, inputs, torch.ones_like(y))]

    in_order, shuffled = results(None), results(3)
    assert all(torch.equal(a, b) for a, b in zip(in_order, shuffled, strict=True))


def spread(x: torch.Tensor, apart: str) -> torch.Tensor:
    """The same values with one stride so large that offsets pass 2^31 elements, or that it does itself."""
    _, C, H, W = x.shape
    strides = {
        "images": (2**31 + 8, H * W, W, 1),
        "channels": (H * W, 2**29 + 8, W, 1),
        "channels, far": (H * W, 2**31 + 8, W, 1),
        "pixels of channels_last": (C, 1, W * (2**28 + 8), 2**28 + 8),
        "pixels of channels_last, far": (C, 1, W * (2**31 + 8), 2**31 + 8),
    }
    return reserved(x.shape, strides[apart], x.dtype).copy_(x)


MAPS = [pytest.param(row, name, id=f"{row.name}-{name}") for row in ROWS for name in row.maps]


@pytest.mark.parametrize(
    "apart", ("images", "channels", "channels, far", "pixels of channels_last", "pixels of channels_last, far")
)
@pytest.mark.parametrize(("row", "name"), MAPS)
def test_no_offset_overflows_past_2_31_elements(row, name, apart, lazy_memory):
    """Overflow of int32 arithmetic raises inside the probe; and every element is right."""
    inputs = problem(row, N=2, C=6, S=(3, 4), Cr=2, dtype=torch.float16)
    i, spec = names(row).index(name), list(row.inputs.values())[names(row).index(name)]
    x = spread(row.as_map(spec, inputs[i]), apart)
    inputs[i] = row.view(spec, x, {"C": x.shape[1], "S": x.shape[2:], "Cs": x.shape[1], "T": x.shape[2:]})
    with probe() as launches:
        found = testing.matches(row, *inputs)
    assert launches
    assert not faults(launches)
    assert all(match.ok for match in found), found
