"""The gates' device functions are the reference's: names, values and derivatives, over every 16-bit input."""

import math

import pytest
import torch
import triton
import triton.language as tl
from support import DEVICE, assert_equal

from segattn_triton.kernels.common.activations import FUNCTIONS, activation
from segattn_triton.reference.activations import ACTIVATIONS, ACTS, GATES, spec

each_name = pytest.mark.parametrize("name", ACTIVATIONS)


@triton.jit
def _apply_kernel(z_ptr, out_ptr, FN: tl.constexpr, ACC: tl.constexpr, SIZE: tl.constexpr):
    offs = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    z = tl.load(z_ptr + offs).to(ACC)
    f = FN.f(z, FN.a, FN.b)
    df = FN.df(tl.full([SIZE], 1.0, ACC), z, FN.a, FN.b)
    tl.store(out_ptr + offs, f.to(out_ptr.dtype.element_ty))
    tl.store(out_ptr + SIZE * tl.num_programs(0) + offs, df.to(out_ptr.dtype.element_ty))


def computed(name, z: torch.Tensor, a=None, b=None) -> torch.Tensor:
    """(2, z): the function and its derivative by the kernel."""
    name, default_a, default_b = spec(name)
    function = activation(name, default_a if a is None else a, default_b if b is None else b)
    size = 2**14 if z.numel() % 2**14 == 0 else triton.next_power_of_2(z.numel())
    padded = torch.nn.functional.pad(z, (0, -z.numel() % size))
    out = torch.empty(2, padded.numel(), dtype=z.dtype, device=DEVICE)
    accumulator = tl.float64 if z.dtype == torch.float64 else tl.float32
    _apply_kernel[(padded.numel() // size,)](padded.to(DEVICE), out, function, accumulator, size)
    return out[:, : z.numel()].cpu()


def exact(name, z: torch.Tensor, a=None, b=None) -> torch.Tensor:
    name, default_a, default_b = spec(name)
    leaf = z.double().requires_grad_()
    f = ACTIVATIONS[name].f(leaf, default_a if a is None else a, default_b if b is None else b)
    (df,) = torch.autograd.grad(f.sum(), leaf)
    return torch.stack([f.detach(), df])


def test_names():
    assert FUNCTIONS.keys() == ACTIVATIONS.keys()
    assert set(GATES) | set(ACTS) == ACTIVATIONS.keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_name
def test_every_16_bit_input(name, dtype):
    """One rounding of the result beside a few units of float32; where a sum cancels, units of its terms."""
    z = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    z = z[z.isfinite()]
    got, want = computed(name, z).double(), exact(name, z)
    half_unit, smallest = (2.0**-11, 2.0**-24) if dtype == torch.float16 else (2.0**-8, 2.0**-126)
    cancels = torch.zeros(2, 1, dtype=torch.float64) + 2.0**-21
    if name in ("sigmoid", "tanh", "relu", "identity", "leaky_relu", "silu"):
        cancels[0] = 0.0
    if name in ("hardswish", "silu"):
        cancels, smallest = (t * z.double().abs().clamp_min(1) for t in (cancels, smallest))
    budget = (half_unit * (1 + 1e-3) + 2.0**-20) * want.abs() + cancels + smallest
    overflow = want.abs() * (1 + half_unit) > torch.finfo(dtype).max
    bad = ~((got - want).abs() <= budget) & ~overflow
    kink = {"hard_sigmoid": 3.0, "hardswish": 3.0}.get(name)
    if kink is not None:  # at +-3 the derivative jumps, and a z + b is 0 or 1 but for its rounding
        bad[1] &= z.double().abs() != kink
    assert not bad.any(), (z[bad.any(0)][:5], got[:, bad.any(0)][:, :5], want[:, bad.any(0)][:, :5])


@each_name
def test_float64(name):
    z = torch.linspace(-12, 12, 2048, dtype=torch.float64)
    torch.testing.assert_close(computed(name, z), exact(name, z), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "a", "b", "at"),
    [
        ("relu", 0.0, 0.0, [0.0, -0.0]),
        ("relu_sigmoid", 0.0, 0.0, [0.0, -0.0]),
        ("leaky_relu", 0.25, 0.0, [0.0, -0.0]),
        ("hard_sigmoid", 0.25, 0.5, [-2.0, 2.0]),
        ("hardswish", 0.25, 0.5, [-2.0, 2.0]),
    ],
)
def test_kinks(name, a, b, at):
    """The derivative where there is none is torch's."""
    z = torch.tensor(at)
    assert_equal(computed(name, z, a, b).double(), exact(name, z, a, b))


@each_name
def test_not_finite(name):
    z = torch.tensor([math.nan, math.inf, -math.inf])
    assert_equal(computed(name, z)[0].double(), exact(name, z)[0])


@triton.jit
def _backward_kernel(dg_ptr, z_ptr, out_ptr, FN: tl.constexpr, SIZE: tl.constexpr):
    offs = tl.arange(0, SIZE)
    tl.store(out_ptr + offs, FN.df(tl.load(dg_ptr + offs), tl.load(z_ptr + offs), FN.a, FN.b))


@each_name
def test_gradients_that_are_not_finite(name):
    """Where a function is flat an infinite gradient ends, as in torch."""
    values = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    dg, z = (
        t.flatten().contiguous() for t in torch.meshgrid(values, torch.tensor([-5.0, -0.5, 0.5, 5.0]), indexing="ij")
    )
    out = torch.empty_like(z, device=DEVICE)
    _backward_kernel[(1,)](dg.to(DEVICE), z.to(DEVICE), out, activation(*spec(name)), z.numel())
    leaf = z.double().requires_grad_()
    (want,) = torch.autograd.grad(ACTIVATIONS[name].f(leaf, *spec(name)[1:]), leaf, dg.double())
    finite = want.isfinite()
    assert not out.cpu()[~finite].isfinite().any()
    torch.testing.assert_close(out.cpu().double()[finite], want[finite], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tanh_is_accurate_near_zero(dtype):
    """2 sigmoid(2z) - 1 is off by half its value at 1e-7."""
    z = torch.logspace(-37, 0, 2048, dtype=dtype)
    z = torch.cat([z, -z])
    got, want = computed("tanh", z)[0].double(), torch.tanh(z.double())
    unit = 2.0**-24 if dtype == torch.float32 else 2.0**-53
    assert ((got - want).abs() <= 6 * unit * want.abs()).all()


@each_name
def test_sign_of_zero(name):
    z = torch.tensor([0.0, -0.0])
    assert torch.equal(computed(name, z)[0].signbit(), exact(name, z)[0].signbit())


@pytest.mark.gpu
def test_functions_are_part_of_the_compile_key():
    """Another function or constant is another kernel."""
    keys = {activation(name, a, b).cache_key for name in FUNCTIONS for a in (0.1, 0.2) for b in (0.5, 0.6)}
    assert len(keys) == 4 * len(FUNCTIONS)
