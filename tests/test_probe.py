"""Memory safety and traffic of every kernel, element by element; and the probe finds the faults planted here."""

import pytest
import torch
import triton
import triton.language as tl
from probe import faults, probe
from support import problem, replaced_map, sizes_of

from segattn_triton import functional, testing
from segattn_triton.catalog import OPS
from segattn_triton.launch import Plan, launch
from segattn_triton.tuning import Config

pytestmark = pytest.mark.interpreter


@pytest.fixture
def lazy_memory():
    """Memory that the system commits only where it is touched: the poison would touch all of it."""
    torch.use_deterministic_algorithms(False)


@triton.jit
def _scale_kernel(x_ptr, y_ptr, x_stride, rows, COLS: tl.constexpr, FAULT: tl.constexpr, BLOCK: tl.constexpr):
    """y[row] = 2 x[row], a program per row, with one fault."""
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    mask = cols < COLS
    x_row = x_ptr + row * x_stride
    y_row = y_ptr + row * COLS
    if FAULT == "load past the end":
        x = tl.load(x_row + cols + COLS, mask, other=0.0)
    elif FAULT == "load before the start":
        x = tl.load(x_row + cols - COLS, mask, other=0.0)
    elif FAULT == "load between the elements":
        x = tl.load(x_row + cols + 1, mask, other=0.0)
    elif FAULT == "load twice":
        x = tl.load(x_row + cols, mask, other=0.0) + 0 * tl.load(x_row + cols, mask, other=0.0)
    elif FAULT == "undefined lanes":
        x = tl.load(x_row + cols, mask)
        x += 0 * tl.sum(x, 0)
    else:
        x = tl.load(x_row + cols, mask, other=0.0)
    if FAULT == "store unmasked":
        tl.store(y_row + cols, 2 * x)
    elif FAULT == "last column dropped":
        tl.store(y_row + cols, 2 * x, cols < COLS - 1)
    elif FAULT == "every program stores row 0":
        tl.store(y_ptr + cols, 2 * x, mask)
    elif FAULT == "one address stored twice":
        tl.store(y_row + cols // 2 * 2, 2 * x, mask)
    elif FAULT == "store into the input":
        tl.store(x_row + cols, 2 * x, mask)
    elif FAULT == "reads what a neighbour wrote":
        tl.store(y_row + cols, 2 * x, mask)
        y = tl.load(y_ptr + (row + rows - 1) % rows * COLS + cols, mask, other=0.0)
        tl.store(y_row + cols, 0 * y + 2 * x, mask)
    else:
        tl.store(y_row + cols, 2 * x, mask)


PLANTED = {
    "load past the end": "OOB: load",
    "load before the start": "OOB: load",
    "load between the elements": "GAP: load",
    "load twice": "TRAFFIC: x_ptr loads 2",
    "undefined lanes": "result",
    "store unmasked": "OOB: store",
    "last column dropped": "UNWRITTEN: y_ptr",
    "every program stores row 0": "RACE: y_ptr",
    "one address stored twice": "DUP-STORE: y_ptr",
    "store into the input": "TRAFFIC: x_ptr stores",
    "reads what a neighbour wrote": "RACE: y_ptr",
}


def scale(x: torch.Tensor, fault: str) -> torch.Tensor:
    rows, cols = x.shape
    y = torch.full((rows, cols), float("nan"))
    args = dict(x_ptr=x, y_ptr=y, x_stride=x.stride(0), rows=rows, COLS=cols, FAULT=fault, BLOCK=8)
    launch(Plan(_scale_kernel, args, Config({}), rows, {"x_ptr": (1, 0), "y_ptr": (0, 1)}))
    return y


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault):
    x = torch.arange(40.0).reshape(4, 10)[:, :5]  # rows with a gap of five elements between them
    x = x[:3].clone() if "end" in fault or "start" in fault else x[:3]
    with probe() as launches:
        y = scale(x, fault)
    found = faults(launches)
    if PLANTED[fault] == "result":
        assert y.isnan().any()
    else:
        assert any(PLANTED[fault] in f for f in found), found


def test_a_right_kernel_has_no_faults():
    x = torch.arange(40.0).reshape(4, 10)[:3, :5]
    with probe() as launches:
        y = scale(x, "none")
    assert not faults(launches)
    assert torch.equal(y, 2 * x)


@triton.jit
def _offset_kernel(x_ptr, stride, WIDE: tl.constexpr):
    row = tl.program_id(0)
    if WIDE:
        row = row.to(tl.int64)
    tl.store(x_ptr + row * stride, 1.0)


@pytest.mark.parametrize("wide", (False, True))
def test_an_int32_overflow_is_found(wide, lazy_memory):
    x = torch.empty((3, 2**30 + 8), dtype=torch.float16)
    args = dict(x_ptr=x, stride=x.stride(0), WIDE=wide)
    with probe(only_last=True) as launches:
        plan = Plan(_offset_kernel, args, Config({}), 3, {})
        if wide:
            launch(plan)
            assert not faults(launches)
        else:
            with pytest.raises(Exception, match="overflow"):
                launch(plan)


SIZES = (
    {"N": 2, "C": 5, "S": (4, 7), "Cr": 3},
    {"N": 1, "C": 16, "S": (8, 8), "Cr": 4},
    {"N": 3, "C": 1, "S": (1, 5), "Cr": 1},
)


def variants(row):
    """The default options, and every other value of each option that changes what a kernel touches."""
    yield {}
    yield row.both
    for option in ("border", "out_act", "reduce", "circular"):
        for value in row.options.get(option, ())[1:]:
            yield {option: value}
    for pool in row.options.get("pool", ())[1:]:
        for ties in row.options["ties"]:
            yield {"pool": pool, "ties": ties}


@pytest.mark.parametrize("layout", testing.LAYOUTS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
@pytest.mark.parametrize("row", OPS, ids=lambda row: row.name)
def test_every_kernel_touches_what_its_plan_states(row, dtype, layout, record_property):
    for sizes in SIZES:
        for options in variants(row):
            inputs = testing.make_inputs(row, sizes_of(row, **sizes), dtype, layout=layout)
            with probe() as launches:
                testing.matches(row, *inputs, **options)
            assert launches
            assert not faults(launches), (sizes, options)
            for name in {one.plan.name for one in launches}:
                record_property("probed", name)


def pair(layout: str, dtype: torch.dtype, kernel_size=3) -> dict[str, list[torch.Tensor]]:
    """Inputs of the two halves of neighbourhood attention, at 2 x 2 heads of D = 3; no row has them."""
    S, generator = (7, 8), torch.Generator().manual_seed(0)
    q, k, v = (
        testing.make_map((2, 3 * heads, *S), layout, generator, dtype).unflatten(1, (heads, 3)).permute(0, 3, 4, 1, 2)
        for heads in (4, 2, 2)
    )
    bias = torch.randn(4, *[2 * kernel_size - 1] * 2, generator=generator).to(dtype)
    weights = torch.randn(2, *S, 4, kernel_size**2, generator=generator).to(dtype)
    return {"neighborhood_qk": [q, k, bias], "neighborhood_av": [weights, v]}


@pytest.mark.parametrize("layout", testing.LAYOUTS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
@pytest.mark.parametrize("border", ("shift", "mask", "zero"))
@pytest.mark.parametrize("name", ("neighborhood_qk", "neighborhood_av"))
def test_the_split_pair_touches_its_own_memory_alone(name, border, dtype, layout, record_property):
    """And gives the bits of an undisturbed run, in whatever order its programs run. Its plans state the traffic of a
    large image, where few windows leave it: that is not compared."""
    inputs = [t.requires_grad_() for t in pair(layout, dtype)[name]]

    def results():
        y = getattr(functional, name)(*inputs, border=border, backend="triton")
        return [y, *torch.autograd.grad(y, inputs, torch.ones_like(y))]

    expected = results()
    for order in (None, 3):
        with probe(order) as launches:
            got = results()
        assert len(launches) >= 3 and not [fault for fault in faults(launches) if "TRAFFIC: " not in fault]
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    for plan in {one.plan.name for one in launches}:
        record_property("probed", plan)


@pytest.mark.parametrize("row", OPS, ids=lambda row: row.name)
def test_the_order_of_programs_does_not_matter(row):
    inputs = [t.requires_grad_() for t in problem(row, N=3, C=7, S=(9, 6), Cr=2)]

    def results(order):
        with probe(order):
            y = row.op(*inputs, backend="triton")
            return [y, *torch.autograd.grad(y, inputs, torch.ones_like(y))]

    in_order, shuffled = results(None), results(3)
    assert all(torch.equal(a, b) for a, b in zip(in_order, shuffled, strict=True))


def spread(x: torch.Tensor, apart: str) -> torch.Tensor:
    """The same values with one stride so large that offsets pass 2^31 elements. Only touched memory is committed."""
    _, C, H, W = x.shape
    strides = {
        "images": (2**31 + 8, H * W, W, 1),
        "channels": (H * W, 2**29 + 8, W, 1),
        "pixels of channels_last": (C, 1, W * (2**28 + 8), 2**28 + 8),
    }
    wide = torch.empty_strided(x.shape, strides[apart], dtype=x.dtype)
    return wide.copy_(x)


@pytest.mark.parametrize("apart", ("images", "channels", "pixels of channels_last"))
@pytest.mark.parametrize("row", OPS, ids=lambda row: row.name)
def test_no_offset_overflows_past_2_31_elements(row, apart, lazy_memory):
    """Overflow of int32 arithmetic raises inside the probe; and every element is right."""
    inputs = problem(row, N=2, C=6, S=(3, 4), Cr=2, dtype=torch.float16)
    x = spread(row.as_map(next(iter(row.inputs.values())), inputs[0]), apart)
    with probe() as launches:
        found = testing.matches(row, *replaced_map(row, inputs, x))
    assert launches
    assert not faults(launches)
    assert all(match.ok for match in found), found
