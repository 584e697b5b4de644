"""Kernels touch their own tensors only: compute-sanitizer, guard zones, and real tensors past 2^31 elements."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import sanitized
import torch
from guards import ZONE, Guards
from support import DEVICE, INTERPRETED, Calls, each_dtype, each_row, outputs_and_gradients, problem
from torch import Tensor

from segattn_triton.catalog import Op
from segattn_triton.catalog.row import is_map
from segattn_triton.ops import local_dense
from segattn_triton.runtime.operator import OPERATORS
from segattn_triton.testing import LAYOUTS

HUGE = 2**31 + 2**20  # elements
SANITIZER = shutil.which("compute-sanitizer", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/cuda/bin")))


@pytest.mark.gpu
@pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
@each_row
def test_compute_sanitizer(row, tool):
    """Each allocation by itself, so that a tensor's neighbour is not its own memory."""
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [SANITIZER, "--tool", tool, "--error-exitcode", "99", sys.executable, sanitized.__file__, row.name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.mark.interpreter
@each_row
def test_the_sanitized_program_runs(row, monkeypatch):
    monkeypatch.setattr(local_dense, "choose_variant", local_dense.choose_variant)  # the program replaces it
    computed = 4 * (3 if row.name == "local_gate" else 2 + len(row.inputs))
    assert sanitized.main([row.name], DEVICE, ("contiguous",)) == computed


def guarded_calls(row: Op, **how) -> list[str]:
    """What a forward and a backward of a row write outside of their tensors."""
    with Calls() as calls:
        outputs_and_gradients(row.op, problem(row, **how), backend="triton")
    broken = []
    for func, args, _ in calls.made:
        name = func.overloadpacket.__name__
        operator = OPERATORS[name.removesuffix("_bwd")]
        run = operator.run_backward if name.endswith("_bwd") else operator.run_forward
        guards = Guards()
        args = [guards.guarded(a) if isinstance(a, Tensor) else a for a in args]
        with guards:
            run(*args)
        assert guards.buffers
        broken += [f"{name}: {fault}" for fault in guards.broken()]
    return broken


@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
@each_row
def test_guard_zones(row, layout, dtype):
    shapes = ((5, 7), (1, 1), (4, 8)) if INTERPRETED else ((5, 7), (64, 64), (1, 129))
    for S in shapes if dtype in (torch.float32, torch.bfloat16) else shapes[:1]:
        assert not guarded_calls(row, S=S, C=5, dtype=dtype, layout=layout)


def test_broken_zones_are_seen():
    """A value before, one after; one between the elements of an input, and one of its own."""
    guards = Guards()
    x = guards.guarded(torch.ones(4, 6, device=DEVICE)[:, :5])
    with guards:
        y = torch.empty_like(x)
        z = x.new_empty(3, dtype=torch.float64)
    assert (x.stride(), y.stride(), z.shape) == ((6, 1), (5, 1), (3,))
    y.zero_()
    z.zero_()
    assert not guards.broken()
    torch.as_strided(y, (1,), (1,), ZONE // 4 - 1).zero_()
    torch.as_strided(z, (1,), (1,), ZONE // 8 + 3).zero_()
    assert guards.broken() == ["4 bytes before allocation 0 of 80 bytes", "8 bytes after allocation 1 of 24 bytes"]
    torch.as_strided(x, (1,), (1,), ZONE // 4 + 5).zero_()
    x[0, 0] = -2.0  # two of its bytes
    assert guards.broken()[2:] == ["6 bytes in or around input 0"]


def tiled(t: Tensor, axis: int, times: int) -> Tensor:
    """t repeated along an axis, in t's memory order."""
    channels_last = not t.is_contiguous()
    repeats = [times if i == axis else 1 for i in range(t.dim())]
    if not channels_last:
        return t.repeat(repeats)
    return t.movedim(1, -1).repeat([*repeats[:1], *repeats[2:], repeats[1]]).movedim(-1, 1)


def tiles(t: Tensor, axis: int, size: int) -> Iterator[Tensor]:
    return iter(t.split(size, axis))


def assert_tiles_repeat(big: Tensor, small: Tensor, axis: int, close: Callable) -> None:
    """`small` is the result of three tiles: the first, the last, and the one that every other must be."""
    first, middle, last = small.chunk(3, axis)
    found = list(tiles(big, axis, first.shape[axis]))
    for i, tile in enumerate(found):
        close(tile, first if i == 0 else last if i == len(found) - 1 else middle)


class Repeated:
    """A row's problem, one of its axes made of equal tiles."""

    def __init__(self, row: Op, axis: int, **how):
        self.row, self.axis, self.specs = row, axis, list(row.inputs.values())
        self.inputs = problem(row, **how)
        y = row.reference(*self.inputs)
        self.dy = torch.empty_like(y).copy_(torch.randn(y.shape, generator=torch.Generator().manual_seed(4)))

    def made(self, t: Tensor, spec: str, times: int) -> Tensor:
        if not is_map(spec) or (t := self.row.as_map(spec, t)).shape[self.axis] == 1:
            return t
        t = tiled(t, self.axis, times)
        return self.row.view(spec, t, {"C": t.shape[1], "S": t.shape[2:]})

    def result(self, fn: Callable, times: int, dtype: torch.dtype, **options) -> tuple[Tensor, Tensor]:
        """y and dx as maps."""
        inputs = [self.made(t, spec, times).to(dtype) for t, spec in zip(self.inputs, self.specs, strict=True)]
        inputs[0].requires_grad_()
        y = fn(*inputs, **options)
        (dx,) = torch.autograd.grad(y, inputs[0], self.made(self.dy, self.row.outputs["y"], times).to(dtype))
        return self.row.as_map(self.row.outputs["y"], y.detach()), self.row.as_map(self.specs[0], dx)

    def three_tell(self) -> bool:
        """A pixel's result depends on its own tile, on a border, or on means: three tiles tell the result of many.

        A maximum that each tile attains, an unbiased variance and the statistics of a map with borders do not.
        """
        three, five = (self.result(self.row.reference, times, torch.float64) for times in (3, 5))
        try:
            for many, few in zip(five, three, strict=True):
                assert_tiles_repeat(many, few, self.axis, torch.testing.assert_close)
        except AssertionError:
            return False
        return True


def check_repeated_tiles(row: Op, axis: int, times: int, close: Callable, **how) -> int:
    """y and dx of an input of many equal tiles agree with the reference. The number of elements."""
    repeated = Repeated(row, axis, **how)
    few = Repeated(row, axis, N=2, C=4, S=(3, 4)).three_tell()
    found = repeated.result(row.op, times, repeated.dy.dtype, backend="triton")
    for got, expected in zip(found, repeated.result(row.reference, 3 if few else times, torch.float32), strict=True):
        if few:
            assert_tiles_repeat(got, expected, axis, close)
        else:
            for got_tile, tile in zip(*(t.split(t.shape[axis] // times, axis) for t in (got, expected)), strict=True):
                close(got_tile, tile)
    return found[0].numel()


def close_in_half(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got.float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
@pytest.mark.huge
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("axis", [0, 2], ids=["batch", "pixels"])
@each_row
def test_past_2_31_elements(row, axis, layout):
    """4.3 GB a map in float16: in many images, and in the rows of a single one."""
    N, channels, S = (64, 16, (64, 64)) if axis == 0 else (1, 16, (64, 4096))
    times = -(-HUGE // (N * channels * math.prod(S)))
    maps = 8 if Repeated(row, axis, N=2, C=4, S=(3, 4)).three_tell() else 8 + 2 * 8
    if torch.cuda.mem_get_info()[0] < maps * 2 * HUGE:
        pytest.skip("not enough free memory for eight maps of 4.3 GB, and for a reference of many tiles in float32")
    torch.use_deterministic_algorithms(False)
    how = dict(N=N, C=channels, S=S, layout=layout, dtype=torch.float16)
    assert check_repeated_tiles(row, axis, times, close_in_half, **how) > 2**31
    torch.cuda.empty_cache()


@pytest.mark.interpreter
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("axis", [0, 2], ids=["batch", "pixels"])
@each_row
def test_repeated_tiles(row, axis, layout):
    """The check of the huge tensors, on small ones."""

    def close(got, expected):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    check_repeated_tiles(row, axis, 5, close, N=2, C=4, S=(3, 4), layout=layout)
