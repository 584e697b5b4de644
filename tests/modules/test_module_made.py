"""What a module is made with is checked then, and shown; and its rank, never a size, says what an image is."""

import inspect

import pytest
import torch
from support import DEVICE, MODULES, assert_equal, beside, each_module, module_of

from segattn_triton import SpatialAttention

C = 4
OPTIONS = {  # a wrong value of each option -> what the message says
    "gate": ("sigmod", "gate: got 'sigmod', expected one of 'sigmoid'"),
    "act": ("rely", "act: got 'rely', expected one of 'relu'"),
    "pool": ("average", "pool: got 'average', expected one of"),
    "ties": ("last", "ties: got 'last', expected one of 'first', 'split'"),
    "reduce": ("mean", "reduce: got 'mean', expected one of 'sum', 'max'"),
    "out_act": ("silu", "out_act: got 'silu', expected one of"),
    "border": ("reflect", "border: got 'reflect', expected one of 'shift'"),
    "kernel_size": (4, "kernel_size: got 4, expected a"),
    "dilation": (0, "dilation: got 0, expected an int of at least 1"),
    "backend": ("cuda", "backend: got 'cuda', expected one of None, 'triton', 'reference'"),
    "spatial_dims": (4, "spatial_dims: got 4, expected one of "),
    "num_heads": (3, "num_heads: got 3, expected a divisor of in_channels 4"),
    "rule": ("mine", "rule: got 'mine', expected one of 'timm'"),
}
signatures = {row.name: inspect.signature(row.module).parameters for row in MODULES}
parameters = {name: set(known) for name, known in signatures.items()}
each_option_of_modules = pytest.mark.parametrize(
    ("row", "name"),
    [
        pytest.param(row, name, id=f"{row.name}-{name}")
        for row in MODULES
        for name in OPTIONS
        if name in parameters[row.name]
    ],
)
with_axes = [
    (row, d) for row in MODULES if "spatial_dims" in parameters[row.name] and row.fewest == 1 for d in (1, 2, 3)
]
each_axes = pytest.mark.parametrize(("row", "d"), with_axes, ids=lambda v: getattr(v, "name", str(v)))


@pytest.mark.cheap
@each_option_of_modules
def test_a_wrong_option_is_an_error_when_the_module_is_made(row, name):
    wrong, said = OPTIONS[name]
    with pytest.raises(ValueError) as caught:
        module_of(row, C, **{**row.fixed, name: wrong})
    assert str(caught.value).startswith(said)


@each_module
def test_the_repr_shows_what_a_module_was_made_with(row):
    module = module_of(row, C)
    shown = module.extra_repr()
    left_out = {
        "device",
        "dtype",
        "bias",
        "spatial_bias",
        "bias_x",
        "qkv_bias",
        "rel_pos_bias",
        "scale",
        "gamma",
        "beta",
        "rule",
        "least",
        "slices",
        "shortcut",
    }
    for name in parameters[row.name] - left_out - {"source_channels", "spatial_dims"}:
        assert f"{name}=" in shown or (name == "reduction" and "hidden=" in shown), name


@each_axes
def test_one_image_is_a_batch_of_one(row, d):
    """With spatial_dims, whatever the sizes: as many channels as rows, too. Other ranks are errors."""
    S = tuple(max(s, row.smallest) for s in (C, 5, 6)[:d])
    module, x = module_of(row, C, spatial_dims=d), torch.randn(C, *S, device=DEVICE)
    maps = beside(row, x[None])
    one = {name: t[0] for name, t in maps.items()}
    for got, expected in zip(module(x, **one, return_map=True), module(x[None], **maps, return_map=True), strict=True):
        assert_equal(got, expected[0])
    for wrong in (x[0], x[None, None]):
        with pytest.raises(ValueError, match=rf"x: got {wrong.dim()} axes.*expected \(N, C, .*spatial_dims={d}"):
            module(wrong, **one)


@each_module
def test_without_spatial_dims_rank_3_is_an_error_that_names_both_readings(row):
    x = torch.randn(C, C, C, device=DEVICE)
    module = module_of(row, C)
    known = signatures[row.name].get("spatial_dims")
    if known is None or known.default is not None:  # two-dimensional by its nature, or unless it is told: one image
        x = torch.randn(C, 6, 7, device=DEVICE)
        maps = beside(row, x[None])
        return assert_equal(module(x, **{name: t[0] for name, t in maps.items()}), module(x[None], **maps)[0])
    with pytest.raises(ValueError, match=r"x: got 3 axes.*x\[None\].*spatial_dims=1"):
        module(x)


@pytest.mark.cheap
@each_module
def test_channels_last_of_another_library_is_an_error(row):
    """(N, H, W, C) is told by its channels; with as many rows as channels nothing could tell."""
    if "in_channels" not in parameters[row.name]:
        return
    with pytest.raises(ValueError, match=r"permute\(0, 3, 1, 2\)|expected \(N, 4, H, W\)"):
        x = torch.randn(2, 6, 7, C, device=DEVICE)
        module_of(row, C)(x, **beside(row, x))


@each_module
def test_torch_jit_script_names_torch_export(row):
    """Alone, and inside a model."""
    for model in (module_of(row, C), torch.nn.Sequential(module_of(row, C))):
        with pytest.raises(RuntimeError, match=rf"torch\.jit\.script: {row.module.__name__}.*torch\.export\.export"):
            torch.jit.script(model)


def test_a_gate_without_bias():
    """Its layers have none; a norm between them keeps its own."""
    for row in MODULES:
        if "bias" in parameters[row.name]:
            plain = module_of(row, C, **dict.fromkeys(parameters[row.name] & {"bias", "spatial_bias"}, False))
            kept = dict(plain.named_parameters())
            norms = [f"{name}.bias" for name, m in plain.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
            assert [name for name in kept if name.endswith("bias")] == norms, row.name
            x = torch.randn(2, C, 6, 7, device=DEVICE)
            with torch.no_grad():
                for name, p in (whole := module_of(row, C, bias=True)).named_parameters():
                    p.copy_(kept.get(name, torch.zeros_like(p)))
            maps = beside(row, x)
            torch.testing.assert_close(plain(x, **maps), whole(x, **maps))
    assert SpatialAttention(3, bias=False).conv.bias is None
