"""Neighbourhood attention beyond what holds of every row: windows, borders, heads, NaN, bad input, the split pair."""

import dataclasses
import functools
import itertools
import math

import pytest
import torch
from support import DEVICE, assert_equal, assert_right, outputs_and_gradients
from torch import nn

from segattn_triton import NeighborhoodAttention2d, reference
from segattn_triton import functional as F
from segattn_triton.catalog import BY_NAME, WINDOWS
from segattn_triton.compat import natten as compat
from segattn_triton.compiled import planned
from segattn_triton.kernels.neighborhood import backward, forward
from segattn_triton.kernels.neighborhood.patch import Patch, patch_of
from segattn_triton.runtime.plan import recorded
from segattn_triton.testing import LAYOUTS, assert_matches_reference, compare, exact_and_error, make_inputs
from segattn_triton.testing import outputs_and_gradients as run_on
from segattn_triton.tuning.target import planning_for

ROW = BY_NAME["neighborhood_attention"]
BORDERS = ("shift", "mask", "zero")
TILED = (3, 5, 7, 9, 11, 13)  # windows of models
each_border = pytest.mark.parametrize("border", BORDERS)


def rand(*shape: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(DEVICE, dtype)


def qkv(H=5, W=6, heads=1, D=4, heads_kv=None, N=1, dtype=torch.float32, kernel_size=3) -> list[torch.Tensor]:
    """q, k, v and a table of relative biases."""
    q, k, v = (
        rand(N, H, W, h, D, dtype=dtype, seed=i) for i, h in enumerate((heads, heads_kv or heads, heads_kv or heads))
    )
    return [q, k, v, rand(heads, 2 * kernel_size - 1, 2 * kernel_size - 1, dtype=dtype)]


# right, forward and backward


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2)], ids=str)
@pytest.mark.parametrize("border", ["mask", "zero"])
def test_images_smaller_than_the_window(size, border):
    assert_right(ROW, *qkv(*size), border=border)


@pytest.mark.parametrize("size", [(3, 3), (4, 9)], ids=str)
def test_the_smallest_images_of_a_moved_window(size):
    assert_right(ROW, *qkv(*size, D=3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_border
def test_tensor_core_tiles(border, dtype):
    """D from 16 in 16 bits; more than a tile of 4 x 4 queries, and a part of one."""
    assert_right(ROW, *qkv(6, 9, D=16, dtype=dtype), border=border)


@each_border
def test_window_of_five_with_dilation(border):
    """Classes of pixels of unequal size; offsets up to four at a moved window."""
    inputs = qkv(11, 10, D=2, kernel_size=5)
    assert_right(ROW, *inputs, border=border, kernel_size=5, dilation=2)


@pytest.mark.parametrize("row", WINDOWS, ids=lambda row: row.name)
def test_rows_of_wide_windows(row):
    """The smallest image, key by key, all gradients."""
    assert_right(row, *make_inputs(row, {"N": 1, "C": 2, "S": (row.smallest,) * 2, "heads": 1}, device=DEVICE))


WIDE = {  # window -> image, dilation; tiles of 4 x 4 and of 2 x 8, in parts; classes of pixels of unequal size
    5: ((11, 10), 2),
    7: ((9, 11), 1),
    9: ((9, 12), 1),
    13: ((13, 14), 1),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernel_size", WIDE)
@each_border
def test_wide_windows_on_tensor_cores(border, kernel_size, dtype):
    (H, W), dilation = WIDE[kernel_size]
    inputs = qkv(H, W, 2, 16, 1, dtype=dtype, kernel_size=kernel_size)
    needs = [True, True, True, kernel_size == 5]  # dbias goes key by key, for minutes in the interpreter
    assert_right(ROW, *inputs, needs=needs, border=border, kernel_size=kernel_size, dilation=dilation)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_wide_windows_in_every_layout(layout):
    sizes = {"N": 2, "C": 32, "S": (7, 9), "heads": 2, "T": 13}
    inputs = make_inputs(ROW, sizes, torch.float16, layout=layout, device=DEVICE)
    assert_right(ROW, *inputs[:3], None, kernel_size=7)


@pytest.mark.parametrize("kernel_size", TILED)
@each_border
def test_tiles_along_w(border, kernel_size):
    """Where W is contiguous and divisible: patches start ahead of the first key, at a multiple of an access."""
    sizes = {"N": 1, "C": 16, "S": (max(5, kernel_size), 32), "heads": 1, "T": 2 * kernel_size - 1}
    q, k, v, bias = make_inputs(ROW, sizes, torch.float16, device=DEVICE)
    assert patch_of(q, kernel_size, 1).lead > 1 == patch_of(q, kernel_size, 2).lead
    needs = [True, True, True, kernel_size == 3]
    assert_right(ROW, q, k, v, bias, needs=needs, border=border, kernel_size=kernel_size)


def test_the_share_of_scores_that_windows_want():
    """As the kernels' page says, and as pairs are counted: of a tile between borders."""
    wanted = [patch_of(torch.empty(1, 64, 64, 1, 16), K, 1).wanted(K) for K in TILED]
    assert [f"{share:.0%}" for share in wanted] == ["19%", "39%", "38%", "51%", "54%", "66%"]
    first = {K: patch_of(torch.empty(1, 64, 64, 1, 16), K, 1) for K in TILED}
    for K, patch in first.items():
        y, x = torch.arange(patch.tile_y), torch.arange(patch.tile_x)
        rows, columns = torch.arange(patch.rows), torch.arange(patch.columns)
        down, right = (((b - a[:, None]) >= 0) & ((b - a[:, None]) < K) for a, b in ((y, rows), (x, columns)))
        assert down.sum() * right.sum() == round(patch.wanted(K) * patch.products(1, 1))
    assert Patch(4, 4, 6, 8).wanted(3, 64) == 9 / 64


@pytest.mark.parametrize("kernel_size", [3, 11])
def test_heads_of_64_channels_along_w(kernel_size):
    """Where W is contiguous and not divisible: every value has an address of its own."""
    sizes = {"N": 1, "C": 64, "S": (kernel_size, kernel_size + 2), "heads": 1, "T": 2 * kernel_size - 1}
    q, k, v, bias = make_inputs(ROW, sizes, torch.bfloat16, device=DEVICE)
    assert_right(ROW, q, k, v, bias, needs=[True, True, True, False], kernel_size=kernel_size)


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("kernel_size", TILED)
def test_who_goes_by_rows_says_so(layout, kernel_size):
    """By the names of what is launched: 16 bits and D from 16 to 64 by products of matrices; float32, float64 and fewer
    channels by rows, which have no products of matrices, so no TF32."""
    kind = "strip" if kernel_size == 3 else "patch"
    by_rows, by_tiles = (
        {"neighborhood_fwd", "neighborhood_bwd"},
        {f"neighborhood_{kind}_{n}" for n in ("fwd", "dq", "dkv")},
    )
    for dtype, D, names in (
        *((dtype, D, by_tiles) for dtype in (torch.float16, torch.bfloat16) for D in (16, 32, 64)),
        (torch.bfloat16, 24, by_tiles),
        *((dtype, 32, by_rows) for dtype in (torch.float32, torch.float64)),
        (torch.float16, 8, by_rows),
    ):
        sizes = {"N": 1, "C": 2 * D, "S": (32, 32), "heads": 2, "T": 2 * kernel_size - 1}
        q, k, v, _ = make_inputs(ROW, sizes, dtype, layout=layout, device="meta")
        with planning_for(90):
            plans = itertools.chain(*planned(ROW.op, q, k, v, None, kernel_size=kernel_size))
        assert {plan.name for plan in plans} == names | {"neighborhood_delta"}, (dtype, D)


def test_a_dilation_in_sixteen_bits():
    assert_right(ROW, *qkv(7, 8, D=16, dtype=torch.float16), dilation=2)


@pytest.mark.parametrize(("heads", "heads_kv"), [(4, 2), (2, 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_fewer_key_heads(heads, heads_kv, dtype):
    assert_right(ROW, *qkv(4, 5, heads, 16, heads_kv, dtype=dtype))


@pytest.mark.parametrize(
    ("D", "dtype"),
    [(1, torch.float32), (3, torch.float16), (24, torch.float16), (128, torch.float32), (256, torch.float16)],
    ids=str,
)
def test_head_dims(D, dtype):
    assert_right(ROW, *qkv(3, 4, D=D, dtype=dtype))


@pytest.mark.parametrize("scale", [0.0, 1.0, -0.3])
def test_scale(scale):
    """0.0 means zero: the mean of the values, not the default."""
    q, k, v, _ = qkv()
    assert_right(ROW, q, k, v, None, scale=scale)
    if scale == 0.0:
        y = F.neighborhood_attention(q, k, v, scale=0.0, backend="triton")
        torch.testing.assert_close(y[0, 1, 1], v[0, 0:3, 0:3].mean((0, 1)))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_views_of_a_projection(channels_last, dtype):
    """The three parts of a qkv map, no copy: kernels read the memory of the map itself."""
    x = rand(1, 3 * 32, 5, 6, dtype=dtype)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    views = x.unflatten(1, (3, 2, 16)).permute(1, 0, 4, 5, 2, 3).unbind(0)
    with recorded() as plans:
        assert_right(ROW, *views, None)
    assert storages(plans) == {x.untyped_storage().data_ptr()} and len(plans) >= 3


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_the_module_copies_no_projection(channels_last, dtype):
    """q, k and v of the kernels, forward and backward, are views of the one map that the projection made."""
    attention = NeighborhoodAttention2d(32, 2, backend="triton").to(DEVICE, dtype)
    x = rand(2, 32, 5, 6, dtype=dtype)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    with recorded() as plans:
        attention(x).sum().backward()
    assert len(storages(plans)) == 1 and len(plans) >= 3


def storages(plans) -> set[int]:
    """Of q, k and v of all launches."""
    inputs = [plan.args[name] for plan in plans for name in ("q_ptr", "k_ptr", "v_ptr") if name in plan.args]
    return {t.untyped_storage().data_ptr() for t in inputs}


@each_border
def test_gradcheck(border):
    inputs = [t.double().requires_grad_() for t in qkv(3, 4, D=2)]

    def run(*tensors):
        return F.neighborhood_attention(*tensors, border=border, backend="triton", return_lse=True)

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_two_backward_runs_give_equal_bits():
    inputs = qkv(9, 10, heads=2, D=16, heads_kv=1, dtype=torch.float16)
    first, second = (outputs_and_gradients(ROW.op, inputs, backend="triton") for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert_equal(a, b)


# what is not finite


def reached(H: int, W: int, y: int, x: int, **window) -> torch.Tensor:
    """[H, W]: the pixels whose window contains the pixel (y, x), by the definition."""
    one = torch.zeros(1, H, W, 1, 1, dtype=torch.float64)
    one[0, y, x] = 1.0
    uniform = torch.ones(1, H, W, 1, window["kernel_size"] ** 2, dtype=torch.float64)
    return reference.neighborhood_av(uniform, one, **window)[0, ..., 0, 0] > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize(
    ("dtype", "D", "kernel_size"), [(torch.float16, 16, 3), (torch.float32, 4, 3), (torch.float16, 16, 7)], ids=str
)
@each_border
def test_a_pixel_reaches_only_those_whose_window_has_it(value, which, dtype, D, kernel_size, border):
    """Of k or v. In tiles of tensor cores, too, where 0 * Inf would spread over the whole tile."""
    H, W = 7, 9
    window = dict(kernel_size=kernel_size, border=border)
    for y, x in ((3, 4), (0, 0)):
        clean, spoiled = qkv(H, W, D=D, dtype=dtype)[:3], qkv(H, W, D=D, dtype=dtype)[:3]
        spoiled[which][0, y, x] = value
        near = reached(H, W, y, x, **window).to(DEVICE)
        expected = F.neighborhood_attention(*clean, **window, backend="triton", return_lse=True)
        got = F.neighborhood_attention(*spoiled, **window, backend="triton", return_lse=True)
        oracle = F.neighborhood_attention(*spoiled, **window, backend="reference", return_lse=True)
        for ours, before, wanted in zip(got, expected, oracle, strict=True):
            torch.testing.assert_close(ours[0][~near], before[0][~near], rtol=2e-3, atol=2e-3)
            assert_equal(ours.isnan(), wanted.isnan())
        assert_equal(got[0].isfinite(), oracle[0].isfinite())


@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize(
    ("dtype", "D", "kernel_size"),
    [(torch.float32, 4, 3), (torch.float64, 1, 1), (torch.float16, 16, 3), (torch.float16, 16, 5)],
    ids=str,
)
@each_border
def test_an_infinite_score(value, dtype, D, kernel_size, border):
    """+Inf has no softmax and no lse; -Inf counts for nothing beside others, and alone has no softmax."""
    q, k, v, _ = qkv(5, 6, D=D, dtype=dtype)
    k[0, 2, 3] = value
    window = dict(kernel_size=kernel_size, border=border, return_lse=True)
    ours, theirs = (F.neighborhood_attention(q.abs(), k, v, **window, backend=b) for b in ("triton", "reference"))
    near = reached(5, 6, 2, 3, kernel_size=kernel_size, border=border).to(DEVICE)
    assert_equal(ours[0][0, ..., 0, 0].isnan(), near if value > 0 or kernel_size == 1 else torch.zeros_like(near))
    assert_equal(ours[1][0, ..., 0].isnan(), near if value > 0 else torch.zeros_like(near))
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=2e-3, atol=2e-3, equal_nan=True)


@pytest.mark.parametrize("which", "qkv")
@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("kernel_size", TILED)
@each_border
def test_a_pixel_reaches_no_further_in_tiles(which, layout, kernel_size, border):
    """NaN in q, k or v: y and the gradients are finite where the reference's are, and there they are its. Patches hold
    more than windows do, along W still more."""
    sizes = {"N": 1, "C": 16, "S": (kernel_size + 2, 32), "heads": 1, "T": 5}
    inputs = make_inputs(ROW, sizes, torch.float16, layout=layout, device=DEVICE)[:3]
    assert (patch_of(inputs[0], kernel_size, 1).lead > 1) == (layout == "contiguous")
    inputs["qkv".index(which)][0, 2, 13] = math.nan
    ours, theirs = (
        outputs_and_gradients(F.neighborhood_attention, inputs, kernel_size=kernel_size, border=border, backend=backend)
        for backend in ("triton", "reference")
    )
    for got, wanted in zip(ours, theirs, strict=True):
        assert_equal(got.isfinite(), wanted.isfinite())
        assert got.isfinite().any()
        torch.testing.assert_close(got, wanted, rtol=1e-2, atol=2e-2, equal_nan=True)


@pytest.mark.parametrize("which", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("dtype", "D", "kernel_size"), [(torch.float32, 4, 3), (torch.float16, 16, 3), (torch.float16, 16, 5)], ids=str
)
@each_border
def test_gradients_of_what_is_not_finite(which, dtype, D, kernel_size, border):
    """NaN in q, k, v or dy of a pixel: the gradient of pixels in no window with it stays what it was."""
    H, W = 9, 12
    results = []
    for spoil in (False, True):
        tensors = [*qkv(H, W, D=D, dtype=dtype)[:3], rand(1, H, W, 1, D, dtype=dtype, seed=5)]
        if spoil:
            tensors[which][0, 0, 0] = math.nan
        leaves = [t.requires_grad_() for t in tensors[:3]]
        y = F.neighborhood_attention(*leaves, kernel_size=kernel_size, border=border, backend="triton")
        results.append(torch.autograd.grad(y, leaves, tensors[3]))
    far = torch.ones(H, W, dtype=torch.bool, device=DEVICE)
    reach = 2 * kernel_size  # queries with (0, 0) in their window end before K, their keys before 2 K - 1
    far[:reach, :reach] = False
    for clean, spoiled in zip(*results, strict=True):
        torch.testing.assert_close(spoiled[0][far], clean[0][far], rtol=4e-3, atol=2e-3)


# the split pair


def assert_pair_right(name: str, inputs: list[torch.Tensor], **options) -> None:
    """Outputs and gradients of a function with one output, by the budget of every op."""
    op, define, dtype = getattr(F, name), getattr(reference, name), inputs[0].dtype
    needs = [True] * len(inputs)
    doubles = [t.detach() for t in inputs]
    dout = rand(*define(*doubles, **options).shape, dtype=dtype, seed=9)
    finite = define(*doubles, **options).isfinite()
    dout = torch.where(finite, dout, 0)

    def run(wide, scale):
        scaled = [(t.to(torch.promote_types(t.dtype, torch.float32)) * scale).to(wide) for t in doubles]
        return run_on(define, scaled, needs, [dout * scale], options)

    got = run_on(op, inputs, needs, [dout], {**options, "backend": "triton"})
    exact, errors = exact_and_error(run, (), dtype)
    found = [compare(str(i), *values) for i, values in enumerate(zip(got, exact, errors, strict=True))]
    assert all(match.ok for match in found), [match for match in found if not match.ok]


@each_border
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_scores(border, dtype):
    q, k, _, bias = qkv(4, 5, heads=2, heads_kv=1, D=5, dtype=dtype)
    assert_pair_right("neighborhood_qk", [q, k, bias], border=border)


@each_border
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_weighted_sums(border, dtype):
    v = qkv(4, 5, heads=2, heads_kv=1, D=5, dtype=dtype)[2]
    assert_pair_right("neighborhood_av", [rand(1, 4, 5, 2, 9, dtype=dtype), v], border=border)


@pytest.mark.parametrize("name", ["neighborhood_qk", "neighborhood_av"])
def test_every_subset_of_gradients_of_the_pair(name):
    """Each gradient is what it is when all are wanted, bit for bit, whichever of the others are wanted with it."""
    q, k, v, bias = qkv(4, 5, heads=2, D=5)
    inputs = [q, k, bias] if name == "neighborhood_qk" else [rand(1, 4, 5, 2, 9), v]

    def grads(needs):
        leaves = [t.detach().clone().requires_grad_(need) for t, need in zip(inputs, needs, strict=True)]
        y = getattr(F, name)(*leaves, kernel_size=3, backend="triton")
        wanted = [t for t in leaves if t.requires_grad]
        return torch.autograd.grad(y, wanted, rand(*y.shape, seed=9))

    whole = grads([True] * len(inputs))
    assert_pair_right(name, inputs)
    for needs in itertools.product([False, True], repeat=len(inputs)):
        expected = [g for g, need in zip(whole, needs, strict=True) if need]
        for got, wanted in zip(grads(needs) if any(needs) else (), expected, strict=True):
            assert_equal(got, wanted)


def test_the_pair_with_a_window_of_five():
    q, k, v, bias = qkv(5, 6, D=3, kernel_size=5)
    assert_pair_right("neighborhood_qk", [q, k, bias], kernel_size=5)
    assert_pair_right("neighborhood_av", [rand(1, 5, 6, 1, 25), v], kernel_size=5)


# what NATTEN's users call


@pytest.fixture
def on_kernels(monkeypatch):
    """NATTEN's functions take no backend: on a CPU, too, they run the kernels here."""
    for name in ("neighborhood_attention", "neighborhood_qk", "neighborhood_av"):
        monkeypatch.setattr(F, name, functools.partial(getattr(F, name), backend="triton"))


@pytest.mark.parametrize("value_dtype", [torch.float32, torch.float16], ids=str)
def test_a_backbone_that_calls_the_pair(on_kernels, value_dtype):
    """As SegMAN does: heads first, views of a convolution's map, scaled queries, pairs as kernel and dilation, a bias.
    Under autocast q, k and the softmax are in float32, and the values are not."""
    x = rand(1, 3 * 2 * 4, 7, 8).requires_grad_()
    rpb = rand(2, 13, 13).requires_grad_()
    q, k, v = x.unflatten(1, (3, 2, 4)).permute(1, 0, 2, 4, 5, 3).unbind(0)  # each (N, heads, H, W, D)
    v = v.to(value_dtype)
    p = compat.na2d_qk(q * 0.5, k, kernel_size=(7, 7), dilation=(1, 1), rpb=rpb).softmax(-1)
    y = compat.na2d_av(p, v, kernel_size=(7, 7), dilation=(1, 1))
    assert p.shape == (1, 2, 7, 8, 49) and y.shape == v.shape and y.dtype == value_dtype
    last = [t.float().permute(0, 2, 3, 1, 4) for t in (q, k, v)]
    expected = reference.neighborhood_attention(*last, rpb, kernel_size=7).permute(0, 3, 1, 2, 4)
    atol = 1e-5 if value_dtype == torch.float32 else 4e-3
    torch.testing.assert_close(y.float(), expected, rtol=atol, atol=atol)
    for got, wanted in zip(*(torch.autograd.grad(t.float().sin().sum(), (x, rpb)) for t in (y, expected)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=10 * atol, atol=10 * atol)


def test_wide_windows_of_a_backbone(on_kernels):
    """SegMAN's first stages look at 11 x 11 pixels."""
    q, k, v = (rand(1, 1, 11, 12, 3, seed=i) for i in range(3))
    p = compat.na2d_qk(q, k, (11, 11)).softmax(-1)
    last = [t.permute(0, 2, 3, 1, 4) for t in (q, k, v)]
    expected = reference.neighborhood_attention(*last, kernel_size=11, scale=1.0).permute(0, 3, 1, 2, 4)
    torch.testing.assert_close(compat.na2d_av(p, v, (11, 11)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda q, k, v: compat.na2d_qk(q[0], k, 3), r"query: got 4 axes, .* expected \(N, heads, H, W, D\)"),
        (lambda q, k, v: compat.na2d_qk(q, k[0], 3), "key: got 4 axes"),
        (lambda q, k, v: compat.na2d_av(q, v[0], 3), "value: got 4 axes"),
        (lambda q, k, v: compat.na2d_av(q[0], v, 3), "attn: got 4 axes"),
        (lambda q, k, v: compat.na2d_qk(q.tolist(), k, 3), "query: got list"),
        (lambda q, k, v: compat.na2d(q, k, v, (3, 4)), r"kernel_size: got \(3, 4\), expected odd .* use \(3, 5\)"),
        (lambda q, k, v: compat.na2d(q, k, v, (3, 3, 3)), r"kernel_size: got \(3, 3, 3\), expected one value"),
        (lambda q, k, v: compat.na2d(q, k, v, 3, additional_keys=k), "additional_keys: got Tensor.* return_lse=True"),
        (lambda q, k, v: compat.na2d_av(q, v, 3, additional_values=v), "additional_values: got Tensor"),
        (lambda q, k, v: compat.na2d(q, k, v, 3, is_causal=True, border="mask"), "border: got 'mask'.* use "),
        (lambda q, k, v: compat.na2d_qk(q, k, 3, 2), r"kernel_size: got \(3, 3\) with dilation \(2, 2\) for a map of"),
        (
            lambda q, k, v: compat.na2d(q, k, v, 3, is_causal=True, rpb=q),
            "rpb: got Tensor with is_causal.* use rpb=None",
        ),
        (lambda q, k, v: compat.na2d(q, k, v, 3, is_causal=1), "is_causal: got 1, expected bools"),
        (lambda q, k, v: compat.natten2dav(q[..., :3], v, 1), "natten2dav: got no kernel_size"),
        (lambda q, k, v: compat.natten2dqkrpb(q, k, None, 1), "natten2dqkrpb: got no kernel_size"),
        (lambda q, k, v: compat.natten2dqkrpb(q, k, None, 3, 1, 1), "natten2dqkrpb: got 3 sizes"),
        (lambda q, k, v: compat.na2d(q, k, v, 3, scale=math.nan), "scale: got nan"),
        (lambda q, k, v: compat.na3d(q, k, v, 3), "query: got 5 axes"),
        (lambda q, k, v: compat.na2d(q, k, v, 3, 2), "got 2 as the fifth positional argument"),
        (lambda q, k, v: compat.na2d(q, k, v, 3, stride=2), "stride: got 2, expected 1.* use "),
        (lambda q, k, v: compat.na2d_qk(q, k, 3.0), "kernel_size: got 3.0"),
    ],
)
def test_what_natten_has_and_this_has_not(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call(*(rand(1, 5, 5, 5, 4, seed=i) for i in range(3)))


def test_the_pair_is_the_whole():
    q, k, v, bias = qkv(5, 6, heads=2)
    p = F.neighborhood_qk(q, k, bias, backend="triton").softmax(-1)
    expected = F.neighborhood_attention(q, k, v, bias, backend="triton")
    torch.testing.assert_close(F.neighborhood_av(p, v, backend="triton"), expected, rtol=1e-5, atol=1e-5)


# bad input

BAD = {
    "rank three": (lambda q, k, v, b: ([q[0, 0]] * 3, {}), ValueError, "q: got 3 axes, .* (N, L, heads, D), (N, H, W"),
    "rank seven": (lambda q, k, v, b: ([q[None, None]] * 3, {}), ValueError, "q: got 7 axes"),
    "another rank": (lambda q, k, v, b: ((q, k[0], v), {}), ValueError, "k: got 4 axes, .* expected 5 as q"),
    "other image": (lambda q, k, v, b: ((q, k[:, :4], v), {}), ValueError, "k: got shape"),
    "other batch": (lambda q, k, v, b: ((q, k, v.expand(2, -1, -1, -1, -1)), {}), ValueError, "v: got shape"),
    "heads that do not divide": (
        lambda q, k, v, b: ((q, k.repeat(1, 1, 1, 2, 1)[..., :3, :], v), {}),
        ValueError,
        "k: got 3",
    ),
    "k and v differ": (lambda q, k, v, b: ((q, k, v[..., :1, :]), {}), ValueError, "v: got shape"),
    "D differs": (lambda q, k, v, b: ((q, k[..., :3], v), {}), ValueError, "k: got D = 3"),
    "D over the limit": (lambda q, k, v, b: ([q.repeat(1, 1, 1, 1, 33)] * 3, {}), ValueError, "D = 132"),
    "even kernel": (lambda q, k, v, b: ((q, k, v), {"kernel_size": 4}), ValueError, "kernel_size: got 4"),
    "float kernel": (lambda q, k, v, b: ((q, k, v), {"kernel_size": 3.0}), ValueError, "kernel_size: got 3.0"),
    "three windows": (
        lambda q, k, v, b: ((q, k, v), {"kernel_size": (3, 3, 3)}),
        ValueError,
        "kernel_size: got (3, 3, 3), expected an int of at least 1, or one for each of 2 axes",
    ),
    "one dilation": (
        lambda q, k, v, b: ((q, k, v), {"dilation": [2]}),
        ValueError,
        "dilation: got .2., expected an int",
    ),
    "one even window": (lambda q, k, v, b: ((q, k, v), {"kernel_size": (3, 4)}), ValueError, "kernel_size: got (3, 4)"),
    "one window too large": (
        lambda q, k, v, b: ((q, k, v), {"kernel_size": (3, 7)}),
        ValueError,
        "kernel_size: got (3, 7) .* 5 x 6; .* at least 3 x 7 pixels",
    ),
    "causal an int": (lambda q, k, v, b: ((q, k, v), {"is_causal": 1}), ValueError, "is_causal: got 1, expected True"),
    "three directions": (
        lambda q, k, v, b: ((q, k, v), {"is_causal": (True, True, True)}),
        ValueError,
        "is_causal: got (True, True, True), expected True or False, or one for each of 2 axes",
    ),
    "no kernel": (lambda q, k, v, b: ((q, k, v), {"kernel_size": 0}), ValueError, "kernel_size: got 0"),
    "kernel too large": (lambda q, k, v, b: ((q, k, v), {"kernel_size": 7}), ValueError, "5 x 6"),
    "dilation too large": (lambda q, k, v, b: ((q, k, v), {"dilation": 2}), ValueError, "5 x 6"),
    "kernel past every pixel": (
        lambda q, k, v, b: ((q, k, v), {"kernel_size": 257, "border": "mask"}),
        ValueError,
        "expected at most 255",
    ),
    "along one axis past every pixel": (
        lambda q, k, v, b: ((q, k, v), {"kernel_size": (3, 257), "border": "mask"}),
        ValueError,
        "expected at most 255",
    ),
    "no dilation": (lambda q, k, v, b: ((q, k, v), {"dilation": 0}), ValueError, "dilation: got 0"),
    "border": (lambda q, k, v, b: ((q, k, v), {"border": "wrap"}), ValueError, "border: got 'wrap'"),
    "scale NaN": (lambda q, k, v, b: ((q, k, v), {"scale": math.nan}), ValueError, "scale: got nan"),
    "scale a tensor": (lambda q, k, v, b: ((q, k, v), {"scale": torch.ones(1)}), ValueError, "scale: got Tensor"),
    "other dtype": (lambda q, k, v, b: ((q, k.half(), v), {}), TypeError, "k: got dtype torch.float16"),
    "integers": (lambda q, k, v, b: ((q.int(), k, v), {}), TypeError, "q: got dtype torch.int32"),
    "a list": (lambda q, k, v, b: ((q, k.tolist(), v), {}), TypeError, "k: got list"),
    "other device": (lambda q, k, v, b: ((q, k.to("meta"), v), {}), ValueError, "k: is on meta"),
    "no pixel": (lambda q, k, v, b: ([q[:, :0]] * 3, {}), ValueError, "at least one pixel"),
    "table of another window": (lambda q, k, v, b: ((q, k, v, b), {"kernel_size": 5}), ValueError, "rel_bias: got"),
    "table of fewer heads": (lambda q, k, v, b: ((q, k, v, b[:1]), {}), ValueError, "rel_bias: got shape"),
}


@pytest.mark.cheap
@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    change, error, said = BAD[name]
    tensors, options = change(*qkv(heads=2))
    for backend in (None, "triton", "reference"):
        with pytest.raises(error, match=said.replace("(", r"\(").replace(")", r"\)")):
            F.neighborhood_attention(*tensors, backend=backend, **options)


@pytest.mark.parametrize("border", ["mask", "zero"])
@pytest.mark.parametrize("size", [(4, 5), (1, 7)], ids=str)
def test_a_dilation_that_reaches_nothing_costs_nothing(size, border):
    """Each pixel is alone in its class: as many programs as pixels and heads, however far the dilation goes."""
    inputs = qkv(*size, heads=2)
    for dilation in (max(size), 1000, 10**9, 2**31 - 1):
        with recorded() as plans:
            assert_right(ROW, *inputs, border=border, dilation=dilation)
        assert max(plan.grid for plan in plans if "q_ptr" in plan.args) == 2 * math.prod(size)


@pytest.mark.parametrize("border", ["mask", "zero"])
@pytest.mark.parametrize(("D", "dtype"), [(4, torch.float32), (16, torch.bfloat16)], ids=str)
def test_a_window_that_reaches_past_the_map_is_not_walked(D, dtype, border, monkeypatch):
    """65,025 pixels, 20 of them in the map: right, and no more offsets than the map has."""
    walked = []

    def counted(step):
        return lambda *args: walked.append(1) or step(*args)

    for module, name in ((forward, "_take"), (backward, "_to_query"), (backward, "_to_key")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    inputs = qkv(4, 5, D=D, dtype=dtype)[:3]
    assert_right(ROW, *inputs, None, border=border, kernel_size=255)
    assert 0 < len(walked) <= 3 * 7 * 9


def test_bad_scores_and_weights():
    q, k, v, _ = qkv()
    with pytest.raises(ValueError, match=r"attn: got shape .* kernel_size 3"):
        F.neighborhood_av(rand(1, 5, 6, 1, 8), v)
    with pytest.raises(ValueError, match="k: got D = 3"):
        F.neighborhood_qk(q, k[..., :3])


def test_no_image():
    q, k, v, bias = (t[:0] if t.dim() == 5 else t for t in qkv())
    y, lse = F.neighborhood_attention(q, k, v, bias, backend="triton", return_lse=True)
    assert (y.shape, lse.shape) == (q.shape, q.shape[:4])


# the module


def module(**options) -> NeighborhoodAttention2d:
    torch.manual_seed(0)
    return NeighborhoodAttention2d(8, 2, rel_pos_bias=True, backend="triton", **options).to(DEVICE)


@pytest.mark.parametrize("channels_last", [False, True])
def test_module_is_its_projections_around_the_function(channels_last):
    attention, x = module(), rand(2, 8, 5, 6)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    y, p = attention(x, return_map=True)
    q, k, v = (
        nn.functional.linear(x.permute(0, 2, 3, 1), attention.qkv.weight, attention.qkv.bias)
        .unflatten(3, (3, 2, 4))
        .unbind(3)
    )
    mid = F.neighborhood_attention(q, k, v, attention.rpb, backend="reference")
    expected = attention.proj(mid.flatten(3)).permute(0, 3, 1, 2)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert y.stride() == x.stride()
    assert p.shape == (2, 2, 9, 5, 6)
    torch.testing.assert_close(p.sum(2), torch.ones_like(p[:, :, 0]))
    y.sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in attention.parameters())


def test_module_state_dict():
    shapes = {name: tuple(t.shape) for name, t in module().state_dict().items()}
    linear = {"qkv.weight": (24, 8), "qkv.bias": (24,), "proj.weight": (8, 8), "proj.bias": (8,)}
    assert shapes == {**linear, "rpb": (2, 5, 5)}
    assert "rpb" not in NeighborhoodAttention2d(8, 2).state_dict()
    assert "qkv.bias" not in NeighborhoodAttention2d(8, 2, qkv_bias=False).state_dict()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_module_is_within_the_budget(channels_last, dtype):
    """That of its projections' rounding, too, which libraries do in 16 bits."""
    torch.manual_seed(0)
    attention = NeighborhoodAttention2d(32, 2, rel_pos_bias=True).to(DEVICE, dtype)
    x = rand(1, 32, 5, 6, dtype=dtype)
    found = assert_matches_reference(attention, x.to(memory_format=torch.channels_last) if channels_last else x)
    assert len(found) == 7 and max(match.use for match in found) > 0.02


def test_module_follows_autocast():
    with torch.autocast(DEVICE, torch.bfloat16):
        assert module()(rand(1, 8, 4, 5)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("table", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_module_promotes_its_table(dtype, table):
    """As eager addition does: a table of a half beside float32 queries, and with the map beside its float32 scores."""
    attention, same = module().to(dtype), module().to(dtype)
    attention.rpb = nn.Parameter(attention.rpb.detach().to(table))
    same.rpb = nn.Parameter(attention.rpb.detach().float())
    x = rand(1, 8, 4, 5, dtype=dtype)
    for got, expected in zip(attention(x, return_map=True), same(x, return_map=True), strict=True):
        torch.testing.assert_close(got, expected)
    attention(x).float().pow(2).sum().backward()
    same(x).float().pow(2).sum().backward()
    assert attention.rpb.grad.dtype == table
    torch.testing.assert_close(attention.rpb.grad, same.rpb.grad.to(table), rtol=1e-2, atol=1e-4)


def test_module_refuses():
    with pytest.raises(ValueError, match="num_heads: got 3"):
        NeighborhoodAttention2d(8, 3)
    with pytest.raises(ValueError, match=r"x: got shape \(1, 6, 5, 5\), expected \(N, 8, H, W\)"):
        module()(rand(1, 6, 5, 5))


def test_the_row_says_what_the_kernels_move():
    """Per pixel and head in bf16: 8D + 4 bytes forward, 18D + 12 backward."""
    for D in (32, 64):
        sizes = {"N": 1, "C": D, "S": (1, 1), "heads": 1}
        assert ROW.floor_bytes(sizes, 2) == (8 * D + 4, 18 * D + 12)
    assert dataclasses.replace(ROW, floor=None).planned_bytes(sizes, 2) == (8 * 64, 26 * 64)
