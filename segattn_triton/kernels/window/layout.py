"""Attention over windows: how maps and windows come to its kernels, as sizes, strides, constants and a config.

Views are (N, *S, heads, D) over one, two or three axes; kernels know them by the strides of all three.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import triton
from torch import Tensor

from ...runtime.maps import ALIGNMENTS, Layout
from ...tuning.choice import config_for
from ...tuning.model import Config, Footprint, Model, space
from ...tuning.target import with_all_registers

SPACE = space(BLOCK_P=(8, 16, 32, 64, 128), num_warps=(1, 2, 4, 8))


class Reach(NamedTuple):
    """The window along z, y and x, as the op has it."""

    kernel: tuple[int, int, int]
    dilation: tuple[int, int, int]
    causal: tuple[bool, bool, bool]
    border: str

    @classmethod
    def of(cls, axes: int, kernel_size, dilation, is_causal, border: str) -> "Reach":
        """Of one value for each axis of a map, or for all of them; an axis that it has not has a window of one."""
        given = ([*v] if isinstance(v, Sequence) else [v] for v in (kernel_size, dilation, is_causal))
        values = [v * axes if len(v) == 1 else v or [False] * axes for v in given]
        of_all = [(fill,) * (3 - axes) + tuple(v) for fill, v in zip((1, 1, False), values, strict=True)]
        return cls(*of_all, border)

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def entries(self) -> int:
        """Of the relative bias of a head."""
        return math.prod(2 * k - 1 for k in self.kernel)


class Windows(NamedTuple):
    """What the problem fixes at compile time; a constexpr."""

    kz: int
    ky: int
    kx: int
    causal_z: bool
    causal_y: bool
    causal_x: bool
    border: str
    whole: bool  # every query has all of its keys: nothing to exclude
    scale: float
    group: int  # query heads per key head
    dim: int  # D
    block_d: int  # D rounded up to a power of two
    int64: bool  # an image, with the windows at its border, reaches past 2^31 elements
    align: int  # elements: divides every stride but that of D, so that accesses along D can be wide
    planar: bool  # X is contiguous, not D: a warp's threads lie along the pixels


def pixels(t: Tensor) -> tuple[int, int, int]:
    """Z, Y and X of a view (N, *S, heads, D); 1 for an axis that it has not."""
    S = t.shape[1:-2]
    return (1,) * (3 - len(S)) + tuple(S)


def strides_of(t: Tensor, align: int = 1) -> tuple[int, ...]:
    """Strides of a view (N, *S, heads, D) along N, Z, Y, X, heads and D, all but the last in units of `align`.

    An axis of length 1 fits any stride; D then counts as contiguous.
    """
    first, *outer, inner = zip(t.shape, t.stride(), strict=True)
    missing = [(1, 0)] * (6 - t.dim())
    strides = [stride // align if size > 1 else 0 for size, stride in (first, *missing, *outer)]
    return *strides, inner[1] if inner[0] > 1 else 1


def row_strides_of(t: Tensor | None) -> tuple[int, ...] | None:
    """Strides of values (N, *S, heads) for `rows_at`."""
    return None if t is None else strides_of(t[..., None])


def constants_of(
    axes: Reach, scale: float, group: int, views: Sequence[Tensor], others: Sequence[Tensor] = ()
) -> Windows:
    """The constants for vectors like those of the first view; `others` are scores."""
    D, whole = views[0].shape[-1], axes.border == "shift" and not any(axes.causal)
    strides = [strides_of(t) for t in views]
    common = math.gcd(*(s for *outer, inner in strides for s in (outer if inner == 1 else (1,))))
    align = next(a for a in ALIGNMENTS if common % a == 0)
    past = [0 if whole else 2 * (k - 1) * d for k, d in zip(axes.kernel, axes.dilation, strict=True)]
    lengths = [n + p for n, p in zip(pixels(views[0]), past, strict=True)]
    sizes = [((*lengths, *t.shape[-2:]), strides_of(t)[1:]) for t in (*views, *others)]
    spans = [sum(n * s for n, s in zip(shape, stride, strict=True)) for shape, stride in sizes]
    block_d, far = triton.next_power_of_2(D), max(*lengths, *spans) >= 2**31
    planar = D > 1 and views[0].stride(-3) == 1 != views[0].stride(-1)
    return Windows(*axes.kernel, *axes.causal, axes.border, whole, scale, group, D, block_d, far, align, planar)


def tiles(t: Tensor, axes: Reach, heads: int, BLOCK_P: int) -> tuple[tuple[int, ...], int]:
    """`size` of `locate`, and the grid, for tiles over the pixels of t (N, *S, heads, D)."""
    S = pixels(t)
    count = triton.cdiv(math.prod(S), BLOCK_P)
    return (*S, *axes.dilation, heads, count), t.shape[0] * heads * count


def gather_model(t: Tensor, heads: int, loads: int, live: float) -> Model:
    """For kernels that gather vectors of pixels next to each other."""
    (N, *S, _, D), itemsize = t.shape, t.element_size()
    count_p, block_d = math.prod(S), triton.next_power_of_2(D)
    planar = t.stride(-3) == 1 and D > 1
    live *= 2.6 if planar else 1.7 if block_d > D else 1.2  # every value has its own address, or mask
    live *= 1.6 if itemsize == 8 else 1

    def footprint(config: Config) -> Footprint | None:
        block = config.blocks["BLOCK_P"]
        if block >= max(2 * count_p, 32) or (planar and block < 16 * config.num_warps):
            return None
        count = triton.cdiv(count_p, block)
        row_bytes = (min(block, S[-1]) if planar else D * heads) * itemsize
        waste = count * block / max(count_p, 1)
        return Footprint(block * block_d, itemsize, loads, live, N * heads * count, waste, row_bytes)

    return footprint


def choose_for(kernel: str, model: Model, t: Tensor, axes: Reach, heads: int, constants: Windows, also: str = ""):
    """The config for tiles over the pixels of t (N, *S, heads, D), for each of so many heads."""
    N, *S, _, D = t.shape
    layout = Layout(t.stride(-1) == 1 or D == 1, constants.align, constants.int64)
    sizes = "x".join(map(str, axes.kernel))
    what = (f"D{D}", f"K{sizes}", *([also] if also else []))
    how = dict(layout=layout, also=what, exact=(N, *S, t.stride(-3) == 1))
    config = config_for(SPACE, model, kernel, t, C=heads * D, pixels=N * math.prod(S), **how)
    return with_all_registers(config, t.device, hopper=True)
