"""Neighbourhood attention along any axes, with a window, a dilation and a direction of each: what follows from that."""

import io
import itertools
import math

import pytest
import torch
from probe import faults, probe
from support import DEVICE, assert_equal, assert_right, outputs_and_gradients, reserved

import segattn_triton
from segattn_triton import compiled, reference, testing
from segattn_triton import functional as F
from segattn_triton.catalog import ALONG
from segattn_triton.catalog.problem import make_map
from segattn_triton.compat import natten
from segattn_triton.kernels.window.layout import Reach
from segattn_triton.runtime.plan import recorded
from segattn_triton.testing import LAYOUTS, make_inputs

ANY = ALONG[0]  # its options are given anew where the window is another
BORDERS = ("shift", "mask", "zero")
each_border = pytest.mark.parametrize("border", BORDERS)
each_row = pytest.mark.parametrize("row", ALONG, ids=lambda row: row.name)
WINDOWS = {  # name -> map, and the window along each of its axes
    "1-D": ((9,), dict(kernel_size=[5], dilation=[1], is_causal=[False])),
    "1-D dilated": ((11,), dict(kernel_size=[5], dilation=[2], is_causal=[False])),  # classes of 6 and of 5
    "1-D causal": ((7,), dict(kernel_size=[3], dilation=[2], is_causal=[True])),
    "one axis of two": ((3, 4), dict(kernel_size=[1, 3], dilation=[1, 1], is_causal=[False, False])),
    "a rectangle": ((4, 5), dict(kernel_size=[3, 5], dilation=[1, 1], is_causal=[False, False])),
    "two dilations": ((3, 7), dict(kernel_size=[3, 3], dilation=[1, 2], is_causal=[False, False])),
    "a causal axis": ((3, 4), dict(kernel_size=[3, 3], dilation=[1, 1], is_causal=[True, False])),
    "3-D": ((3, 3, 4), dict(kernel_size=[3, 1, 3], dilation=[1, 1, 1], is_causal=[False, False, False])),
    "3-D causal": ((2, 3, 3), dict(kernel_size=[1, 3, 3], dilation=[1, 1, 1], is_causal=[True, False, True])),
}
each_window = pytest.mark.parametrize("name", WINDOWS)


def rand(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(DEVICE, dtype)


def qkv(S, kernel_size, heads=1, heads_kv=1, D=2, N=1, dtype=torch.float32) -> list[torch.Tensor]:
    """q, k, v and a table of relative biases."""
    q, k, v = (rand(N, *S, h, D, dtype=dtype, seed=i) for i, h in enumerate((heads, heads_kv, heads_kv)))
    return [q, k, v, rand(heads, *(2 * k - 1 for k in kernel_size), dtype=dtype)]


def assert_no_faults(inputs, **options) -> None:
    """Right, and every element loaded and stored as often as the plans say."""
    with probe() as launches:
        found = testing.matches(ANY, *inputs, **options)
    assert launches and not faults(launches), faults(launches)
    assert all(launch.plan.name.startswith(("window", "finish")) for launch in launches)
    assert all(match.ok for match in found), found


# right, forward and backward


@each_row
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_each_row(row, dtype):
    sizes = {"N": 1, "C": 2, "S": (row.smallest + 1,) if row.dims == (1,) else (3, 5, 3), "heads": 1}
    assert_right(row, *make_inputs(row, sizes, dtype, device=DEVICE))


@pytest.mark.parametrize("layout", LAYOUTS)
@each_row
def test_each_layout(row, layout):
    sizes = {"N": 2, "C": 8, "S": (15,) if row.dims == (1,) else (3, 5, 4), "heads": 2}
    assert_right(row, *make_inputs(row, sizes, layout=layout, device=DEVICE)[:3], None)


@each_window
@each_border
def test_each_window(border, name):
    """With fewer key heads, a table, and without where kernels then count the keys outside and do not load them."""
    S, window = WINDOWS[name]
    inputs = qkv(S, window["kernel_size"], heads=2 if len(S) == 1 else 1)
    assert_no_faults(inputs, border=border, **window)
    if border == "zero":
        assert_no_faults([*inputs[:3], None], border=border, **window)


@each_border
def test_several_tiles(border):
    """More pixels than a tile has, over rows and images, D that is no power of two."""
    window = dict(kernel_size=[3, 3], dilation=[1, 1], is_causal=[False, True])
    assert_no_faults([*qkv((5, 29), (3, 3), D=3, N=2)[:3], None], border=border, **window)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (1, 7)], ids=str)
@pytest.mark.parametrize("border", ["mask", "zero"])
def test_maps_smaller_than_the_window(size, border):
    assert_no_faults(qkv(size, (5, 3)), border=border, kernel_size=[5, 3], dilation=[1, 2], is_causal=[False, False])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_any_number_of_pixels(layout):
    """There is a config for each, forward and backward."""
    for pixels in (*range(1, 40), 255, 256, 257, 5000):
        sizes = {"N": 1, "C": 6, "S": (pixels,), "heads": 2}
        inputs = [t.to("meta") for t in make_inputs(ANY, sizes, layout=layout)]
        assert all(compiled.planned(ANY.op, *inputs, border="mask"))


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_causal_window_is_not_moved_inside(length):
    """It needs no more pixels than there are, and a dilation past them leaves each alone."""
    for dilation in (1, 3, 10**9):
        assert_no_faults(qkv((length,), (5,)), kernel_size=[5], dilation=[dilation], is_causal=[True])


@pytest.mark.cheap
@pytest.mark.parametrize(("D", "dtype"), [(1, torch.float32), (128, torch.float32), (256, torch.float16)], ids=str)
def test_head_dims(D, dtype):
    assert_right(ANY, *qkv((4,), (3,), D=D, dtype=dtype), kernel_size=3, dilation=1, is_causal=False)


@pytest.mark.parametrize("name", ["1-D causal", "two dilations", "3-D"])
def test_gradcheck(name):
    S, window = WINDOWS[name]
    inputs = [t.double().requires_grad_() for t in qkv(S, window["kernel_size"], D=1)]

    def run(*tensors):
        return F.neighborhood_attention(*tensors, **window, backend="triton", return_lse=True)

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@each_row
def test_every_subset_of_gradients(row):
    """Each is what it is when all are wanted, bit for bit: a repeat, too."""
    sizes = {"N": 1, "C": 2, "S": (14,) if row.dims == (1,) else (3, 5, 3), "heads": 1}
    inputs = make_inputs(row, sizes, device=DEVICE)
    whole = outputs_and_gradients(row.op, inputs, backend="triton")[2:]
    for needs in itertools.product([False, True], repeat=4) if row.dims == (1,) else [(False, True, False, True)]:
        leaves = [t.detach().requires_grad_(need) for t, need in zip(inputs, needs, strict=True)]
        outputs = row.op(*leaves, backend="triton", return_lse=True)
        generator = torch.Generator().manual_seed(7)
        douts = [torch.randn(o.shape, generator=generator).to(o) for o in outputs]
        wanted = [t for t in leaves if t.requires_grad]
        got = torch.autograd.grad(outputs, wanted, douts) if wanted else []
        expected = [g for g, need in zip(whole, needs, strict=True) if need]
        for ours, theirs in zip(got, expected, strict=True):
            assert_equal(ours, theirs)


def test_windows_alike_are_squares():
    """One value for all axes or one for each: the same kernels where these are the same."""
    q, k, v, bias = qkv((5, 6), (3, 3))
    with recorded() as plans:
        one = F.neighborhood_attention(q, k, v, bias, kernel_size=3, backend="triton")
        each = F.neighborhood_attention(q, k, v, bias, kernel_size=(3, 3), dilation=[1, 1], backend="triton")
    assert_equal(one, each)
    assert [plan.name for plan in plans] == ["neighborhood_fwd"] * 2


def test_a_square_is_the_square_kernels():
    """The family of any axes, a window of one along a third axis: what the square kernels give."""
    q, k, v, bias = qkv((5, 6), (3, 3), heads=2)
    flat = outputs_and_gradients(F.neighborhood_attention, [q, k, v, bias], backend="triton")
    deep = [t.unsqueeze(1) for t in (q, k, v, bias)]
    with recorded() as plans:
        found = outputs_and_gradients(F.neighborhood_attention, deep, kernel_size=(1, 3, 3), backend="triton")
    assert all(plan.name.startswith(("window", "finish")) for plan in plans)
    for got, expected in zip(found, flat, strict=True):
        torch.testing.assert_close(got.squeeze(1), expected, rtol=1e-5, atol=1e-5)


# what is not finite


@pytest.mark.parametrize("value", [math.nan, math.inf])
@each_window
def test_a_pixel_reaches_only_its_windows(name, value):
    """In q, k, v or dy of a pixel: outputs and gradients are finite where the reference's are."""
    S, window = WINDOWS[name]
    border = BORDERS[[*WINDOWS].index(name) % 3]
    middle = (0, *(s // 2 for s in S))
    for which in range(4):
        inputs = qkv(S, window["kernel_size"])
        dy = rand(*inputs[0].shape, seed=5)
        (inputs[which] if which < 3 else dy)[middle] = value
        found = []
        for backend in ("triton", "reference"):
            leaves = [t.detach().requires_grad_() for t in inputs]
            y = F.neighborhood_attention(*leaves, **window, border=border, backend=backend)
            found.append([y, *torch.autograd.grad(y, leaves, dy)])
        for got, expected in zip(*found, strict=True):
            assert_equal(got.isfinite(), expected.isfinite())


# the split pair


@pytest.mark.parametrize(
    ("name", "border"),
    [
        (name, border)
        for i, name in enumerate(WINDOWS)
        for border in BORDERS
        if "causal" in name or border == BORDERS[i % 3]
    ],
)
def test_the_pair(name, border):
    """Scores and weighted sums with all gradients, right, and with no access that the plans do not state."""
    S, window = WINDOWS[name]
    window = {**window, "border": border}
    q, k, v, bias = (t.double() for t in qkv(S, window["kernel_size"], heads=2))
    p = rand(1, *S, 2, math.prod(window["kernel_size"]), dtype=torch.float64, seed=3)
    for function, inputs in (("neighborhood_qk", [q, k, bias]), ("neighborhood_av", [p, v])):
        found = []
        for backend in ("triton", "reference"):
            leaves = [t.detach().requires_grad_() for t in inputs]
            with probe() as launches:
                y = getattr(F, function)(*leaves, **window, backend=backend)
                dy = torch.where(y.isfinite(), rand(*y.shape, dtype=torch.float64, seed=9), 0)
                found.append([y, *torch.autograd.grad(y, leaves, dy)])
            assert bool(launches) == (backend == "triton") and not faults(launches), faults(launches)
        for got, expected in zip(*found, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_the_pair_is_the_whole():
    S, window = WINDOWS["3-D causal"]
    q, k, v, bias = qkv(S, window["kernel_size"], heads=2)
    p = F.neighborhood_qk(q, k, bias, **window, backend="triton").softmax(-1)
    expected = F.neighborhood_attention(q, k, v, bias, **window, backend="triton")
    torch.testing.assert_close(F.neighborhood_av(p, v, **window, backend="triton"), expected, rtol=1e-5, atol=1e-5)


# what it costs, and what it takes


def test_windows_that_reach_nothing_cost_nothing():
    """Of windows that reach past the map only the keys in it are loaded; alone in its class a pixel loads itself."""
    q, k, v, _ = qkv((4, 3), (1, 1))
    for border, dilation, keys in (("mask", 1, 12), ("zero", 1, 12), ("mask", 7, 1), ("zero", 10**9, 1)):
        with recorded() as plans:
            window = dict(kernel_size=(255, 253), dilation=dilation, border=border)
            F.neighborhood_attention(q, k, v, **window, backend="triton")
        assert [plan.traffic["k_ptr"] for plan in plans] == [(keys, 0)]


@pytest.mark.parametrize("far", ["channels", "pixels"])
def test_strides_past_32_bits(far):
    """Products of strides and of windows that lie outside are of 64 bits where an image reaches so far."""
    step, D = 2**30 + 8, 2
    stride = (1, D, D, step) if far == "channels" else (1, step, D, 1)
    q, k, v = (reserved((1, 5, 1, D), stride, torch.float32) for _ in range(3))
    for i, t in enumerate((q, k, v)):
        t.copy_(rand(1, 5, 1, D, seed=i))
    bias, window = rand(1, 5), dict(kernel_size=3, dilation=2, is_causal=False, border="mask")
    near = [t.clone() for t in (q, k, v)]
    with recorded() as plans:
        found = outputs_and_gradients(F.neighborhood_attention, [q, k, v, bias], backend="triton", **window)
    assert all(plan.layout.int64 for plan in plans if plan.name != "window_delta" and plan.layout)
    expected = outputs_and_gradients(reference.neighborhood_attention, [*near, bias], **window)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got.clone(), wanted, rtol=1e-5, atol=1e-6)
    with recorded() as plans:
        s = F.neighborhood_qk(q, k, bias, backend="triton", **window)
        y = F.neighborhood_av(s.softmax(-1), v, backend="triton", **window)
    assert [plan.layout.int64 for plan in plans] == [True, True]
    torch.testing.assert_close(s, reference.neighborhood_qk(*near[:2], bias, **window))
    torch.testing.assert_close(y, expected[0], rtol=1e-5, atol=1e-6)


def test_no_image():
    for S, window in WINDOWS.values():
        inputs = [t[:0] if i < 3 else t for i, t in enumerate(qkv(S, window["kernel_size"]))]
        leaves = [t.requires_grad_() for t in inputs]
        y, lse = F.neighborhood_attention(*leaves, **window, backend="triton", return_lse=True)
        assert (y.shape, lse.shape) == (inputs[0].shape, inputs[0].shape[:-1])
        *_, dbias = torch.autograd.grad(y.sum() + lse.sum(), leaves)
        assert_equal(dbias, torch.zeros_like(dbias))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_one_value_stands_for_all_axes(axes):
    assert Reach.of(axes, 3, 2, True, "mask") == Reach.of(axes, [3] * axes, [2] * axes, [True] * axes, "mask")
    assert Reach.of(axes, [3], [2], [], "mask") == Reach.of(axes, 3, 2, False, "mask")  # as 0.1.0 saved it


BAD = {
    "too many windows": ({"kernel_size": (3, 3)}, "kernel_size: got (3, 3), expected an int of at least 1, or one for"),
    "an even window": ({"kernel_size": (4,)}, "kernel_size: got (4,), expected an odd number"),
    "no window": ({"kernel_size": (0,)}, "kernel_size: got (0,), expected an int of at least 1"),
    "a window past the map": ({"kernel_size": 7}, "kernel_size: got 7 with dilation 1 for an image of 5; "),
    "a dilation of a float": ({"dilation": 1.5}, "dilation: got 1.5, expected an int of at least 1"),
    "a dilation past the map": ({"dilation": (2,)}, "kernel_size: got 3 with dilation (2,) for an image of 5; "),
    "a direction in words": ({"is_causal": "left"}, "is_causal: got 'left', expected True or False"),
    "two directions": ({"is_causal": [True, False]}, "is_causal: got [True, False], expected True or False, or one"),
    "a window of everything": ({"kernel_size": 257, "border": "mask"}, "kernel_size: got 257 for an image of 5, expec"),
}


@pytest.mark.cheap
@pytest.mark.parametrize("name", BAD)
def test_bad_windows(name):
    options, said = BAD[name]
    q, k, v, _ = qkv((5,), (3,))
    p = rand(1, 5, 1, 3)
    for function, inputs in (("attention", (q, k, v)), ("qk", (q, k)), ("av", (p, v))):
        for backend in ("triton", "reference"):
            with pytest.raises(ValueError) as caught:
                getattr(F, f"neighborhood_{function}")(*inputs, **options, backend=backend)
            assert str(caught.value).startswith(said)


def test_bad_tables_and_weights():
    q, k, v, bias = qkv((5,), (3,))
    with pytest.raises(ValueError, match=r"rel_bias: got shape .* expected \(1, 9\)"):
        F.neighborhood_attention(q, k, v, bias, kernel_size=(5,))
    with pytest.raises(ValueError, match=r"attn: got shape \(1, 5, 1, 3\), expected \(N, \*S, heads, 5\)"):
        F.neighborhood_av(rand(1, 5, 1, 3), v, kernel_size=5)


# the modules

MODULES = {  # axes -> map, options
    1: ((11,), dict(kernel_size=5, dilation=(2,), is_causal=True)),
    2: ((4, 6), dict(kernel_size=(3, 5), rel_pos_bias=True)),
    3: ((3, 4, 3), dict(kernel_size=(3, 1, 3), is_causal=(True, False, False))),
}


def modules(axes: int):
    """Ours, channels first, and NATTEN's by our name, channels last, with the same weights."""
    torch.manual_seed(0)
    (_, options), names = MODULES[axes], f"NeighborhoodAttention{axes}"
    ours = getattr(segattn_triton, f"{names}d")(8, 2, backend="triton", **options).to(DEVICE)
    theirs = getattr(natten, f"{names}D")(8, 2, **options).to(DEVICE)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("axes", MODULES)
def test_modules_are_nattens_channels_first(axes, layout):
    """A batch, one image, and the map of what each pixel attends to; its weights sum to one."""
    ours, theirs = modules(axes)
    S, options = MODULES[axes]
    x = make_map((2, 8, *S), layout, torch.Generator().manual_seed(0), torch.float32, DEVICE)
    y, p = ours(x, return_map=True)
    torch.testing.assert_close(y, theirs(x.movedim(1, -1)).movedim(-1, 1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours(x[1]), y[1], rtol=1e-5, atol=1e-6)
    assert y.stride() == x.stride()
    assert p.shape == (2, 2, math.prod(Reach.of(axes, options["kernel_size"], 1, False, "").kernel), *S)
    torch.testing.assert_close(p.sum(2), torch.ones_like(p[:, :, 0]))
    y.sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in ours.parameters())


@pytest.mark.parametrize("axes", MODULES)
def test_exported_saved_and_compiled(axes):
    """The operator is one node with lists; without it the reference; compiled, the same gradients."""
    ours, _ = modules(axes)
    x = rand(2, 8, *MODULES[axes][0])
    expected, buffer = ours(x), io.BytesIO()
    torch.export.save(torch.export.export(ours, (x,)), buffer)
    buffer.seek(0)
    program = torch.export.load(buffer)
    assert [n for n in program.graph.nodes if getattr(n.target, "namespace", "") == "segattn"]
    torch.testing.assert_close(program.module()(x), expected)
    plain = program.run_decompositions(segattn_triton.decompositions())
    torch.testing.assert_close(plain.module()(x), expected, rtol=1e-5, atol=1e-6)
    results = []
    for run in (ours, torch.compile(ours, backend="aot_eager", fullgraph=True)):
        results.append(torch.autograd.grad(run(x).sin().sum(), [*ours.parameters()]))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.cheap
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kernel_size": (3, 4)}, "kernel_size: got (3, 4), expected an odd number"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size: got (3, 3, 3), expected an int of at least 1, or one for each of 2"),
        ({"dilation": (1, 0)}, "dilation: got (1, 0), expected an int of at least 1"),
        ({"is_causal": 1}, "is_causal: got 1, expected True or False"),
    ],
    ids=str,
)
def test_a_module_of_a_bad_window(options, said):
    with pytest.raises(ValueError) as caught:
        segattn_triton.NeighborhoodAttention2d(8, 2, **options)
    assert str(caught.value).startswith(said)
