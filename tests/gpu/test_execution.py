"""What only a device shows: graphs, streams, a device that is not the current one, and repeats under load."""

from collections.abc import Callable, Sequence

import pytest
import torch
from support import DEVICE, INTERPRETED, assert_equal, each_row, outputs_and_gradients, problem
from torch import Tensor

from segattn_triton.catalog import Op
from segattn_triton.runtime import known
from segattn_triton.runtime.plan import recorded

REPEATS = 1000


@pytest.fixture(autouse=True)
def _a_library_that_repeats(monkeypatch):
    """The gradients of the dense local gate are the library's, which adds in any order unless it is told not to."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def run(row: Op, inputs: Sequence[Tensor]) -> list[Tensor]:
    """(y, map, gradients) for gradients of ones."""
    outputs = row.op(*inputs, backend="triton", **row.both)
    return [*outputs, *torch.autograd.grad(outputs, inputs, [torch.ones_like(o) for o in outputs])]


def leaves(row: Op, seed: int = 0, **how) -> list[Tensor]:
    return [t.requires_grad_() for t in problem(row, seed=seed, **how)]


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_row
def test_captured_and_replayed(row, layout):
    """Forward and backward in one CUDA graph; replayed on other values it gives eager's bits."""
    torch.use_deterministic_algorithms(False)
    inputs = leaves(row, S=(33, 40), C=24, layout=layout)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run(row, inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(row, inputs)
    for seed in (1, 2, 3):
        fresh = leaves(row, seed, S=(33, 40), C=24, layout=layout)
        with torch.no_grad():
            for t, values in zip(inputs, fresh, strict=True):
                t.copy_(values)
        graph.replay()
        for got, expected in zip(captured, run(row, fresh), strict=True):
            assert_equal(got, expected)


@pytest.mark.gpu
@each_row
def test_captured_too_early(row):
    """One error before a kernel is loaded; the stream, and the calls after it, are as they were."""
    inputs = leaves(row, S=(33, 40), C=24)
    with recorded() as plans:
        expected = run(row, inputs)
    for plan in plans:
        plan.kernel.device_caches.clear()  # and so its next launch loads it
    known.programs.clear()
    with pytest.raises(RuntimeError, match="expected the same call"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        run(row, inputs)
    for _ in range(3):
        for got, want in zip(run(row, inputs), expected, strict=True):
            assert_equal(got, want)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@each_row
def test_a_device_that_is_not_the_current_one(row):
    inputs = leaves(row, S=(17, 19), C=12)
    expected = run(row, inputs)
    with torch.cuda.device(0):
        moved = [t.detach().to("cuda:1").requires_grad_() for t in inputs]
        got = run(row, moved)
        assert torch.cuda.current_device() == 0
    for a, b in zip(got, expected, strict=True):
        assert a.device == torch.device("cuda:1")
        assert_equal(a.to(b.device), b)


def assert_interleaved(row: Op, streams: Sequence, times: int, synchronize: Callable[[], None], **how) -> None:
    """Calls on several streams in turn, their memory freed and taken again, give the bits of calls one by one."""
    inputs = [leaves(row, seed, **how) for seed in range(len(streams))]
    expected = [run(row, values) for values in inputs]
    synchronize()
    for _ in range(times):
        results = []
        for stream, values in zip(streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                results.append(run(row, values))
        synchronize()
        for got, wanted in zip(results, expected, strict=True):
            for a, b in zip(got, wanted, strict=True):
                assert_equal(a, b)


@pytest.mark.gpu
@each_row
def test_two_streams(row):
    torch.use_deterministic_algorithms(False)
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    assert_interleaved(row, streams, 20, torch.cuda.synchronize, S=(128, 128), C=64, dtype=torch.float16)


class Load:
    """Matrix products on another stream, so that blocks run in another order in every repeat."""

    def __init__(self):
        self.stream, self.matrix = torch.cuda.Stream(), torch.randn(2048, 2048, device="cuda", dtype=torch.float16)

    def __call__(self) -> None:
        with torch.cuda.stream(self.stream):
            torch.mm(self.matrix, self.matrix)


def assert_repeats(row: Op, times: int, load: Callable[[], None], **how) -> None:
    """Every backward gives the bits of the first. The dense local gate's library follows torch's flags."""
    inputs = leaves(row, **how)
    y, gate_map = row.op(*inputs, backend="triton", **row.both)
    douts = [torch.randn(o.shape, generator=torch.Generator().manual_seed(1)).to(o) for o in (y, gate_map)]
    first = torch.autograd.grad((y, gate_map), inputs, douts, retain_graph=True)
    wrong = torch.zeros((), dtype=torch.int64, device=DEVICE)
    for _ in range(times):
        load()
        again = torch.autograd.grad((y, gate_map), inputs, douts, retain_graph=True)
        for a, b in zip(again, first, strict=True):
            wrong += (a != b).sum()  # summed up on the device: no wait in the loop
    assert wrong.item() == 0


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_row
def test_a_thousand_backwards_under_load(row, layout):
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        assert_repeats(row, REPEATS, Load(), S=(60, 52), C=48, N=4, dtype=torch.float16, layout=layout)
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.interpreter
@each_row
def test_the_helpers(row):
    """The checks above, a few times and without a device's streams."""
    assert INTERPRETED
    assert_repeats(row, 2, lambda: None, S=(4, 5), C=4)
    assert_interleaved(row, [None, None], 1, lambda: None, S=(4, 5), C=4)


def test_outputs_and_gradients_agree():
    """`run` here and the shared helper are the same call."""
    from segattn_triton.catalog import ROWS

    inputs = problem(ROWS[0])
    douts = [torch.ones_like(o) for o in ROWS[0].reference(*inputs, **ROWS[0].both)]
    for a, b in zip(
        run(ROWS[0], [t.requires_grad_() for t in inputs]),
        outputs_and_gradients(ROWS[0].op, inputs, douts, backend="triton"),
        strict=True,
    ):
        assert_equal(a, b)
