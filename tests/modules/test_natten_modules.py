"""NATTEN's modules and functions by their names: what they compute, what they are called with, what they refuse."""

import functools
import itertools
import logging
import math
import re
import subprocess
import sys
from pathlib import Path

import natten_definition as definition
import pytest
import torch
from support import DEVICE, assert_equal
from torch import nn

from segattn_triton import NeighborhoodAttention2d, reference
from segattn_triton import functional as F
from segattn_triton.compat import natten
from segattn_triton.compat.natten import _run, utils
from segattn_triton.runtime.plan import recorded

SIZES = {1: (11,), 2: (7, 9), 3: (5, 4, 6)}
WINDOWS = {  # axes -> (kernel_size, dilation)
    1: [(3, 1), (5, 2), (3, None), ((7,), (1,)), (9, 2)],
    2: [(3, 1), ((3, 3), (2, 2)), (7, 1), ((3, 5), 1), (3, (2, 1)), ((5, 3), (1, 2)), (7, 2)],
    3: [(3, 1), ((3, 1, 3), 1), (3, (1, 1, 2)), ((1, 3, 5), 1), (5, 1)],
}
CAUSAL = {1: [True], 2: [True, (True, False), (False, True)], 3: [True, (True, False, False)]}
EVERY = [(axes, *window, False, table) for axes in WINDOWS for window in WINDOWS[axes] for table in (False, True)]
EVERY += [(axes, *w, c, False) for axes in WINDOWS for w, c in itertools.product(WINDOWS[axes], CAUSAL[axes])]
each_axes = pytest.mark.parametrize("axes", SIZES)


def rand(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64).to(dtype)


def made(axes: int, *args, of=natten, **options) -> nn.Module:
    torch.manual_seed(0)
    return getattr(of, f"NeighborhoodAttention{axes}D")(*args, **options).double()


@pytest.fixture
def on_kernels(monkeypatch):
    """The modules take no backend: on a CPU, too, they run the kernels here, where there are any."""
    for name in ("neighborhood_attention", "neighborhood_qk", "neighborhood_av"):
        monkeypatch.setattr(F, name, functools.partial(getattr(F, name), backend="triton"))


# right


@pytest.mark.parametrize(("axes", "kernel_size", "dilation", "is_causal", "table"), EVERY, ids=str)
def test_a_module_is_its_definition(axes, kernel_size, dilation, is_causal, table):
    """Forward and backward, with maps smaller than the window, too; the weights go there and back."""
    options = dict(kernel_size=kernel_size, dilation=dilation, is_causal=is_causal, rel_pos_bias=table)
    theirs, ours = (made(axes, 8, 2, of=of, **options) for of in (definition.NATTEN, natten))
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = rand(2, *SIZES[axes], 8)
    results = []
    for module in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        results.append([y, *torch.autograd.grad(y.sin().sum(), [leaf, *module.parameters()])])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_the_largest_window_of_detection():
    """7 x 7 with dilation 28 on a small map: padded to 196 x 196. Far taps see the zeros through qkv.bias."""
    theirs, ours = (made(2, 4, 1, of=of, kernel_size=7, dilation=28) for of in (definition.NATTEN, natten))
    ours.load_state_dict(theirs.state_dict())
    x = rand(1, 3, 5, 4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_a_module_on_kernels(drop, on_kernels):
    """In training with a dropout on the split pair; both as on the reference, of the same seed."""
    module = made(2, 8, 2, kernel_size=3, dilation=2, rel_pos_bias=True, attn_drop=drop).to(DEVICE)
    x = rand(2, 4, 7, 8).to(DEVICE)
    plain = made(2, 8, 2, of=definition.NATTEN, kernel_size=3, dilation=2, rel_pos_bias=True).to(DEVICE)
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(module.eval()(x), plain(x), rtol=1e-9, atol=1e-10)
    torch.manual_seed(3)
    first = module.train()(x)
    torch.manual_seed(3)
    assert_equal(module(x), first)
    assert (drop > 0) != torch.allclose(first, plain(x))


@pytest.mark.parametrize("dilation", [(1, 2), (2, 1), (2, 4), (3, 2)], ids=str)
def test_dilations_of_their_own_on_kernels(dilation, on_kernels):
    """By classes of rows and columns of unequal size; the whole with its lse, the pair, and all gradients."""
    around, size = natten._window.window(2, 3, dilation), (3 * dilation[0] + 1, 3 * dilation[1] + 2)
    inputs = [rand(1, *size, h, 2, seed=i) for i, h in enumerate((2, 1, 1))] + [rand(2, 5, 5)]
    results = []
    for by_classes in (True, False):
        leaves = [t.to(DEVICE).requires_grad_() for t in inputs]
        q, k, v, rpb = leaves
        if by_classes:
            y, lse = _run.attention(q, k, v, rpb, around, 0.7, return_lse=True)
            s = _run.scores(q, k, rpb, around, 0.7)
            y2 = _run.weighted(s.softmax(-1), v, around)
        else:
            of_axes = dict(kernel_size=3, dilation=dilation)
            y, lse = reference.neighborhood_attention(q, k, v, rpb, scale=0.7, return_lse=True, **of_axes)
            s = reference.neighborhood_qk(q, k, rpb, scale=0.7, **of_axes)
            y2 = reference.neighborhood_av(s.softmax(-1), v, **of_axes)
        loss = y.sin().sum() + lse.cos().sum() + (s * y2.sum(-1, keepdim=True)).sum()
        results.append([y, lse, s, y2, *torch.autograd.grad(loss, leaves)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@each_axes
def test_dropped_weights(axes):
    """Each weight after the softmax is dropped, or grows by 1 / (1 - p); a seed repeats which."""
    kernel_size = 3
    module = made(axes, 8, 2, kernel_size=kernel_size, attn_drop=0.25)
    x = rand(2, *SIZES[axes], 8)
    torch.manual_seed(5)
    got = module(x)
    q, k, v = module.qkv(x).unflatten(-1, (3, 2, 4)).movedim(-2, 1).movedim(-2, 0).unbind(0)
    p = definition._qk(q * 0.5, k, None, kernel_size, 1, False).softmax(-1)
    torch.manual_seed(5)
    p = nn.functional.dropout(p.movedim(1, -2).contiguous(), 0.25).movedim(-2, 1)
    y = definition._av(p, v, kernel_size, 1, False).movedim(1, -2).flatten(-2)
    torch.testing.assert_close(got, module.proj(y), rtol=1e-10, atol=1e-10)
    torch.manual_seed(6)
    assert not torch.allclose(module(x), got)


def test_proj_drop_and_scale():
    module, x = made(2, 8, 2, 3, proj_drop=1.0, qk_scale=0.0), rand(1, 5, 5, 8)
    assert not module(x).any()
    v = module.eval().qkv(x)[..., 16:]
    mean = nn.functional.avg_pool2d(v.permute(0, 3, 1, 2), 3, 1).permute(0, 2, 3, 1)  # a scale of 0 is not the default
    torch.testing.assert_close(module(x)[:, 1:-1, 1:-1], module.proj(mean))


def test_beside_the_module_of_the_other_layout():
    """The same weights, (N, H, W, C) and (N, C, H, W)."""
    last, first = made(2, 8, 2, 3, rel_pos_bias=True), NeighborhoodAttention2d(8, 2, rel_pos_bias=True).double()
    first.load_state_dict(last.state_dict())
    x = rand(2, 5, 6, 8)
    torch.testing.assert_close(first(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), last(x))
    last.load_state_dict(first.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@each_axes
def test_dtypes(axes, dtype):
    module, x = made(axes, 8, 2, 3, rel_pos_bias=True), rand(1, *SIZES[axes], 8)
    y = module.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), module.double()(x), rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.float()(x.float()).dtype == torch.bfloat16


@each_axes
def test_one_graph(axes):
    module = made(axes, 8, 2, kernel_size=3, rel_pos_bias=True, attn_drop=0.5)
    x = rand(1, *SIZES[axes], 8)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled.eval()(x), module.eval()(x))
    assert compiled.train()(x).shape == x.shape


# every release's arguments


@each_axes
def test_argument_names_old_and_new(axes):
    plain, table = (made(axes, 8, 2, 3, rel_pos_bias=on) for on in (False, True))
    x = rand(1, *SIZES[axes], 8)
    same = [
        made(axes, dim=8, num_heads=2, kernel_size=3),
        made(axes, embed_dim=8, num_heads=2, kernel_size=(3,) * axes, stride=(1,) * axes),
        made(axes, 8, num_heads=2, kernel_size=[3] * axes, dilation=None, is_causal=None, use_experimental_ops=True),
        made(axes, 8, kernel_size=3, dilation=1, num_heads=2, qkv_bias=True, qk_scale=None, attn_drop=0.0, bias=False),
    ]
    for module in same:
        assert_equal(module(x), plain(x))
    assert_equal(made(axes, 8, 2, 3, bias=True)(x), table(x))
    assert set(table.state_dict()) == {"qkv.weight", "qkv.bias", "proj.weight", "proj.bias", "rpb"}
    assert table.rpb.shape == (2, *(5,) * axes)
    assert "qkv.bias" not in made(axes, 8, 2, 3, qkv_bias=False).state_dict()
    assert (plain.kernel_size, plain.dilation, plain.is_causal) == ((3,) * axes, (1,) * axes, (False,) * axes)
    assert (plain.num_heads, plain.head_dim, plain.scale) == (2, 4, 0.5)


@each_axes
def test_a_checkpoint_with_a_table(axes, caplog):
    """NATTEN made tables without being asked before 0.17: a module that was not told has the one of its checkpoint."""
    old = made(axes, 8, 2, 3, rel_pos_bias=True)
    new = nn.Sequential(made(axes, 8, 2, 3))
    with caplog.at_level(logging.WARNING, "segattn_triton"):
        new.load_state_dict({f"0.{key}": value for key, value in old.state_dict().items()})
    assert "0.rpb: a table" in caplog.text and "rel_pos_bias=True" in caplog.text
    x = rand(1, *SIZES[axes], 8)
    assert_equal(new(x), old(x))
    assert new[0].rpb.requires_grad and new[0].rpb.dtype == torch.float64
    with pytest.raises(RuntimeError, match=r"Unexpected key.*rpb"):
        made(axes, 8, 2, 3, rel_pos_bias=False).load_state_dict(old.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*rpb"):
        old.load_state_dict(made(axes, 8, 2, 3).state_dict())


def heads_first(axes: int, heads: int = 2) -> list[torch.Tensor]:
    return [rand(1, heads, *SIZES[axes], 4, seed=i) for i in range(3)]


@pytest.mark.parametrize(("axes", "kernel_size", "dilation"), [(1, 3, 2), (2, 3, 1), (2, 3, 2), (1, 5, 1)])
def test_the_functions_before_017(axes, kernel_size, dilation):
    """With the window and the dilation, or the dilation alone as before 0.14.6; by position or name."""
    q, k, v = heads_first(axes)
    rpb = rand(2, *(2 * kernel_size - 1,) * axes)
    qkrpb, qk, av = (getattr(natten, f"natten{axes}d{name}") for name in ("qkrpb", "qk", "av"))
    scores = definition._qk(q, k, rpb, kernel_size, dilation, False)
    named = dict(kernel_size=kernel_size, dilation=dilation)
    for got in (
        qkrpb(q, k, rpb, kernel_size, dilation),
        qkrpb(q, k, rpb, dilation),
        qkrpb(q, k, rpb, dilation=dilation),
        qkrpb(q, k, rpb, kernel_size, dilation=dilation),
        qkrpb(q, k, rpb, dilation, kernel_size=kernel_size),
        qkrpb(query=q, key=k, rpb=rpb, **named),
        getattr(natten, f"na{axes}d_qk_with_bias")(q, k, rpb, kernel_size, dilation),
        getattr(natten, f"na{axes}d_qk")(q, k, kernel_size, dilation, rpb=rpb),
    ):
        torch.testing.assert_close(got, scores)
    without = definition._qk(q, k, None, kernel_size, dilation, False)
    torch.testing.assert_close(qk(q, k, kernel_size, dilation), without)
    torch.testing.assert_close(qkrpb(q, k, None, kernel_size, dilation), without)
    p = scores.softmax(-1)
    expected = definition._av(p, v, kernel_size, dilation, False)
    for got in (av(p, v, kernel_size, dilation), av(p, v, dilation), av(attn=p, value=v, **named)):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("axes", "kernel_size", "dilation", "is_causal", "table"), EVERY, ids=str)
def test_the_pair_is_the_whole(axes, kernel_size, dilation, is_causal, table):
    """On any window, with fewer key heads, in the layouts of both; -inf are the keys that a causal axis has not."""
    around = natten._window.window(axes, kernel_size, dilation, is_causal)
    size, sides = around.needs, around.kernel_size
    q, k, v = (rand(1, *size, heads, 4, seed=i) for i, heads in enumerate((4, 2, 2)))
    whole, qk, av = (getattr(natten, f"na{axes}d{end}") for end in ("", "_qk", "_av"))
    rpb = rand(4, *(2 * side - 1 for side in sides)) if table else None
    options = dict(dilation=dilation, is_causal=is_causal)
    y, lse = whole(q, k, v, kernel_size, rpb=rpb, return_lse=True, **options)
    q, k, v = (t.movedim(-2, 1) for t in (q, k, v))
    s = qk(q * 0.5, k, kernel_size, rpb=rpb, **options)
    assert s.shape == (1, 4, *size, math.prod(sides)) and s.is_contiguous()
    assert s.isneginf().any() == any(c and side > 1 for c, side in zip(around.is_causal, sides, strict=True))
    torch.testing.assert_close(lse, s.logsumexp(-1).movedim(1, -1))
    torch.testing.assert_close(av(s.softmax(-1), v, kernel_size, **options).movedim(1, -2), y)


def test_switches():
    """Remembered, as a backbone's own branch asks; nothing else."""
    from segattn_triton.compat.natten import context
    from segattn_triton.compat.natten.functional import enable_autotuner, enable_fna, is_fna_enabled

    assert natten.has_fused_na() and natten.has_fused_na(0) and not is_fna_enabled()
    try:
        natten.use_fused_na(True, kv_parallel=True)
        assert is_fna_enabled() and context.is_fused_na_enabled()
        natten.disable_fused_na()
        assert not is_fna_enabled()
        enable_fna()
        enable_autotuner()
        natten.use_gemm_na(False)
        assert is_fna_enabled()
    finally:
        natten.disable_fused_na()
    assert utils.check_all_args(2, 3, None, (True, False)) == ((3, 3), (1, 1), (True, False))
    assert tuple(map(int, natten.__version__.split(".")[:2])) < (0, 20)  # where there is a split pair


# a window of each kind: the square one has kernels of its own, all others one family
KINDS = [(1, 5, 2, False), (1, 3, 1, True), (2, 3, 1, False), (2, (3, 5), 1, False), (2, 3, 2, (True, False))]
KINDS += [(3, (3, 1, 3), (1, 1, 2), False), (3, (1, 3, 3), 1, (True, False, True))]


@pytest.mark.parametrize(("axes", "kernel_size", "dilation", "is_causal"), KINDS, ids=str)
def test_every_window_runs_on_kernels(axes, kernel_size, dilation, is_causal, on_kernels):
    """Forward and all gradients of a module, and of one that drops weights, which takes the split pair."""
    table = is_causal is False
    options = dict(kernel_size=kernel_size, dilation=dilation, is_causal=is_causal, rel_pos_bias=table)
    theirs, ours = (made(axes, 4, 2, of=of, **options) for of in (definition.NATTEN, natten))
    ours.load_state_dict(theirs.state_dict())
    x = rand(1, *SIZES[axes], 4)
    with recorded() as plans:
        got = gradients(ours, x)
    assert {p.name.split("_")[0] for p in plans} - {"finish"} == {kernels_of(axes, kernel_size, is_causal)}
    for ours_, expected in zip(got, gradients(theirs, x), strict=True):
        torch.testing.assert_close(ours_, expected, rtol=1e-9, atol=1e-9)
    with recorded() as plans:
        gradients(made(axes, 4, 2, attn_drop=0.5, **options), x)
    assert {p.name.split("_")[0] for p in plans} - {"finish"} == {kernels_of(axes, kernel_size, is_causal)}


def kernels_of(axes: int, kernel_size, is_causal) -> str:
    return "neighborhood" if axes == 2 and isinstance(kernel_size, int) and is_causal is False else "window"


def gradients(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The output, and the gradients of the input and of all parameters."""
    x = x.clone().requires_grad_()
    y = module(x)
    return [y, *torch.autograd.grad(y.sin().sum(), [x, *module.parameters()])]


# what is refused

D2 = functools.partial(made, 2)
BAD = {
    "fourth positional": (lambda: D2(8, 2, 3, 2), "got 2 as the fourth positional argument, .* name the arguments"),
    "even window": (lambda: D2(8, 2, 4), "kernel_size: got 4, expected odd sizes.* use"),
    "one even window": (lambda: D2(8, 2, (3, 6)), r"kernel_size: got \(3, 6\), expected odd .* use \(3, 7\)"),
    "three windows": (
        lambda: D2(8, 2, (3, 3, 3)),
        r"kernel_size: got \(3, 3, 3\), expected one value, or one for each",
    ),
    "no window": (lambda: D2(8, 2), "kernel_size: got None, expected ints"),
    "window a float": (lambda: D2(8, 2, 3.0), "kernel_size: got 3.0, expected ints"),
    "dilation 0": (lambda: D2(8, 2, 3, dilation=0), "dilation: got 0, expected ints of at least 1"),
    "stride": (lambda: D2(8, 2, 3, stride=2), "stride: got 2, expected 1.* use stride=1"),
    "stride of an axis": (lambda: D2(8, 2, 3, stride=(1, 2)), r"stride: got \(1, 2\), expected 1"),
    "causal table": (lambda: D2(8, 2, 3, is_causal=True, bias=True), "rel_pos_bias: got True with is_causal.* use"),
    "causal an int": (lambda: D2(8, 2, 3, is_causal=2), "is_causal: got 2, expected bools"),
    "two dims": (lambda: D2(8, 2, 3, embed_dim=8), "embed_dim: got 8 beside dim=8"),
    "no dim": (lambda: D2(num_heads=2, kernel_size=3), "dim: got None, expected it, or embed_dim"),
    "two tables": (lambda: D2(8, 2, 3, bias=True, rel_pos_bias=True), "bias: got True beside rel_pos_bias"),
    "heads": (lambda: D2(8, 3, 3), "num_heads: got 3, expected a divisor of dim 8"),
    "no heads": (lambda: D2(8, kernel_size=3), "num_heads: got None"),
    "channels first": (
        lambda: D2(8, 2, 3)(rand(1, 8, 5, 6)),
        r"x: got shape \(1, 8, 5, 6\), expected \(N, H, W, 8\), channels last: pass x.movedim\(1, -1\), or use "
        r"segattn_triton.NeighborhoodAttention2d for \(N, C, H, W\)",
    ),
    "rank": (lambda: D2(8, 2, 3)(rand(5, 6, 8)), r"x: got shape \(5, 6, 8\), expected \(N, H, W, 8\)"),
    "no pixel": (lambda: D2(8, 2, 3)(rand(1, 0, 6, 8)), r"x: got shape \(1, 0, 6, 8\)"),
    "a volume first": (lambda: made(3, 8, 2, 3)(rand(1, 8, 5, 6, 7)), r"expected \(N, T, H, W, 8\).* pass x.movedim"),
    "a map last": (
        lambda: NeighborhoodAttention2d(8, 2)(rand(1, 5, 6, 8, dtype=torch.float32)),
        r"expected \(N, 8, H, W\), channels first: pass x.permute\(0, 3, 1, 2\), or use compat.natten.Neighborhood",
    ),
}


@pytest.mark.cheap
@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, said = BAD[name]
    with pytest.raises(ValueError, match=said):
        call()


VECTORS = {
    "rank": (lambda q, k, v: (q[0], k, v), ValueError, r"query: got 3 axes, .* expected \(N, L, heads, D\)"),
    "a list": (lambda q, k, v: (q, k.tolist(), v), TypeError, "key: got list"),
    "another map": (
        lambda q, k, v: (q, k[:, 1:], v),
        ValueError,
        r"key: got shape \(1, 8, 2, 4\), expected the map of",
    ),
    "heads": (lambda q, k, v: (q, k[:, :, :2].repeat(1, 1, 2, 1)[:, :, :3], v), ValueError, "its number of heads or"),
    "another D": (lambda q, k, v: (q, k[..., :3], v), ValueError, "key: got D = 3, expected query's 4"),
    "value and key": (lambda q, k, v: (q, k, v[:, :, :1]), ValueError, r"value: got shape .* expected key's"),
    "dtype": (lambda q, k, v: (q, k, v.float()), TypeError, "value: got dtype torch.float32, expected query's"),
    "device": (lambda q, k, v: (q, k.to("meta"), v), ValueError, "key: is on meta, query is on"),
    "integers": (lambda q, k, v: (q.int(), k, v), TypeError, "query: got dtype torch.int32"),
    "no pixel": (lambda q, k, v: (q[:, :0], k, v), ValueError, "query: got 4 axes, .*none of them empty"),
}


@pytest.mark.cheap
@pytest.mark.parametrize("name", VECTORS)
def test_bad_vectors(name):
    """The names of the arguments are those of NATTEN."""
    change, error, said = VECTORS[name]
    with pytest.raises(error, match=said):
        natten.na1d(*change(*(rand(1, 9, 2, 4, seed=i) for i in range(3))), 3)


@pytest.mark.cheap
@each_axes
def test_bad_scores_and_weights(axes):
    q, k, v = heads_first(axes)
    qk, av = (getattr(natten, f"na{axes}d{end}") for end in ("_qk", "_av"))
    with pytest.raises(ValueError, match=r"attn: got 4 weights, expected \d+|attn: got shape"):
        av(q, v, 3)
    with pytest.raises(ValueError, match="rpb: got shape"):
        qk(q, k, 3, rpb=rand(2, *(3,) * axes))
    with pytest.raises(ValueError, match=r"query: got \d axes, .*heads, .*D\)"):
        qk(q[0], k, 3)


def test_no_image():
    for axes, size in SIZES.items():
        assert made(axes, 8, 2, 3)(rand(1, *size, 8)[:0]).shape == (0, *size, 8)


def test_layouts_are_shown():
    assert "layout=(N, C, H, W)" in repr(NeighborhoodAttention2d(8, 2))
    assert "channels first" in NeighborhoodAttention2d.__doc__ and "compat.natten" in NeighborhoodAttention2d.__doc__
    shown = repr(made(2, 8, 2, (3, 5), rel_pos_bias=True))
    for part in ("dim=8", "num_heads=2", "kernel_size=(3, 5)", "rel_pos_bias=True", "layout=(N, H, W, C)"):
        assert part in shown
    for axes in SIZES:
        assert "channels last" in getattr(natten, f"NeighborhoodAttention{axes}D").__doc__


@pytest.mark.parametrize("name", natten.functional.__all__)
def test_everything_has_a_docstring(name):
    function = getattr(natten.functional, name)
    assert function.__doc__ and getattr(natten, name) is function


IMPORTS = """
import importlib.util
import natten
from natten import NeighborhoodAttention2D, use_fused_na
from natten.context import is_fna_enabled
from natten.functional import na2d, natten2dav, natten2dqkrpb
from natten.utils import check_all_args
assert importlib.util.find_spec("natten") is not None
assert natten.functional.na2d is na2d and na2d.__module__.startswith("segattn_triton.")
assert natten.has_fused_na() and hasattr(natten, "context")
"""


def test_in_the_place_of_natten():
    """The page's few lines: imports of an installed package find ours."""
    page = (Path(__file__).parents[2] / "docs" / "natten.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    subprocess.run([sys.executable, "-c", block + IMPORTS], check=True)
