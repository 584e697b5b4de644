"""Errors that name the argument, what was given and what is wanted. No check reads a value from the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from segattn_triton.reference.activations import ACTIVATIONS, ACTS, GATES, Spec

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NAMES = "float16, bfloat16, float32 or float64"


def shape(t: Tensor) -> str:
    return f"({', '.join(map(str, t.shape))})"


def tensor(name: str, t) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: got {type(t).__name__}, expected a torch.Tensor")
    if t.layout is not torch.strided:
        raise TypeError(f"{name}: got layout {t.layout}, expected a dense tensor: call {name}.to_dense()")
    if t.dtype not in DTYPES:
        raise TypeError(f"{name}: got dtype {t.dtype}, expected {_NAMES}")


def feature_map(x, dims: Sequence[int] = (1, 2, 3)) -> None:
    """x is (N, C, *S) with 1, 2 or 3 spatial axes, or as many as `dims` says."""
    tensor("x", x)
    if x.dim() - 2 not in dims:
        form = "(N, C, H, W)" if dims == (2,) else "(N, C, *spatial) with 1, 2 or 3 spatial axes"
        raise ValueError(f"x: got {x.dim()} axes, shape {shape(x)}, expected {form}")
    if 0 in x.shape[1:]:
        raise ValueError(f"x: got shape {shape(x)}, expected at least one channel and one pixel")


def parameter(name: str, t, x: Tensor, expected: tuple[int, ...], *, trailing_ones: bool = False) -> None:
    """A parameter of the expected shape, on x's device, in x's dtype or float32."""
    tensor(name, t)
    head = tuple(t.shape[: len(expected)])
    tail = t.shape[len(expected) :]
    if head != expected or not ((trailing_ones and all(s == 1 for s in tail)) or not tail):
        form = ", ".join(map(str, expected)) + (", ..." if trailing_ones else "")
        raise ValueError(
            f"{name}: got shape {shape(t)}, expected ({form}) for x of shape {shape(x)}{_permute_hint(t, x)}"
        )
    if t.device != x.device:
        raise ValueError(f"{name}: is on {t.device}, x is on {x.device}: expected one device")
    if t.dtype not in (x.dtype, torch.float32):
        raise TypeError(f"{name}: got dtype {t.dtype}, expected x's {x.dtype} or torch.float32")


def _permute_hint(t: Tensor, x: Tensor) -> str:
    if x.dim() > 2 and x.shape[1] not in t.shape[:2] and x.shape[-1] in t.shape[:2]:
        order = ", ".join(map(str, (0, x.dim() - 1, *range(1, x.dim() - 1))))
        return f". The channels of x seem to be its last axis: pass x.permute({order}), which copies nothing"
    return ""


def choice(name: str, value, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, allowed))}")


def activation(name: str, value: str | Spec, allowed: Sequence[str]) -> Spec:
    """A name, or (name, a, b), as (name, a, b)."""
    if isinstance(value, str):
        choice(name, value, allowed)
        return value, ACTIVATIONS[value].a, ACTIVATIONS[value].b
    if not (isinstance(value, tuple) and len(value) == 3):
        raise ValueError(f"{name}: got {value!r}, expected a name or a tuple (name, a, b)")
    choice(name, value[0], allowed)
    return value[0], float(value[1]), float(value[2])


def gate(value: str | Spec) -> Spec:
    return activation("gate", value, GATES)


def act(value: str | Spec) -> Spec:
    return activation("act", value, ACTS)
