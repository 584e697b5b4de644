"""3 x 3 neighbourhood attention by strips of tiles: parts of tiles and strips, borders, classes, heads, NaN."""

import pytest
import torch
from probe import faults, probe
from support import DEVICE, assert_right

from segattn_triton import functional as F
from segattn_triton import testing
from segattn_triton.catalog import BY_NAME
from segattn_triton.runtime.plan import recorded
from segattn_triton.testing import make_inputs
from segattn_triton.tuning.choice import using

ROW = BY_NAME["neighborhood_attention"]
BORDERS = ("shift", "mask", "zero")
LAYOUTS = ("channels_last", "contiguous")


def inputs_of(layout: str, S: tuple[int, int], heads: int = 1, heads_kv: int = 0, D: int = 16, N: int = 1):
    sizes = {"N": N, "C": heads * D, "S": S, "heads": heads, "heads_kv": heads_kv or heads, "T": 5}
    return [*make_inputs(ROW, sizes, torch.bfloat16, layout=layout, device=DEVICE)[:3], None]


def launched(inputs, **options) -> list:
    """The plans of a call and its backward: by strips, all but the pre-pass."""
    leaves = [t if t is None else t.detach().requires_grad_() for t in inputs]
    with recorded() as plans:
        y = F.neighborhood_attention(*leaves, backend="triton", **options)
        y.backward(torch.randn_like(y))
    names = [plan.name for plan in plans]
    assert {n for n in names if "strip" in n} == {f"neighborhood_strip_{n}" for n in ("fwd", "dq", "dkv")}, names
    return plans


def assert_no_faults(inputs, **options) -> None:
    """Right, and every element loaded and stored as often as the plans say."""
    with probe() as launches:
        found = testing.matches(ROW, *inputs, **options)
    assert launches and not faults(launches)
    assert all(match.ok for match in found), found


# a part of a tile below or beside; the images in which moved windows reach two rows past a tile of keys, at both ends
HEIGHTS = (3, 4, 5, 6, 7, 10)


@pytest.mark.parametrize("height", HEIGHTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("border", BORDERS)
def test_every_height(border, layout, height):
    inputs = inputs_of(layout, (height, 16 if layout == "contiguous" else 5))
    launched(inputs, border=border)
    assert_no_faults(inputs, border=border)


@pytest.mark.parametrize("width", (3, 4, 6, 9))
@pytest.mark.parametrize("border", BORDERS)
def test_every_width(border, width):
    assert_right(ROW, *inputs_of("channels_last", (4, width)), border=border)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("heads", "heads_kv"), [(4, 2), (3, 1)])
def test_fewer_key_heads(heads, heads_kv, layout):
    assert_no_faults(inputs_of(layout, (6, 16), heads, heads_kv))


@pytest.mark.parametrize("border", BORDERS)
def test_classes_of_pixels(border):
    assert_no_faults(inputs_of("channels_last", (9, 11)), border=border, dilation=2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("D", (24, 64))
def test_dims(D, layout):
    assert_right(ROW, *inputs_of(layout, (5, 16), D=D))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_config(layout):
    """Strips longer and wider than the image, and several of them."""
    inputs = inputs_of(layout, (21, 32))
    plans = {plan.config.choice.key: plan.config.choice for plan in launched(inputs) if "strip" in plan.name}
    (forward, *_) = plans.values()
    for index in forward.costs():
        with using(forced=dict.fromkeys(plans, index)):
            assert_right(ROW, *inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", (float("nan"), float("inf")), ids=str)
def test_what_is_not_finite_stays_in_its_windows(value, layout):
    """A strip with such a pixel is computed again: whoever does not see the pixel has the result of its absence."""
    inputs = inputs_of(layout, (13, 16))
    inputs[2][0, 6, 7] = value
    assert_right(ROW, *inputs)
