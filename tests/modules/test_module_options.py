"""What single modules have beside their function: rules of other libraries, norms, slices, other maps, a circle."""

import copy

import pytest
import torch
from support import DEVICE, assert_equal

from segattn_triton import ECA, SCSE, CBAMChannelAttention, EffectiveSE, SqueezeExcite
from segattn_triton.testing import make_map


@pytest.mark.parametrize(
    ("rule", "reduction", "hidden"),
    [
        ("timm", 16, {16: 8, 64: 8, 256: 16, 672: 40}),
        ("timm_cbam", 16, {16: 1, 24: 2, 40: 3, 256: 16}),
        ("timm_efficientnet", 4, {16: 4, 24: 6, 40: 10}),
        ("torchvision", 4, {64: 16, 72: 24, 672: 168}),
        ("torchvision_efficientnet", 4, {3: 1, 24: 6}),
        ("smp", 16, {16: 1, 24: 1, 64: 4, 672: 42}),
        ("smp_efficientnet", 4, {3: 1, 40: 10}),
        ("monai", 2, {64: 32, 672: 336}),
        ("mmseg", 16, {64: 8, 672: 40}),
    ],
)
def test_hidden_channels_of_libraries(rule, reduction, hidden):
    for channels, expected in hidden.items():
        for kind in (SqueezeExcite, CBAMChannelAttention):
            module = kind(channels, reduction, rule, device="meta")
            assert module.fc1.weight.shape == (expected, channels, 1, 1), channels
            assert module.fc2.weight.shape == (channels, expected, 1, 1), channels


@pytest.mark.parametrize(("channels", "taps"), [(1, 3), (16, 3), (64, 3), (128, 5), (1024, 5), (2048, 7)])
def test_taps_of_eca_follow_the_channels(channels, taps):
    assert ECA(channels).conv.weight.shape == (1, 1, taps)
    assert ECA(channels, 9).conv.weight.shape == (1, 1, 9)


@pytest.mark.parametrize("circular", [False, True])
def test_eca_is_its_child(circular):
    """The function pads as the Conv1d does."""
    module, x = ECA(8, 5, circular=circular, backend="triton").to(DEVICE), make_map_of(8)
    z = module.conv(x.mean((2, 3))[:, None])[:, 0]
    torch.testing.assert_close(module(x), x * z.sigmoid()[:, :, None, None], rtol=1e-5, atol=1e-6)
    module.conv.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(module(x), x * z.sigmoid()[:, :, None, None], rtol=1e-5, atol=1e-6)


def make_map_of(channels: int, N: int = 2, S=(5, 6), layout="contiguous") -> torch.Tensor:
    return make_map((N, channels, *S), layout, torch.Generator().manual_seed(0), torch.float32, DEVICE)


NORMED = {
    "one layer": lambda **how: EffectiveSE(6, "sigmoid", norm=True, backend="triton", **how),
    "two layers": lambda **how: SqueezeExcite(6, hidden=4, norm=True, backend="triton", **how),
    "two norms": lambda **how: SqueezeExcite(6, hidden=4, norm=True, last_norm=True, backend="triton", **how),
    "last": lambda **how: SqueezeExcite(6, hidden=4, last_norm=True, backend="triton", **how),
}


@pytest.mark.parametrize("change", ["", "no bias", "cumulative", "no parameters", "no statistics", "frozen"])
@pytest.mark.parametrize("kind", NORMED)
def test_batch_norm_between_the_layers(kind, change):
    """As the children themselves, which run where one has a hook: values, gradients and the running statistics, of a
    norm with any of its options; in eval it is folded into the weights. One value a channel is torch's error."""
    torch.manual_seed(0)
    ours = NORMED[kind](bias=change != "no bias").to(DEVICE, torch.float64)
    options = {"no parameters": dict(affine=False), "no statistics": dict(track_running_stats=False)}
    options["cumulative"] = dict(momentum=None)
    norms = [name for name, m in ours.named_children() if isinstance(m, torch.nn.BatchNorm2d)]
    for name, eps in zip(norms, (1e-5, 1e-3), strict=False):
        how = dict(options.get(change, {}), eps=eps)
        bn = torch.nn.BatchNorm2d(getattr(ours, name).num_features, **how).to(DEVICE, torch.float64)
        setattr(ours, name, bn)
        for p in bn.parameters():
            torch.nn.init.normal_(p)
    plain = copy.deepcopy(ours)
    next(plain.children()).register_forward_hook(lambda *_: None)
    for training in (True, True, False):
        outcomes = []
        for module in (ours, plain):
            module.train(training)
            getattr(module, norms[-1]).train(training and change != "frozen")
            module.zero_grad()
            x = make_map_of(6, N=4).double().requires_grad_()
            y, gate_map = module(x, return_map=True, shortcut=x)
            (y.square().sum() + gate_map.sum()).backward()
            grads = [x.grad, *(p.grad for p in module.parameters())]
            outcomes.append([y, gate_map, *grads, *module.state_dict().values()])
        for got, expected in zip(*outcomes, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    if change != "frozen" or len(norms) == 2:
        for module in (ours, plain):
            with pytest.raises(
                ValueError, match="Expected more than 1 value per channel when training, got input size"
            ):
                module.train()(x[:1])


def test_statistics_of_other_processes(monkeypatch):
    """A SyncBatchNorm runs as it is."""
    own, seen = torch.nn.SyncBatchNorm.forward, []
    monkeypatch.setattr(torch.nn.SyncBatchNorm, "forward", lambda bn, v: seen.append(bn) or own(bn, v))
    module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(NORMED["one layer"]()).to(DEVICE)
    assert type(module.bn) is torch.nn.SyncBatchNorm
    module(make_map_of(6, N=4))
    assert seen == [module.bn]


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_slices_along_the_last_axis(layout, hooked):
    """nnU-Net's gate of a volume: its pool leaves the last axis, (N, C, 1, 1, W)."""
    module = SqueezeExcite(4, 2, "monai", slices=True, backend="triton").to(DEVICE)
    x, shortcut = make_map_of(4, S=(3, 2, 5), layout=layout), make_map_of(4, S=(3, 2, 5)) * 2
    g = module.fc2(module.fc1(x.mean((2, 3), keepdim=True).flatten(2)[..., None]).relu()).sigmoid()  # [N, C, W, 1]
    if hooked:
        module.fc1.register_forward_hook(lambda *_: None)
    y, gate_map = module(x.requires_grad_(), shortcut=shortcut, return_map=True)
    torch.testing.assert_close(gate_map, g[..., 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(y, x * g[:, :, None, None, :, 0] + shortcut, rtol=1e-5, atol=1e-6)
    assert y.stride() == x.stride()
    y.square().sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in module.parameters())
    plain = make_map_of(4)
    assert_equal(module(plain), SqueezeExcite._gate(module, plain, None, None, False))


@pytest.mark.parametrize("hooked", [False, True])
def test_squeeze_excite_between_maps(hooked):
    """The gate of another map, of other channels, and the end of a residual block."""
    module = SqueezeExcite(6, hidden=3, source_channels=10, out_act="relu", backend="triton").to(DEVICE)
    x, shortcut, source = make_map_of(6), make_map_of(6) + 0.5, make_map_of(10, S=(3, 4))
    if hooked:
        module.fc2.register_forward_pre_hook(lambda *_: None)
    g = module.fc2(module.fc1(source.mean((2, 3), keepdim=True)).relu()).sigmoid()
    torch.testing.assert_close(module(x, source, shortcut), (x * g + shortcut).relu(), rtol=1e-5, atol=1e-6)


def test_smp_state_dict_of_scse():
    """The keys and shapes of segmentation_models_pytorch's SCSEModule(64)."""
    shapes = {name: tuple(t.shape) for name, t in SCSE(64).state_dict().items()}
    assert shapes == {
        "cSE.1.weight": (4, 64, 1, 1),
        "cSE.1.bias": (4,),
        "cSE.3.weight": (64, 4, 1, 1),
        "cSE.3.bias": (64,),
        "sSE.0.weight": (1, 64, 1, 1),
        "sSE.0.bias": (1,),
    }


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_scse_is_its_children(reduce, hooked):
    module, x = SCSE(8, 4, reduce=reduce, backend="triton").to(DEVICE), make_map_of(8)
    by_channel = x * module.cSE[3](module.cSE[1](x.mean((2, 3), keepdim=True)).relu()).sigmoid()
    by_pixel = x * module.sSE[0](x).sigmoid()
    if hooked:
        module.sSE[0].register_forward_hook(lambda *_: None)
    expected = by_channel + by_pixel if reduce == "sum" else torch.maximum(by_channel, by_pixel)
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)
