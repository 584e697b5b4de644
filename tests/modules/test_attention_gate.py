"""The attention gate as three libraries have it: the same numbers, gradients and running statistics from their keys."""

import copy

import pytest
import torch
from support import DEVICE, assert_equal
from torch import nn

import segattn_triton as sat
from segattn_triton.modules.attention_gate import NORM_PLACES
from segattn_triton.testing import assert_matches_reference

C, G, F = 6, 5, 4
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class LeeJunHyun(nn.Module):
    """Of LeeJunHyun/Image_Segmentation, and with other names of the statistics of PaddleSeg."""

    def __init__(self, d: int, norms=NORM_PLACES):
        super().__init__()

        def layer(name, inputs, outputs):
            return nn.Sequential(CONV[d](inputs, outputs, 1), NORM[d](outputs) if name in norms else nn.Identity())

        self.W_g, self.W_x = layer("g", G, F), layer("x", C, F)
        self.psi = nn.Sequential(*layer("psi", F, 1), nn.Sigmoid())

    def forward(self, g, x):
        return x * self.psi(torch.relu(self.W_g(g) + self.W_x(x)))


def trained(module: nn.Module) -> nn.Module:
    """With statistics and gains that are not those of a new norm."""
    generator = torch.Generator().manual_seed(0)
    for name, t in module.state_dict().items():
        if t.is_floating_point():
            t.copy_(torch.rand(t.shape, generator=generator) + 0.25 if t.dim() < 2 or "var" in name else t)
    return module


def maps(d: int, N: int = 2, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    S = (4, 5, 3)[:d]
    return tuple(torch.randn(N, c, *S, generator=generator).to(DEVICE, dtype).requires_grad_() for c in (C, G))


def results(module: nn.Module, d: int) -> list[torch.Tensor]:
    x, g = maps(d)
    y = module(x=x, g=g)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y)
    return [y, *torch.autograd.grad(y, [x, g, *module.parameters()], dy)]


def assert_same(theirs: nn.Module, ours: nn.Module, d: int) -> None:
    for got, want in zip(results(ours, d), results(theirs, d), strict=True):
        torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("norms", [NORM_PLACES, (), ("x",), ("g", "psi"), ("psi",)], ids="+".join)
def test_as_leejunhyun(norms, d, backend, training):
    theirs = trained(LeeJunHyun(d, norms)).to(DEVICE).train(training)
    ours = sat.AttentionGate(C, G, F, norms=norms, spatial_dims=d, backend=backend).to(DEVICE).train(training)
    ours.load_state_dict(sat.convert_state_dict(theirs.state_dict(), ours), strict=True)
    assert_same(theirs, ours, d)
    for got, want in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_paddle_names_of_the_statistics():
    theirs = trained(LeeJunHyun(2)).eval()
    keys = {
        k.replace("running_mean", "_mean").replace("running_var", "_variance"): t
        for k, t in theirs.state_dict().items()
        if "num_batches" not in k
    }
    ours = sat.AttentionGate(C, G, F).eval()
    ours.load_state_dict(sat.convert_state_dict(keys, ours), strict=True)
    x, g = (t.cpu() for t in maps(2))
    torch.testing.assert_close(ours(x, g=g), theirs(g, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize("d", [2, 3])
def test_as_monai(d, training):
    blocks = pytest.importorskip("monai.networks.nets.attentionunet")
    theirs = trained(blocks.AttentionBlock(d, F, G, C)).to(DEVICE).train(training)
    ours = sat.AttentionGate(C, G, F, spatial_dims=d).to(DEVICE).train(training)
    ours.load_state_dict(sat.convert_state_dict(theirs.state_dict(), ours), strict=True)
    assert_same(theirs, ours, d)
    back = sat.convert_state_dict(ours.state_dict(), ours, to="monai_attention")
    assert back.keys() == theirs.state_dict().keys()


def test_folded_norms_match_the_reference():
    """Output and every gradient, those of the norms included, within the error budget."""
    gate = trained(sat.AttentionGate(C, G, F)).to(DEVICE).eval()
    x, g = maps(2)
    assert_matches_reference(gate, x, g=g)


def test_frozen_norms_fold_in_training():
    """A norm in eval inside a model in training uses its running statistics, and keeps them."""
    gate = trained(sat.AttentionGate(C, G, F)).to(DEVICE).train()
    for norm in (gate.W_g[1], gate.W_x[1], gate.psi[1]):
        norm.eval()
    before = copy.deepcopy(dict(gate.named_buffers()))
    x, g = maps(2)
    assert_equal(gate(x, g=g), copy.deepcopy(gate).eval()(x, g=g))
    for name, t in gate.named_buffers():
        assert_equal(t, before[name])


def change_of(gate: nn.Module, change: str) -> None:
    options = {"no parameters": dict(affine=False), "no statistics": dict(track_running_stats=False)}
    options["cumulative"] = dict(momentum=None)
    for layer in (gate.W_g, gate.W_x, gate.psi):
        layer[1] = nn.BatchNorm2d(layer[1].num_features, **options.get(change, {}))
        for p in layer[1].parameters():
            nn.init.normal_(p)


@pytest.mark.parametrize("change", ["", "no bias", "cumulative", "no parameters", "no statistics", "one is frozen"])
def test_norms_in_training_are_their_children(change):
    """Values, gradients and running statistics, of norms with any of their options, over several steps; as the children
    themselves, which run where one has a hook."""
    torch.manual_seed(0)
    ours = sat.AttentionGate(C, G, F, bias=change != "no bias", backend="triton")
    change_of(ours, change)
    ours = ours.to(DEVICE, torch.float64)
    plain = copy.deepcopy(ours)
    plain.W_x[0].register_forward_hook(lambda *_: None)
    for training in (True, True, False):
        outcomes = []
        for module in (ours, plain):
            module.train(training)
            module.W_x[1].train(training and change != "one is frozen")
            module.zero_grad()
            x, g = maps(2, N=3, dtype=torch.float64)
            y, gate_map = module(x, return_map=True, g=g)
            (y.square().sum() + gate_map.sum()).backward()
            grads = [x.grad, g.grad, *(p.grad for p in module.parameters())]
            outcomes.append([y, gate_map, *grads, *module.state_dict().values()])
        for got, expected in zip(*outcomes, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def test_what_trains_in_kernels(monkeypatch):
    """One call of the operation with norms; what it cannot take, the children."""
    called, own = [], sat.functional.attention_gate_norm
    monkeypatch.setattr(sat.functional, "attention_gate_norm", lambda *a, **k: called.append(1) or own(*a, **k))

    def count(change=lambda gate: None) -> int:
        called.clear()
        gate = sat.AttentionGate(C, G, F).to(DEVICE)
        change(gate)
        x, g = maps(2)
        gate(x, g=g)
        return len(called)

    assert count() == 1
    assert count(lambda gate: gate.eval()) == 0
    assert count(lambda gate: gate.psi[0].register_forward_hook(lambda *_: None)) == 0
    assert count(lambda gate: setattr(gate.psi[1], "eps", 1e-3)) == 0
    assert count(nn.SyncBatchNorm.convert_sync_batchnorm) == 0


def test_one_value_per_channel_in_training():
    """The error that torch gives."""
    gate = sat.AttentionGate(C, G, F).to(DEVICE).train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        gate(torch.ones(1, C, 1, 1, device=DEVICE), g=torch.ones(1, G, 1, 1, device=DEVICE))


@pytest.mark.cheap
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_wrong_maps_are_named(training):
    gate, (x, g) = sat.AttentionGate(C, G, F).to(DEVICE).train(training), maps(2)
    for wrong in (g[:1], g[..., :1], g[:, :, :1], g.to("meta")):
        with pytest.raises(ValueError, match=r"^g: "):
            gate(x, g=wrong)
    with pytest.raises(ValueError, match=r"^g: "):
        gate(x, g=g[..., None])
    with pytest.raises(TypeError, match="g"):
        gate(x)


@pytest.mark.parametrize("name", ["in_channels", "gating_channels", "inter_channels"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_sizes_of_a_gate(name, value):
    sizes = {"in_channels": C, "gating_channels": G, "inter_channels": F, name: value}
    with pytest.raises(ValueError, match=f"^{name}: got {value}, expected an int of at least 1"):
        sat.AttentionGate(**sizes)


def test_names_of_norms():
    with pytest.raises(ValueError, match="norms: got 'y', expected one of 'g', 'x', 'psi'"):
        sat.AttentionGate(C, norms=("y",))
    for wrong in (None, "psi", 1):
        with pytest.raises(ValueError, match=f"norms: got {wrong!r}, expected a sequence of 'g', 'x', 'psi'"):
            sat.AttentionGate(C, norms=wrong)


def written_out(gate: nn.Module, x: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
    """y, psi and the gradients of x, g and every parameter, step by step."""
    d = x.dim() - 2
    up = dict(mode={2: "bilinear", 3: "trilinear"}[d])
    theta = getattr(nn.functional, f"conv{d}d")(x, gate.theta.weight, stride=gate.theta.stride)
    phi = torch.einsum("fg,ng...->nf...", gate.phi.weight.flatten(1), g) + gate.phi.bias.reshape(-1, *[1] * d)
    h = (theta + nn.functional.interpolate(phi, theta.shape[2:], **up)).clamp(min=0)
    z = torch.einsum("f,nf...->n...", gate.psi.weight.flatten(), h)[:, None] + gate.psi.bias
    psi = nn.functional.interpolate(1 / (1 + torch.exp(-z)), x.shape[2:], **up)
    return [x * psi, psi]


@pytest.mark.parametrize("sub_sample", [2, 1, 3])
@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("d", [2, 3])
def test_the_grid_of_the_published_form(d, backend, sub_sample):
    """theta and phi on a coarser grid, and psi brought back to the pixels, odd sizes, too; outputs and gradients."""
    how = dict(spatial_dims=d, backend=backend, sub_sample=sub_sample, device=DEVICE)
    gate = sat.GridAttentionGate(C, G, F, **how).double()
    assert {k: tuple(t.shape) for k, t in gate.state_dict().items()} == {
        **{"theta.weight": (F, C, *[sub_sample] * d), "phi.weight": (F, G, *[1] * d), "phi.bias": (F,)},
        **{"psi.weight": (1, F, *[1] * d), "psi.bias": (1,)},
    }
    shapes = (2, C, *(8, 7, 4)[:d]), (2, G, *(2, 3, 2)[:d])
    maps = [torch.randn(shape, device=DEVICE).double().requires_grad_() for shape in shapes]
    leaves, found = [*maps, *gate.parameters()], []
    for y, psi in (gate(maps[0], return_map=True, g=maps[1]), written_out(gate, *maps)):
        grads = torch.autograd.grad((y * y.detach().cos()).sum() + psi.square().sum(), leaves)
        found.append([y.detach(), psi.detach(), *grads])
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(gate(maps[0][0], g=maps[1][0]), found[1][0][0])


def test_a_grid_of_wrong_maps():
    gate, x, g = sat.GridAttentionGate(C, G, F), torch.randn(2, C, 8, 6), torch.randn(2, G, 2, 3)
    for wrong in (g[:1], g[:, :, 0], g.double(), g[:, 1:]):
        with pytest.raises((ValueError, TypeError), match=r"^g: "):
            gate(x, g=wrong)
    with pytest.raises(ValueError, match=rf"^x: got shape .*, expected \(N, {C}, H, W\)"):
        gate(x[:, 1:], g=g)
    with pytest.raises(ValueError, match="sub_sample: got 0"):
        sat.GridAttentionGate(C, G, F, sub_sample=0)
    with pytest.raises(ValueError, match=r"x: got \(1, 6\) pixels, expected at least 2 along each axis"):
        gate(x[:, :, :1], g=g)
    with torch.autocast("cpu", torch.bfloat16):
        assert gate(x, g=g).dtype == torch.float32


def test_a_grid_is_compiled_and_exported():
    gate = sat.GridAttentionGate(C, G, F)
    given = torch.randn(2, C, 8, 6), torch.randn(2, G, 2, 3)
    expected = gate(given[0], g=given[1])
    compiled = torch.compile(gate, fullgraph=True, backend="eager")(given[0], g=given[1])
    exported = torch.export.export(gate, given[:1], {"g": given[1]}).module()(given[0], g=given[1])
    for got in (compiled, exported):
        torch.testing.assert_close(got, expected)
    torch._dynamo.reset()
    assert "sub_sample=2" in repr(gate)
