"""Depthwise local gates with windows beyond 3 x 3, and dilated: what follows from the window."""

import pytest
import torch
from probe import faults, probe
from support import DEVICE, DTYPES, assert_equal, assert_right, outputs_and_gradients
from torch import nn

import segattn_triton
from segattn_triton import LocalAttention, compiled
from segattn_triton import functional as F
from segattn_triton.catalog import BY_NAME, LARGE_KERNELS
from segattn_triton.kernels.stencil import choice
from segattn_triton.ops import local_depthwise
from segattn_triton.testing import LAYOUTS, make_inputs, matches
from segattn_triton.tuning.target import planning_for

ROW = BY_NAME["local_gate_depthwise"]
LAYOUTS_OF_KERNELS = ("contiguous", "channels_last")
each_window = pytest.mark.parametrize("row", LARGE_KERNELS, ids=lambda row: row.name)


def problem(row, S=(5, 6), C=2, dtype=torch.float32, layout="contiguous"):
    return make_inputs(row, {"N": 1, "C": C, "S": S}, dtype, layout=layout, device=DEVICE)


def windowed(K: int, S, C=1, dtype=torch.float32, layout="contiguous"):
    """Inputs with a window of K."""
    x, _, bias = problem(ROW, S, C, dtype, layout)
    weight = torch.randn(C, 1, K, K, generator=torch.Generator().manual_seed(K)) / K
    return [x, weight.to(DEVICE, dtype), bias]


@pytest.mark.parametrize("layout", LAYOUTS_OF_KERNELS)
@each_window
def test_each_window(row, layout):
    assert_right(row, *problem(row, (3, 5), 1, layout=layout))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS_OF_KERNELS)
def test_dtypes(dtype, layout):
    row = LARGE_KERNELS[0]
    assert_right(row, *problem(row, dtype=dtype, layout=layout), gate="identity")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    row = LARGE_KERNELS[0]
    assert_right(row, *problem(row, (4, 7), 3, layout=layout))


@pytest.mark.parametrize(("S", "layout"), [((1, 1), "contiguous"), ((1, 9), "channels_last"), ((13, 2), "contiguous")])
def test_maps_smaller_than_the_window(S, layout):
    assert_right(LARGE_KERNELS[1], *problem(LARGE_KERNELS[1], S, 1, layout=layout))


WINDOWS = {  # K, dilation, layout -> map: tiles that share columns, strips that share rows, classes of unequal size
    (5, 1, "contiguous"): (18, 140),
    (5, 1, "channels_last"): (18, 70),
    (5, 2, "channels_last"): (7, 9),
    (9, 1, "contiguous"): (2, 5),
    (11, 1, "channels_last"): (2, 3),
    (11, 2, "contiguous"): (1, 4),
    (5, 2000, "contiguous"): (1, 9),
}


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_windows(window):
    K, dilation, layout = window
    assert_right(ROW, *windowed(K, WINDOWS[window], layout=layout), dilation=dilation)


def test_columns_of_one_class(monkeypatch):
    """In NCHW of taps that lie far apart."""
    monkeypatch.setattr(choice, "FURTHEST", 3)
    assert_right(ROW, *windowed(5, (7, 11)), dilation=2)


def test_what_is_not_given_and_not_wanted():
    x, weight, _ = windowed(5, (5, 6))
    assert_right(ROW, x, weight, None)
    for needs in ([True, False, False], [False, True, False], [False, False, True]):
        assert_right(ROW, *windowed(5, (5, 6)), needs=needs)


def test_a_window_of_zeros_is_a_smaller_one():
    """With zeros around 3 x 3 taps it is the 3 x 3 gate, but for the order of sums over the image."""
    x, weight, bias = windowed(3, (6, 9))
    wide = nn.functional.pad(weight, (1, 1, 1, 1))
    expected = outputs_and_gradients(F.local_gate, [x, weight, bias], backend="triton")
    y, gate, dx, dwide, dbias = outputs_and_gradients(F.local_gate, [x, wide, bias], backend="triton")
    for got, want in zip((y, gate, dx, dwide[..., 1:-1, 1:-1], dbias), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def test_signs_of_zeros():
    """Rows that wait for their window keep the sign of a zero."""
    x = torch.where(torch.arange(30, device=DEVICE).reshape(1, 1, 5, 6) % 2 == 0, 0.0, -0.0)
    weight, bias = torch.zeros(1, 1, 7, 7, device=DEVICE), torch.ones(1, device=DEVICE)
    y = F.local_gate(x, weight, bias, backend="triton")
    assert_equal(torch.signbit(y).float(), torch.signbit(x).float())


def test_repeats_bit_for_bit():
    inputs = windowed(5, (20, 9))
    first, second = (outputs_and_gradients(F.local_gate, inputs, backend="triton") for _ in range(2))
    for got, want in zip(first, second, strict=True):
        assert_equal(got, want)


@pytest.mark.parametrize("layout", LAYOUTS_OF_KERNELS)
@each_window
def test_passes(row, layout):
    """2 and 3 over the map, as 3 x 3, but for turns: what is read again comes from the cache, and counts."""
    forward, backward = compiled.plans(row, row.cases[0].sizes, layout=layout)
    (fwd,), (bwd, finish) = forward, [plan for plan in backward if plan.name != "turn"]
    assert (fwd.traffic["y_ptr"], bwd.traffic["dx_ptr"]) == ((0, 1), (0, 1))
    assert finish.name == "finish"
    for plan, names, most in ((fwd, ["x_ptr"], 2.5), (bwd, ["x_ptr", "dy_ptr"], 4)):
        assert all(1 <= plan.traffic[name][0] <= most for name in names), plan.traffic


@pytest.mark.parametrize(
    ("how", "turns"),
    [
        ({}, 3),
        ({"dtype": torch.float32}, 3),
        ({"return_map": True}, 4),  # the gate's gradient, too
        ({"needs": [False, True, True]}, 2),
        ({"layout": "contiguous"}, 0),
        ({"S": (32, 32)}, 0),
        ({"row": "local_gate_depthwise_5x5"}, 0),
    ],
    ids=str,
)
def test_which_maps_turn(how, turns):
    """Backward, of a large map in channels_last, for a window whose weights and sums no thread holds."""
    how = {
        "row": "local_gate_depthwise_7x7_dilated",
        "S": (64, 64),
        "dtype": torch.bfloat16,
        "layout": "channels_last",
        **how,
    }
    row, S, dtype, layout = BY_NAME[how.pop("row")], *(how.pop(name) for name in ("S", "dtype", "layout"))
    inputs = make_inputs(row, {"N": 8, "C": 32, "S": S}, dtype, layout=layout, device="meta")
    with planning_for(90):
        forward, backward = compiled.planned(row.op, *inputs, **how)
    assert [plan.name for plan in forward] == ["stencil_fwd"]
    assert [plan.name for plan in backward].count("turn") == turns


@pytest.fixture
def all_turn(monkeypatch):
    """Every call is planned anew: none runs what another test wrote down of a map that did not turn."""
    monkeypatch.setattr(local_depthwise, "TURNED_FROM", 1)
    with segattn_triton.set_programs_enabled(False):
        yield


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_turned_maps_give(dtype, all_turn):
    """Right, every element loaded and stored as often as the plans say; and of what is wanted alone."""
    row = LARGE_KERNELS[1]
    inputs = problem(row, (4, 5), 2, dtype, "channels_last")
    for needs in ([True, True, True], [True, False, False], [False, True, False]):
        with probe() as launches:
            found = matches(row, *inputs, needs=needs, return_map=needs[1])
        assert not faults(launches) and all(match.ok for match in found), found
        names = [one.plan.name for one in launches]
        assert names.count("turn") == 2 + needs[0] + needs[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_turns(layout, all_turn):
    assert_right(LARGE_KERNELS[1], *problem(LARGE_KERNELS[1], (3, 5), 3, layout=layout))


def test_the_module_is_its_convolution():
    module = LocalAttention(3, depthwise=True, gate="identity", kernel_size=7, dilation=3, device=DEVICE)
    x = problem(ROW, (5, 6), 3)[0]
    assert (module.conv.kernel_size, module.conv.padding, module.conv.dilation) == ((7, 7), (9, 9), (3, 3))
    torch.testing.assert_close(module(x), x * module.conv(x))


BAD = {
    "even": (lambda x, w, b: (x, w[..., 1:, 1:], b), {}, "weight: got shape (2, 1, 4, 4), expected a window of 3, 5"),
    "one": (lambda x, w, b: (x, w[..., 2:3, 2:3], b), {}, "weight: got shape (2, 1, 1, 1), expected a window of 3, 5"),
    "too wide": (
        lambda x, w, b: (x, nn.functional.pad(w, (4, 4, 4, 4)), b),
        {},
        "weight: got shape (2, 1, 13, 13), expected a window of 3, 5, 7, 9 or 11 pixels a side",
    ),
    "oblong": (lambda x, w, b: (x, w[..., 1:4], b), {}, "weight: got shape (2, 1, 5, 3), expected (2, 1, 5, 5)"),
    "channels": (lambda x, w, b: (x, w[:1], b), {}, "weight: got shape (1, 1, 5, 5), expected (2, 1, 5, 5)"),
    "flat": (lambda x, w, b: (x, w[..., 0], b), {}, "weight: got shape (2, 1, 5), expected (2, 2, 3, 3)"),
    "full": (lambda x, w, b: (x, w.expand(2, 2, 5, 5), b), {}, "weight: got shape (2, 2, 5, 5), expected (2, 2, 3, 3)"),
    "no dilation": (lambda *t: t, {"dilation": 0}, "dilation: got 0, expected an int of at least 1"),
    "half a dilation": (lambda *t: t, {"dilation": 1.5}, "dilation: got 1.5, expected an int"),
    "dilated full": (
        lambda x, w, b: (x, w.expand(2, 2, 5, 5)[..., 1:4, 1:4], b),
        {"dilation": 2},
        "dilation: got 2, expected 1 unless the convolution is depthwise",
    ),
}


@pytest.mark.cheap
@pytest.mark.parametrize("backend", [None, "triton", "reference"])
@pytest.mark.parametrize("wrong", BAD)
def test_bad_input(wrong, backend):
    change, options, said = BAD[wrong]
    with pytest.raises(ValueError) as caught:
        F.local_gate(*change(*windowed(5, (5, 6), 2)), **options, backend=backend)
    assert said in str(caught.value)


@pytest.mark.cheap
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            dict(depthwise=True, kernel_size=4),
            "kernel_size: got 4, expected a window of 3, 5, 7, 9 or 11 pixels a side",
        ),
        (dict(kernel_size=5), "kernel_size: got 5, expected a window of 3 unless depthwise"),
        (dict(dilation=2), "dilation: got 2, expected 1 unless the convolution is depthwise"),
        (dict(depthwise=True, dilation=0), "dilation: got 0, expected an int of at least 1"),
    ],
)
def test_bad_options_of_the_module(options, said):
    with pytest.raises(ValueError) as caught:
        LocalAttention(4, **options)
    assert said in str(caught.value)
