"""`accelerate` on the models that people use: same outputs and gradients, same keys, all gates, and back bit for bit.

In float64, where a deep network amplifies no rounding that matters, every gradient is that of the model itself. In
float32 and under bfloat16 autocast, output and gradient are at most four times as far from float64 as its own are.
"""

import contextlib
import copy
import functools
import gc
import importlib.util
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import standin_nets
import support
import torch
import torchvision_cpu
from torch import nn

import segattn_triton as sat
from segattn_triton import functional
from segattn_triton.acceleration.adapters import ADAPTERS, BLOCKS
from segattn_triton.testing import without_tf32

FACTOR = 4  # of testing's error budget, here for the largest error of each tensor


def smp_model(architecture: str, encoder: str):
    smp = pytest.importorskip("segmentation_models_pytorch", reason="the models extra is not installed")
    attention = {} if architecture in ("MAnet", "PAN") else dict(decoder_attention_type="scse")
    return getattr(smp, architecture)(encoder, encoder_weights=None, classes=2, **attention)


def timm_model(name: str, **options):
    timm = pytest.importorskip("timm", reason="the models extra is not installed")
    return timm.create_model(name, num_classes=5, **options)


def gcvit():
    timm = pytest.importorskip("timm", reason="the models extra is not installed")
    return timm.create_model("gcvit_xxtiny", num_classes=5, img_size=64)


def lraspp():
    segmentation = pytest.importorskip("torchvision.models.segmentation")
    return segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)


def monai_model():
    nets = pytest.importorskip("monai.networks.nets", reason="the models extra is not installed")
    return nets.SEResNet50(spatial_dims=2, in_channels=3, num_classes=5)


def flexible_unet():
    nets = pytest.importorskip("monai.networks.nets", reason="the models extra is not installed")
    return nets.FlexibleUNet(in_channels=3, out_channels=2, backbone="efficientnet-b0", pretrained=False)


def attention_unet():
    nets = pytest.importorskip("monai.networks.nets", reason="the models extra is not installed")
    return nets.AttentionUnet(2, 3, 2, channels=(8, 16, 32), strides=(2, 2))


def without_gates():
    smp = pytest.importorskip("segmentation_models_pytorch", reason="the models extra is not installed")
    return smp.Unet("resnet18", encoder_weights=None)


FUSED = "squeeze_excite + shortcut, act"
MODELS = {  # model -> its maker, and how many gates run on which kernel
    "smp-unet-resnet34": (lambda: smp_model("Unet", "resnet34"), {"scse": 10}),
    "smp-unet-se_resnet50": (lambda: smp_model("Unet", "se_resnet50"), {FUSED: 16, "scse": 10}),
    "smp-unetplusplus-resnet34": (lambda: smp_model("UnetPlusPlus", "resnet34"), {"scse": 22}),
    "smp-unet-tu-efficientnet_b0": (
        lambda: smp_model("Unet", "tu-efficientnet_b0"),
        {"squeeze_excite": 16, "scse": 10},
    ),
    "smp-unet-efficientnet-b0": (lambda: smp_model("Unet", "efficientnet-b0"), {"squeeze_excite": 16, "scse": 10}),
    "smp-manet-resnet18": (lambda: smp_model("MAnet", "resnet18"), {"squeeze_excite": 4}),
    "smp-pan-resnet18": (lambda: smp_model("PAN", "resnet18"), {"squeeze_excite": 3}),
    "torchvision-lraspp": (lraspp, {"squeeze_excite": 9}),
    "timm-seresnet50": (lambda: timm_model("seresnet50"), {FUSED: 16}),
    "timm-ecaresnet50d": (lambda: timm_model("ecaresnet50d"), {"eca": 16}),
    "timm-ese_vovnet39b": (lambda: timm_model("ese_vovnet39b"), {"squeeze_excite": 4}),
    "timm-gcresnet50t": (lambda: timm_model("gcresnet50t"), {"global_context": 16}),
    "timm-resnest14d": (lambda: timm_model("resnest14d"), {"radix_blend": 4}),
    "timm-skresnet18": (lambda: timm_model("skresnet18"), {"gate_blend": 8}),
    "timm-rdnet_tiny": (lambda: timm_model("rdnet_tiny"), {"squeeze_excite": 15}),
    "timm-cbam": (lambda: timm_model("resnet18", block_args=dict(attn_layer="cbam")), {"cbam": 8}),
    "timm-lcbam": (lambda: timm_model("resnet18", block_args=dict(attn_layer="lcbam")), {"cbam": 8}),
    "timm-gcvit_xxtiny": (gcvit, {"squeeze_excite": 11}),
    "timm-mobilenetv3_large_100": (lambda: timm_model("mobilenetv3_large_100"), {"squeeze_excite": 8}),
    "monai-seresnet50": (monai_model, {FUSED: 16}),
    "monai-flexible_unet": (flexible_unet, {"squeeze_excite": 16}),
    "monai-attentionunet": (attention_unet, {"attention_gate": 2}),
    "standins-mmseg": (standin_nets.Mmseg, {"squeeze_excite": 3}),
    "standins-bisenet": (standin_nets.BiSeNet, {"squeeze_excite": 3}),
    "standins-ultralytics": (standin_nets.Ultralytics, {"cbam": 2}),
    "copies-attention_unet": (standin_nets.AttentionUNet, {"attention_gate": 2, "cbam": 1, "squeeze_excite": 1}),
    "smp-unet-without-gates": (without_gates, {}),
}
SIDES = {"smp-pan-resnet18": 128}  # of the image, for those that have no pixels left of 64
each_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True, scope="module")
def _installed():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("the models extra is not installed")
    torchvision_cpu.install()


@pytest.fixture(autouse=True)
def _precision_and_memory():
    with without_tf32():
        yield
    torch._dynamo.reset()
    gc.collect()


def make(name: str) -> nn.Module:
    """With norms that are not at their start, where some models multiply the branch of a gate by zero."""
    torch.manual_seed(0)
    model = MODELS[name][0]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval().to(support.DEVICE)


def image(name: str) -> torch.Tensor:
    side = SIDES.get(name, 64)
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)).to(support.DEVICE)


def output(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(2)  # dropout and drop path
    y = model(x)
    return y["out"] if isinstance(y, dict) else y


def results(model: nn.Module, x: torch.Tensor, autocast=False) -> dict[str, torch.Tensor]:
    """The output, and the gradient of every parameter, in float64."""
    model.zero_grad()
    with torch.autocast(support.DEVICE, torch.bfloat16, enabled=autocast):
        y = output(model, x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y))
    grads = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"y": y.detach().double(), **grads}


def assert_same(ours: dict, exact: dict) -> None:
    """Each tensor in float64, against its own size; one that is zero but for rounding, against the largest."""
    assert ours.keys() == exact.keys()
    largest = max(v.abs().max().item() for v in exact.values())
    for name, value in exact.items():
        size = max(value.abs().max().item(), 1e-7 * largest)
        error = (ours[name] - value).abs().max().item()
        assert error <= 1e-7 * size, f"{name}: off by {error:.3g} of {size:.3g}"


def distances(found: dict, exact: dict) -> tuple[float, float]:
    """The relative error of the output, and of all gradients as one vector."""

    def relative(names) -> float:
        squares = [((found[n] - exact[n]).square().sum(), exact[n].square().sum()) for n in names]
        return (sum(error for error, _ in squares) / sum(size for _, size in squares)).sqrt().item()

    return relative(["y"]), relative(exact.keys() - {"y"})


def assert_within_budget(ours: dict, own: dict, exact: dict, eps: float) -> None:
    for got, allowed in zip(distances(ours, exact), distances(own, exact), strict=True):
        assert got <= FACTOR * (allowed + eps)


@contextlib.contextmanager
def watched_kernels():
    """The kernels that are called."""
    calls: list[str] = []

    def spy(name, own):
        return lambda *args, **options: calls.append(name) or own(*args, **options)

    kernels = {name: spy(name, getattr(functional, name)) for name in functional.__all__}
    with mock.patch.multiple(functional, **kernels):
        yield calls


@pytest.mark.interop
def test_counts_keys_and_restore():
    """Of every model, also where a fixed share of the cases runs."""
    for name, (_, kernels) in MODELS.items():
        model = make(name)
        keys, parameters, classes = list(model.state_dict()), [*model.parameters()], [type(m) for m in model.modules()]
        with torch.no_grad():
            before = output(model, image(name))
            sat.accelerate(model, strict=bool(kernels), verify=True)
            report = sat.acceleration_report(model)
            found = [row.kernel for row in report if row.status == "accelerated"]
            assert {kernel: found.count(kernel) for kernel in found} == kernels and len(found) == len(report), name
            assert list(model.state_dict()) == keys
            assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
            with watched_kernels() as calls:
                after = output(model, image(name))
            assert len(calls) >= 0.9 * len(report), f"{name}: a gate of smp's Unet has no input, the others run"
            torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))
            support.assert_equal(output(copy.deepcopy(model), image(name)), after)
            sat.restore(model)
            assert [type(m) for m in model.modules()] == classes
            support.assert_equal(output(model, image(name)), before)


def test_the_readme_begins_with_it(capsys):
    text = (Path(__file__).parents[2] / "README.md").read_text()
    code = text.partition("## Quickstart")[2].partition("```python\n")[2].partition("```")[0]
    pytest.importorskip("segmentation_models_pytorch", reason="the models extra is not installed")
    exec(code, {})
    line, table, *_ = capsys.readouterr().out.splitlines()
    assert line.startswith(table) and table == "26 of 26 gates accelerated"
    assert f"# {table}" in code


def senet_blocks(module) -> dict[str, Callable]:
    one = dict(inplanes=16, planes=4, groups=1, reduction=2)
    return {
        "SEBottleneck": lambda: module.SEBottleneck(**{**one, "groups": 2}),
        "SEResNetBottleneck": lambda: module.SEResNetBottleneck(**one),
        "SEResNeXtBottleneck": lambda: module.SEResNeXtBottleneck(**one, base_width=32),
    }


def real_classes() -> dict[str, Callable]:
    """Qualified name -> a small instance, of every class of the installed libraries that has an adapter."""
    from monai.networks.blocks import squeeze_and_excitation as monai
    from segmentation_models_pytorch.base import modules
    from segmentation_models_pytorch.encoders import _senet, mobileone
    from timm.layers import coord_attn, eca, global_context, squeeze_excite
    from timm.models import _efficientnet_blocks, hgnet, resnet, senet
    from torchvision.ops import misc

    monai_block = dict(spatial_dims=2, inplanes=16, planes=4, groups=1, reduction=2)
    found = {
        "torchvision.ops.misc.SqueezeExcitation": lambda: misc.SqueezeExcitation(16, 4),
        "timm.layers.squeeze_excite.SEModule": lambda: squeeze_excite.SEModule(16, add_maxpool=True),
        "timm.models._efficientnet_blocks.SqueezeExcite": lambda: _efficientnet_blocks.SqueezeExcite(16),
        "timm.models.senet.SEModule": lambda: senet.SEModule(16, 4),
        "timm.layers.squeeze_excite.EffectiveSEModule": lambda: squeeze_excite.EffectiveSEModule(16),
        "timm.models.hgnet.EseModule": lambda: hgnet.EseModule(16),
        "timm.layers.eca.EcaModule": lambda: eca.EcaModule(16),
        "timm.layers.eca.CecaModule": lambda: eca.CecaModule(16),
        "timm.layers.global_context.GlobalContext": lambda: global_context.GlobalContext(16),
        "timm.layers.coord_attn.CoordAttn": lambda: coord_attn.CoordAttn(16),
        "timm.layers.coord_attn.SimpleCoordAttn": lambda: coord_attn.SimpleCoordAttn(16),
        "timm.models.resnet.BasicBlock": lambda: resnet.BasicBlock(16, 16, attn_layer="se"),
        "timm.models.resnet.Bottleneck": lambda: resnet.Bottleneck(16, 4, attn_layer="se"),
        "timm.models.senet.SEResNetBlock": lambda: senet.SEResNetBlock(16, 16, 1, 4),
        "segmentation_models_pytorch.base.modules.SCSEModule": lambda: modules.SCSEModule(16),
        "segmentation_models_pytorch.encoders._senet.SEModule": lambda: _senet.SEModule(16, 4),
        "segmentation_models_pytorch.encoders.mobileone.SEBlock": lambda: mobileone.SEBlock(16),
        "monai.networks.blocks.squeeze_and_excitation.ChannelSELayer": lambda: monai.ChannelSELayer(2, 16),
        "monai.networks.blocks.squeeze_and_excitation.ResidualSELayer": lambda: monai.ResidualSELayer(2, 16),
        "monai.networks.blocks.squeeze_and_excitation.SEBlock": lambda: monai.SEBlock(2, 16, 4, 4, 16),
    }
    for prefix, module in (("timm.models.senet", senet), ("segmentation_models_pytorch.encoders._senet", _senet)):
        found |= {f"{prefix}.{name}": maker for name, maker in senet_blocks(module).items()}
    for name in ("SEBottleneck", "SEResNetBottleneck", "SEResNeXtBottleneck"):
        more = {"base_width": 32} if "NeXt" in name else {}
        maker = functools.partial(getattr(monai, name), **monai_block, **more)
        found[f"monai.networks.blocks.squeeze_and_excitation.{name}"] = maker
    return found


def test_every_class_of_the_libraries():
    """Every adapter on the real class, in float64, training and eval; blocks fused."""
    for library in ("torchvision", "timm", "segmentation_models_pytorch", "monai"):
        if importlib.util.find_spec(library) is None:
            pytest.skip("the models extra is not installed")
    elsewhere = ("mm", "dynamic_network_architectures.", "ultralytics.", "coordatt.")
    inline = {name for name, known in ADAPTERS.items() if known.inline}  # in the models above
    made = real_classes()
    known = {name for name in (*ADAPTERS, *BLOCKS) if not name.startswith(elsewhere)}
    assert made.keys() == known - inline
    for name, maker in made.items():
        torch.manual_seed(0)
        plain = maker().double()
        x = torch.randn(2, 16, 6, 6, dtype=torch.float64)
        for training in (False, True):
            plain.train(training)
            model = sat.accelerate(copy.deepcopy(plain), strict=True, verify=True)
            (row,) = sat.acceleration_report(model)
            assert ("shortcut" in row.kernel) == (name in BLOCKS), name
            for got, expected in zip(gradients(model, x), gradients(copy.deepcopy(plain), x), strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-8)


def gradients(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    y = model(x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(4)).to(y)
    return [y, *torch.autograd.grad(y, list(model.parameters()), dy)]


@each_model
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_outputs_and_gradients(name, training):
    model = make(name).train(training)
    buffers = {n: b.clone() for n, b in model.named_buffers()}

    def run(m, *args, **kwargs):
        found = results(m, *args, **kwargs)
        for n, b in m.named_buffers():  # running statistics
            b.copy_(buffers[n])
        return found

    wide = copy.deepcopy(model).double()
    x = image(name)
    exact, own, own16 = run(wide, x.double()), run(model, x), run(model, x, autocast=True)
    sat.accelerate(wide), sat.accelerate(model)
    assert_same(run(wide, x.double()), exact)
    ours, ours16 = run(model, x), run(model, x, autocast=True)
    assert_within_budget(ours, own, exact, torch.finfo(torch.float32).eps)
    assert_within_budget(ours16, own16, exact, torch.finfo(torch.bfloat16).eps)


BREAKS = {"monai-flexible_unet"}  # its decoder calls torch.jit.isinstance, at which torch.compile breaks the graph


@pytest.mark.parametrize("name", [name for name in MODELS if name not in BREAKS])
def test_compiles_into_one_graph(name):
    model = make(name)
    sat.accelerate(model)
    with torch.no_grad():
        expected = output(model, image(name))
        got = output(torch.compile(model, fullgraph=True, backend="eager"), image(name))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
