"""`capture_attention`: every gate's map, the outputs and the model as they were, and nothing left behind."""

import copy
import importlib.util
import io

import pytest
import standins
import support
import torch
import torchvision_cpu
from torch import nn

import segattn_triton as sat
from segattn_triton.acceleration import swap

C = 8
OURS = {
    "spatial": lambda: sat.SpatialAttention(C),
    "spatial_pool": lambda: sat.SpatialPoolAttention(),
    "channel": lambda: sat.ChannelAttention(C),
    "se": lambda: sat.SqueezeExcite(C, 2),
    "ese": lambda: sat.EffectiveSE(C),
    "eca": lambda: sat.ECA(C),
    "scse": lambda: sat.SCSE(C, 2),
    "local": lambda: sat.LocalAttention(C),
    "local_pool": lambda: sat.LocalPoolAttention(),
    "neighborhood": lambda: sat.NeighborhoodAttention2d(C, 2),
}


class Model(nn.Module):
    """A gate between convolutions; a second one that only the encoder has."""

    def __init__(self, gate: nn.Module):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, C, 3, padding=1), sat.SpatialAttention(C))
        self.decoder = nn.Sequential(gate, nn.Conv2d(C, 2, 1))

    def forward(self, x):
        return self.decoder(self.encoder(x))


def make(gate: nn.Module | None = None) -> Model:
    torch.manual_seed(0)
    return Model(sat.SCSE(C, 2) if gate is None else gate)


def image(N=2) -> torch.Tensor:
    return torch.randn(N, 3, 6, 7, generator=torch.Generator().manual_seed(1))


def state(model: nn.Module) -> list:
    """All that a capture could leave in the modules."""
    return [(dict(vars(m)), type(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


@pytest.mark.parametrize("kind", OURS)
def test_maps_of_our_modules_are_those_of_return_map(kind):
    torch.manual_seed(0)
    model = make(OURS[kind]()).train()
    x, before = image(), model(image())
    with sat.capture_attention(model) as maps:
        y = model(x)
    support.assert_equal(y, before)
    assert list(maps) == ["encoder.1", "decoder.0"]
    _, expected = model.decoder[0](model.encoder(x), return_map=True)
    support.assert_equal(maps["decoder.0"], expected.detach())
    assert not any(m.requires_grad for m in maps.values())
    y.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("kind", ["scse", "timm", "fused"])
def test_maps_of_accelerated_gates(kind):
    """Those of the kernel on what reaches the gate; a gate fused into its block has its own name."""
    torch.manual_seed(0)
    gate = {
        "scse": lambda: standins.SCSEModule(C),
        "timm": lambda: standins.SEModule(C, 2),
        "fused": lambda: standins.SEResNetBottleneck(C),
    }[kind]()
    model = sat.accelerate(make(gate)).eval()
    x = image()
    y = model(x)
    seen = []
    name = "decoder.0.se_module" if kind == "fused" else "decoder.0"
    before = state(model)
    with sat.capture_attention(model, "decoder.*") as maps:
        support.assert_equal(model(x), y)
    assert list(maps) == [name] and state(model) == before and not swap.SINKS
    handle = model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(x)
    handle.remove()
    g = model.get_submodule(name)
    parts = g._segattn_gate.read(g)
    run = getattr(sat.functional, g._segattn_gate.kernel)
    _, expected = run(seen[0], *parts.tensors, **parts.options, return_map=True)
    torch.testing.assert_close(maps[name], expected.detach())


def test_an_inlined_gate():
    """smp's EfficientNet holds the gate's layers in the block: the map is under the block's name."""
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        pytest.skip("the models extra is not installed")
    torchvision_cpu.install()
    from segmentation_models_pytorch.encoders import get_encoder

    encoder = sat.accelerate(get_encoder("efficientnet-b0", weights=None, depth=2)).eval()
    inlined = [row.name for row in sat.acceleration_report(encoder)]
    with sat.capture_attention(encoder) as maps, torch.no_grad():
        encoder(torch.randn(1, 3, 32, 32))
    assert maps and set(maps) <= set(inlined)
    assert all(m.dim() == 2 and m.min() >= 0 and m.max() <= 1 for m in maps.values())


def test_a_caller_that_asks_gets_the_map():
    gate, x = sat.SqueezeExcite(C, 2), torch.randn(1, C, 4, 4)
    y, expected = gate(x, return_map=True)
    with sat.capture_attention(gate) as maps:
        for answer in (gate(x, return_map=True), gate(x, None, None, True)):
            support.assert_equal(answer[0], y)
            support.assert_equal(answer[1], expected)
        support.assert_equal(gate(x, None, None, False), y)
        support.assert_equal(gate(x, shortcut=x), y + x)
    support.assert_equal(maps[""], expected.detach())


def test_hooks_of_others_see_what_they_saw():
    gate, x, seen = sat.SpatialAttention(C), torch.randn(1, C, 4, 4), []
    gate.register_forward_hook(lambda module, args, y: seen.append((args, y)))
    gate(x)
    with sat.capture_attention(gate):
        gate(x)
    (args, y), (args_inside, y_inside) = seen
    assert args_inside[0] is args[0] and len(args_inside) == 1
    support.assert_equal(y_inside, y)


@pytest.mark.parametrize("accelerate", [False, True])
def test_nothing_is_left_behind(accelerate):
    model = make(standins.SCSEModule(C) if accelerate else None)
    model = sat.accelerate(model) if accelerate else model
    before = state(model)
    with pytest.raises(RuntimeError, match="expected input"), sat.capture_attention(model):
        model(torch.randn(1, 4, 5, 5))
    assert state(model) == before and not swap.SINKS
    with sat.capture_attention(model) as outer:
        with sat.capture_attention(model, names=("decoder.*",)) as inner:
            model(image())
        assert list(inner) == ["decoder.0"] and list(outer) == ["encoder.1", "decoder.0"]
        kept = inner["decoder.0"].clone()
        model(-image())
        support.assert_equal(inner["decoder.0"], kept)
        assert not torch.equal(outer["decoder.0"], kept)
        twin = copy.deepcopy(model)
        held = dict(outer)
        twin(image())
        assert all(outer[name] is held[name] for name in held)
    assert state(model) == before and not swap.SINKS
    support.assert_equal(twin(image()), model(image()))
    with sat.capture_attention(copy.deepcopy(model)) as maps:
        model(image())
    assert not maps


def test_a_model_saved_inside_is_the_model():
    model, file = make(), io.BytesIO()
    with sat.capture_attention(model):
        torch.save(model, file)
    file.seek(0)
    support.assert_equal(torch.load(file, weights_only=False)(image()), model(image()))


@pytest.mark.cheap
@pytest.mark.parametrize("gate", [None, standins.SCSEModule, standins.SEResNetBottleneck])
def test_a_compiled_model_gives_its_maps(gate):
    """In eager mode; outside it is one graph, which is not compiled again."""
    torch._dynamo.reset()
    model = sat.accelerate(make(gate and gate(C)).eval())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    y = compiled(image())
    with sat.capture_attention(compiled) as maps:
        support.assert_equal(compiled(image()), y)
    assert len(maps) == 2 and all(name.startswith("_orig_mod.") for name in maps)
    with torch.compiler.set_stance("fail_on_recompile"):
        support.assert_equal(compiled(image()), y)
    torch._dynamo.reset()


def test_errors_say_what_there_is():
    def refuse(model, names="*"):
        with sat.capture_attention(model, names):
            pass

    with pytest.raises(ValueError, match=r"names: 'encode\.\*' matches none .*'encoder\.1', 'decoder\.0'"):
        refuse(make(), "encode.*")
    with pytest.raises(ValueError, match="got Conv2d without a gate"):
        refuse(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"1 of other libraries: segattn_triton\.accelerate"):
        refuse(nn.Sequential(standins.SCSEModule(C)))
    with pytest.raises(TypeError, match="model: got int"):
        refuse(3)
    for names in ((), (3,)):
        with pytest.raises(TypeError, match="names: got"):
            refuse(make(), names)
