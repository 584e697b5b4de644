"""The gates and activations as device functions: `f(z, a, b)`, and `df(dg, z, a, b)`, the gradient of z for dg of f(z).

Comparisons are written so that a NaN falls through to the result. At a kink the derivative is torch's, and where a
function is flat the gradient is zero, whatever dg is, as torch's.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from triton import JITFunction


@triton.jit
def identity(z, a, b):
    return z


@triton.jit
def d_identity(dg, z, a, b):
    return dg


@triton.jit
def sigmoid(z, a, b):
    # Triton scales an exponential whose result may be subnormal, in four instructions more; 1 + e does not see one
    if z.dtype == tl.float64:
        return 1.0 / (1.0 + tl.exp(-z))
    else:
        return 1.0 / (1.0 + tl.exp2(z * -1.4426950408889634))


@triton.jit
def d_sigmoid(dg, z, a, b):
    s = sigmoid(z, a, b)
    return dg * (s * (1.0 - s))


@triton.jit
def hard_sigmoid(z, a, b):
    u = a * z + b
    u = tl.where(u < 0.0, tl.zeros_like(u), u)
    return tl.where(u > 1.0, tl.zeros_like(u) + 1.0, u)


@triton.jit
def d_hard_sigmoid(dg, z, a, b):
    u = a * z + b
    return tl.where((u <= 0.0) | (u >= 1.0), 0.0, dg * a)


@triton.jit
def tanh(z, a, b):
    # Cephes: an odd rational function near 0, where 1 - exp(-2|z|) cancels; 1 - 2 / (exp(2|z|) + 1) beyond
    s = z * z
    p = (-9.64399179425052238628e-1 * s - 9.92877231001918586564e1) * s - 1.61468768441708447952e3
    q = ((s + 1.12811678491632931402e2) * s + 2.23548839060100448583e3) * s + 4.84406305325125486048e3
    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(z)) + 1.0)
    return tl.where(tl.abs(z) < 0.625, z * (1.0 + s * (p / q)), tl.where(z < 0.0, -far, far))


@triton.jit
def d_tanh(dg, z, a, b):
    t = tanh(z, a, b)
    return dg * (1.0 - t * t)


@triton.jit
def relu(z, a, b):
    return tl.where(z < 0.0, tl.zeros_like(z), z)


@triton.jit
def d_relu(dg, z, a, b):
    return tl.where(z <= 0.0, 0.0, dg)


@triton.jit
def silu(z, a, b):
    return z * sigmoid(z, a, b)


@triton.jit
def d_silu(dg, z, a, b):
    s = sigmoid(z, a, b)
    return dg * (s * (1.0 + z * (1.0 - s)))


@triton.jit
def hardswish(z, a, b):
    return z * hard_sigmoid(z, a, b)


@triton.jit
def d_hardswish(dg, z, a, b):
    return dg * hard_sigmoid(z, a, b) + d_hard_sigmoid(dg * z, z, a, b)


@triton.jit
def leaky_relu(z, a, b):
    return tl.where(z > 0.0, z, a * z)


@triton.jit
def d_leaky_relu(dg, z, a, b):
    return tl.where(z > 0.0, dg, dg * a)


@triton.jit
def _normal(z):
    # the distribution of a standard normal variable: 1 / sqrt(2) inside
    return 0.5 * (1.0 + tl.erf(z * 0.70710678118654752440))


@triton.jit
def gelu(z, a, b):
    return z * _normal(z)


@triton.jit
def d_gelu(dg, z, a, b):
    # its density: 1 / sqrt(2 pi)
    density = 0.39894228040143267794 * tl.exp(-0.5 * z * z)
    return dg * (_normal(z) + z * density)


@triton.jit
def relu_sigmoid(z, a, b):
    return sigmoid(relu(z, a, b), a, b)


@triton.jit
def d_relu_sigmoid(dg, z, a, b):
    return tl.where(z <= 0.0, 0.0, d_sigmoid(dg, z, a, b))


class Activation(NamedTuple):
    """A constexpr of kernels: `GATE.f(z, GATE.a, GATE.b)`, `GATE.df(dg, z, GATE.a, GATE.b)`."""

    f: JITFunction
    df: JITFunction
    a: float
    b: float

    @property
    def cache_key(self) -> str:
        """What Triton's compile cache knows this constexpr by: the source of both functions, and the constants."""
        return f"{self.f.cache_key}-{self.df.cache_key}-{self.a}-{self.b}"


FUNCTIONS = {
    "identity": (identity, d_identity),
    "sigmoid": (sigmoid, d_sigmoid),
    "hard_sigmoid": (hard_sigmoid, d_hard_sigmoid),
    "tanh": (tanh, d_tanh),
    "relu": (relu, d_relu),
    "silu": (silu, d_silu),
    "hardswish": (hardswish, d_hardswish),
    "leaky_relu": (leaky_relu, d_leaky_relu),
    "gelu": (gelu, d_gelu),
    "relu_sigmoid": (relu_sigmoid, d_relu_sigmoid),
}
Spec = tuple[str, float, float]  # name, a, b


def activation(name: str, a: float, b: float) -> Activation:
    return Activation(*FUNCTIONS[name], a, b)
