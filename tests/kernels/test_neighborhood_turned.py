"""Neighbourhood attention of maps whose W is contiguous, turned into channels_last first: which turn, and that what
follows from turned ones is right. Maps of tests are small: here all turn."""

import itertools
import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probe import faults, probe
from support import DEVICE, Calls, assert_equal, assert_right, outputs_and_gradients

import segattn_triton
from segattn_triton import functional as F
from segattn_triton.catalog import BY_NAME
from segattn_triton.compiled import planned
from segattn_triton.ops import neighborhood
from segattn_triton.runtime.plan import recorded
from segattn_triton.testing import LAYOUTS, make_inputs, matches
from segattn_triton.tuning.target import planning_for

ROW = BY_NAME["neighborhood_attention"]
BORDERS = ("shift", "mask", "zero")
WINDOWS = ((3, 1), (5, 1), (7, 1), (3, 2), (5, 3))  # kernel size, dilation
each_border = pytest.mark.parametrize("border", BORDERS)


@pytest.fixture
def all_turn(monkeypatch):
    """Programs that other tests wrote of maps that did not turn are dropped before, and those of turned ones after."""
    monkeypatch.setattr(neighborhood, "TURNED_FROM", 1)
    with segattn_triton.set_programs_enabled(False):
        pass
    yield
    with segattn_triton.set_programs_enabled(False):
        pass


def inputs_of(S=(9, 11), heads=2, D=16, heads_kv=0, N=1, dtype=torch.bfloat16, layout="contiguous", K=3, device=DEVICE):
    """q, k, v and a table of relative biases."""
    sizes = {"N": N, "C": heads * D, "S": S, "heads": heads, "heads_kv": heads_kv or heads, "T": 2 * K - 1}
    return make_inputs(ROW, sizes, dtype, layout=layout, device=device)


def assert_no_faults(inputs, needs=None, **options) -> list[str]:
    """Right, and every element loaded and stored as often as the plans say; what was launched."""
    with probe() as launches:
        found = matches(ROW, *inputs, needs=needs, **options)
    assert launches and not faults(launches)
    assert all(match.ok for match in found), found
    return [one.plan.name for one in launches]


def launched(kernel_size=3, dilation=1, arch=90, needs=None, bias=False, **how) -> list[list[str]]:
    """The turns and what is between them, forward and backward, by name."""
    q, k, v, table = inputs_of(**{"S": (128, 128), "N": 8, "D": 32, "device": "meta", "K": kernel_size} | how)
    with planning_for(arch):
        window = dict(kernel_size=kernel_size, dilation=dilation)
        both = planned(ROW.op, q, k, v, table if bias else None, needs=needs, **window)
    return [[plan.name.removeprefix("neighborhood_") for plan in plans] for plans in both]


@pytest.mark.parametrize(
    ("how", "turned"),
    [
        ({}, True),
        ({"dtype": torch.float16}, True),
        ({"arch": 80}, True),
        ({"S": (64, 64), "N": 16}, True),  # four columns an access
        ({"S": (64, 64), "N": 15}, False),
        ({"S": (62, 62), "N": 7}, True),  # one column an access
        ({"S": (62, 62), "N": 4}, False),
        ({"S": (64, 64), "N": 8, "kernel_size": 11}, True),  # two
        ({"S": (64, 64), "N": 7, "kernel_size": 11}, False),
        ({"S": (64, 64), "N": 2, "heads": 4, "dilation": 2}, True),  # one
        ({"S": (62, 62), "D": 24}, False),
        ({"layout": "channels_last"}, False),
        ({"layout": "strided", "N": 1}, False),
        ({"dtype": torch.float32}, False),
        ({"dtype": torch.float64}, False),
        ({"arch": 75, "dtype": torch.float16}, False),
        ({"D": 128}, False),  # by rows
    ],
    ids=str,
)
def test_which_maps_turn(how, turned):
    forward, backward = launched(**how)
    assert [names.count("turn") > 0 for names in (forward, backward)] == [turned, turned]


def test_what_turns():
    """k and v, and q but where strips load it in wide accesses; dy in the pre-pass; and what a dilated window stores,
    by single columns."""
    two, three = ["turn"] * 2, ["turn"] * 3
    assert launched() == [[*two, "strip_fwd"], ["delta", *three, "strip_dq", "strip_dkv"]]
    assert launched(S=(126, 126)) == [[*three, "strip_fwd"], ["delta", *three, "strip_dq", "strip_dkv"]]
    assert launched(7) == [[*three, "patch_fwd"], ["delta", *three, "patch_dq", "patch_dkv"]]
    forward, backward = launched(7, dilation=4)
    assert forward == [*three, "patch_fwd", "turn"]
    assert backward == ["delta", *three, "patch_dq", "patch_dkv", *three]


def test_gradients_of_some():
    """Nothing turns for the table's gradient alone, which goes by rows; of others what they read."""
    for needs in itertools.product((False, True), repeat=4):
        _, backward = launched(bias=True, dilation=2, needs=needs)
        assert backward.count("turn") == (3 + sum(needs[:3]) if any(needs[:3]) else 0), needs


@pytest.mark.parametrize(("kernel_size", "dilation"), WINDOWS)
@each_border
def test_every_window(border, kernel_size, dilation, all_turn):
    """Parts of tiles, classes of pixels of unequal size; W that an access does not divide."""
    S = (9, 11) if dilation == 1 else (15, 17)
    inputs = inputs_of(S, heads=1, K=kernel_size)
    needs = [True, True, True, False]  # the table's goes key by key, for minutes in the interpreter
    names = assert_no_faults(inputs, needs, border=border, kernel_size=kernel_size, dilation=dilation)
    assert "turn" in names


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("S", [(5, 32), (4, 6), (3, 3)], ids=str)
def test_every_layout(S, layout, all_turn):
    """Slices of channels and of pixels, too; which of them turn."""
    names = assert_no_faults([*inputs_of(S, N=2, layout=layout, dtype=torch.float16)[:3], None])
    assert ("turn" in names) == (layout in ("contiguous", "channel_slice"))


@pytest.mark.parametrize("dilation", (1, 2))
@pytest.mark.parametrize("along_w", [way for way in itertools.product((False, True), repeat=3) if any(way)], ids=str)
def test_maps_in_both_orders(along_w, dilation, all_turn):
    """q, k and v each in its own; the gradients lie as they do."""
    first, last = (inputs_of((7, 16), D=16, layout=layout) for layout in ("contiguous", "channels_last"))
    inputs = [f if way else c for f, c, way in zip(first[:3], last[:3], along_w, strict=True)]
    assert assert_no_faults([*inputs, None], dilation=dilation).count("turn") >= sum(along_w)
    _, _, *grads = outputs_and_gradients(ROW.op, [*inputs, None], backend="triton", dilation=dilation)
    assert [grad.stride() for grad in grads] == [t.stride() for t in inputs]


memory = st.tuples(
    st.one_of(st.just([0, 1, 2, 3]), st.permutations(range(4))),
    st.sampled_from((1, 1, 2)),
    st.integers(0, 9),
    st.booleans(),
)


def lying(t: torch.Tensor, order, step: int, offset: int, expanded: bool) -> torch.Tensor:
    """A map by its axes from the outermost to the innermost, every step-th of the last, from an element on; of one
    image for all, without memory."""
    t = t[:1].expand(t.shape) if expanded else t
    lain = t.permute(order).repeat_interleave(step, 3).contiguous()
    memory = torch.cat([lain.new_zeros(offset), lain.flatten()])[offset:].view(lain.shape)[..., ::step]
    lain = memory.permute([order.index(axis) for axis in range(4)])
    return lain[:1].expand(t.shape) if expanded else lain


@settings(max_examples=5, deadline=None)
@given(st.tuples(memory, memory, memory), st.sampled_from(BORDERS), st.sampled_from((1, 2)), st.integers(0, 99))
def test_maps_that_lie_anyhow(lies, border, dilation, seed):
    maps = [torch.randn(2, 32, 6, 7, generator=torch.Generator().manual_seed(seed + i)).half() for i in range(3)]
    inputs = [
        lying(t.to(DEVICE), *lie).unflatten(1, (2, 16)).permute(0, 3, 4, 1, 2)
        for t, lie in zip(maps, lies, strict=True)
    ]
    with patch.object(neighborhood, "TURNED_FROM", 1), segattn_triton.set_programs_enabled(False):
        assert_right(ROW, *inputs, None, border=border, dilation=dilation)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("heads", "heads_kv"), [(4, 2), (2, 1)])
def test_fewer_key_heads(heads, heads_kv, dtype, all_turn):
    assert "turn" in assert_no_faults([*inputs_of((5, 6), heads, 16, heads_kv, dtype=dtype)[:3], None])


@pytest.mark.parametrize("which", range(4))
def test_gradients_by_themselves(which, all_turn):
    for dilation in (1, 2):
        inputs = inputs_of((6, 7), heads=1)
        assert_no_faults(inputs, [i == which for i in range(4)], dilation=dilation)


def test_views_of_a_projection(all_turn):
    """The three parts of a qkv map: each is copied from the map as it lies, and nothing else is."""
    x = torch.randn(2, 3 * 32, 5, 6, generator=torch.Generator().manual_seed(0)).to(DEVICE, torch.float16)
    views = x.unflatten(1, (3, 2, 16)).permute(1, 0, 4, 5, 2, 3).unbind(0)
    with recorded() as plans:
        assert_right(ROW, *views, None)
    sources = [plan.args["x_ptr"].untyped_storage().data_ptr() for plan in plans if plan.name == "turn"]
    assert sources.count(x.untyped_storage().data_ptr()) == 6


@pytest.mark.parametrize("dilation", (1, 2))
def test_a_gradient_in_another_order(dilation, all_turn):
    """dy as it comes, in either order or in none; nothing given is written to, and repeats have the same bits."""
    inputs = inputs_of((6, 16))[:3]
    y = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0])
    given = [
        y.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2),
        y.contiguous(),
        y.repeat(1, 2, 1, 1, 1)[:, :6],
    ]
    results = []
    for dy in [*given, *given]:
        before = [t.clone() for t in (*inputs, dy)]
        leaves = [t.detach().requires_grad_() for t in inputs]
        out = F.neighborhood_attention(*leaves, dilation=dilation, backend="triton")
        results.append([out.detach(), *torch.autograd.grad(out, leaves, dy)])
        assert all(torch.equal(a, b) for a, b in zip((*inputs, dy), before, strict=True))
    for got, *others in zip(*results, strict=True):
        for other in others:
            torch.testing.assert_close(other, got, rtol=1e-2, atol=1e-2)
    for first, second in zip(results[:3], results[3:], strict=True):
        for a, b in zip(first, second, strict=True):
            assert_equal(a, b)


def test_programs(all_turn):
    """A call that runs its program gives what the first did, of other values, buffers between the steps included."""
    calls = [[t + seed for t in inputs_of((6, 7), dtype=torch.float16)] for seed in range(2)]
    for dilation in (1, 2):
        first = [outputs_and_gradients(ROW.op, [*c[:3], None], backend="triton", dilation=dilation) for c in calls]
        for call, expected in [*zip(calls, first, strict=True)] * 3:
            again = outputs_and_gradients(ROW.op, [*call[:3], None], backend="triton", dilation=dilation)
            for got, want in zip(again, expected, strict=True):
                assert_equal(got, want)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 1), (5, 1), (3, 2)])
def test_what_is_not_finite_stays_in_its_windows(kernel_size, dilation, which, value, all_turn):
    """y and the gradients are finite where the reference's are, and there they are its."""
    inputs = inputs_of((kernel_size * dilation + 3, 16), heads=1, dtype=torch.float16)[:3]
    inputs[which][0, 2, 13] = value
    window = dict(kernel_size=kernel_size, dilation=dilation)
    ours, theirs = (
        outputs_and_gradients(F.neighborhood_attention, inputs, backend=backend, **window)
        for backend in ("triton", "reference")
    )
    for got, wanted in zip(ours, theirs, strict=True):
        assert_equal(got.isfinite(), wanted.isfinite())
        assert got.isfinite().any()
        torch.testing.assert_close(got, wanted, rtol=1e-2, atol=2e-2, equal_nan=True)


def test_the_operator_as_torch_checks_it(all_turn):
    """Its fakes lie as what it gives; forward and backward."""
    for dilation in (1, 2):
        leaves = [t.requires_grad_() for t in inputs_of((6, 7))[:3]]
        with Calls() as calls:
            y = F.neighborhood_attention(*leaves, dilation=dilation, backend="triton")
            y.sum().backward()
        assert len(calls.made) == 2
        for func, args, _ in calls.made:
            torch.library.opcheck(func, args, test_utils=("test_schema", "test_faketensor"))
