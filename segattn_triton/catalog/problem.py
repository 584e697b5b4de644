"""What a problem is: an operation with sizes, dtypes, a layout, options, and what is given and wants a gradient.

Tests, measurements, the tuner, ahead-of-time compilation and plots make their inputs here: maps of any layout, random
values that are the same on every device, or no values at all on the meta device.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .row import is_map
from .rows import Op
from .windows import BY_NAME

LAYOUTS = ("contiguous", "channels_last", "channel_slice", "channel_slice_last", "strided")
VERIFIED_SIDE = 72  # pixels a side, of a problem that is verified
Draw = Callable[[Sequence[int]], Tensor]  # the values of a map (N, C, *S)


def make_map(
    shape: Sequence[int], layout: str, generator: torch.Generator | None, dtype, device="cpu", draw: Draw | None = None
) -> Tensor:
    """A map (N, C, *S) that lies in memory as `layout` says, of what `draw` gives: normal random values, drawn in
    float32 where the generator is. On the meta device it has none."""
    N, C, *S = shape
    wide = (N, C + 3, *S) if layout.startswith("channel_slice") else (N, C, *S)
    if layout == "strided":
        wide = (N, C, *[2 * s for s in S])
    if torch.device(device).type == "meta":
        t = torch.empty(wide, dtype=dtype, device=device)
    else:
        t = (draw or partial(_normal, generator))(wide).to(device, dtype)
    if layout in ("channels_last", "channel_slice_last"):
        t = t.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout.startswith("channel_slice"):
        t = t[:, 2 : 2 + C]
    if layout == "strided":
        t = t[(slice(None), slice(None), *[slice(None, None, 2)] * len(S))]
    return t


def _normal(generator: torch.Generator, shape: Sequence[int]) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device=generator.device)


def make_inputs(
    row: Op,
    sizes: Mapping,
    dtype=torch.float32,
    *,
    layout="contiguous",
    device="cpu",
    seed=0,
    param_dtype=None,
    drawn_on="cpu",
    draw: Draw | None = None,
) -> list[Tensor]:
    """Random inputs of a row: maps as `layout`, parameters scaled so that the gate's argument is about 1.

    Drawn on the CPU they are the same everywhere, drawn on a GPU they are there seconds sooner. `draw` gives the maps
    other values.
    """
    meta = torch.device(device).type == "meta"
    generator = None if meta else torch.Generator(drawn_on).manual_seed(seed)
    inputs = []
    for spec in row.inputs.values():
        if is_map(spec):
            t = make_map(row.map_shape(spec, sizes), layout, generator, dtype, device, draw)
            inputs.append(row.view(spec, t, sizes))
            continue
        shape = row.shape(spec, sizes)
        if meta:
            inputs.append(torch.empty(shape, dtype=param_dtype or dtype, device=device))
        else:
            values = _normal(generator, shape) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
            inputs.append(values.to(device, param_dtype or dtype))
    return inputs


@dataclass(frozen=True)
class Problem:
    """A call of an operation, forward and backward, as its plans follow from it."""

    op: str  # a row of the catalog
    dtype: str
    layout: str
    N: int
    C: int
    S: tuple[int, ...]
    others: tuple[tuple[str, Any], ...] = ()  # sizes that the row would choose otherwise
    param_dtype: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    absent: tuple[str, ...] = ()  # optional inputs that are not given
    needs: tuple[bool, ...] = ()  # which inputs want a gradient: all, if empty

    @classmethod
    def of(cls, values: Mapping) -> "Problem":
        """From JSON, which has no tuples."""
        pairs = {
            name: tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in values[name])
            for name in ("others", "options")
        }
        return cls(**{**values, **{k: tuple(values[k]) for k in ("S", "absent", "needs")}, **pairs})

    @property
    def row(self) -> Op:
        return BY_NAME[self.op]

    @property
    def sizes(self) -> dict[str, Any]:
        return {"N": self.N, "C": self.C, "S": self.S, "Cr": max(1, self.C // 2), **dict(self.others)}

    @property
    def size(self) -> str:
        return "x".join(map(str, (self.N, self.C, *self.S)))

    @property
    def keywords(self) -> dict[str, Any]:
        return {**self.row.defaults, **dict(self.options)}

    @property
    def names(self) -> list[str]:
        """Of the inputs that are given."""
        return [name for name in self.row.shapes(self.sizes) if name not in self.absent]

    @property
    def wants(self) -> list[bool]:
        """Which inputs want a gradient."""
        given = [name.removesuffix("?") not in self.absent for name in self.row.inputs]
        return [g and n for g, n in zip(given, self.needs or given, strict=True)]

    def inputs(self, device="cpu", **how: Any) -> list[Tensor | None]:
        """One per input of the row, None where it is absent. `how`: seed, drawn_on, draw, as in `make_inputs`."""
        dtype, param_dtype = getattr(torch, self.dtype), getattr(torch, self.param_dtype or self.dtype)
        how |= dict(layout=self.layout, device=device, param_dtype=param_dtype)
        made = make_inputs(self.row, self.sizes, dtype, **how)
        return [None if name in self.absent else t for name, t in zip(self.row.shapes(self.sizes), made, strict=True)]

    def small(self) -> "Problem":
        """Of fewer pixels, which divide by what these do: the same kernels, but for the pixel count."""
        side = {1: 65, 2: 66, 4: 68}  # what it divides by -> the length of that class
        S = tuple(s if s <= VERIFIED_SIDE else next((side[a] for a in side if s % (2 * a)), 64) for s in self.S)
        return replace(self, N=min(self.N, 2), S=S)
