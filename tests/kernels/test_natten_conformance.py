"""Neighbourhood attention against two independent implementations, where they are installed.

natten (its flex backend runs forward on a CPU) and natten-mps (its CPU path has gradients and float64).
"""

import functools

import pytest
import torch

from segattn_triton import functional as F
from segattn_triton.compat import natten as compat

SMALL = [(H, W) for H in range(3, 9) for W in range(3, 9)]
LONG = [(H, W) for H in range(3, 7) for W in (31, 33, 64, 65)]
SAMPLE = [(3, 3), (3, 8), (5, 4), (8, 3), (7, 7), (8, 8), (3, 31), (4, 33)]  # kernels run in the interpreter
# of NATTEN's own 2-D tests: H, W, heads, heads_kv, D, kernel_size, dilation
NATTEN_PROBLEMS = [
    (16, 16, 1, 1, 32, 3, 1),
    (32, 16, 2, 1, 32, 3, 1),
    (3, 3, 1, 1, 16, 3, 1),
    (28, 28, 1, 1, 16, 3, 1),
    (28, 28, 1, 1, 16, 3, 4),
    (20, 21, 4, 2, 8, 7, 2),
    (13, 17, 3, 1, 64, 5, 2),
]


def qkv(H, W, heads=2, heads_kv=1, D=8, dtype=torch.float32, N=2):
    generator = torch.Generator().manual_seed(1000 * H + W)
    shapes = [(N, H, W, h, D) for h in (heads, heads_kv, heads_kv)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def dilations(H, W, kernel_size=3):
    return [d for d in (1, 2, 3) if kernel_size * d <= min(H, W)]


@pytest.fixture(scope="module")
def natten():
    module = pytest.importorskip("natten")
    return lambda *tensors, **options: module.na2d(*tensors, backend="flex-fna", **options)


@pytest.fixture(scope="module")
def natten_mps():
    return pytest.importorskip("natten_mps")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", SMALL + LONG, ids=str)
def test_reference_forward_is_nattens(natten, size):
    q, k, v = qkv(*size)
    for dilation in dilations(*size):
        expected, lse = natten(q, k, v, kernel_size=3, dilation=dilation, return_lse=True)
        y, got = F.neighborhood_attention(q, k, v, dilation=dilation, backend="reference", return_lse=True)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got, lse, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("problem", NATTEN_PROBLEMS, ids=str)
def test_natten_problems(natten, problem):
    H, W, heads, heads_kv, D, kernel_size, dilation = problem
    q, k, v = qkv(H, W, heads, heads_kv, D, N=1)
    expected = natten(q, k, v, kernel_size=kernel_size, dilation=dilation)
    torch.testing.assert_close(compat.na2d(q, k, v, kernel_size, dilation=dilation), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SMALL + LONG, ids=str)
def test_reference_gradients_are_natten_mps(natten_mps, size):
    for dilation in dilations(*size):
        _compare_gradients(natten_mps, size, dilation, "reference")


@pytest.mark.parametrize("size", SAMPLE, ids=str)
def test_kernel_gradients_are_natten_mps(natten_mps, size):
    _compare_gradients(natten_mps, size, max(dilations(*size)), "triton")


def _compare_gradients(natten_mps, size, dilation, backend):
    tensors = [t.requires_grad_() for t in qkv(*size, heads=1, D=3, dtype=torch.float64, N=1)]
    results = []
    for attention in (natten_mps.na2d, F.neighborhood_attention):
        ours = {} if attention is natten_mps.na2d else {"backend": backend}
        y = attention(*tensors, kernel_size=3, dilation=dilation, **ours)
        results.append((y, *torch.autograd.grad(y.sin().sum(), tensors)))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(3, 5), (7, 6)], ids=str)
def test_split_functions_are_natten_mps(natten_mps, size):
    q, k, v = qkv(*size, heads_kv=2)
    first = [t.permute(0, 3, 1, 2, 4).contiguous() for t in (q, k, v)]
    scores = compat.na2d_qk(*first[:2], 3)
    torch.testing.assert_close(scores.permute(0, 2, 3, 1, 4), natten_mps.na2d_qk(q, k, 3, scale=1.0))
    p = scores.softmax(-1)
    y = compat.na2d_av(p, first[2], 3).permute(0, 2, 3, 1, 4)
    torch.testing.assert_close(y, natten_mps.na2d_av(p.permute(0, 2, 3, 1, 4), v, 3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("table", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_tables_of_another_dtype(dtype, table):
    """Taken in float32, as eager addition takes a half beside float32; whatever else is no table stays an error."""
    q, k, v = qkv(5, 6, heads_kv=2, dtype=dtype)
    rpb = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0)).to(table)
    torch.testing.assert_close(compat.na2d(q, k, v, 3, rpb=rpb), compat.na2d(q, k, v, 3, rpb=rpb.float()))
    q, k = (t.permute(0, 3, 1, 2, 4) for t in (q, k))
    expected = compat.na2d_qkrpb(q, k, rpb.float(), 3)
    torch.testing.assert_close(compat.na2d_qkrpb(q, k, rpb, 3), expected)
    assert expected.dtype == dtype
    with pytest.raises(TypeError, match=r"rpb: got dtype torch\.int64"):
        compat.na2d_qkrpb(q, k, rpb.long(), 3)


WINDOWS = [  # axes, map, kernel_size, dilation
    *((1, (29,), k, d) for k in (3, 5, 7, 9, 11, 13) for d in (1, 2)),
    *((2, (14, 17), k, 1) for k in (3, 5, 7, 9, 11, 13)),
    *((2, (20, 19), k, d) for k, d in ((3, 4), (5, 3), (7, 2), (9, 2), ((3, 13), 1), ((11, 5), (1, 3)), (3, (6, 1)))),
    *((3, (6, 7, 8), k, d) for k, d in ((3, 1), (3, 2), (5, 1), ((3, 5, 7), 1), ((5, 3, 3), (1, 2, 1)))),
    (3, (5, 14, 6), (3, 13, 3), 1),
]
CAUSAL = [False, True, "first", "last"]
each_window = pytest.mark.parametrize("problem", WINDOWS, ids=str)
each_causal = pytest.mark.parametrize("causal", CAUSAL, ids=str)


def causal_axes(axes: int, causal) -> tuple[bool, ...]:
    return tuple(
        causal is True or (causal == "first" and a == 0) or (causal == "last" and a == axes - 1) for a in range(axes)
    )


def vectors(size, heads: int, heads_kv: int, D: int, dtype=torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(size))
    shapes = [(1, *size, h, D) for h in (heads, heads_kv, heads_kv)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.filterwarnings("ignore")
@each_causal
@each_window
def test_functions_are_nattens(problem, causal):
    """Forward and lse, with grouped heads, of every window, on each causal axis."""
    natten = pytest.importorskip("natten")
    axes, size, kernel_size, dilation = problem
    q, k, v = vectors(size, 4, 2, 8)
    name, options = f"na{axes}d", dict(dilation=dilation, is_causal=causal_axes(axes, causal), return_lse=True)
    expected = getattr(natten, name)(q, k, v, kernel_size, backend="flex-fna", **options)
    for got, wanted in zip(getattr(compat, name)(q, k, v, kernel_size, **options), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@each_causal
@each_window
def test_modules_are_nattens(problem, causal):
    """Called as NATTEN 0.21 is, with its state_dict, which loads there and back."""
    natten = pytest.importorskip("natten")
    axes, size, kernel_size, dilation = problem
    name, options = f"NeighborhoodAttention{axes}D", dict(dilation=dilation, is_causal=causal_axes(axes, causal))
    theirs, ours = (
        getattr(library, name)(embed_dim=16, num_heads=2, kernel_size=kernel_size, stride=1, qk_scale=0.4, **options)
        for library in (natten, compat)
    )
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, *size, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("problem", [(3, 4), (5, 2), (7, 1), (9, 1), (11, 1), (13, 1)], ids=str)
def test_kernels_are_nattens(natten, problem, monkeypatch):
    """What the functions run on a GPU, here in the interpreter: square windows, dilations, grouped heads."""
    monkeypatch.setattr(F, "neighborhood_attention", functools.partial(F.neighborhood_attention, backend="triton"))
    kernel_size, dilation = problem
    q, k, v = vectors((14, 13), 2, 1, 8)
    expected = natten(q, k, v, kernel_size=kernel_size, dilation=dilation)
    torch.testing.assert_close(compat.na2d(q, k, v, kernel_size, dilation=dilation), expected, rtol=1e-5, atol=1e-5)


ON_KERNELS = [(1, (13,), 5, 2), (2, (5, 7), (3, 5), 1), (2, (6, 5), 3, (2, 1)), (3, (3, 4, 3), 3, 1)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("causal", [True, "last"], ids=str)
@pytest.mark.parametrize("problem", ON_KERNELS, ids=str)
def test_kernels_of_any_axes_are_nattens(problem, causal, monkeypatch):
    """Without and with causal axes, beside the functions' definition, which the tests above compare."""
    library = pytest.importorskip("natten")
    monkeypatch.setattr(F, "neighborhood_attention", functools.partial(F.neighborhood_attention, backend="triton"))
    axes, size, kernel_size, dilation = problem
    q, k, v = vectors(size, 2, 1, 8)
    for directions in ((False,) * axes, causal_axes(axes, causal)):
        name, options = f"na{axes}d", dict(dilation=dilation, is_causal=directions, return_lse=True)
        expected = getattr(library, name)(q, k, v, kernel_size, backend="flex-fna", **options)
        for got, wanted in zip(getattr(compat, name)(q, k, v, kernel_size, **options), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@each_causal
@each_window
def test_gradients_are_natten_mps(natten_mps, problem, causal):
    axes, size, kernel_size, dilation = problem
    tensors = [t.requires_grad_() for t in vectors(size, 1, 1, 3, torch.float64)]
    name, options = f"na{axes}d", dict(dilation=dilation, is_causal=causal_axes(axes, causal))
    results = []
    for library in (natten_mps, compat):
        y = getattr(library, name)(*tensors, kernel_size, **options)
        results.append((y, *torch.autograd.grad(y.sin().sum(), tensors)))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_natten_module_loads():
    natten = pytest.importorskip("natten")
    from segattn_triton.modules import NeighborhoodAttention2d

    theirs = natten.NeighborhoodAttention2D(embed_dim=16, num_heads=2, kernel_size=3)
    ours = NeighborhoodAttention2d(16, 2)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 6, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), theirs(x), rtol=1e-5, atol=1e-6)
