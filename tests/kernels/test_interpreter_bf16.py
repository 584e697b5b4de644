"""The interpreter's bfloat16, as these tests patch it, is torch's: bit for bit."""

import pytest
import torch
import triton
import triton.language as tl

pytestmark = pytest.mark.interpreter
bf16 = torch.bfloat16


@triton.jit
def _copy_kernel(x_ptr, y_ptr, SIZE: tl.constexpr):
    offs = tl.arange(0, SIZE)
    tl.store(y_ptr + offs, tl.load(x_ptr + offs).to(y_ptr.dtype.element_ty))


@triton.jit
def _arithmetic_kernel(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr):
    offs = tl.arange(0, SIZE)
    a = tl.load(a_ptr + offs)
    b = tl.load(b_ptr + offs)
    tl.store(out_ptr + offs, a + b)
    tl.store(out_ptr + SIZE + offs, a - b)
    tl.store(out_ptr + 2 * SIZE + offs, a * b)
    tl.store(out_ptr + 3 * SIZE + offs, tl.where(a < b, a, b))
    tl.store(out_ptr + 4 * SIZE + offs, tl.where(a == b, 1.0, 0.0))


@triton.jit
def _reduce_kernel(x_ptr, out_ptr, R: tl.constexpr, C: tl.constexpr):
    offs = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    x = tl.load(x_ptr + offs)
    tl.store(out_ptr + tl.arange(0, R), tl.max(x, 1))
    tl.store(out_ptr + R + tl.arange(0, R), tl.sum(x, 1).to(out_ptr.dtype.element_ty))


@triton.jit
def _dot_kernel(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr):
    offs = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(out_ptr + offs, tl.dot(tl.load(a_ptr + offs), tl.load(b_ptr + offs)))


def every_bf16() -> torch.Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(bf16)


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    y = torch.empty(x.shape, dtype=dtype)
    _copy_kernel[(1,)](x, y, x.numel())
    return y


def assert_equal_bits(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(got.isnan(), expected.isnan())
    as_int = {2: torch.int16, 4: torch.int32, 8: torch.int64}[got.element_size()]
    real = ~expected.isnan()
    assert torch.equal(got[real].view(as_int), expected[real].view(as_int))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, bf16], ids=str)
def test_casts_from_every_bf16(dtype):
    assert_equal_bits(cast(every_bf16(), dtype), every_bf16().to(dtype))


def test_casts_to_bf16_round_to_nearest_even():
    halfway = every_bf16().float().view(torch.int32)
    for shift in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):  # below, at and above each midpoint
        x = (halfway + shift).view(torch.float32)
        assert_equal_bits(cast(x, bf16), x.to(bf16))
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    assert_equal_bits(cast(x, bf16), x.to(bf16))


def test_arithmetic():
    size = 2**14
    bits = torch.randint(-(2**15), 2**15, (2, size), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    near = torch.randn(2, size, generator=torch.Generator().manual_seed(1)).to(bf16)
    for a, b in (bits.view(bf16), near, (near[0], near[0].roll(1))):
        out = torch.empty(5, size, dtype=bf16)
        _arithmetic_kernel[(1,)](a, b, out, size)
        expected = [a + b, a - b, a * b, torch.where(a < b, a, b), (a == b).to(bf16)]
        for got, want in zip(out, expected, strict=True):
            assert_equal_bits(got, want)


def test_reductions():
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)).to(bf16)
    out = torch.empty(2, 16, dtype=bf16)
    _reduce_kernel[(1,)](x, out, 16, 64)
    assert_equal_bits(out[0], x.amax(1))
    assert ((out[1].double() - x.double().sum(1)).abs() <= 2**-8 * x.double().sum(1).abs() + 1e-4).all()


def test_dot():
    a, b = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0)).to(bf16)
    out = torch.empty(32, 32)
    _dot_kernel[(1,)](a, b, out, 32)
    assert ((out.double() - a.double() @ b.double()).abs() <= 32 * 2**-24 * (a.double().abs() @ b.double().abs())).all()


def test_new_memory_is_poisoned():
    """What every other test relies on to see an output that is not written."""
    x = torch.ones(3)
    for t in (torch.empty(3), torch.empty_like(x), x.new_empty(3), torch.empty_strided((3,), (2,))):
        assert t.isnan().all()
    assert (torch.empty(3, dtype=torch.int32) == torch.iinfo(torch.int32).max).all()
