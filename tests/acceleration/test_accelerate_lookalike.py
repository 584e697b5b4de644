"""Copies of gates that neither an adapter nor their graph knows: named as left, with what would take them; and what is
none. Their forwards take an option beside the map, which no graph of one map holds."""

import copy

import pytest
import standins
import torch
from gates import C, assert_same_results, make_map
from torch import nn

import segattn_triton as sat


class SELayer(nn.Module):
    """The copy that most repositories hold."""

    def __init__(self, C=C, Cr=2, layer=nn.Linear, more=(), pair=False):
        super().__init__()
        self.pool, self.pair = nn.AdaptiveAvgPool2d(1), pair
        first, last = (layer(C, Cr), layer(Cr, C)) if layer is nn.Linear else (layer(C, Cr, 1), layer(Cr, C, 1))
        self.fc = nn.Sequential(first, *more, nn.ReLU(), last, nn.Sigmoid())

    def forward(self, x, more=None):
        v = self.pool(x)
        gate = self.fc(v.flatten(1) if isinstance(self.fc[0], nn.Linear) else v).reshape(*x.shape[:2], 1, 1)
        return (x * gate, gate) if self.pair else x * gate


class SqueezeExcite(nn.Module):
    """By its name: pool and sigmoid are functions."""

    def __init__(self):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(C, 2, 1), nn.Conv2d(2, C, 1)

    def forward(self, x, more=None):
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class Unnamed(SELayer):
    """By its layers."""


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.conv, self.sigmoid = nn.AdaptiveAvgPool2d(1), nn.Conv1d(1, 1, 3, padding=1), nn.Sigmoid()

    def forward(self, x, more=None):
        v = self.pool(x)[:, None, :, 0, 0]
        return x * self.sigmoid(self.conv(v))[:, 0, :, None, None]


COPIES = {
    "linear": (SELayer, "channel_gate"),
    "conv": (lambda: SELayer(layer=nn.Conv2d), "channel_gate"),
    "dropout": (lambda: SELayer(more=(nn.Dropout(),)), "channel_gate"),
    "by its layers": (Unnamed, "channel_gate"),
    "by its name": (SqueezeExcite, "channel_gate"),
    "eca": (Own, "eca"),
}


class Head(nn.Module):
    """Pool, layer, sigmoid, but of other channels: a classifier."""

    def __init__(self, classes=3):
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, classes), nn.Sigmoid())


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C)


class Block(nn.Module):
    """A convolution around a copy: the copy is found, the block is not."""

    def __init__(self):
        super().__init__()
        self.conv, self.se = nn.Conv2d(C, C, 3, padding=1), SELayer()


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_named_as_left(kind, capsys):
    maker, kernel = COPIES[kind]
    model = nn.Sequential(nn.Conv2d(C, C, 1), maker())
    (row,) = sat.acceleration_report(sat.accelerate(model))
    assert (row.name, row.status, row.kernel) == ("1", "left", kernel)
    assert f"register_adapter({row.cls!r}, {kernel!r}) takes it" in row.reason and "looks like" in row.reason
    assert capsys.readouterr().out == "0 of 1 gate accelerated\n"
    with pytest.raises(RuntimeError, match="1 of 1 gates cannot be accelerated"):
        sat.accelerate(model, strict=True)


def test_the_hint_helps(own_adapters, calls):
    """What the reason names takes the copy; a copy that also returns its map is left, and says that it does."""
    (row,) = sat.acceleration_report(SELayer())

    @sat.register_adapter(row.cls, row.kernel)
    def read(m):
        return (m.fc[0].weight, m.fc[0].bias, m.fc[-2].weight, m.fc[-2].bias), {}

    plain = SELayer()
    fast = SELayer()
    fast.load_state_dict(plain.state_dict())
    assert_same_results(sat.accelerate(fast, strict=True), plain, make_map())
    assert "channel_gate" in dict(calls)


def test_a_copy_that_also_returns_its_map(own_adapters):
    @sat.register_adapter(f"{__name__}.SELayer", "channel_gate")
    def read(m):
        return (m.fc[0].weight, m.fc[0].bias, m.fc[-2].weight, m.fc[-2].bias), {}

    (row,) = sat.acceleration_report(SELayer(pair=True))
    assert row.reason == "its forward returns a tuple, expected the gated map alone"


def test_a_batch_norm_in_it_is_folded_first():
    """In a copy; a gate that is known is taken with it, and without."""
    (row,) = sat.acceleration_report(SELayer(layer=nn.Conv2d, more=(nn.BatchNorm2d(2),)))
    assert "once its batch norm is folded into the layer before (torch.nn.utils.fusion)" in row.reason
    gate = standins.SEModule(C, 2, norm=nn.BatchNorm2d).eval()
    nn.init.uniform_(gate.bn.running_var, 0.5, 2.0)
    expected = gate(make_map())
    torch.testing.assert_close(sat.accelerate(copy.deepcopy(gate), strict=True)(make_map()), expected)
    gate.fc1, gate.bn = torch.nn.utils.fusion.fuse_conv_bn_eval(gate.fc1, gate.bn), nn.Identity()
    torch.testing.assert_close(sat.accelerate(gate, strict=True)(make_map()), expected)


@pytest.mark.parametrize("maker", [Head, Mlp, nn.Linear, nn.ReLU], ids=lambda maker: maker.__name__)
def test_what_is_no_gate(maker):
    module = maker() if maker in (Head, Mlp, nn.ReLU) else maker(C, C)
    assert not sat.acceleration_report(nn.Sequential(module))


class Around(nn.Module):
    def __init__(self, gate):
        super().__init__()
        self.se = gate


@pytest.mark.parametrize("gate", [SELayer, lambda: standins.SenetSEModule(C, 2)], ids=["copy", "known"])
def test_a_module_around_a_gate_is_none(gate):
    """Also where it holds nothing else."""
    for block in (Block(), Around(gate()), Around(Around(gate()))):
        (row,) = sat.acceleration_report(nn.Sequential(block))
        assert row.name.startswith("0.se")


class PreAct(nn.Module):
    """A gate inline, as in the most copied networks for CIFAR."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C)
        self.fc1, self.fc2 = nn.Conv2d(C, 2, 1), nn.Conv2d(2, C, 1)

    def forward(self, x):
        out = self.conv(torch.relu(self.bn(x)))
        w = nn.functional.avg_pool2d(out, out.size(2))
        w = self.fc2(nn.functional.relu(self.fc1(w))).sigmoid()
        out = out * w
        return out + x


class WithSequence(nn.Module):
    """The gate's weights are a Sequential, its product is the block's; with a gate of another class inside."""

    def __init__(self):
        super().__init__()
        self.conv, self.inner = nn.Conv2d(C, C, 3, padding=1), standins.SenetSEModule(C, 2)
        layers = nn.Conv2d(C, 2, 1), nn.ReLU(), nn.Conv2d(2, C, 1)
        self.se = nn.Sequential(nn.AdaptiveAvgPool2d(1), *layers, nn.Sigmoid())

    def forward(self, x):
        x = self.inner(self.conv(x))
        return x * self.se(x)


def test_a_gate_inline_in_a_block_is_named():
    """Where it is, what would take it; and nothing beside it is hidden."""
    model = nn.Sequential(PreAct(), WithSequence(), PreAct())
    report = sat.acceleration_report(sat.accelerate(model, verbose=False))
    found = {row.name: row for row in report}
    assert found.keys() == {"0.fc1", "1.se", "1.inner", "2.fc1"}
    assert found["1.inner"].status == "accelerated"
    assert "by its children 'fc1' and 'fc2'" in found["0.fc1"].reason and "by its child 'se'" in found["1.se"].reason
    for row in (found["0.fc1"], found["1.se"]):
        assert (row.status, row.by) == ("left", "look")
        assert f"in the forward of {row.cls}" in row.reason and f"register_adapter('{__name__}." in row.reason
    (row, *_) = sat.acceleration_report(PreAct())
    assert row.name == "fc1"


class Plain(nn.Module):
    """A bottleneck of two layers, a pool and a product, but no sigmoid; a classifier with one."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.conv = nn.Conv2d(C, 2, 1), nn.Conv2d(2, C, 1), nn.Conv2d(C, C, 3)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, 3, 1), nn.Sigmoid())

    def forward(self, x):
        return self.head(self.conv(x + 0.5 * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)))))


def test_a_block_without_a_gate():
    assert not sat.acceleration_report(nn.Sequential(Plain()))


@pytest.mark.parametrize("own", [sat.SCSE(32), sat.ECA(32), sat.SqueezeExcite(32)], ids=lambda m: type(m).__name__)
def test_this_packages_own_modules_are_none(own):
    assert not sat.acceleration_report(nn.Sequential(own))


def test_a_gate_that_no_function_computes():
    model = nn.Sequential(standins.SelectiveKernel(num_paths=1))
    (row,) = sat.acceleration_report(model)
    assert (row.kernel, row.reason) == ("gate_blend", "it has 1 path: a softmax over one is one")
    expected = pytest.raises(ValueError, match=r"without a gate of this package or an accelerated one$")
    with expected, sat.capture_attention(model):
        pass
