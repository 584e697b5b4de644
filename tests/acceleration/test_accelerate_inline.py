"""Blocks that hold the layers of their gates themselves, and take several maps: MAnet's, PAN's, AttentionUnet's."""

import copy
import functools
import itertools
from collections.abc import Callable

import pytest
import standins
import standins_fusion as fusion
import standins_strips as strips
import support
import torch
from torch import Tensor, nn

import segattn_triton as sat
from segattn_triton.acceleration import report
from segattn_triton.runtime import dispatch
from segattn_triton.testing import without_tf32


def a_map(channels: int, side: int, N=2) -> Tensor:
    return torch.randn(N, channels, side, side, generator=torch.Generator().manual_seed(channels + side))


BLOCKS: dict[str, tuple[Callable, Callable]] = {  # name -> the block, and what its forward takes
    "mfab": (standins.MFABBlock, lambda: (a_map(8, 3), a_map(4, 6))),
    "gau": (standins.GAUBlock, lambda: (a_map(8, 6), a_map(4, 3))),
    "lraspp": (standins.LRASPPHead, lambda: ({"low": a_map(4, 6), "high": a_map(8, 3)},)),
    "stdc-fusion": (standins.STDCFusion, lambda: (a_map(3, 4), a_map(5, 4))),
    "stdc-refinement": (standins.STDCRefinement, lambda: (a_map(8, 4),)),
    "bisenet-fusion": (standins.BiSeNetFusion, lambda: (a_map(3, 4), a_map(5, 4))),
    "bisenet-refinement": (standins.BiSeNetRefinement, lambda: (a_map(8, 4),)),
    "coincheung-fusion": (standins.CoinFusion, lambda: (a_map(3, 4), a_map(5, 4))),
    "coincheung-fusion-first": (standins.CoinFusionFirst, lambda: (a_map(3, 4), a_map(5, 4))),
    "coincheung-refinement": (standins.CoinRefinement, lambda: (a_map(8, 4),)),
    "coincheung-refinement-first": (lambda: standins.CoinRefinement(first=True), lambda: (a_map(8, 4),)),
    "attention-unet": (standins.AttentionBlock, lambda: (a_map(6, 5), a_map(8, 5))),
    "msca": (standins.MSCAAttention, lambda: (a_map(8, 5),)),
    "lka": (standins.LKA, lambda: (a_map(8, 5),)),
    "bga": (standins.BGALayer, lambda: (a_map(4, 8), a_map(4, 2))),
    "pag": (standins.PagFM, lambda: (a_map(8, 6), a_map(8, 3))),
    "pag-channels": (lambda: standins.PagFM(with_channel=True, after_relu=True), lambda: (a_map(8, 6), a_map(8, 3))),
    "bag": (standins.Bag, lambda: tuple(a_map(8, 4) + i for i in range(3))),
    "light-bag": (standins.LightBag, lambda: tuple(a_map(8, 4) + i for i in range(3))),
    "grn": (standins.TimmResponseNorm, lambda: (a_map(6, 8),)),
    "topformer": (standins.InjectionMultiSum, lambda: (a_map(6, 8), a_map(6, 4))),
    "topformer-multi": (standins.FuseBlockMulti, lambda: (a_map(6, 8), a_map(6, 4))),
    "seaformer": (standins.FusionBlock, lambda: (a_map(6, 8), a_map(6, 4))),
    "uafm": (standins.UAFM, lambda: (a_map(8, 4), a_map(6, 8))),
    "uafm-same": (lambda: standins.UAFM(8, 8, up_factor=1), lambda: (a_map(8, 4), a_map(8, 4))),
    "uafm-channels": (fusion.UAFMOfChannels, lambda: (a_map(6, 8), a_map(8, 4))),
    "uafm-channels-means": (fusion.UAFMOfMeans, lambda: (a_map(6, 8), a_map(8, 4))),
    "uafm-pixels": (fusion.UAFMOfPixels, lambda: (a_map(6, 8), a_map(8, 4))),
    "uafm-pixels-means": (fusion.UAFMOfPixelMeans, lambda: (a_map(6, 8), a_map(8, 4))),
    "split": (standins.SplitAttn, lambda: (a_map(8, 6),)),
    "split-stride": (lambda: standins.SplitAttn(groups=1, stride=2), lambda: (a_map(8, 6),)),
    "split-one": (lambda: standins.SplitAttn(radix=1), lambda: (a_map(4, 6),)),
    "split-four": (lambda: standins.SplitAttn(radix=4), lambda: (a_map(16, 6),)),
    "split-mmseg": (standins.SplitAttentionConv2d, lambda: (a_map(4, 6),)),
    "split-mmseg-three": (lambda: standins.SplitAttentionConv2d(radix=3, groups=2), lambda: (a_map(6, 6),)),
    "selective": (standins.SelectiveKernel, lambda: (a_map(8, 6, N=8),)),
    "selective-whole": (lambda: standins.SelectiveKernel(split_input=False), lambda: (a_map(8, 6, N=8),)),
    "paths-four": (lambda: standins.SelectiveKernel(num_paths=4), lambda: (a_map(8, 6, N=8),)),
    "paths-three": (
        lambda: standins.SelectiveKernel(split_input=False, num_paths=3),
        lambda: (a_map(8, 6, N=8),),
    ),
    "ela": (strips.EfficientLocalAttn, lambda: (a_map(8, 5),)),
    "strip": (strips.StripAttn, lambda: (a_map(8, 5),)),
    "strip-skip": (lambda: strips.StripAttn(has_skip=True, use_conv=False), lambda: (a_map(6, 5),)),
    "ema": (strips.EMA, lambda: (a_map(8, 5),)),
    "gather-excite": (fusion.GatherExcite, lambda: (a_map(8, 5),)),
    "gather-excite-peaks": (lambda: fusion.GatherExcite(add_maxpool=True), lambda: (a_map(8, 5),)),
    "gather-excite-parameters": (lambda: fusion.GatherExcite(feat_size=5), lambda: (a_map(8, 5),)),
    "gather-excite-even": (lambda: fusion.GatherExcite(feat_size=(6, 4)), lambda: (a_map(8, 6),)),
    "gather-excite-alone": (
        lambda: fusion.GatherExcite(use_mlp=False, add_maxpool=True),
        lambda: (a_map(8, 5),),
    ),
    "simam": (standins.SimAM, lambda: (a_map(8, 5),)),
    "grn-first": (lambda: standins.TimmResponseNorm(channels_last=False), lambda: (a_map(8, 5),)),
}
LAYERS = {  # the layers that an adapter reads, by name
    "mfab": ("SE_ll", "SE_hl"),
    "gau": ("conv1",),
    "lraspp": ("scale",),
    "stdc-fusion": ("conv1", "conv2"),
    "stdc-refinement": ("conv_attn",),
    "bisenet-fusion": ("gap", "conv_atten"),
    "bisenet-refinement": ("atten_conv_layer",),
    "coincheung-fusion": ("conv", "bn"),
    "coincheung-fusion-first": ("conv1", "conv2", "relu", "sigmoid"),
    "coincheung-refinement": ("conv_atten", "bn_atten"),
    "coincheung-refinement-first": ("conv_atten", "bn_atten", "sigmoid_atten"),
    "attention-unet": ("W_g", "W_x", "psi", "relu"),
    "msca": ("conv3",),
    "lka": ("conv1",),
}
TWICE = ("mfab", "bga", "light-bag", "ema")  # two gates, or one for two maps
GATES_OF_CHANNELS = (
    "mfab",
    "gau",
    "lraspp",
    "stdc",
    "bisenet",
    "coincheung",
    "grn",
    "split",
    "paths",
    "gather-excite",
)  # whose map is one value a channel
each_block = pytest.mark.parametrize("kind", BLOCKS)


def made(kind: str) -> tuple[nn.Module, tuple]:
    torch.manual_seed(0)
    block, args = BLOCKS[kind]
    return block(), args()


def each(args: tuple, of: Callable[[Tensor], Tensor]) -> tuple:
    return tuple({k: of(t) for k, t in a.items()} if isinstance(a, dict) else of(a) for a in args)


def maps(args: tuple) -> list[Tensor]:
    return [t for a in args for t in (a.values() if isinstance(a, dict) else (a,))]


def outcome(block: nn.Module, args: tuple, autocast: torch.dtype | None = None):
    """y, the gradients of the maps and the parameters, and the buffers; or the error that the block raises."""
    args = each(args, lambda t: t.clone().requires_grad_())
    try:
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            y = block(*args)
        dy = torch.linspace(0.5, 1, y.numel()).reshape(y.shape).to(y)
        grads = torch.autograd.grad(y, [*maps(args), *block.parameters()], dy)
        return [y.detach(), *grads, *[b.clone() for b in block.buffers()]]
    except (RuntimeError, TypeError, ValueError) as error:
        return error


def assert_same(got, expected, tolerance=1e-5, case="") -> None:
    """To `tolerance` of the largest of all: a gradient that is zero but for rounding has no size of its own."""
    assert isinstance(got, list), f"{case}: {got!r}"
    atol = tolerance * max((float(t.double().abs().max()) for t in expected if t.numel()), default=0.0)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == theirs.dtype, case
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=atol, msg=lambda text: f"{case}: {text}")


@each_block
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_same_function(kind, training, calls):
    """Values, gradients, and the running statistics of the norms; restored bit for bit."""
    plain, args = made(kind)
    fast = sat.accelerate(copy.deepcopy(plain), strict=True, verify=True).train(training)
    calls.clear()
    assert_same(outcome(fast, args), outcome(plain.train(training), args))
    assert len(calls) == (2 if kind in TWICE else 1)
    support.assert_equal(sat.restore(fast)(*args), plain(*args))


@each_block
def test_kernels_in_the_interpreter(kind, monkeypatch):
    real = dispatch.implementation
    support.replace_implementation(monkeypatch, lambda name, backend, x: real(name, "triton", x))
    plain, args = made(kind)
    fast = sat.accelerate(copy.deepcopy(plain), strict=True)
    plain, fast, args = plain.to(support.DEVICE), fast.to(support.DEVICE), each(args, lambda t: t.to(support.DEVICE))
    with (
        without_tf32()
    ):  # a norm of two images in float32 loses digits, in the block's own layers more than in a kernel
        got, exact = outcome(fast, args), outcome(plain.double(), each(args, Tensor.double))
    assert_same(got, [e.to(o.dtype) for o, e in zip(got, exact, strict=True)])


@each_block
def test_verify_in_other_dtypes(kind):
    """The maps are in the block's dtype, also where no weight goes to the kernel, or a folded one that is wider."""
    for dtype, training in ((torch.float64, True), (torch.float64, False), (torch.bfloat16, False)):
        sat.accelerate(made(kind)[0].to(dtype).train(training), strict=True, verify=True)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
@each_block
def test_dtypes_that_the_block_takes(kind, autocast):
    """Every dtype of each map beside every dtype of the weights: value and dtype are the block's own."""
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    taken = 0
    for weights, *given in itertools.product(dtypes, repeat=3):
        plain, args = made(kind)
        plain.eval().to(weights)
        choice = itertools.cycle(given)
        args = each(args, lambda t, choice=choice: t.to(next(choice)))
        fast = sat.accelerate(copy.deepcopy(plain))
        expected = outcome(plain, args, autocast)
        met = (weights, autocast, *given)
        tolerance = 4e-2 if torch.bfloat16 in met else 6e-3 if torch.float16 in met else 1e-5
        if isinstance(expected, list):
            taken += 1
            assert_same(outcome(fast, args, autocast), expected, tolerance, f"weights {weights}, maps {given}")
    assert taken >= 4


def assert_takes(plain: nn.Module, fast: nn.Module, args: tuple, case: str) -> None:
    """Where the block returns, so does the accelerated one."""
    expected = outcome(plain, args)
    if isinstance(expected, list):
        assert_same(outcome(fast, args), expected, case=case)


@each_block
def test_shapes_that_the_block_takes(kind, calls):
    """One image beside several, and none, and a channel too many: where the kernels do not take them its own forward
    runs, and a norm in training has the same statistics after it."""
    plain, args = made(kind)
    plain.eval()
    fast = sat.accelerate(copy.deepcopy(plain))
    calls.clear()
    for batches in ((2, 1), (1, 2), (0, 0), (1, 1)):
        given = itertools.cycle(batches)
        some = each(args, lambda t, given=given: t[: next(given)])
        assert_takes(plain, fast, some, str(batches))
    assert_takes(plain, fast, each(args, lambda t: torch.cat([t, t[:, :1]], 1)), "channels")
    assert_takes(plain.train(), fast.train(), each(args, lambda t: t[:0]), "no image in training")
    assert calls


def test_a_block_without_its_second_map():
    plain, (x, _) = made("mfab")
    plain.conv1 = nn.Conv2d(4, 5, 3, padding=1)
    fast = sat.accelerate(copy.deepcopy(plain))
    support.assert_equal(fast(x), plain(x))
    support.assert_equal(fast(x, skip=None), plain(x, skip=None))


def _count(seen: dict[str, int], kind: str, *_) -> None:
    seen[kind] += 1


@each_block
def test_hooks_inside_are_never_bypassed(kind, calls):
    """On any module inside: the block's own forward runs."""
    (plain, args), counted = made(kind), 0
    for name in [name for name, _ in plain.named_modules() if name]:
        own, seen = copy.deepcopy(plain).eval(), {"own": 0, "fast": 0}
        fast = sat.accelerate(copy.deepcopy(plain)).eval()
        calls.clear()
        for kind_of, block in (("own", own), ("fast", fast)):
            hook = functools.partial(_count, seen, kind_of)
            block.get_submodule(name).register_forward_hook(hook)
        support.assert_equal(fast(*args), own(*args))
        assert seen["fast"] == seen["own"] and not calls, name
        counted += seen["fast"]
    assert counted or not plain._modules  # of parameters alone there is nothing inside


@each_block
def test_left_unlike_what_is_known(kind):
    """Each layer that is read, and each inside of it, replaced by one of another kind; one more child."""
    layers = LAYERS.get(kind)  # of one without, parameters alone
    names = [name for name, _ in made(kind)[0].named_modules() if layers and name.split(".")[0] in layers]
    assert names or not layers
    for name in names:
        block, args = made(kind)
        block.set_submodule(name, nn.Softplus())
        (row,) = sat.acceleration_report(block)
        if row.status == "left" and row.reason != report.NOT_CALLED:
            continue
        plain, fast = copy.deepcopy(block).eval(), sat.accelerate(block).eval()
        assert_same([fast(*args).detach()], [plain(*args).detach()], case=name)
    block, _ = made(kind)
    block.dropout = nn.Dropout()
    (row,) = sat.acceleration_report(block)
    assert row.reason.startswith("it has a child 'dropout' that is not known")


@each_block
def test_compile_and_capture(kind):
    plain, args = made(kind)
    fast = sat.accelerate(copy.deepcopy(plain)).eval()
    expected = plain.eval()(*args)
    got = torch.compile(fast, fullgraph=True, backend="eager")(*args)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
    with sat.capture_attention(fast) as found:
        fast(*args)
    if kind.startswith("gather-excite-"):  # a product with logits that it computes itself, not its only way
        assert found or kind != "gather-excite-peaks"
        return
    ((name, gate_map),) = found.items()
    assert (
        name == ""
        and gate_map.shape[0] == len(maps(args)[0]) * getattr(plain, "groups", 1) ** (kind == "ema")
        and gate_map.dim() == (2 if kind.startswith(GATES_OF_CHANNELS) else 4)
    )


def test_no_pool_of_torch_in_the_gradient_of_multiscale_attention():
    """Whose gradient adds atomically on a GPU, and raises where only deterministic algorithms may run."""
    plain, args = made("ema")

    def nodes(block: nn.Module) -> set[str]:
        found, left = set(), [block(*each(args, lambda t: t.clone().requires_grad_())).grad_fn]
        while left:
            node = left.pop()
            found.add(node.name())
            left += [following for following, _ in node.next_functions if following is not None]
        return found

    pools = [
        any("AdaptiveAvgPool" in name for name in nodes(block))
        for block in (plain, sat.accelerate(copy.deepcopy(plain)))
    ]
    assert pools == [True, False]
