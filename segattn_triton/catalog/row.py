"""What a row of the catalog is: the shapes, options and costs of an operation, and its problems from real models.

Shapes are strings of sizes: "N C *S" is a map, "Cr C" a matrix; `sizes` binds the names. A shape with "*S" is a map,
wherever its channels stand: "N *S heads D" is a view of a map of heads * D channels. A trailing "?" on an input's name
marks it optional. The first value of each option is the default.
"""

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Sizes = Mapping[str, Any]  # name -> int, and S -> tuple of ints


@dataclass(frozen=True)
class Case:
    """A problem from a real model."""

    name: str
    N: int
    C: int
    S: tuple[int, ...]
    Cr: int = 0
    heads: int = 0  # 0: the row chooses
    k: int = 0  # the same
    R: int = 0  # the same
    M: int = 0  # channels of a second map: the same

    @property
    def sizes(self) -> Sizes:
        sizes = {"N": self.N, "C": self.C, "S": self.S, "Cr": self.Cr or max(1, self.C // 2)}
        return sizes | {name: chosen for name in ("heads", "k", "R", "M") if (chosen := getattr(self, name))}


@dataclass(frozen=True)
class Op:
    """A row: an operation by its public function, its definition and its module, and all that its shapes say."""

    name: str
    op: Callable
    reference: Callable
    inputs: Mapping[str, str]
    parameters: Mapping[str, str]  # input -> key of the module's state_dict
    outputs: Mapping[str, str]
    options: Mapping[str, Sequence]
    flops: Callable[..., tuple[int, int]]  # shapes of the inputs -> forward, backward
    passes: tuple[float, float]  # over the first map, forward and backward
    equation: str
    attends_to: str
    use: str  # when
    paper: str
    cases: tuple[Case, ...]
    module: Callable[..., nn.Module] | None = (
        None  # in_channels -> module, of what has parameters or a place of its own
    )
    rounding_points: tuple[str, ...] = ()
    module_points: tuple[str, ...] = ()  # rounding points of the module around the op
    dims: tuple[int, ...] = (2,)
    fixed: Mapping[str, Any] = field(default_factory=dict)  # module options that make this row
    second: str = "return_map"  # the option that asks for the second output
    derived: Callable[[Sizes], Sizes] = lambda sizes: {}  # sizes that follow from the others where they are not given
    floor: Callable[[Sizes, int], tuple[int, int]] | None = None  # bytes at least moved, where shapes do not say it
    smallest: int = 1  # pixels along an axis that the defaults need
    fewest: int = 1  # images that there have to be
    passes_of: Callable[[Sizes, int], tuple[float, float]] | None = None  # of sizes in so many bytes, where they differ
    keeps_y: bool = False  # for the backward
    gates: int = 1  # whose product x is multiplied by
    between: int = 0  # maps as large as y that one kernel of the forward hands to the next

    @property
    def is_gate(self) -> bool:
        """y = x * gate, of any gate: a sign, a zero, a subnormal of x shows in y, and x alone decides its shape."""
        return "gate" in self.options and "x" in self.inputs

    @property
    def over_batch(self) -> bool:
        """Normalised by statistics of the batch: what an image gets depends on the others, and one value has none."""
        return any(name.startswith("norm_") for name in self.inputs)

    @property
    def has_norm(self) -> bool:
        """Normalised, over the batch or over the hidden channels: the error of a whole plane is that of one number."""
        return self.over_batch or any(name.startswith("ln_") for name in self.inputs)

    @property
    def has_few_errors(self) -> bool:
        """Those of a plane come from a few numbers: from a norm's, or from a perceptron's of each row and column."""
        return self.has_norm or "w_h" in self.inputs

    @property
    def defaults(self) -> dict[str, Any]:
        return {name: values[0] for name, values in self.options.items()}

    @property
    def both(self) -> dict[str, bool]:
        """The option that asks for both outputs."""
        return {self.second: True}

    @property
    def maps(self) -> tuple[str, ...]:
        """The names of the inputs that are maps."""
        return tuple(name.removesuffix("?") for name, spec in self.inputs.items() if is_map(spec))

    @property
    def counts_channels(self) -> bool:
        """Whether a parameter is made for a number of channels."""
        return any("C" in spec.split() for spec in self.inputs.values() if not is_map(spec))

    def complete(self, sizes: Sizes) -> Sizes:
        return {**self.derived(sizes), **sizes, **({"S": self.along(sizes["S"])} if "S" in sizes else {})}

    def along(self, S: tuple[int, ...]) -> tuple[int, ...]:
        """S, or of two axes for a row that has one or three: the rows end to end, or a depth of the smallest."""
        if len(S) in self.dims or len(S) != 2:
            return S
        return (math.prod(S),) if self.dims == (1,) else (self.smallest, *S)

    def shape(self, spec: str, sizes: Sizes) -> tuple[int, ...]:
        """ "N 1 *S" -> (8, 1, 64, 64)"""
        sizes = self.complete(sizes)
        shape: list[int] = []
        for name in spec.split():
            if name.startswith("*"):
                shape += sizes[name[1:]]
            else:
                shape.append(int(name) if name.isdigit() else sizes[name])
        return tuple(shape)

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """The shape of every input, optional ones included, by name without the question mark."""
        return {name.removesuffix("?"): self.shape(spec, sizes) for name, spec in self.inputs.items()}

    def map_shape(self, spec: str, sizes: Sizes) -> tuple[int, ...]:
        """(N, channels, *S) of the map that an input or output of this spec is a view of."""
        sizes = self.complete(sizes)
        return sizes["N"], math.prod(self.shape(" ".join(channels(spec)), sizes)), *sizes[spatial(spec)]

    def view(self, spec: str, t: Tensor, sizes: Sizes) -> Tensor:
        """A map (N, channels, *S) as an input of this spec: its channels split, and where the spec has them."""
        split = self.shape(" ".join(channels(spec)), sizes)
        moved = len(spec.partition("*")[2].split()) - 1  # channels that stand after the pixels
        t = t.unflatten(1, split)
        first = t.dim() - len(self.complete(sizes)[spatial(spec)])
        order = [0, *range(1, first - moved), *range(first, t.dim()), *range(first - moved, first)]
        return t.permute(order)

    def as_map(self, spec: str, t: Tensor) -> Tensor:
        """The reverse of `view`: what is no map comes back as it is."""
        if not is_map(spec):
            return t
        inner = len(spec.partition("*")[2].split()) - 1
        outer = len(channels(spec)) - inner
        order = [0, *range(1, 1 + outer), *range(t.dim() - inner, t.dim()), *range(1 + outer, t.dim() - inner)]
        return t.permute(order).flatten(1, outer + inner)

    def fits(self, *tensors: Tensor | None) -> bool:
        """Whether these tensors, in the order of `inputs`, have this row's shapes; any may be None."""
        sizes: dict[str, Any] = {}
        pairs = itertools.zip_longest(self.inputs.values(), tensors)
        return all(t is None or (spec and _bind(spec, tuple(t.shape), sizes)) for spec, t in pairs)

    def floor_bytes(self, sizes: Sizes, itemsize: int, absent: Collection[str] = ()) -> tuple[int, int]:
        """What cannot but be moved: (forward, backward). Each input that is given once and y once; backward dy, and
        each input and its gradient."""
        if self.floor is not None:
            return self.floor(self.complete(sizes), itemsize)
        given = {n: math.prod(shape) * itemsize for n, shape in self.shapes(sizes).items() if n not in absent}
        y = math.prod(self.shape(self.outputs["y"], sizes)) * itemsize
        return sum(given.values()) + y, sum(BACKWARD.get(name, 2) * size for name, size in given.items()) + y

    def planned_bytes(self, sizes: Sizes, itemsize: int, absent: Collection[str] = ()) -> tuple[float, float]:
        """The bytes of `passes` over the first map; a shortcut that is absent is one less forward."""
        if self.floor is not None:
            return self.floor(self.complete(sizes), itemsize)
        x = math.prod(self.shapes(sizes)[self.maps[0]]) * itemsize
        forward, backward = self.passes_at(sizes, itemsize)
        return (forward - ("shortcut" in absent)) * x, backward * x

    def passes_at(self, sizes: Sizes, itemsize: int) -> tuple[float, float]:
        """Passes over the first map, forward and backward, where a value has so many bytes."""
        return self.passes if self.passes_of is None else self.passes_of(self.complete(sizes), itemsize)

    def count_flops(self, sizes: Sizes) -> tuple[int, int]:
        return self.flops(*self.shapes(sizes).values())


# a shortcut's gradient is dy itself, and the values of what is only pooled are not needed for its gradient
BACKWARD = {"shortcut": 0, "source": 1}  # times that an input's bytes are moved backward


def is_map(spec: str) -> bool:
    return "*" in spec


def spatial(spec: str) -> str:
    """The name of a map's spatial sizes."""
    return next(name[1:] for name in spec.split() if name.startswith("*"))


def channels(spec: str) -> list[str]:
    """The names of a map's sizes other than its images and pixels."""
    return [name for name in spec.split()[1:] if not name.startswith("*")]


def _bind(spec: str, shape: tuple[int, ...], sizes: dict[str, Any]) -> bool:
    """Match a shape with a spec, adding to `sizes`; of what is no map, trailing ones beyond the spec are allowed."""
    names, pixels = spec.split(), len(shape) - len(spec.split()) + 1
    if is_map(spec):
        star = next(i for i, name in enumerate(names) if name.startswith("*"))
        S = shape[star : star + pixels]
        if pixels < 0 or sizes.setdefault(names[star][1:], S) != S:
            return False
        names, shape = names[:star] + names[star + 1 :], shape[:star] + shape[star + pixels :]
    head, rest = shape[: len(names)], shape[len(names) :]
    if len(head) != len(names) or any(s != 1 for s in rest):
        return False
    return all(s == (int(n) if n.isdigit() else sizes.setdefault(n, s)) for n, s in zip(names, head, strict=True))
