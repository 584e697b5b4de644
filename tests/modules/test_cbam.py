"""CBAM as five libraries have it: the same numbers, gradients and running statistics from their checkpoints."""

import copy

import pytest
import torch
import torchvision_cpu
from support import DEVICE, assert_equal
from torch import nn

import segattn_triton as sat
from segattn_triton.testing import make_map

C = 16


class ChannelGate(nn.Module):
    """The authors' (Jongchan/attention-module), with its two pools."""

    def __init__(self, C, reduction=4):
        super().__init__()
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(C, C // reduction), nn.ReLU(), nn.Linear(C // reduction, C))

    def forward(self, x):
        size = (x.size(2), x.size(3))
        avg, peak = nn.functional.avg_pool2d(x, size, stride=size), nn.functional.max_pool2d(x, size, stride=size)
        return x * torch.sigmoid(self.mlp(avg) + self.mlp(peak)).unsqueeze(2).unsqueeze(3).expand_as(x)


class SpatialGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.spatial = nn.Module()
        self.spatial.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.spatial.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x):
        pair = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.spatial.bn(self.spatial.conv(pair)))


class Authors(nn.Module):
    def __init__(self):
        super().__init__()
        self.ChannelGate, self.SpatialGate = ChannelGate(C), SpatialGate()

    def forward(self, x):
        return self.SpatialGate(self.ChannelGate(x))


class Ultralytics(nn.Module):
    def __init__(self):
        super().__init__()
        self.channel_attention, self.spatial_attention = nn.Module(), nn.Module()
        self.channel_attention.fc = nn.Conv2d(C, C, 1)
        self.spatial_attention.cv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x):
        x = x * self.channel_attention.fc(nn.functional.adaptive_avg_pool2d(x, 1)).sigmoid()
        pair = torch.cat([torch.mean(x, 1, keepdim=True), torch.max(x, 1, keepdim=True)[0]], 1)
        return x * self.spatial_attention.cv1(pair).sigmoid()


class ExternalAttention(nn.Module):
    def __init__(self, kernel_size=49):
        super().__init__()
        self.ca, self.sa = nn.Module(), nn.Module()
        self.ca.se = nn.Sequential(nn.Conv2d(C, C // 4, 1, bias=False), nn.ReLU(), nn.Conv2d(C // 4, C, 1, bias=False))
        self.sa.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2)

    def forward(self, x):
        peak, avg = nn.functional.adaptive_max_pool2d(x, 1), nn.functional.adaptive_avg_pool2d(x, 1)
        out = x * torch.sigmoid(self.ca.se(peak) + self.ca.se(avg))
        pair = torch.cat([torch.max(out, dim=1, keepdim=True)[0], torch.mean(out, dim=1, keepdim=True)], 1)
        return out * torch.sigmoid(self.sa.conv(pair)) + x


def timms(name: str) -> nn.Module:
    torchvision_cpu.install()
    cbam = pytest.importorskip("timm.layers.cbam", reason="the models extra is not installed")
    return getattr(cbam, name)(C, rd_ratio=0.25)


TIMM = dict(rule="timm_cbam", bias=False, spatial_pool="mean,max", momentum=0.1, ties="split")
FLAVOURS = {
    "authors": (Authors, {}),
    "timm": (lambda: timms("CbamModule"), TIMM),
    "timm, light": (lambda: timms("LightCbamModule"), dict(TIMM, pool="avgmax", light=True)),
    "ultralytics": (Ultralytics, dict(hidden=0, pool="avg", spatial_pool="mean,max", norm=False)),
    "external attention": (
        ExternalAttention,
        dict(kernel_size=49, bias=False, spatial_bias=True, norm=False, residual=True),
    ),
}


def image(N=2, S=(6, 7), layout="contiguous", dtype=torch.float64) -> torch.Tensor:
    """After a ReLU: pixels and channels of zeros, where maxima tie."""
    return make_map((N, C, *S), layout, torch.Generator().manual_seed(0), dtype, DEVICE).relu()


def ours_of(theirs: nn.Module, options: dict) -> nn.Module:
    ours = sat.CBAM(C, 4, backend="triton", **options).to(next(theirs.parameters()))
    ours.load_state_dict(sat.convert_state_dict(theirs.state_dict(), ours))
    return ours.train(theirs.training)


def randomised(module: nn.Module) -> nn.Module:
    """Norms that do something."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.normal_(child.weight)
            nn.init.normal_(child.bias)
            nn.init.normal_(child.running_mean)
            nn.init.uniform_(child.running_var, 0.5, 2.0)
    return module


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_flavours(flavour, layout, training):
    """Outputs, gradients of x and of every parameter, and the statistics of two steps; of ties, too."""
    make, options = FLAVOURS[flavour]
    torch.manual_seed(0)
    theirs = randomised(make()).to(DEVICE, torch.float64).train(training)
    ours = ours_of(theirs, options)
    for _ in range(2):
        results = []
        for module in (theirs, ours):
            module.zero_grad()
            x = image(layout=layout).requires_grad_()
            y = module(x)
            y.square().sum().backward()
            grads = sat.convert_state_dict({name: p.grad for name, p in module.named_parameters()}, ours)
            state = sat.convert_state_dict(module.state_dict(), ours)
            results.append([y, x.grad, *(grads[name] for name in sorted(grads)), *(state[n] for n in sorted(state))])
        for got, expected in zip(*results[::-1], strict=True):
            torch.testing.assert_close(got, expected.reshape(got.shape), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_hooks_of_each_half(flavour):
    """A half, or a child of one, that somebody hooks or replaces runs by itself."""
    make, options = FLAVOURS[flavour]
    ours, x = ours_of(randomised(make()).to(DEVICE, torch.float64).eval(), options), image()
    expected, expected_map = ours(x, return_map=True)
    for name in ("channel", "spatial", "channel.fc1", "spatial.conv"):
        seen, twin = [], copy.deepcopy(ours)
        twin.get_submodule(name).register_forward_hook(lambda *_, seen=seen: seen.append(1))
        y, gate_map = twin(x, return_map=True)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(gate_map, expected_map, rtol=1e-9, atol=1e-11)
        assert seen == [1]


@pytest.mark.parametrize("options", [{}, {"momentum": None}], ids=["momentum", "cumulative"])
@pytest.mark.parametrize("change", ["", "no statistics", "frozen"])
def test_batch_norm_as_torchs(options, change):
    """Averages that accumulate, no running statistics, a norm in eval inside a module in training, and one value."""
    torch.manual_seed(0)
    ours = sat.CBAM(C, 4, 3, spatial_bias=True, backend="triton", **options).to(DEVICE, torch.float64)
    if change == "no statistics":
        ours.spatial.bn = nn.BatchNorm2d(1, track_running_stats=False).to(DEVICE, torch.float64)
    randomised(nn.Sequential() if change == "no statistics" else ours.spatial)
    if change == "frozen":
        ours.spatial.bn.eval()
    plain = copy.deepcopy(ours)
    plain.spatial.conv.register_forward_hook(lambda *_: None)
    for training in (True, True, False):
        for module in (ours, plain):
            module.train(training)
            if change == "frozen":
                module.spatial.bn.eval()
        for got, expected in zip(ours(image(), return_map=True), plain(image(), return_map=True), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
        for got, expected in zip(ours.spatial.state_dict().values(), plain.spatial.state_dict().values(), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    if change != "frozen":
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            ours.train()(image(1, (1, 1)))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("ties", ["first", "split"])
def test_deterministic_algorithms(ties, training):
    """With torch's switch on, where adaptive_max_pool2d's backward on a GPU raises: and twice the same bits."""
    torch.use_deterministic_algorithms(True)
    module = sat.CBAM(C, 4, ties=ties, backend="triton").to(DEVICE).train(training)
    runs = []
    for _ in range(2):
        x = image(dtype=torch.float32).requires_grad_()
        y = module(x)
        runs.append([y, *torch.autograd.grad(y.square().sum(), [x, *module.parameters()])])
    for got, expected in zip(*runs, strict=True):
        assert_equal(got, expected)


def test_training_as_compiled_and_as_exported():
    """The compiled module moves the same statistics; the exported one needs none of our operators."""
    torch.manual_seed(0)
    module, x = sat.CBAM(C, 4, 3, backend="triton").to(DEVICE), image(dtype=torch.float32)
    twin = copy.deepcopy(module)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        y, got = module(x), compiled(x)
        assert_equal(got, y)
        y.square().sum().backward()
        got.square().sum().backward()
    for a, b in zip(module.parameters(), twin.parameters(), strict=True):
        assert_equal(b.grad, a.grad)
    for a, b in zip(module.buffers(), twin.buffers(), strict=True):
        assert_equal(b, a)
    plain = torch.export.export(module, (x,)).run_decompositions(sat.decompositions())
    assert not any(getattr(n.target, "namespace", "") == "segattn" for n in plain.graph.nodes)
    torch.testing.assert_close(plain.module()(x), module(x), rtol=1e-5, atol=1e-6)


def test_what_a_module_refuses():
    for made, said in (
        (lambda: sat.CBAMSpatialAttention(4), "kernel_size: got 4, expected an odd number"),
        (lambda: sat.CBAM(C, 4, kernel_size=0), "kernel_size: got 0, expected an int of at least 1"),
        (lambda: sat.CBAMSpatialAttention(pool="max"), "pool: got 'max', expected one of 'max,mean', 'mean,max'"),
        (lambda: sat.CBAMChannelAttention(C, pool="max,mean"), "pool: got 'max,mean', expected one of"),
        (lambda: sat.CBAM(8, 16), "reduction: got 16 for in_channels 8"),
        (lambda: sat.CBAM(C, 4, ties="both"), "ties: got 'both'"),
    ):
        with pytest.raises(ValueError, match=said):
            made()


@pytest.mark.cheap
@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (1, 2, 3, 5), (1, 3, 3, 3), (2, 2, 3, 3), (1, 2, 3), (1, 2, 0, 0)])
def test_windows_that_are_refused(shape):
    """An even kernel, one that is not square, maps that there are not."""
    x = image(dtype=torch.float32)
    for backend in (None, "triton", "reference"):
        with pytest.raises(ValueError, match=r"weight: got shape \(.*expected \(1, [12], "):
            sat.functional.cbam_spatial_gate(x, torch.zeros(shape, device=DEVICE), backend=backend)


def test_norms_that_are_refused():
    x, weight = image(dtype=torch.float32), torch.zeros(1, 2, 3, 3, device=DEVICE)
    one = torch.ones(1, device=DEVICE)
    for backend in (None, "triton", "reference"):
        for options, said in (
            (dict(norm_bias=one), "norm_bias: given without norm_weight"),
            (dict(return_stats=True), "return_stats: given without norm_weight"),
            (dict(norm_weight=one.expand(2)), r"norm_weight: got shape \(2\), expected \(1\)"),
            (dict(norm_weight=one, norm_bias=one.expand(2)), r"norm_bias: got shape \(2\), expected \(1\)"),
            (dict(norm_weight=one, eps=-1.0), "eps: got -1.0"),
            (dict(norm_weight=one, eps="small"), "eps: got 'small'"),
        ):
            with pytest.raises(ValueError, match=said):
                sat.functional.cbam_spatial_gate(x, weight, backend=backend, **options)
