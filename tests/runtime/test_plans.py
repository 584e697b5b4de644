"""What is launched can be launched: grids within the limit, the right device, 64-bit offsets where images need them."""

import contextlib
import itertools

import pytest
import torch
from support import each_row, problem, replaced_map, sizes_of
from torch._subclasses.fake_tensor import FakeTensorMode

from segattn_triton import compiled as static
from segattn_triton.runtime import plan as launching
from segattn_triton.runtime.maps import maps
from segattn_triton.runtime.plan import MAX_GRID, Plan
from segattn_triton.tuning import target
from segattn_triton.tuning.model import Config


def planned(row, N: int, C: int, S: tuple[int, ...], channels_last=False) -> list[Plan]:
    """The plans of a forward and a backward; nothing runs on meta tensors."""
    sizes = sizes_of(row, S, C, N, max(1, C // 16))
    return list(itertools.chain(*static.plans(row, sizes, layout="channels_last" if channels_last else "contiguous")))


def layouts(plans: list[Plan]) -> list:
    return [plan.layout for plan in plans if plan.layout is not None]


@pytest.mark.parametrize("channels_last", [False, True])
@each_row
def test_named_cases(row, channels_last):
    """Every kernel argument is bound, every grid small enough, every tensor argument accounted for."""
    for case in row.cases:
        for plan in planned(row, case.N, case.C, case.S, channels_last):
            assert 0 < plan.grid <= MAX_GRID
            assert set(plan.kernel.arg_names) == {*plan.args, *plan.config.blocks}
            tensors = {name for name, value in plan.args.items() if isinstance(value, torch.Tensor)}
            assert tensors <= set(plan.traffic)
            assert plan.layout is None or not plan.layout.int64


@pytest.mark.parametrize("channels_last", [False, True])
@each_row
def test_images_past_2_to_the_31(row, channels_last):
    """An offset inside one image is 64-bit when it must be, and only then: a batch does not need it."""
    for N, C, side, int64 in ((4, 16, 8192, False), (1, 48, 8192, True), (1, 8, 16384, True)):
        found = layouts(planned(row, N, C, (side, side), channels_last))
        assert found
        assert all(layout.int64 == int64 for layout in found)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("C", "P"), [(2**12, 2**6), (2**6, 2**12), (48, 3), (3, 48)])
def test_the_last_offset_of_an_image_decides(C, P, channels_last):
    """Few pixels of many channels as well as many pixels of few: 64-bit from 2^31 elements on, 32-bit a good way
    below."""
    rows = P if channels_last else C  # those that lie a stride apart
    for last, int64 in ((2**31, True), (2**32, True), (2**30, False)):
        step = -(-last // (rows - 1))
        stride = (0, 1, step, step) if channels_last else (0, step, 1, 1)
        x = torch.empty(0, device="meta").as_strided((1, C, P, 1), stride)
        assert maps(x=x).layout == (channels_last, maps(x=x).layout.align, int64)


def test_strides_come_by_name():
    """In units of the alignment; one that is None has the first's, whatever stands before it."""
    x, dy = (torch.empty(2, c, 8, 8, device="meta")[:, :6] for c in (6, 10))
    assert maps(dx=None, x=x, dy=dy).strides == {"dx_stride": (48, 8), "x_stride": (48, 8), "dy_stride": (80, 8)}
    assert maps(dy=dy, dx=None, x=x).strides == {"dy_stride": (80, 8), "dx_stride": (80, 8), "x_stride": (48, 8)}


@each_row
def test_a_channel_slice_of_a_huge_map(row):
    """The stride counts, not the size: the slice is small, its last element far away."""
    wide = torch.empty((row.fewest, 70000, 200, 200), dtype=torch.bfloat16, device="meta")
    x = wide.movedim(1, -1).contiguous().movedim(-1, 1)[:, 3:8]
    small = [t.to("meta") for t in problem(row, S=(200, 200), N=1, dtype=torch.bfloat16)]
    forward, backward = static.planned(row.op, *replaced_map(row, small, x))
    assert any(layout.int64 for layout in layouts(forward))
    assert any(layout.int64 for layout in layouts(backward))


@each_row
def test_a_grid_over_the_limit_raises(row):
    """Triton skips such a launch in silence."""
    with pytest.raises(ValueError, match=r"programs, at most 2147483647 can be launched: split the batch"):
        planned(row, 2**34, 1, (1, 1))


class Kernel:
    """Stands for a compiled kernel; notes what it is launched with."""

    def __init__(self):
        self.launches: list[tuple] = []

    def fn(self):
        pass

    def __getitem__(self, grid):
        return lambda **arguments: self.launches.append((grid, arguments))


@pytest.mark.parametrize(("grid", "runs"), [(0, 0), (1, 1), (MAX_GRID, 1)])
def test_launch(grid, runs):
    kernel = Kernel()
    launching.launch(Plan(kernel, {"x_ptr": torch.ones(2)}, Config({"BLOCK": 8}, 2, 3), grid))
    assert len(kernel.launches) == runs
    if runs:
        ((launched, arguments),) = kernel.launches
        assert launched == (grid,)
        assert (arguments["BLOCK"], arguments["num_warps"], arguments["num_stages"]) == (8, 2, 3)


def test_launch_on_the_tensors_device(monkeypatch):
    """A kernel runs on the device of its tensors, which need not be the current one."""
    entered = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or contextlib.nullcontext())
    monkeypatch.setattr(target, "is_capturing", lambda device: False)
    with FakeTensorMode():
        x = torch.empty(4, device="cuda:1")
    launching.launch(Plan(kernel := Kernel(), {"x_ptr": x}, Config({}), 1))
    assert entered == [torch.device("cuda:1")]
    assert kernel.launches


@each_row
def test_resolutions_share_compiled_kernels(row):
    """C, tiles and alignment are compile-time constants, H and W are not: a new resolution seldom compiles anew."""
    resolutions, compiled = [(H, H + 8) for H in range(400, 720, 8)], set()
    for S in resolutions:
        for plan in planned(row, 2, 32, S):
            constants = [str(plan.args.get(name)) for name in plan.kernel.fn.__annotations__]
            compiled.add((plan.name, plan.config, *constants))
    kernels = {name for name, *_ in compiled}
    assert len(compiled) <= 6 * len(kernels)
