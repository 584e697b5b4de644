"""What `accelerate` leaves, and why: a gate that is not, by look or by trial, what is known of its class."""

import contextlib
import functools

import pytest
import standins
import standins_fusion as fusion
import standins_strips as strips
import torch
from gates import C, make, make_map, reason_of
from torch import nn

import segattn_triton as sat
from segattn_triton.acceleration import api as _accelerate
from segattn_triton.acceleration import survey, trial
from segattn_triton.acceleration.adapters import ADAPTERS


def register_wrong_adapter() -> None:
    ADAPTERS.pop("timm.layers.squeeze_excite.SEModule")

    @sat.register_adapter("timm.layers.squeeze_excite.SEModule", "channel_gate")
    def read(m):
        return (m.fc1.weight, m.fc1.bias, m.fc2.weight, m.fc2.bias), {"gate": "hard_sigmoid"}


def scse_parts(self):
    nn.Module.__init__(self)
    for name, child in standins.SCSEModule(C).named_children():
        self.add_module(name, child)


@contextlib.contextmanager
def one_process():
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def test_verify_finds_a_wrong_adapter(own_adapters, monkeypatch):
    register_wrong_adapter()
    monkeypatch.setattr(trial, "disagreement", lambda *args: None)
    model = nn.Sequential(make("scse"), make())
    with pytest.raises(RuntimeError, match=r"verify: 1 \(timm.*SEModule\): y is off by .* The model is unchanged"):
        sat.accelerate(model, verify=True)
    assert [type(m) for m in model] == [standins.SCSEModule, standins.SEModule]


def test_left_what_computes_something_else(own_adapters):
    """A trial, once for each class, finds a version of a library of which an adapter is not true."""
    register_wrong_adapter()
    assert reason_of(make()).startswith("its forward computes something else than is known of its class, maybe of")
    later = standins.stands_for("segmentation_models_pytorch.base.modules.SCSEModule")(
        type("Later", (nn.Module,), {"__init__": scse_parts, "forward": lambda self, x: x * self.cSE(x)})
    )
    assert reason_of(later()).startswith(
        "its forward computes something else than is known of its class, maybe of anot"
    )
    fails = standins.stands_for("segmentation_models_pytorch.base.modules.SCSEModule")(
        type("Fails", (nn.Module,), {"__init__": scse_parts, "forward": lambda self, x: x[:, :, :, :, 0]})
    )
    assert reason_of(fails()).startswith("its forward failed on a map of shape (2, 8, 5, 5): too many indices")


def test_left_quantised():
    gate = standins.ChannelSELayer(2, C)
    with pytest.warns():
        torch.ao.quantization.quantize_dynamic(gate, {nn.Linear}, inplace=True)
    assert reason_of(gate).startswith("its child 'fc.0' is quantised (torch.ao.nn.quantized.dynamic")


def test_left_sync_batch_norm():
    gate = nn.SyncBatchNorm.convert_sync_batchnorm(standins.SEModule(C, 2, norm=nn.BatchNorm2d))
    assert reason_of(gate) == "its child 'bn' is a SyncBatchNorm, whose statistics come from other processes"
    other = reason_of(standins.SEModule(C, 2, norm=nn.InstanceNorm2d))
    assert other.startswith("its child 'bn' is torch.nn.modules.instancenorm")


def test_left_fsdp():
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    with one_process():
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        model = nn.Sequential(fully_shard(make(), mesh=mesh))
        assert "wrapped by FSDP: call accelerate() before sharding" in reason_of(model)
        model = nn.Sequential(FullyShardedDataParallel(make(), device_id=torch.device("cpu")))
        assert "wrapped by FSDP" in reason_of(model)
        model = fully_shard(sat.accelerate(nn.Sequential(make())), mesh=mesh)
        assert sat.acceleration_report(model)[0].status == "accelerated"
        torch.testing.assert_close(model(make_map()), nn.Sequential(make())(make_map()))
        model = sat.accelerate(nn.Sequential(make("eca"), make()))
        fully_shard(model[1], mesh=mesh)
        with pytest.raises(RuntimeError, match=r"1: its class is FSDP\w+ by now: restore\(\) before that"):
            sat.restore(model)
        assert isinstance(model[0], _accelerate.Accelerated)


def test_left_unknown_activations():
    assert "its activation 'activation' is torch.nn.modules.activation.Mish: the kernels have relu, silu" in reason_of(
        standins.SqueezeExcitation(C, 2, nn.Mish)
    )
    fast = standins.SqueezeExcitation(C, 2, functools.partial(nn.GELU, approximate="tanh"))
    assert "'activation' is torch.nn.modules.activation.GELU of tanh" in reason_of(fast)
    learned = standins.ChannelSELayer(2, C, act=nn.PReLU)
    learned.fc[0].bias = None
    assert reason_of(learned) == "its activation 'fc.1' is a PReLU, whose slope is learned, without a bias before it"
    assert "'scale_activation' is torch.nn.modules.activation.SiLU: the kernels have sigmoid, hard" in reason_of(
        standins.SqueezeExcitation(C, 2, scale_activation=nn.SiLU)
    )
    clipped = standins.HSigmoid()
    clipped.max_value = 2.0
    assert "'conv2.activate' is mmcv" in reason_of(standins.SELayer(C, 2, gate=clipped))


def test_left_measured_slower(monkeypatch):
    monkeypatch.setattr(survey, "_device_name", lambda tensor: "a GPU")
    monkeypatch.setitem(survey.SLOWER, "a GPU", (("squeeze_excite", 1, 8),))
    assert reason_of(make()) == "measured slower than what it replaces on a GPU, with 1 to 8 channels"
    assert [row.status for row in sat.acceleration_report(sat.accelerate(standins.SEModule(9, 2)))] == ["accelerated"]


def test_left_unlike_what_is_known():
    assert reason_of(type("Mine", (standins.SEModule,), {})(C, 2)).startswith("its class derives from the known one")
    patched = make()
    patched.forward = patched.forward
    assert reason_of(patched).startswith(
        "its forward was replaced: call accelerate() before that, or register_adapter()"
    )
    option = make()
    option.pool_type = "max"
    assert reason_of(option).startswith("it has an attribute 'pool_type' that is not known: register_adapter() for a s")
    child = make()
    child.dropout = nn.Dropout(0.1)
    assert reason_of(child).startswith("it has a child 'dropout' that is not known: register_adapter() for a subclass")
    less = make()
    del less.fc2
    assert reason_of(less) == "it has no child 'fc2'"
    wide = make()
    wide.fc1 = nn.Conv2d(C, 2, 3, padding=1)
    assert reason_of(wide).startswith("its child 'fc1' is not a plain 1x1 convolution: Conv2d(8, 2, kernel_size=(3, 3)")
    pool = make("torchvision")
    pool.avgpool = nn.AdaptiveAvgPool2d((1, 2))
    assert reason_of(pool) == "its child 'avgpool' pools to (1, 2), expected 1"
    pool.avgpool = nn.AdaptiveMaxPool2d(1)
    assert reason_of(pool).endswith("AdaptiveMaxPool2d, expected a global average pool")
    hooked = make()
    hooked.fc1.register_forward_hook(lambda *args: None)
    assert reason_of(hooked) == "a child of it has hooks, which its own forward runs: until they are removed"
    two = make("scse")
    two.sSE[1] = nn.Tanh()
    assert "its two gates differ, sigmoid and tanh" in reason_of(two)
    mlp = make("eca")
    mlp.conv2 = nn.Conv1d(1, 1, 1)
    assert reason_of(mlp) == "use_mlp: two convolutions over the channels have no kernel"


def test_left_class_patched_by_another_library(monkeypatch):
    def forward(self, x):
        return x

    monkeypatch.setattr(standins.SEModule, "forward", forward)
    assert reason_of(make()).startswith("its forward was replaced: call accelerate() before that")


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_left_reduction_larger_than_the_channels():
    reason = reason_of(standins.SCSEModule(C, reduction=16))
    assert reason == "its child 'cSE.1' has no channels: the reduction is larger than the number of channels"


def test_left_nnunet_in_3d():
    assert "in 3-D" in reason_of(standins.NNUNetSqueezeExcite(C, 2, conv=nn.Conv3d))


LEFT = {  # what of the gates that are known has no kernel -> the reason
    "extent": (lambda: fusion.GatherExcite(extent=2), "its extent is 2: means of windows at a stride have no kernel"),
    "layers": (lambda: _with(fusion.GatherExcite(), "mlp.norm", standins.LayerNorm2d(3)), "its perceptron has a norm"),
    "rows": (lambda: _with(strips.EMA(), "pool_h", nn.AdaptiveAvgPool2d((1, None))), "its child 'pool_h' pools to"),
    "pixels": (lambda: _with(strips.EMA(), "softmax", nn.Softmax(1)), "its softmax is not over the channels"),
    "radix": (lambda: _with(standins.SplitAttn(), "rsoftmax", standins.RadixSoftmax(4, 2)), "it has 2 radix splits"),
    "softmax": (lambda: _with(standins.SplitAttn(), "rsoftmax", nn.Softmax(1)), "its child 'rsoftmax' is torch"),
    "pools": (
        lambda: _with(fusion.UAFMOfChannels(), "conv_xy_atten", nn.Sequential(nn.Conv2d(8, 8, 1))),
        "its child 'conv_xy_atten' takes 8 channels",
    ),
    "pixel-pools": (
        lambda: _with(fusion.UAFMOfPixels(), "conv_xy_atten", nn.Sequential(nn.Conv2d(3, 1, 1))),
        "its child 'conv_xy_atten' takes 3 channels",
    ),
    "scale": (lambda: _scaled(fusion.UAFMOfPixels()), "it has a _scale"),
}


def _scaled(block: nn.Module) -> nn.Module:
    block._scale = nn.Parameter(torch.ones(1))
    return block


def _with(block: nn.Module, path: str, child: nn.Module) -> nn.Module:
    block.set_submodule(path, child)
    return block


@pytest.mark.parametrize("case", LEFT)
def test_what_of_a_known_class_has_no_kernel(case):
    block, reason = LEFT[case]
    assert reason_of(nn.Sequential(block())).startswith(reason)
