"""Errors that name the argument, what was given and what is wanted. No check reads a value from the device."""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from ..reference.activations import ACTIVATIONS, ACTS, GATES, OUT_ACTS, Spec

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LOCAL_WINDOWS = (3, 5, 7, 9, 11)  # pixels a side
_NAMES = "float16, bfloat16, float32 or float64"
_PLAIN = (Tensor, torch.nn.Parameter)


def shape(t: Tensor) -> str:
    return f"({', '.join(map(str, t.shape))})"


def tensor(name: str, t) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}: got {type(t).__name__}, expected a torch.Tensor")
    if t.is_nested:
        raise TypeError(f"{name}: got a nested tensor, expected a dense one: call {name}.to_padded_tensor(0.0)")
    if t.layout is not torch.strided:
        raise TypeError(f"{name}: got layout {t.layout}, expected a dense tensor: call {name}.to_dense()")
    if t.dtype not in DTYPES:
        raise TypeError(f"{name}: got dtype {t.dtype}, expected {_NAMES}")


def feature_map(x, dims: Sequence[int] = (1, 2, 3), name: str = "x") -> None:
    """x is (N, C, *S) with 1, 2 or 3 spatial axes, or as many as `dims` says."""
    tensor(name, x)
    if x.dim() - 2 not in dims:
        form = "(N, C, H, W)" if dims == (2,) else "(N, C, *spatial) with 1, 2 or 3 spatial axes"
        raise ValueError(f"{name}: got {x.dim()} axes, shape {shape(x)}, expected {form}")
    if 0 in x.shape[1:]:
        raise ValueError(f"{name}: got shape {shape(x)}, expected at least one channel and one pixel")


def is_one_image(x, spatial_dims: int | None) -> bool:
    """Whether x is an image without a batch, (C, *spatial). Rank decides, never sizes: a module that does not know its
    number of spatial axes takes batches of images and of volumes only."""
    tensor("x", x)
    if spatial_dims is not None:
        if x.dim() not in (spatial_dims + 1, spatial_dims + 2):
            axes = ", ".join("DHW"[3 - spatial_dims :])
            raise ValueError(
                f"x: got {x.dim()} axes, shape {shape(x)}, expected (N, C, {axes}) or one image (C, {axes}) for "
                f"spatial_dims={spatial_dims}"
            )
        return x.dim() == spatial_dims + 1
    if x.dim() == 3:
        raise ValueError(
            f"x: got 3 axes, shape {shape(x)}, expected (N, C, H, W) or (N, C, D, H, W): pass x[None] for one image "
            "(C, H, W), or make the module with spatial_dims=1 for (N, C, L), spatial_dims=2 for (C, H, W)"
        )
    return False


def channels(x: Tensor, expected: int, name: str = "x") -> None:
    """x (N, C, ...) has as many channels as the module that takes it."""
    if x.shape[1] != expected:
        hint = f": pass {name}.permute(0, 3, 1, 2)" if x.dim() == 4 and x.shape[3] == expected else ""
        axes = ", ".join("DHW"[5 - x.dim() :])
        raise ValueError(f"{name}: got shape {shape(x)}, expected (N, {expected}, {axes}){hint}")


def parameter(
    name: str, t, x: Tensor, expected: tuple[int, ...], *, trailing_ones: bool = False, map_name: str = "x"
) -> None:
    """A parameter of the expected shape, on the device of the map x, in its dtype or float32."""
    dense = type(t) in _PLAIN and t.layout is torch.strided and not t.is_nested
    if dense and t.shape == expected and t.dtype == x.dtype and t.device == x.device:
        return
    tensor(name, t)
    head = tuple(t.shape[: len(expected)])
    tail = t.shape[len(expected) :]
    if head != expected or not ((trailing_ones and all(s == 1 for s in tail)) or not tail):
        form = ", ".join(map(str, expected)) + (", ..." if trailing_ones else "")
        hint = _permute_hint(t, x, map_name)
        raise ValueError(f"{name}: got shape {shape(t)}, expected ({form}) for {map_name} of shape {shape(x)}{hint}")
    if t.device != x.device:
        raise ValueError(f"{name}: is on {t.device}, {map_name} is on {x.device}: expected one device")
    if t.dtype not in (x.dtype, torch.float32):
        also = "" if x.dtype == torch.float32 else " or torch.float32"
        raise TypeError(f"{name}: got dtype {t.dtype}, expected {map_name}'s {x.dtype}{also}")


def second_map(name: str, t, x: Tensor, expected: tuple[int, ...] | None = None, map_name: str = "x") -> None:
    """A map beside x, of its dtype, device and batch; of the expected shape if there is one."""
    tensor(name, t)
    fits = tuple(t.shape) == expected if expected else t.dim() > 2 and t.shape[0] == x.shape[0] and 0 not in t.shape[1:]
    if not fits:
        form = f"({', '.join(map(str, expected))})" if expected else f"({x.shape[0]}, channels, *spatial)"
        raise ValueError(f"{name}: got shape {shape(t)}, expected {form} for {map_name} of shape {shape(x)}")
    if t.device != x.device:
        raise ValueError(f"{name}: is on {t.device}, {map_name} is on {x.device}: expected one device")
    if t.dtype != x.dtype:
        raise TypeError(f"{name}: got dtype {t.dtype}, expected {map_name}'s {x.dtype}")


def broadcast(name: str, t, x: Tensor, map_name: str = "x") -> None:
    """A tensor beside x, of its dtype and device, along every axis as long as x or 1."""
    tensor(name, t)
    if t.dim() != x.dim() or any(s not in (1, size) for s, size in zip(t.shape, x.shape, strict=True)):
        form = f"{shape(x)}, or 1 along any axis,"
        raise ValueError(f"{name}: got shape {shape(t)}, expected {form} for {map_name} of shape {shape(x)}")
    second_map(name, t, x, tuple(t.shape), map_name)


def branches(name: str, t, x: Tensor) -> None:
    """A value for each channel of each of the branches whose channels x has one after another."""
    tensor(name, t)
    N, channels = x.shape[:2]
    radix = t.shape[1] if t.dim() > 2 else 0
    if radix == 0 or channels % radix or tuple(t.shape) != (N, radix, channels // radix, *[1] * (t.dim() - 3)):
        form = f"({N}, radix, {channels} / radix, ...), with a radix from 1 on that divides {channels},"
        raise ValueError(f"{name}: got shape {shape(t)}, expected {form} for x of shape {shape(x)}")
    second_map(name, t, x, tuple(t.shape))


def resized(name: str, t, x: Tensor, scale_factor) -> None:
    """A map beside x (N, C, H, W), of its channels or of one, that is brought to its pixels by a factor, or by 0."""
    number("scale_factor", scale_factor, float, 0)
    if scale_factor < 0:
        raise ValueError(f"scale_factor: got {scale_factor!r}, expected a number above 0, or 0 for x's size")
    tensor(name, t)
    if t.dim() != 4 or t.shape[0] != x.shape[0] or t.shape[1] not in (1, x.shape[1]) or 0 in t.shape[1:]:
        channels = "1" if x.shape[1] == 1 else f"{x.shape[1]} or 1"
        form = f"({x.shape[0]}, {channels}, h, w)"
        raise ValueError(f"{name}: got shape {shape(t)}, expected {form} for x of shape {shape(x)}")
    second_map(name, t, x, tuple(t.shape))
    if scale_factor and (made := tuple(math.floor(s * scale_factor) for s in t.shape[2:])) != tuple(x.shape[2:]):
        raise ValueError(
            f"scale_factor: got {scale_factor!r}, which makes {name} {made[0]} x {made[1]}, expected a factor to x's "
            f"{x.shape[2]} x {x.shape[3]}"
        )


def coarse_mask(name: str, t, image: Tensor) -> None:
    """A map (N, M, h, w) of the batch, dtype and device of an image."""
    tensor(name, t)
    if t.dim() != 4 or t.shape[0] != image.shape[0] or 0 in t.shape[1:]:
        form = f"({image.shape[0]}, channels, h, w)"
        raise ValueError(f"{name}: got shape {shape(t)}, expected {form} for image of shape {shape(image)}")
    second_map(name, t, image, tuple(t.shape), "image")


def beside(name: str, t, x: Tensor) -> None:
    """A map beside x, of its dtype, device, batch and pixels, and of any channels."""
    tensor(name, t)
    if t.dim() != x.dim() or not t.shape[1] or (t.shape[0], *t.shape[2:]) != (x.shape[0], *x.shape[2:]):
        form = ", ".join(map(str, (x.shape[0], "channels", *x.shape[2:])))
        raise ValueError(f"{name}: got shape {shape(t)}, expected ({form}) for x of shape {shape(x)}")
    second_map(name, t, x, tuple(t.shape))


def epsilon(eps, name: str = "eps") -> None:
    if isinstance(eps, bool) or not _is_number(eps) or not 0 <= eps < math.inf:
        raise ValueError(f"{name}: got {text(eps)}, expected a finite number of at least 0")


def _permute_hint(t: Tensor, x: Tensor, name: str) -> str:
    if x.dim() > 2 and x.shape[1] not in t.shape[:2] and x.shape[-1] in t.shape[:2]:
        order = ", ".join(map(str, (0, x.dim() - 1, *range(1, x.dim() - 1))))
        return f". The channels of {name} seem to be its last axis: pass {name}.permute({order}), which copies nothing"
    return ""


def flag(name: str, value) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name}: got {value!r}, expected one of False, True")


def choice(name: str, value, allowed: Sequence[str]) -> None:
    comparable = value is None or isinstance(value, str | Integral)  # an array's == is no single truth
    if not comparable or value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, allowed))}")


def activation(name: str, value: str | Spec, allowed: Sequence[str]) -> Spec:
    """A name, or (name, a, b), as (name, a, b)."""
    if isinstance(value, str):
        choice(name, value, allowed)
        return value, ACTIVATIONS[value].a, ACTIVATIONS[value].b
    if not (isinstance(value, tuple) and len(value) == 3 and all(map(_is_number, value[1:]))):
        names = ", ".join(map(repr, allowed))
        raise ValueError(f"{name}: got {value!r}, expected one of {names}, or a tuple (name, a, b) with two numbers")
    choice(name, value[0], allowed)
    return value[0], float(value[1]), float(value[2])


def local_window(kernel_size, dilation, depthwise: bool, weight: Tensor | None = None) -> None:
    """The window of a local gate, a number or a weight's: what kernels of stencils take."""
    number("dilation", dilation, int, 1)
    sizes = LOCAL_WINDOWS if depthwise else LOCAL_WINDOWS[:1]
    if kernel_size not in sizes:
        name, got = ("kernel_size", repr(kernel_size)) if weight is None else ("weight", f"shape {shape(weight)}")
        wanted = (
            f"{', '.join(map(str, sizes[:-1]))} or {sizes[-1]} pixels a side" if depthwise else "3 unless depthwise"
        )
        raise ValueError(f"{name}: got {got}, expected a window of {wanted}")
    if dilation != 1 and not depthwise:
        raise ValueError(f"dilation: got {dilation!r}, expected 1 unless the convolution is depthwise")


def dilations(value, image: Tensor) -> tuple[int, ...]:
    """Each no larger than what leads past every border of the image, where the nearest pixel counts."""
    if not isinstance(value, tuple | list) or not value:
        raise ValueError(f"dilations: got {text(value)}, expected a tuple of one int or more, each of at least 1")
    for d in value:
        number("dilations", d, int, 1)
    most = max(image.shape[2:])
    return tuple(int(d) if d <= most else int(most) for d in value)


def odd(name: str, value) -> None:
    at_least_one(name, value)
    if value % 2 == 0:
        raise ValueError(f"{name}: got {value!r}, expected an odd number")


def at_least_one(name: str, value) -> None:
    number(name, value, int, 1)


def number(name: str, value, kind: type, least: int) -> None:
    """A size that a module is made with, before anything is made of it: an int from `least` on, a finite float."""
    if kind is int and (isinstance(value, bool) or not isinstance(value, Integral) or not least <= value < 2**31):
        large = isinstance(value, Integral) and value >= 2**31
        raise ValueError(f"{name}: got {text(value)}, expected an int of at least {least}" + ", below 2^31" * large)
    if kind is float and not (_is_number(value) and abs(value) < math.inf):
        raise ValueError(f"{name}: got {text(value)}, expected a finite number")


def _is_long(value) -> bool:
    """Whether it is an int that no float is, and that Python may refuse to print."""
    return isinstance(value, int) and value.bit_length() > 64


def _is_number(value) -> bool:
    return isinstance(value, Real) and not _is_long(value)


def text(value) -> str:
    if isinstance(value, tuple | list) and any(map(_is_long, value)):
        return f"({', '.join(map(text, value))})"
    return f"an int of {value.bit_length()} bits" if _is_long(value) else repr(value)


def module_options(**options) -> None:
    """What a module was made with, before it is called."""
    for name, value in options.items():
        if name in _MODULE_OPTIONS:
            choice(name, value, _MODULE_OPTIONS[name])
        elif name in ("gate", "act"):
            activation(name, value, GATES if name == "gate" else ACTS)
        elif name == "dilation" and not isinstance(value, tuple):
            at_least_one(name, value)
        elif name == "spatial_dims":
            choice(name, value, (None, 1, 2, 3))


def gate(value: str | Spec) -> Spec:
    return activation("gate", value, GATES)


def act(value: str | Spec) -> Spec:
    return activation("act", value, ACTS)


_MODULE_OPTIONS = {
    "backend": (None, "triton", "reference"),
    "ties": ("first", "split"),
    "out_act": OUT_ACTS,
    "reduce": ("sum", "max"),
    "border": ("shift", "mask", "zero"),
}
