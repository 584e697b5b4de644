"""Any valid call is right: shapes, strides, values, options and wanted gradients as hypothesis draws them.

The examples of a row are split over the dtypes, so that processes can share them. See `profiles` for their number.
"""

import math
from collections.abc import Sequence

import profiles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    DEVICE,
    DTYPES,
    PERCEPTRONS,
    assert_equal,
    assert_right,
    each_dtype,
    each_row,
    images_of_a_norm,
    names,
)
from torch import Tensor

from segattn_triton.catalog import ROWS, Op
from segattn_triton.testing import LAYOUTS, make_map

SMALLEST = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133, torch.float32: 2.0**-149, torch.float64: 2.0**-149}
SPECIAL = (math.nan, math.inf, -math.inf, -0.0, 0.0)
VALUES = ("normal", "zeros", "ties", "subnormal", "huge", "special")
ONE_LAYER = dict.fromkeys((row.name for row in PERCEPTRONS), (("w2", "b2"), ("b1", "w2", "b2")))  # left out together
CONSTANTS = {"hard_sigmoid": ("hard_sigmoid", 0.25, 0.375), "leaky_relu": ("leaky_relu", 0.2, 0.0)}


def _values(row: Op) -> tuple[str, ...]:
    """A softmax of huge scores is a jump. What a convolution of the library does with extreme values is its affair: of
    16 bits on a CPU it spreads NaN past its window, flushes subnormals, and overflows in a gradient of its weight."""
    return VALUES[:3] if row.name == "local_gate" else VALUES if row.is_gate else VALUES[:4]


axis = st.sampled_from((1, 2, 3, 4, 5))


def randn(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def filled(kind: str, shape: Sequence[int], seed: int, dtype: torch.dtype, row: Op) -> Tensor:
    """Values of one kind. What float32 sums and the rounding points of the row can hold in the dtype stays in it."""
    t = randn(shape, seed)
    if kind == "zeros":
        return torch.zeros(tuple(shape), dtype=dtype)
    if kind == "ties":
        return t.round().clamp(-1, 1).to(dtype)
    if kind == "huge":
        return (t.clamp(-4, 4) * (1e12 if dtype != torch.float16 else 500 if row.rounding_points else 1.5e4)).to(dtype)
    if kind == "subnormal":
        return ((100 * t).round().double() * SMALLEST[dtype]).to(dtype)
    if kind == "special" and t.numel():
        places = torch.randint(t.numel(), (4,), generator=torch.Generator().manual_seed(seed))
        t.view(-1)[places] = torch.tensor([SPECIAL[(seed + i) % len(SPECIAL)] for i in range(4)])
    return t.to(dtype)


def laid_out(t: Tensor, order: Sequence[int], steps: Sequence[int], offset: int) -> Tensor:
    """These values in another memory: axes from the outermost to the innermost, the step of each, the first element.

    A step of 0 repeats the axis' first value along it, without memory.
    """
    t = t[tuple(slice(0, 1) if step == 0 else slice(None) for step in steps)].expand(t.shape)
    stride, strides = 1, [0] * t.dim()
    for i in reversed(order):
        if steps[i]:
            strides[i] = stride * steps[i]
            stride *= steps[i] * t.shape[i]
    storage = torch.full((offset + max(stride, 1),), 9.0).to(t)
    view = storage.as_strided(t.shape, strides, offset)
    if t.numel():
        own = tuple(slice(0, 1) if step == 0 else slice(None) for step in steps)
        view[own] = t[own]
    return view


@st.composite
def strides(draw, dims: int):
    return (
        draw(st.permutations(range(dims))),
        draw(st.lists(st.sampled_from((1, 1, 1, 2, 0)), min_size=dims, max_size=dims)),
        draw(st.integers(0, 9)),
    )


@st.composite
def calls(draw, row: Op, dtype: torch.dtype) -> dict:
    """One call in plain values, so that a failing example can be read and typed in again."""
    dims = draw(st.sampled_from(row.dims))
    N = draw(st.sampled_from((1, 2, 1, 2, 3, 0)))
    sizes = {"N": max(N, row.fewest) if N else 0, "C": draw(st.integers(1, 6))}
    sizes["Cr"] = draw(st.integers(1, 3))
    sizes["S"] = tuple(max(draw(axis), row.smallest) for _ in range(dims))
    if row.over_batch and N:
        sizes["N"] = max(sizes["N"], images_of_a_norm(sizes["S"]))
    of_logits = row.over_batch and "wx" in row.inputs
    if of_logits:  # of one channel, or one feature, a norm takes the scale away: of its gradient only rounding is left
        sizes["C"], sizes["Cr"] = sizes["C"] + 1, sizes["Cr"] + 2
    kinds = ("normal",) if of_logits else ("normal", "ties", "zeros")
    optional = [name.removesuffix("?") for name in row.inputs if name.endswith("?")]
    absent = tuple(name for name in optional if draw(st.booleans()))
    if row.name in ONE_LAYER and draw(st.integers(0, 4)) == 4:
        absent, sizes["Cr"] = draw(st.sampled_from(ONE_LAYER[row.name])), sizes["C"]
    if "source" in row.maps and "source" not in absent:
        sizes["Cs"], sizes["T"] = draw(st.integers(1, 6)), tuple(draw(axis) for _ in range(draw(st.integers(1, 3))))
    options = {name: draw(st.sampled_from(values)) for name, values in row.options.items()}
    options = {k: CONSTANTS[v] if v in CONSTANTS and draw(st.booleans()) else v for k, v in options.items()}
    return {
        "sizes": sizes,
        "seed": draw(st.integers(0, 2**16)),
        "layout": draw(st.one_of(st.sampled_from(LAYOUTS), strides(2 + dims))),
        "values": draw(st.sampled_from(_values(row))),
        "parameters": {
            name: (draw(st.sampled_from(kinds)), draw(st.sampled_from((dtype, torch.float32))))
            for name in names(row)
            if name not in (*absent, *row.maps)
        },
        "strided_parameters": draw(st.booleans()),
        "needs": {name: draw(st.booleans()) for name in names(row) if name not in absent},
        "options": {**options, row.second: draw(st.booleans())},
    }


def built(row: Op, dtype: torch.dtype, call: dict) -> list[Tensor | None]:
    """The tensors of a call, in the order of the row's inputs."""
    seed, tensors = call["seed"], []
    for i, (name, shape) in enumerate(row.shapes(call["sizes"]).items()):
        if name in row.maps:
            spec, layout = list(row.inputs.values())[i], call["layout"]
            shape = row.map_shape(spec, call["sizes"])
            if not isinstance(layout, str) and len(layout[0]) != len(shape):
                layout = "channel_slice_last"  # a source with other axes than x
            values = filled(call["values"], shape, seed + i, dtype, row)
            if isinstance(layout, str):
                t = make_map(shape, layout, torch.Generator(), dtype).copy_(values)
            else:
                t = laid_out(values, *layout)
            t = row.view(spec, t, call["sizes"])
        elif name in call["parameters"]:
            kind, wanted = call["parameters"][name]
            scale = max(1, math.prod(shape[1:])) ** 0.5
            if kind == "ties":  # what cancels then does so in any order: by a power of two no product is rounded
                scale = 2.0 ** math.ceil(math.log2(scale))
            t = filled(kind, shape, seed + i, torch.float32, row) / scale
            t = t.to(dtype if name in row.maps else wanted)
            t = laid_out(t, range(t.dim())[::-1], [2] * t.dim(), 1) if call["strided_parameters"] else t
        else:
            t = None
        tensors.append(t if t is None else t.to(DEVICE))
    return tensors


@each_dtype
@each_row
def test_any_call(row, dtype):
    @settings(max_examples=profiles.examples(row))
    @given(calls(row, dtype))
    def right(call):
        inputs = built(row, dtype, call)
        finite = call["values"] != "special"  # of gradients beside NaN and infinities less is promised: test_ties_nan
        needs = [finite and call["needs"].get(name, False) for name in names(row)]
        before = [None if t is None else t.clone() for t in inputs]
        assert_right(row, *inputs, needs=needs, **call["options"])
        for t, copy in zip(inputs, before, strict=True):
            assert t is None or assert_equal(t, copy) is None

    right()


@pytest.mark.parametrize("dims", [3, 4, 5])
def test_drawn_strides(dims):
    """What the tests above draw is what they say: the strides, and the values in them."""

    @given(strides(dims))
    def exact(layout):
        order, steps, _ = layout
        t = torch.arange(math.prod(range(2, 2 + dims)), dtype=torch.float32).reshape(tuple(range(2, 2 + dims)))
        view = laid_out(t, *layout)
        assert [view.stride(i) == 0 for i in range(dims)] == [step == 0 for step in steps]
        first = t[tuple(slice(0, 1) if step == 0 else slice(None) for step in steps)]
        assert_equal(view, first.expand(t.shape))
        assert sorted(order, key=lambda i: -view.stride(i)) == [
            *[i for i in order if steps[i]],
            *[i for i in order if not steps[i]],
        ]

    exact()


def test_the_number_of_examples():
    for profile, total in (("ci", profiles.CI), ("fuzz", profiles.FUZZ * len(ROWS))):
        assert sum(profiles.examples(row, profile) for row in ROWS) * len(DTYPES) >= total
