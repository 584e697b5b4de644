"""A repeated call repeats its launches, on its own tensors: nothing is planned anew, and nothing else changes."""

import gc
import threading
import weakref

import pytest
import torch
from support import DEVICE, assert_equal, each_dtype, each_row, outputs_and_gradients, problem

import segattn_triton.ops  # noqa: F401
from segattn_triton.catalog import BY_NAME
from segattn_triton.runtime import replay
from segattn_triton.runtime.operator import OPERATORS as REGISTERED
from segattn_triton.runtime.plan import Plan, launch, listening, recorded
from segattn_triton.runtime.recorder import Recording
from segattn_triton.runtime.replay import signature
from segattn_triton.runtime.tape import INTERPRETED, Stale, Tape
from segattn_triton.tuning import choice as tuning
from segattn_triton.tuning.model import Config


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(replay, "_tapes", {})


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
    replay._tapes.clear()
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
        replay._tapes.clear()
        expected.append(run(row, **call))
    replay._tapes.clear()
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


def test_one_tensor_in_two_places():
    """Its launches are not those of two tensors: dy may be x itself."""
    row = BY_NAME["spatial_pool_gate"]
    x, other = problem(row)[0], problem(row, seed=5)[0]

    def dx(dy):
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(row.op(leaf, backend="triton"), leaf, leaf.detach() if dy is x else dy)[0]

    expected = dx(other)
    replay._tapes.clear()
    dx(x)
    assert_equal(dx(other), expected)
    assert_equal(dx(x), dx(x.clone()))


def test_as_many_tapes_as_are_kept(monkeypatch):
    monkeypatch.setattr(replay, "MOST_TAPES", 3)
    row = BY_NAME["spatial_pool_gate"]
    for H in range(2, 9):
        x = torch.ones(1, 2, H, 3, device=DEVICE)
        torch.testing.assert_close(row.op(x, backend="triton"), row.reference(x))
        assert 0 < len(replay._tapes) <= 3


class Kernel:
    """Stands for a compiled kernel; notes what it is launched with."""

    arg_names = ("x_ptr", "C", "y_ptr", "part_ptr", "BLOCK")

    def __init__(self):
        self.launches = []

    def fn(self):
        pass

    def __getitem__(self, grid):
        return lambda **arguments: self.launches.append((grid, arguments))


def a_launch(kernel, x, y, part) -> None:
    launch(Plan(kernel, dict(x_ptr=x, C=3, y_ptr=y, part_ptr=part), Config({"BLOCK": 8}), 7))


def tape_of(work, *given) -> Tape | None:
    """Of work(*given), which returns its outputs."""
    with Recording(given) as recording, listening(recording.launched):
        outputs = work(*given)
    return recording.tape(outputs)


interpreted = pytest.mark.skipif(not INTERPRETED, reason="the kernel of these tests is none of Triton's")


@interpreted
def test_a_tape_puts_tensors_in_their_places():
    """Also a temporary one, of which the launch gets a view; an allocation that nothing uses is left out."""
    kernel, (x, y, x2, y2) = Kernel(), (torch.zeros(n) for n in (3, 4, 3, 4))

    def work(x, y):
        torch.empty(1000)
        a_launch(kernel, x, y, torch.empty(6, 2)[:, 1:])
        return [y, None]

    tape = tape_of(work, x, y)
    outputs = tape.play([x2, y2])
    (_, first), (grid, second) = kernel.launches
    assert outputs[0] is y2 and outputs[1] is None
    assert grid == (7,) and second["C"] == 3 and second["BLOCK"] == 8
    assert second["x_ptr"] is x2 and second["y_ptr"] is y2
    a, b = first["part_ptr"], second["part_ptr"]
    assert (a.shape, a.stride(), a.storage_offset()) == (b.shape, b.stride(), b.storage_offset())
    assert a.data_ptr() != b.data_ptr()
    assert [step.__name__ for step in tape.steps] == ["skip", "allocate", "interpret"]


@each_row
def test_a_tape_keeps_no_tensor_alive(row):
    inputs = problem(row)
    alive = [weakref.ref(t) for t in (*inputs, row.op(*inputs, backend="triton"))]
    assert replay._tapes
    inputs.clear()
    gc.collect()
    assert not any(ref() is not None for ref in alive)


@interpreted
def test_a_tape_calls_torch_again():
    """On views, in place, and with what that gives, whatever autograd and autocast say by then."""
    kernel = Kernel()

    def work(x, weight):
        taps = torch.empty(3, 2).copy_(weight.detach().t())
        product = torch.mm(x, taps)
        a_launch(kernel, x, product, taps.flatten())
        return [product]

    x, weight = torch.randn(4, 3), torch.randn(2, 3)
    tape = tape_of(work, x, weight)
    x2, weight2 = torch.randn(4, 3), torch.randn(2, 3).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        (product,) = tape.play([x2, weight2])
    launched = kernel.launches[-1][1]
    assert product.dtype == torch.float32 and not product.requires_grad
    torch.testing.assert_close(product, torch.mm(x2, weight2.detach().t()))
    assert launched["y_ptr"] is product and launched["x_ptr"] is x2
    assert_equal(launched["part_ptr"], weight2.detach().t().flatten())


def test_a_layout_that_torch_did_not_give_before_is_planned(monkeypatch):
    """A library may change its mind: strides that no launch expects are seen before the launch."""
    x = torch.randn(2, 4, 3, 3)

    def work(x):
        with torch.no_grad():
            y = torch.add(x, 1.0)
        return [y]

    tape = tape_of(work, x)
    with pytest.raises(Stale):
        tape.play([x.to(memory_format=torch.channels_last)])  # add gives the strides of its argument
    replay._tapes["work"] = tape
    assert replay.played("work", [x.to(memory_format=torch.channels_last)]) is None and not replay._tapes


def test_what_depends_on_values_is_planned():
    x = torch.ones(3)
    for work in (lambda x: [x * x.sum().item()], lambda x: [torch.cat([x, x])], lambda x: [torch.ones(3)[1:]]):
        tape = tape_of(work, x)
        assert tape is None or torch.equal(tape.play([x])[0], work(x)[0])
    assert tape_of(lambda x: [x * x.sum().item()], x) is None
    assert tape_of(lambda x: [torch.cat([x, x])], x) is None


@interpreted
def test_a_tensor_of_unknown_origin_is_planned():
    kernel, foreign = Kernel(), torch.zeros(3)

    def work(x):
        a_launch(kernel, x, foreign, None)
        return [x]

    with Recording([foreign.clone()]) as recording, listening(recording.launched):
        outputs = work(recording.tensors[0])
    assert recording.tape(outputs) is None and "unknown origin" in recording.refusal


@interpreted
def test_a_tape_runs_on_its_device(monkeypatch):
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
    tape = tape_of(lambda x, y: a_launch(Kernel(), x, y, None) or [y], x, y)
    for index in (1, 0):
        tape.device, tape.on_gpu = torch.device("cuda", index), True
        assert tape.play([x, y])[0] is y
    assert entered == [1] and device == [0]


@interpreted
def test_a_tape_is_of_one_thread():
    """What another thread launches meanwhile is not on it."""
    kernel, other, (x, y) = Kernel(), Kernel(), (torch.zeros(3), torch.zeros(4))

    def work(x, y):
        thread = threading.Thread(target=a_launch, args=(other, x, y, y))
        thread.start()
        thread.join()
        a_launch(kernel, x, y, y)
        return [y]

    tape = tape_of(work, x, y)
    tape.play([x, y])
    assert (len(other.launches), len(kernel.launches)) == (1, 2)


@each_row
def test_meta_tensors_launch_nothing(row):
    """Of the same description as tensors that were there before."""
    inputs = problem(row)
    y = row.op(*inputs, backend="triton")
    planned = row.op(*[t.to("meta") for t in inputs], backend="triton")
    assert planned.is_meta and (planned.shape, planned.stride()) == (y.shape, y.stride())
