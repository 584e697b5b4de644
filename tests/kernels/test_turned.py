"""A dense local gate of an NCHW map, turned for the library: which maps turn, and that turning changes no value."""

import itertools
import math

import pytest
import torch
from probe import faults, probe
from support import DEVICE, DTYPES, assert_right, problem
from torch import Tensor

from segattn_triton import compiled, functional
from segattn_triton.catalog import BY_NAME
from segattn_triton.kernels.conv.turn import plan_turn
from segattn_triton.ops.local_dense import local_gate_dense
from segattn_triton.runtime.plan import launch
from segattn_triton.testing import make_inputs
from segattn_triton.tuning.target import planning_for

ROW = BY_NAME["local_gate"]
ORDERS = ("contiguous", "channels_last")
HALVES = (torch.float16, torch.bfloat16)
SHAPES = [(2, 8, 5, 9), (1, 16, 8, 8), (3, 24, 1, 7), (2, 40, 19, 23), (1, 8, 1, 1)]


def launched(C: int, dtype=torch.bfloat16, layout: str = "contiguous", arch: int = 90, S=(64, 64), **how):
    inputs = make_inputs(ROW, {"N": 8, "C": C, "S": S}, dtype, layout=layout, device="meta")
    with planning_for(arch):
        return compiled.planned(functional.local_gate, *inputs, **how)


@pytest.mark.parametrize(
    ("how", "turned"),
    [
        ({}, True),
        ({"dtype": torch.float16}, True),
        ({"arch": 80}, True),
        ({"S": (5, 9)}, True),
        ({"arch": 75, "dtype": torch.float16}, False),
        ({"dtype": torch.float32}, False),
        ({"dtype": torch.float64}, False),
        ({"layout": "channels_last"}, False),
        ({"C": 12}, False),
        ({"C": 1}, False),
    ],
    ids=str,
)
def test_which_maps_turn(how, turned):
    forward, backward = ([plan.name for plan in plans] for plans in launched(**{"C": 64} | how))
    if turned:
        assert forward == ["turn", "conv_library_fwd"]
        assert backward == ["conv_bwd", "finish", "turn"]
    assert ("turn" in forward + backward) == turned


def test_passes():
    """Those of the docstring, without the library's 2 forward and 4 backward."""
    passes = []
    for plans in launched(64):
        x = 8 * 64 * 64 * 64
        moved = [(p.args[name], loads + stores) for p in plans for name, (loads, stores) in p.traffic.items()]
        passes.append(sum(n for t, n in moved if t is not None and t.numel() == x))
    assert passes == [5, 9]


def test_gradients_of_some():
    """x is turned again for the gradient of the weight alone."""
    for needs in itertools.product((False, True), repeat=3):
        _, backward = launched(64, needs=needs)
        assert [plan.name == "turn" for plan in backward].count(True) == needs[0]
        if any(needs):
            assert (backward[0].args["turned_ptr"] is not None) == needs[1]


def test_what_turns_is_not_loaded_ahead():
    """Where tiles turn follows from the loads ahead of them, and with it which thread adds what."""
    for layout in ORDERS:
        (plan,) = (p for p in launched(64, layout=layout, S=(512, 512))[1] if p.name == "conv_bwd")
        assert (plan.args["STAGES"] == 1) == (layout == "contiguous")


def values(shape, dtype, layout: str) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    x.view(-1)[:4] = torch.tensor([math.inf, -math.inf, math.nan, -0.0], dtype=dtype)
    return x.to(memory_format=torch.channels_last) if layout == "channels_last" else x


@pytest.mark.parametrize("layout", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_turn_is_a_copy(shape, dtype, layout):
    """Bit for bit; and a sum is rounded once. Of a slice of channels, every element touched once."""
    x = values(shape, dtype, layout)
    other = torch.channels_last if layout == "contiguous" else torch.contiguous_format
    for source in (x, x[:, 8:] if shape[1] > 8 else x):
        y = torch.full_like(source, math.nan, memory_format=other)
        with probe() as launches:
            launch(plan_turn(source, y))
        assert not faults(launches)
        assert torch.equal(y.nan_to_num(7.0), source.nan_to_num(7.0)) and torch.equal(y.isnan(), source.isnan())
        z = values(source.shape, dtype, "contiguous").flip(0).contiguous(memory_format=other)
        expected = (z.double() + source.double()).to(dtype)
        launch(plan_turn(source, z, adds=True))
        torch.testing.assert_close(z, expected, rtol=0, atol=0, equal_nan=True)


def gated(inputs, dy: Tensor, dmap: Tensor, needs=(True, True, True)) -> list[Tensor]:
    leaves = [t.detach().requires_grad_(n) for t, n in zip(inputs, needs, strict=True)]
    y, gate_map = local_gate_dense(*leaves, gate=("sigmoid", 0.0, 0.0), return_map=True, variant="library")()
    grads = torch.autograd.grad((y, gate_map), [t for t in leaves if t.requires_grad], (dy, dmap))
    return [y.detach(), gate_map.detach(), *grads]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_both_orders_have_the_same_bits(shape, dtype):
    """Of all but the bias's gradient, whose sum is of other tiles: the library does the same in both."""
    N, C, *S = shape
    x, weight, bias = problem(ROW, S=S, C=C, N=N, dtype=dtype)
    dy, dmap = (torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(x) for i in range(2))
    last = [t.to(memory_format=torch.channels_last) for t in (x, dy, dmap)]
    for needs in ((True, True, True), (True, False, False), (False, True, False)):
        ours = gated((x, weight, bias), dy, dmap, needs)
        theirs = gated((last[0], weight, bias), *last[1:], needs)
        for got, expected in zip(ours[:4], theirs[:4], strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)
        assert [got.stride() for got in ours[:2]] == [x.stride()] * 2
        if needs[0]:
            assert ours[2].stride() == x.stride()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_maps_that_lie_otherwise(dtype):
    """Slices of channels and of images, and what is not native at all."""
    x, weight, bias = problem(ROW, S=(5, 6), C=24, N=4, dtype=dtype)
    weight, bias = weight[:16, :16].contiguous(), bias[:16].contiguous()
    for view in (x[:, 8:], x[::2, :16], x[:, :16, :, :5], x[:, :16].transpose(2, 3), x[:1, :16].expand(3, -1, -1, -1)):
        assert_right(ROW, view, weight, bias)


def test_what_is_saved_may_be_handed_back_in_other_strides():
    x, weight, bias = problem(ROW, S=(5, 6), C=16, dtype=torch.bfloat16)

    def grads(unpack) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            y = functional.local_gate(*leaves, backend="triton")
        return list(torch.autograd.grad(y, leaves, x))

    def other(t: Tensor) -> Tensor:
        return t.movedim(0, -1).contiguous().movedim(-1, 0)

    for got, expected in zip(grads(other), grads(lambda t: t), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_programs_of_turned_maps():
    """A call that runs its program gives what the first did, of other values."""
    calls = [problem(ROW, S=(5, 6), C=16, dtype=torch.float16, seed=seed) for seed in range(2)]
    dy = calls[0][0]
    first = [gated(call, dy, dy) for call in calls]
    for call, expected in [*zip(calls, first, strict=True)] * 3:
        for got, want in zip(gated(call, dy, dy), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_the_operator_as_torch_checks_it():
    """Its fake lies as what it gives, z of a turned map too."""
    x, weight, bias = problem(ROW, S=(5, 6), C=8, dtype=torch.bfloat16)
    for variant, save in itertools.product(("auto", "library", "pointers"), (False, True)):
        args = (x, weight, bias, "sigmoid", 0.0, 0.0, variant, save, True)
        torch.library.opcheck(torch.ops.segattn.local_gate.default, args)
