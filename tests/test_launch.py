"""A repeated call repeats its launches, on its own tensors: nothing is planned anew, and nothing else changes."""

import contextlib
import threading

import pytest
import torch
from support import DEVICE, assert_equal, each_dtype, each_row, outputs_and_gradients, problem

import segattn_triton.ops  # noqa: F401
from segattn_triton import launch as launching
from segattn_triton import tuning
from segattn_triton._register import OPS as REGISTERED
from segattn_triton.catalog import BY_NAME, OPS
from segattn_triton.launch import Plan, Tape, recorded, signature

TAPED = [row for row in OPS if row.name != "local_gate"]  # which calls the library, too
each_taped = pytest.mark.parametrize("row", TAPED, ids=lambda row: row.name)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(launching, "_tapes", {})


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
@each_taped
def test_a_repeated_call_is_not_planned(row, layout, monkeypatch):
    """Other values, the same description: what the first call of these values would have given."""
    first, second = (problem(row, layout=layout, seed=seed) for seed in (0, 1))
    dy = torch.randn_like(row.op(*second, backend="triton"))

    def both(inputs, dy):
        y = row.op(*[t.requires_grad_() for t in inputs], backend="triton")
        return y, *torch.autograd.grad(y, inputs, dy)

    expected = both(second, dy)
    launching._tapes.clear()
    both(first, torch.ones_like(dy))
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
        launching._tapes.clear()
        expected.append(run(row, **call))
    launching._tapes.clear()
    for call, wanted in [*zip(calls, expected, strict=True)] * 2:
        for got, one in zip(run(row, **call), wanted, strict=True):
            assert_equal(got, one)


@each_dtype
def test_key_of_a_misaligned_view(dtype):
    """Same shape, same strides, another distance from 16 bytes: another kernel."""
    wide = torch.zeros(2 * 3 * 8 * 8 + 64, dtype=dtype)
    views = [torch.as_strided(wide, (2, 3, 8, 8), (192, 64, 8, 1), offset) for offset in range(16)]
    keys = {signature("op", [v]) for v in views}
    assert len(keys) == 16 // dtype.itemsize or dtype.itemsize == 1
    assert signature("op", [views[0]]) == signature("op", [views[16 // dtype.itemsize]])


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
    assert signature("op", [x, 1.0]) == signature("op", [x.clone(), 1.0])
    assert signature("op", [other, 1.0]) != signature("op", [x, 1.0])
    assert signature("op", [x, 2.0]) != signature("op", [x, 1.0]) != signature("op_bwd", [x, 1.0])


def test_another_config_is_another_launch(monkeypatch):
    row, inputs = BY_NAME["spatial_gate"], problem(BY_NAME["spatial_gate"])
    run(row, inputs)
    planless(monkeypatch)
    with tuning.using(), pytest.raises(AssertionError, match="planned again"):
        run(row, inputs)


def test_what_is_recorded_is_planned():
    row, inputs = BY_NAME["spatial_gate"], problem(BY_NAME["spatial_gate"])
    run(row, inputs)
    with recorded() as plans:
        run(row, inputs)
    assert [plan.name for plan in plans] == ["spatial_fwd", "spatial_bwd", "finish"]


def test_what_does_more_than_launch_is_planned_each_time():
    row = BY_NAME["local_gate"]
    first, second = problem(row, seed=0), problem(row, seed=1)
    expected = run(row, second)
    run(row, first)
    for got, wanted in zip(run(row, second), expected, strict=True):
        assert_equal(got, wanted)
    assert not any(isinstance(tape, Tape) for tape in launching._tapes.values())
    assert launching._tapes


def test_one_tensor_in_two_places():
    """Its launches are not those of two tensors: dy may be x itself."""
    row = BY_NAME["spatial_pool_gate"]
    x, other = problem(row)[0], problem(row, seed=5)[0]

    def dx(dy):
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(row.op(leaf, backend="triton"), leaf, leaf.detach() if dy is x else dy)[0]

    expected = dx(other)
    launching._tapes.clear()
    dx(x)
    assert_equal(dx(other), expected)
    assert_equal(dx(x), dx(x.clone()))


def test_as_many_tapes_as_are_kept(monkeypatch):
    monkeypatch.setattr(launching, "MOST_TAPES", 3)
    row = BY_NAME["spatial_pool_gate"]
    for H in range(2, 9):
        x = torch.ones(1, 2, H, 3, device=DEVICE)
        torch.testing.assert_close(row.op(x, backend="triton"), row.reference(x))
        assert 0 < len(launching._tapes) <= 3


class Kernel:
    """Stands for a compiled kernel; notes what it is launched with."""

    arg_names = ("x_ptr", "C", "y_ptr", "part_ptr", "BLOCK")

    def __init__(self):
        self.launches = []

    def fn(self):
        pass

    def __getitem__(self, grid):
        return lambda **arguments: self.launches.append((grid, arguments))


def tape_of(kernel, x, y) -> Tape:
    """Of a launch with a temporary tensor, and a view of it."""
    with launching._Taping() as taping:
        temporary = torch.empty(6, 2)
        args = dict(x_ptr=x, C=3, y_ptr=y, part_ptr=temporary[:, 1:])
        launching.launch(Plan(kernel, args, tuning.Config({"BLOCK": 8}), 7))
    assert taping.only_launches
    return Tape(taping, [x, y])


def test_a_tape_puts_tensors_in_their_places():
    kernel, (x, y, x2, y2) = Kernel(), (torch.zeros(n) for n in (3, 4, 3, 4))
    tape = tape_of(kernel, x, y)
    tape.run([x2, y2])
    (_, first), (grid, second) = kernel.launches
    assert grid == (7,) and second["C"] == 3 and second["BLOCK"] == 8
    assert second["x_ptr"] is x2 and second["y_ptr"] is y2
    a, b = first["part_ptr"], second["part_ptr"]
    assert (a.shape, a.stride(), a.storage_offset()) == (b.shape, b.stride(), b.storage_offset())
    assert a.data_ptr() != b.data_ptr()


def test_a_tape_knows_every_tensor():
    with launching._Taping() as taping:
        launching.launch(
            Plan(Kernel(), dict(x_ptr=torch.zeros(3), C=3, y_ptr=None, part_ptr=None), tuning.Config({"BLOCK": 8}), 7)
        )
    assert not taping.only_launches  # zeros writes
    with pytest.raises(LookupError, match="unknown origin"):
        Tape(taping, [torch.zeros(3)])


def test_a_tape_runs_on_its_device(monkeypatch):
    entered = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    tape = tape_of(Kernel(), torch.zeros(3), torch.zeros(4))
    for device in ("cuda:1", "cuda:0"):
        tape.device = torch.device(device)
        tape.run([torch.zeros(3), torch.zeros(4)])
    assert entered == [torch.device("cuda:1")]


def test_a_tape_is_of_one_thread():
    """What another thread launches meanwhile is not on it."""
    kernel, other = Kernel(), Kernel()
    x, y = torch.zeros(3), torch.zeros(4)
    with launching._Taping() as taping:
        plan = Plan(other, dict(x_ptr=x, C=3, y_ptr=y, part_ptr=y), tuning.Config({"BLOCK": 8}), 7)
        thread = threading.Thread(target=launching.launch, args=(plan,))
        thread.start()
        thread.join()
        launching.launch(Plan(kernel, plan.args, plan.config, 7))
    assert len(other.launches) == 1 and [plan.kernel for plan, _ in taping.launches] == [kernel]


@each_row
def test_meta_tensors_launch_nothing(row):
    """Of the same description as tensors that were there before."""
    inputs = problem(row)
    y = row.op(*inputs, backend="triton")
    planned = row.op(*[t.to("meta") for t in inputs], backend="triton")
    assert planned.is_meta and (planned.shape, planned.stride()) == (y.shape, y.stride())
