"""The error budget itself: every planted fault of a kernel is caught, and every correct kernel passes.

The kernel is the spatial gate in plain torch: 16-bit or 32-bit in and out, float32 inside, one rounding on the store.
A variant overrides one step of it.
"""

import dataclasses

import pytest
import torch
from support import each_dtype, problem

from segattn_triton.catalog import BY_NAME
from segattn_triton.testing import compare, matches

ROW = BY_NAME["spatial_gate"]
SHAPE = dict(N=4, C=16, S=(12, 16))


class Kernel:
    """y = x * g, g = sigmoid(z), z = <w, x_p> + b; dx = dy g + dz w, dw = sum dz x, dz = g (1 - g) sum_c dy x."""

    wide = torch.float32

    def operand(self, t):
        return t

    def total(self, products):
        return products.sum(1, keepdim=True)

    def sigmoid(self, z):
        return torch.sigmoid(z)

    def gate_of_product(self, g, dtype):
        return g

    def derivative(self, g):
        return g * (1 - g)

    def direct(self, dy, g):
        return dy * g

    def through_gate(self, dz, w):
        return dz * w

    def dweight(self, dz, x):
        return (dz * x).sum((0, 2, 3))

    def stored(self, y, dtype):
        return y.to(dtype)

    def forward(self, x, w, b):
        X, W = (self.operand(t.to(self.wide)) for t in (x, w.reshape(-1, 1, 1)))
        g = self.sigmoid(self.total(X * W) + b.to(self.wide))
        return X, W, g, self.stored(X * self.gate_of_product(g, x.dtype), x.dtype)

    def backward(self, dy, X, W, g, dtype):
        dy = dy.to(self.wide)
        dz = self.total(dy * X) * self.derivative(g)
        dx = self.stored(self.direct(dy, g) + self.through_gate(dz, W), dtype)
        return dx, self.dweight(dz, X).reshape(1, -1).to(dtype), dz.sum().reshape(1).to(dtype)


def changed(position, how):
    """A copy of a tensor with `how` applied in one place."""

    def change(t):
        t = t.clone()
        t[position] = how(t[position])
        return t

    return change


def running_sum(t, dtype):
    """Accumulation in the dtype of input and output."""
    total = torch.zeros_like(t[:, :1], dtype=dtype)
    for c in range(t.shape[1]):
        total += t[:, c : c + 1].to(dtype)
    return total.to(t.dtype)


def truncated(y, dtype):
    if dtype == torch.float16:
        rounded = y.to(dtype)
        away = rounded.to(y.dtype).abs() > y.abs()
        return torch.where(away, (rounded.view(torch.int16) - 1).view(dtype), rounded)
    return (y.view(torch.int32) & -65536).view(torch.float32).to(dtype)


def tf32(t):
    return ((t.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def fault(**steps):
    return type("Faulty", (Kernel,), {name: staticmethod(step) for name, step in steps.items()})()


def store(change):
    return lambda y, dtype: change(y).to(dtype)


SMALL = slice(1, 2)  # the image of small values
ANY = (torch.float16, torch.bfloat16, torch.float32)
HALF = (torch.float16, torch.bfloat16)
FAULTS = {  # name -> (kernel, the dtypes in which it is a fault)
    "last pixel wrong": (fault(stored=store(changed((..., -1, -1), lambda t: t * 1.05))), ANY),
    "one element wrong": (fault(stored=store(changed((2, 3, 4, 5), lambda t: t * 1.1))), ANY),
    "channel dropped": (fault(total=lambda p: p[:, :-1].sum(1, keepdim=True)), ANY),
    "accumulation in 16 bits": (None, HALF),
    "gate rounded before the product": (fault(gate_of_product=lambda g, dtype: g.to(dtype).float()), HALF),
    "approximate sigmoid": (fault(sigmoid=lambda z: torch.sigmoid(z) * (1 + 2.0**-9)), ANY),
    "TF32 operands": (fault(operand=tf32), (torch.float32,)),
    "small image zeroed": (fault(stored=store(changed(SMALL, lambda t: t * 0))), ANY),
    "small image shifted": (fault(stored=store(changed(SMALL, lambda t: t.roll(1, -1)))), ANY),
    "last row not written": (fault(stored=store(changed((..., -1, slice(None)), lambda t: t * 0))), ANY),
    "truncating store": (fault(stored=truncated), HALF),
    "derivative missing at a pixel": (
        fault(derivative=lambda g: changed((0, 0, 3, 3), lambda t: t * 0 + 1)(g * (1 - g))),
        ANY,
    ),
    "second term of dx missing in an image": (
        fault(through_gate=lambda dz, w: changed(SMALL, lambda t: t * 0)(dz * w)),
        ANY,
    ),
    "dweight without a tile": (fault(dweight=lambda dz, x: (dz * x)[..., :-4, :].sum((0, 2, 3))), ANY),
    "dweight without an image": (fault(dweight=lambda dz, x: (dz * x)[1:].sum((0, 2, 3))), ANY),
}
CORRECT = {
    "plain": Kernel(),
    "channels backwards": fault(total=lambda p: p.flip(1).sum(1, keepdim=True)),
    "in chunks": fault(total=lambda p: sum(c.sum(1, keepdim=True) for c in p.split(5, 1))),
    "one channel after the other": fault(total=lambda p: running_sum(p, p.dtype)),
    "pixels after images": fault(dweight=lambda dz, x: (dz * x).sum(0).flatten(1).sum(1)),
    "sigmoid by exp": fault(sigmoid=lambda z: 1 / (1 + torch.exp(-z))),
    "float64 inside": type("Wide", (Kernel,), {"wide": torch.float64})(),
}


def as_op(kernel: Kernel):
    class Gate(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, b):
            X, W, g, y = kernel.forward(x, w, b)
            ctx.saved, ctx.dtype = (X, W, g), x.dtype
            return y

        @staticmethod
        def backward(ctx, dy):
            return kernel.backward(dy, *ctx.saved, ctx.dtype)

    return lambda x, w, b, backend: Gate.apply(x, w, b)


def failures(kernel, dtype, scales, seed=0) -> list:
    x, *parameters = (t.cpu() for t in problem(ROW, **SHAPE, seed=seed))
    x = (x * torch.tensor(scales).reshape(-1, 1, 1, 1)).to(dtype)
    row = dataclasses.replace(ROW, op=as_op(kernel))
    return [m for m in matches(row, x, *(p.to(dtype) for p in parameters), seed=seed + 1) if not m.ok]


REGIMES = {"equal": (1.0, 1.0, 1.0, 1.0), "different": (1.0, 1e-3, 8.0, 0.1)}
each_regime = pytest.mark.parametrize("regime", REGIMES)


@each_regime
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, id=f"{name}-{str(dtype)[6:]}")
        for name, (_, dtypes) in FAULTS.items()
        for dtype in dtypes
    ],
)
def test_faults_are_caught(name, dtype, regime):
    kernel = FAULTS[name][0] or fault(total=lambda p: running_sum(p, dtype))
    for seed in range(3):
        assert failures(kernel, dtype, REGIMES[regime], seed)


@each_regime
@each_dtype
@pytest.mark.parametrize("name", CORRECT)
def test_correct_kernels_pass(name, dtype, regime):
    if dtype == torch.float64:
        kernel = type("Double", (type(CORRECT[name]),), {"wide": torch.float64})()
    else:
        kernel = CORRECT[name]
    for seed in range(3):
        wrong = failures(kernel, dtype, REGIMES[regime], seed)
        assert not wrong, wrong


def test_not_finite_positions():
    exact = torch.tensor([[1.0, float("nan"), float("inf"), float("-inf"), 1.0]], dtype=torch.float64)
    error = torch.zeros_like(exact)
    assert compare("y", exact.float(), exact, error).ok
    for i, value in ((1, 1.0), (0, float("nan")), (2, float("-inf")), (2, 1e30), (0, float("inf"))):
        wrong = exact.float().clone()
        wrong[0, i] = value
        assert compare("y", wrong, exact, error).failures == 1
    beyond = torch.tensor([[65520.0, 65504.0]], dtype=torch.float64)  # the first rounds to infinity in float16
    assert compare("y", beyond.half(), beyond, torch.zeros_like(beyond)).ok


def test_the_message_locates_the_first_wrong_element():
    exact = torch.arange(12.0, dtype=torch.float64).reshape(1, 3, 2, 2)
    got = exact.float()
    got[0, 1, 0, 1] = 7
    match = compare("dx", got, exact, torch.zeros_like(exact))
    assert (match.name, match.failures) == ("dx", 1)
    assert "1 of 12 elements, first at (0, 1, 0, 1): got 7, expected 5" in match.detail
