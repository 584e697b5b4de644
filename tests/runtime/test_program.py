"""A call that was seen twice repeats its launches, on its own tensors: nothing is planned, and nothing else changes."""

import gc
import weakref

import pytest
import torch
from support import DEVICE, assert_equal, each_dtype, each_row, outputs_and_gradients, problem

import segattn_triton as sat
import segattn_triton.ops
from segattn_triton.catalog import BY_NAME
from segattn_triton.runtime import call as call_module
from segattn_triton.runtime import known
from segattn_triton.runtime import run as run_module
from segattn_triton.runtime.call import Known
from segattn_triton.runtime.description import describe
from segattn_triton.runtime.known import REFUSED, SEEN
from segattn_triton.runtime.operator import OPERATORS as REGISTERED
from segattn_triton.runtime.plan import INTERPRETED, Plan, recorded
from segattn_triton.runtime.program import Program, Stale
from segattn_triton.runtime.run import Run, perform
from segattn_triton.tuning import choice as tuning
from segattn_triton.tuning.model import Config


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(known, "programs", {})
    for module in (run_module, call_module):
        monkeypatch.setattr(module, "programs", known.programs)


def run(row, inputs, **options):
    return outputs_and_gradients(row.op, inputs, backend="triton", **options)


def never(*args):
    raise AssertionError("planned again")


def planless(monkeypatch):
    """From here on nothing can be planned."""
    for op in REGISTERED.values():
        monkeypatch.setattr(op, "_forward", never)
        monkeypatch.setattr(op, "_backward", never)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "channel_slice"])
@each_row
def test_a_repeated_call_is_not_planned(row, layout, monkeypatch):
    """Other values, the same description: what the first call of these values would have given."""
    first, second = (problem(row, layout=layout, seed=seed) for seed in (0, 1))
    dy = torch.randn_like(row.op(*second, backend="triton"))

    def both(inputs, dy):
        y = row.op(*[t.requires_grad_() for t in inputs], backend="triton")
        return y, *torch.autograd.grad(y, inputs, dy)

    expected = both(second, dy)
    known.programs.clear()
    for _ in range(2):
        both(first, torch.ones_like(dy))
    assert all(isinstance(value, Program | Known) for value in known.programs.values())
    planless(monkeypatch)
    for got, wanted in zip(both(second, dy), expected, strict=True):
        assert_equal(got, wanted)


@each_row
def test_options_and_needs_are_told_apart(row):
    """Calls that differ in anything but values, one after the other, twice: each as if it were the only one."""
    calls = [
        dict(inputs=problem(row)),
        *(dict(inputs=problem(row, seed=2), **{name: values[1]}) for name, values in row.options.items()),
        dict(inputs=problem(row, S=(6, 5), seed=4)),
        dict(inputs=problem(row, layout="channels_last")),
        dict(inputs=problem(row, dtype=torch.float64)),
        dict(inputs=[None if n.endswith("?") else t for n, t in zip(row.inputs, problem(row), strict=True)]),
    ]
    expected = []
    for call in calls:
        known.programs.clear()
        expected.append(run(row, **call))
    known.programs.clear()
    for call, wanted in [*zip(calls, expected, strict=True)] * 3:
        for got, one in zip(run(row, **call), wanted, strict=True):
            assert_equal(got, one)


@each_dtype
def test_key_of_a_misaligned_view(dtype):
    """Same shape, same strides, another distance from 16 bytes: another kernel."""
    wide = torch.zeros(2 * 3 * 8 * 8 + 64, dtype=dtype)
    views = [torch.as_strided(wide, (2, 3, 8, 8), (192, 64, 8, 1), offset) for offset in range(16)]
    keys = {describe("op", [v]) for v in views}
    assert len(keys) == 16 // dtype.itemsize or dtype.itemsize == 1
    assert describe("op", [views[0]]) == describe("op", [views[16 // dtype.itemsize]])


def test_misaligned_views_are_right():
    row = BY_NAME["spatial_gate"]
    memory = torch.randn(2 * 8 * 64 + 8, device=DEVICE)
    _, weight, bias = problem(row, C=8)
    for offset in (0, 1, 2, 3, 4, 1, 0):
        x = memory.as_strided((2, 8, 8, 8), (512, 64, 8, 1), offset)
        y = row.op(x, weight, bias, backend="triton")
        torch.testing.assert_close(y, row.reference(x, weight, bias))


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(2, 3, 4, 5),
        torch.zeros(2, 3, 5, 4, dtype=torch.float64),
        torch.zeros(2, 3, 5, 4).to(memory_format=torch.channels_last),
        torch.zeros(4, 3, 5, 4)[::2],
        None,
    ],
    ids=["shape", "dtype", "order", "stride", "absent"],
)
def test_key_tells_tensors_apart(other):
    x = torch.zeros(2, 3, 5, 4)
    assert describe("op", [x, 1.0]) == describe("op", [x.clone(), 1.0])
    assert describe("op", [other, 1.0]) != describe("op", [x, 1.0])
    assert describe("op", [x, 2.0]) != describe("op", [x, 1.0]) != describe("op_bwd", [x, 1.0])


def test_another_config_is_another_launch(monkeypatch):
    row, inputs = BY_NAME["spatial_gate"], problem(BY_NAME["spatial_gate"])
    for _ in range(2):
        run(row, inputs)
    planless(monkeypatch)
    with tuning.using(), pytest.raises(AssertionError, match="planned again"):
        run(row, inputs)


def test_what_is_recorded_is_planned():
    row, inputs = BY_NAME["spatial_gate"], problem(BY_NAME["spatial_gate"])
    for _ in range(3):
        run(row, inputs)
    with recorded() as plans:
        run(row, inputs)
    assert [plan.name for plan in plans] == ["spatial_fwd", "spatial_bwd", "finish"]


def test_one_tensor_in_two_places():
    """Its launches are not those of two tensors: dy may be x itself."""
    row = BY_NAME["spatial_pool_gate"]
    x, other = problem(row)[0], problem(row, seed=5)[0]

    def dx(dy):
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(row.op(leaf, backend="triton"), leaf, leaf.detach() if dy is x else dy)[0]

    expected = dx(other)
    known.programs.clear()
    own = dx(x.clone())
    for dy, wanted in 3 * [(x, own), (other, expected), (x.clone(), own)]:
        assert_equal(dx(dy), wanted)


def test_as_many_as_are_known(monkeypatch):
    """What was seen once goes first."""
    monkeypatch.setattr(known, "MOST", 5)
    row = BY_NAME["spatial_pool_gate"]

    def call(H, times):
        x = torch.ones(1, 2, H, 3, device=DEVICE)
        for _ in range(times):
            torch.testing.assert_close(row.op(x, backend="triton"), row.reference(x))
        return len([value for value in known.programs.values() if value is not SEEN])

    assert call(1, 2) == 2
    for H in range(2, 9):
        assert call(H, 1) == 2 and len(known.programs) <= 5
    for H in range(2, 9):
        assert call(H, 3) and len(known.programs) <= 5


def test_a_description_seen_once_is_not_written_down(monkeypatch):
    row, written = BY_NAME["spatial_gate"], []
    program = Run.program
    monkeypatch.setattr(Run, "program", lambda self, outputs: written.append(1) or program(self, outputs))
    for count in (0, 1, 1):
        with torch.no_grad():
            row.op(*problem(row), backend="triton")
        assert len(written) == count


@each_row
def test_switched_off_everything_is_planned(row, monkeypatch):
    inputs = problem(row)
    expected = [run(row, inputs) for _ in range(3)][-1]
    with sat.set_programs_enabled(False):
        assert not known.programs
        for got, wanted in zip(run(row, inputs), expected, strict=True):
            assert_equal(got, wanted)
        assert not known.programs
        planless(monkeypatch)
        with pytest.raises(AssertionError, match="planned again"):
            run(row, inputs)
    assert known.enabled


def test_the_switch_is_a_statement_too():
    try:
        sat.set_programs_enabled(False)
        assert not known.enabled
        with sat.set_programs_enabled(True):
            assert known.enabled
        assert not known.enabled
    finally:
        sat.set_programs_enabled(True)
    with pytest.raises(TypeError, match="mode"):
        sat.set_programs_enabled("off")


def test_flags_of_torch_are_told_apart(monkeypatch):
    """TF32 and determinism decide what runs; zero and minus zero are two constants; 3 is not 3.0, 1 is not True."""
    x, seen = torch.zeros(2, 3, 4, 4), set()
    before = torch.backends.cudnn.conv.fp32_precision
    try:
        for precision in ("tf32", "ieee"):
            torch.backends.cudnn.conv.fp32_precision = precision
            for deterministic in (True, False):
                torch.use_deterministic_algorithms(deterministic)
                for constant in (0.0, -0.0, 0, False, 1, True, 1.0):
                    seen |= {describe("op", [x, constant]), describe("op", [x, ("hard_sigmoid", constant)])}
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    assert len(seen) == 2 * 2 * 7 * 2


class Kernel:
    """Stands for a compiled kernel; notes what it is launched with."""

    arg_names = ("x_ptr", "C", "y_ptr", "part_ptr", "BLOCK")

    def __init__(self):
        self.launches = []

    def fn(self):
        pass

    def __getitem__(self, grid):
        return lambda **arguments: self.launches.append((grid, arguments))


def a_plan(kernel, x, y, part) -> Plan:
    return Plan(kernel, dict(x_ptr=x, C=3, y_ptr=y, part_ptr=part), Config({"BLOCK": 8}), 7)


def program_of(work, *given) -> Program | str:
    """Of work(run, *given), which returns its outputs."""
    run = Run(given, writes=True)
    return run.program(work(run, *given))


interpreted = pytest.mark.skipif(not INTERPRETED, reason="the kernel of these tests is none of Triton's")


@interpreted
def test_a_program_puts_tensors_in_their_places():
    """Also a temporary one, of which the launch gets a view."""
    kernel, (x, y, x2, y2) = Kernel(), (torch.zeros(n) for n in (3, 4, 3, 4))

    def work(run, x, y):
        run.launch(a_plan(kernel, x, y, run.empty(torch.empty(6, 2))[:, 1:]))
        return [y, None]

    program = program_of(work, x, y)
    outputs = program([x2, y2])
    (_, first), (grid, second) = kernel.launches
    assert outputs[0] is y2 and outputs[1] is None
    assert grid == (7,) and second["C"] == 3 and second["BLOCK"] == 8
    assert second["x_ptr"] is x2 and second["y_ptr"] is y2
    a, b = first["part_ptr"], second["part_ptr"]
    assert (a.shape, a.stride(), a.storage_offset()) == (b.shape, b.stride(), b.storage_offset())
    assert a.data_ptr() != b.data_ptr()
    assert [step.__name__ for step in program.steps] == ["allocate", "interpret"]


@each_row
def test_a_program_keeps_no_tensor_alive(row):
    inputs = problem(row)
    alive = [weakref.ref(t) for _ in range(3) for t in (*inputs, row.op(*inputs, backend="triton"))]
    assert any(isinstance(value, Program) for value in known.programs.values())
    inputs.clear()
    gc.collect()
    assert not any(ref() is not None for ref in alive)


@interpreted
def test_a_program_calls_torch_again():
    """On views, in place, and with what that gives, whatever autograd and autocast say by then."""
    kernel = Kernel()

    def work(run, x, weight):
        taps = run.call(lambda taps, weight: taps.copy_(weight.t()), run.empty(torch.empty(3, 2)), weight)
        product = run.call(torch.mm, x, taps)
        run.launch(a_plan(kernel, x, product, taps.flatten()))
        return [product]

    x, weight = torch.randn(4, 3), torch.randn(2, 3)
    program = program_of(work, x, weight)
    x2, weight2 = torch.randn(4, 3), torch.randn(2, 3).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        (product,) = program([x2, weight2])
    launched = kernel.launches[-1][1]
    assert product.dtype == torch.float32 and not product.requires_grad
    torch.testing.assert_close(product, torch.mm(x2, weight2.detach().t()))
    assert launched["y_ptr"] is product and launched["x_ptr"] is x2
    assert_equal(launched["part_ptr"], weight2.detach().t().flatten())


def test_an_output_may_be_a_view_of_what_was_made():
    """Beside one that nobody wants, and one that is what was made."""

    def work(run, x):
        total = run.call(torch.add, x, 1.0)
        return [total[1:, ::2], None, total]

    x = torch.randn(4, 6)
    view, absent, whole = program_of(work, torch.randn(4, 6))([x])
    assert absent is None and view.data_ptr() == whole[1:].data_ptr()
    assert_equal(whole, x + 1.0)
    assert_equal(view, whole[1:, ::2])


def test_a_layout_that_torch_did_not_give_before_is_planned():
    """A library may change its mind: strides that no launch expects are seen before the launch."""
    x = torch.randn(2, 4, 3, 3)

    def work(run, x):
        return [run.call(torch.add, x, 1.0)]

    program = program_of(work, x)
    last = x.to(memory_format=torch.channels_last)
    with pytest.raises(Stale):
        program([last])  # add gives the strides of its argument
    known.programs["work"] = program
    assert_equal(perform("work", [last], lambda run: work(run, last))[0], last + 1.0)
    assert known.programs["work"] is SEEN


@interpreted
def test_a_tensor_of_unknown_origin_is_planned():
    """Each time, and the call itself never fails."""
    kernel, foreign, x = Kernel(), torch.zeros(3), torch.zeros(3)

    def work(run):
        run.launch(a_plan(kernel, x, foreign, None))
        return [x]

    for _ in range(4):
        assert perform("work", [x], work)[0] is x
    assert known.programs["work"] == REFUSED and len(kernel.launches) == 4


@interpreted
def test_a_program_runs_on_its_device(monkeypatch):
    entered, device = [], [0]

    class Guard:
        def __init__(self, device):
            self.index = device.index

        def __enter__(self):
            entered.append(self.index)
            device[0], self.before = self.index, device[0]

        def __exit__(self, *error):
            device[0] = self.before

    monkeypatch.setattr(torch.cuda, "device", Guard)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: device[0])
    x, y = torch.zeros(3), torch.zeros(4)
    program = program_of(lambda run, x, y: run.launch(a_plan(Kernel(), x, y, None)) and [y], x, y)
    for index in (1, 0):
        program.device, program.on_gpu = torch.device("cuda", index), True
        assert program([x, y])[0] is y
    assert entered == [1] and device == [0]


@each_row
def test_meta_tensors_launch_nothing(row):
    """Of the same description as tensors that were there before."""
    inputs = problem(row)
    y = row.op(*inputs, backend="triton")
    planned = row.op(*[t.to("meta") for t in inputs], backend="triton")
    assert planned.is_meta and (planned.shape, planned.stride()) == (y.shape, y.stride())
