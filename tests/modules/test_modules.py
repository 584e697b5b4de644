"""A module is its function on ordinary parameters: same numbers, keys and initialisation, and hooks always run."""

import copy
import pickle

import pytest
import torch
from support import (
    DEVICE,
    GATES,
    assert_equal,
    beside,
    each_gate_module,
    each_module,
    each_option_of_modules,
    made,
    module_of,
    names,
)
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from segattn_triton import SpatialAttention
from segattn_triton.testing import assert_matches_reference, make_map

C = 4
with_parameters = pytest.mark.parametrize(
    "row", [r for r in GATES if r.module and r.parameters], ids=lambda row: row.name
)


def image(dtype=torch.float32, S=(5, 6), seed=0) -> torch.Tensor:
    return make_map((2, C, *S), "contiguous", torch.Generator().manual_seed(seed), dtype, DEVICE)


def state(row, module) -> list[torch.Tensor]:
    """The effective parameters, in the order of the function's arguments."""
    found = []
    for name in (n for n in names(row) if n in row.parameters):
        child, _, attribute = row.parameters[name].rpartition(".")
        found.append(getattr(module.get_submodule(child), attribute))
    return found


@each_option_of_modules
def test_the_function_on_the_modules_state(row, options):
    module, x = module_of(row, C, **options), image()
    maps = beside(row, x)
    for got, expected in zip(
        module(x, **maps, return_map=True),
        row.op(x, *maps.values(), *state(row, module), backend="triton", return_map=True, **options),
        strict=True,
    ):
        assert_equal(got, expected)
    assert_equal(module(x, **maps), module(x, **maps, return_map=True)[0])
    assert_matches_reference(module, x, **maps)


@each_gate_module
def test_state_dict(row):
    """The keys and shapes that the catalog promises, so that published checkpoints load. A norm has both parameters:
    where two are added, the operation sees one bias."""
    module = module_of(row, C)
    shapes = row.shapes({"N": 1, "C": C, "S": (1, 1), "Cr": C // 2})
    wanted = {key: shapes[name] for name, key in row.parameters.items()}
    gains = [key for name, key in row.parameters.items() if name.startswith("norm_") and key.endswith(".weight")]
    norms = {key.removesuffix(".weight") for key in gains}
    wanted = {f"{norm}.bias": wanted[f"{norm}.weight"] for norm in norms} | wanted
    for key, value in module.named_parameters():
        assert tuple(value.shape[: len(wanted[key])]) == wanted[key]
        assert all(s == 1 for s in value.shape[len(wanted[key]) :])
    statistics = {f"{norm}.{name}" for norm in norms for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert module.state_dict().keys() == wanted.keys() | statistics
    twin = module_of(row, C)
    twin.load_state_dict(module.state_dict(), strict=True)
    maps = beside(row, image())
    assert_equal(twin(image(), **maps), module(image(), **maps))


@with_parameters
def test_initialisation_is_torchs(row):
    torch.manual_seed(0)
    module = module_of(row, C)
    torch.manual_seed(0)
    for child in module.modules():
        if isinstance(child, nn.Linear):
            fresh = nn.Linear(child.in_features, child.out_features)
        elif isinstance(child, nn.Conv1d):
            fresh = nn.Conv1d(child.in_channels, child.out_channels, child.kernel_size)
        elif isinstance(child, nn.Conv2d):
            how = dict(groups=child.groups, bias=child.bias is not None)
            fresh = nn.Conv2d(child.in_channels, child.out_channels, child.kernel_size, **how)
        else:
            continue
        assert_equal(child.weight.cpu(), fresh.weight)
        if child.bias is not None:
            assert_equal(child.bias.cpu(), fresh.bias)


def children(module) -> list[nn.Module]:
    return [child for child in module.modules() if isinstance(child, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))]


CHANGES = {
    "prune": lambda child: prune.l1_unstructured(child, "weight", 0.5),
    "spectral_norm": spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.spectral_norm,
}


@pytest.mark.parametrize("change", CHANGES)
@with_parameters
def test_changed_weights_are_used(row, change):
    """By a pre-hook or a parametrization: after an optimizer's step a stale copy would be silently wrong."""
    module, x = module_of(row, C), image()
    for child in children(module):
        CHANGES[change](child)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(1.5)
    maps = beside(row, x)
    y, gate_map = module(x, **maps, return_map=True)
    module.eval()
    for child in module.modules():
        child.train(isinstance(child, nn.BatchNorm2d))  # its norm is that of the batch, as the row's
    expected, expected_map = row.reference(x, *maps.values(), *state(row, module), return_map=True)
    torch.testing.assert_close(module(x, **maps), expected, rtol=1e-5, atol=1e-6)
    if change == "prune":
        torch.testing.assert_close((y, gate_map), (expected, expected_map), rtol=1e-5, atol=1e-6)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize(
    ("row", "S"),
    [(r, S) for r in GATES if r.module and r.parameters for S in ((5, 6), (4,), (2, 3, 2)) if len(S) in r.dims],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_hooks_run_and_count(row, S):
    """A forward hook that doubles the last child's output acts as doubled parameters."""
    known = {} if row.dims == (2,) else {"spatial_dims": len(S)}
    module, x, calls = module_of(row, C, **known), image(S=S), []
    last = children(module)[-1]
    doubled = {name for name, key in row.parameters.items() if module.get_submodule(key.rpartition(".")[0]) is last}
    held = [name for name in names(row) if name in row.parameters]
    weights = [t.detach() * (2 if name in doubled else 1) for name, t in zip(held, state(row, module), strict=True)]
    maps = beside(row, x)
    expected = row.reference(x, *maps.values(), *weights)
    last.register_forward_pre_hook(lambda *_: calls.append("pre"))
    last.register_forward_hook(lambda _m, _args, out: 2 * out)
    last.register_full_backward_hook(lambda *_: calls.append("backward"))
    y = module(x.requires_grad_(), **maps)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    y.sum().backward()
    assert calls == ["pre", "backward"]


@with_parameters
def test_a_replaced_forward_or_child_runs(row):
    """Libraries that place weights replace `forward` on the instance; users replace children by their own."""
    module, x = module_of(row, C), image()
    maps = beside(row, x)
    expected = module(x, **maps)
    for child in children(module):
        child.forward = lambda t, f=child.forward: f(t) * 0
    zero = row.reference(x, *maps.values(), *(t * 0 for t in state(row, module)))
    torch.testing.assert_close(module(x, **maps), zero, rtol=1e-5, atol=1e-6)
    assert not torch.equal(expected, zero)


@with_parameters
def test_a_child_with_hooks_in_another_dtype(row):
    module = module_of(row, C)
    maps = beside(row, image(torch.bfloat16))
    expected = module(image(torch.bfloat16), **maps, return_map=True)
    children(module)[0].register_forward_hook(lambda *_: None)
    for got, want in zip(module(image(torch.bfloat16), **maps, return_map=True), expected, strict=True):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2)


@each_module
def test_copies(row):
    """deepcopy and pickle give a module of its own, as an average of weights or a saved model needs."""
    module, x = module_of(row, C), image()
    maps = beside(row, x)
    expected = module(x, **maps)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_equal(twin(x, **maps), expected)
        with torch.no_grad():
            for p in twin.parameters():
                p.zero_()
        assert_equal(module(x, **maps), expected)
        assert torch.equal(twin(x, **maps), expected) != bool(row.parameters)


@each_module
def test_hooks_of_the_gate_itself(row):
    module, seen = module_of(row, C), []
    module.register_forward_hook(lambda _m, _args, out: seen.append(out))
    y = module(image(), **beside(row, image()))
    assert seen[0] is y


@with_parameters
def test_device_and_dtype(row):
    module = made(row, C, device="meta", dtype=torch.float64)
    assert all(p.device.type == "meta" and p.dtype == torch.float64 for p in module.parameters())
    x = torch.empty(2, C, 5, 6, device="meta", dtype=torch.float64)
    y = module(x, **beside(row, x))
    assert (y.device.type, y.shape) == ("meta", (2, C, 5, 6))
    module.to_empty(device=DEVICE)
    assert all(p.device.type == DEVICE for p in module.parameters())
    half = module_of(row, C).to(torch.bfloat16)
    x = image(torch.bfloat16)
    assert half(x, **beside(row, x)).dtype == torch.bfloat16


@each_gate_module
def test_functional_call(row):
    module, x = module_of(row, C), image()
    changed = {name: p.detach() * 2 for name, p in module.named_parameters()}
    maps = beside(row, x)
    y = torch.func.functional_call(module, changed, (x,), maps)
    assert_equal(y, row.op(x, *maps.values(), *(2 * t for t in state(row, module)), backend="triton"))


def test_printed():
    """What a user sees of a model."""
    assert "Conv2d(4, 1" in repr(SpatialAttention(4))
