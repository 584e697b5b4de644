"""An accelerated gate never raises where the module's own forward does not: whatever dtypes, ranks and classes meet."""

import copy
import itertools

import pytest
import standins
import torch
from gates import C, each_kind, make, make_map
from torch import nn

import segattn_triton as sat
from segattn_triton.acceleration import adapters, swap

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def outcome(module: nn.Module, x: torch.Tensor, autocast: torch.dtype | None = None):
    """y, dx, the gradients of the parameters and the buffers after it, or the error that the module raises."""
    x = x.clone().requires_grad_()
    try:
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            y = module(x)
        dy = torch.linspace(0.5, 1, y.numel()).reshape(y.shape).to(y.dtype)
        wanted = [p for p in module.parameters() if p.requires_grad]
        return [y.detach(), *torch.autograd.grad(y, [x, *wanted], dy), *(b.clone() for b in module.buffers())]
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        return error


def assert_takes_what_the_module_takes(plain, fast, x, case: str, tolerance=1e-5, autocast=None) -> bool:
    """Where the module returns, so does the accelerated one, in value and dtype. Whether it returns."""
    expected, got = outcome(plain, x, autocast), outcome(fast, x, autocast)
    if isinstance(expected, Exception):
        return False
    assert isinstance(got, list), f"{case}: {got!r}"
    sizes = [float(theirs.double().abs().max()) if theirs.numel() else 0.0 for theirs in expected]
    largest = max((size for size in sizes if size == size), default=0.0)
    for ours, theirs, size in zip(got, expected, sizes, strict=True):
        assert ours.dtype == theirs.dtype, case
        atol = 0.0 if size != size else tolerance * max(size, 1e-2 * largest)  # one may be zero but for its rounding
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=atol, equal_nan=True, msg=case)
    return True


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
@each_kind
def test_dtypes_that_the_module_takes(kind, autocast):
    """Every dtype of the weights beside every dtype of the map; and one layer in another dtype than the other."""
    for weights, first, given in itertools.product(DTYPES, (None, torch.float32), DTYPES):
        plain = make(kind).to(weights)
        layer = next(m for m in plain.modules() if not list(m.children()) and list(m.parameters()))
        layer.to(first or weights)
        case = f"weights {weights}, first layer {first}, map {given}"
        met = (weights, given, autocast)
        tolerance = 3e-2 if torch.bfloat16 in met else 6e-3 if torch.float16 in met else 1e-5
        if "context" in kind and tolerance > 1e-5:  # the module's own norm of few values loses digits in 16 bits
            tolerance = 0.3
        if kind == "ultralytics" and tolerance > 1e-5:  # which maximum is the largest changes with the rounding
            continue
        fast = sat.accelerate(copy.deepcopy(plain))
        assert_takes_what_the_module_takes(plain, fast, make_map().to(given), case, tolerance, autocast)


SHAPES = [
    (),
    (C,),
    (2, C),
    (C, 6),
    (C, 5, 6),
    (C, C, C),
    (2, C, 6),
    (5, 6, C),
    (2, C, 5, 6),
    (C, C, C, C),
    (2, 6, C, 5),
]
SHAPES += [(2, C, 3, 4, 5), (C, 2, 3, 4, 5), (2, C, 2, 3, 2, 2), (0, C, 5, 6), (2, C, 0, 6), (0, C, 6), (C, 0, 6)]


@each_kind
def test_ranks_that_the_module_takes(kind):
    """Batches, single images, volumes, channels last by mistake, no images, no pixels."""
    plain, fast = make(kind), sat.accelerate(make(kind))
    taken = [s for s in SHAPES if assert_takes_what_the_module_takes(plain, fast, torch.randn(s), str(s))]
    assert (2, C, 5, 6) in taken


class Branch(nn.Module):
    """A layer that returns float32, as normalisation does under autocast on a GPU."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).float()


def test_a_block_whose_branch_has_another_dtype_than_its_map():
    plain = standins.SEResNetBottleneck(downsample=True).eval()
    fast = sat.accelerate(copy.deepcopy(plain))
    for block in (plain, fast):
        block.bfloat16()
        block.bn3, block.downsample = Branch(block.bn3), Branch(block.downsample)
    x = make_map().bfloat16()
    assert assert_takes_what_the_module_takes(plain, fast, x, "block", 3e-2, torch.bfloat16)


class Inline(nn.Module):
    """A block that holds the layers of a gate itself, as MBConv does."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Conv2d(C, C, 1), nn.Conv2d(C, C, 1)

    def forward(self, x):
        x = self.body(x)
        return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


def test_an_inline_gate_whose_map_has_another_dtype_than_the_block_got(monkeypatch):
    def read(m):
        return adapters.Parts((m.fc.weight, m.fc.bias), dict(gate="sigmoid"), (2,))

    known = adapters.Gate("channel_gate", read, inline=lambda block, gates, names, x: gates[0](block.body(x)))
    monkeypatch.setitem(adapters.ADAPTERS, f"{Inline.__module__}.Inline", known)
    plain = Inline()
    fast = sat.accelerate(copy.deepcopy(plain))
    assert type(fast) is not Inline
    for block in (plain, fast):
        block.bfloat16()
        block.body = Branch(block.body)
    x = make_map().bfloat16()
    assert assert_takes_what_the_module_takes(plain, fast, x, "inline", 3e-2, torch.bfloat16)


class Wrapped(nn.Module):
    """A layer beside which another has been put, as LoRA does: none of the layer's own attributes."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * 1.5


@each_kind
def test_children_that_were_wrapped(kind):
    """After accelerate, each child, and each child of a child: the own forward runs, wrapper and all."""
    for path in [name for name, _ in make(kind).named_modules() if name]:
        plain, fast = make(kind), sat.accelerate(make(kind))
        for gate in (plain, fast):
            gate.set_submodule(path, Wrapped(gate.get_submodule(path)))
        if not isinstance(outcome(copy.deepcopy(plain), make_map()), Exception):
            assert type(fast) is not type(plain)
            assert_takes_what_the_module_takes(plain, fast, make_map(), path)


@each_kind
def test_verify(kind):
    """In eval and in training, in each dtype of the module, which is not torch's default."""
    state = torch.random.get_rng_state()
    gates = [make(kind).to(dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16)]
    gates += [copy.deepcopy(gate).eval() for gate in gates]
    torch.random.set_rng_state(state)
    for gate, default in zip(gates, (torch.float32, torch.float32, torch.float64) * 2, strict=True):
        torch.set_default_dtype(default)
        try:
            sat.accelerate(gate, verify=True)
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(isinstance(gate, swap.Accelerated) for gate in gates)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_maps_without_values(dtype):
    """The meta device knows no autocast."""
    fast = sat.accelerate(make()).to("meta", dtype)
    y = fast(torch.empty(2, C, 5, 6, device="meta", dtype=dtype))
    assert (y.shape, y.dtype) == ((2, C, 5, 6), dtype)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@each_kind
def test_linear_weights_that_became_sparse(kind):
    plain, fast = make(kind), sat.accelerate(make(kind))
    for layer in [m for gate in (plain, fast) for m in gate.modules() if isinstance(m, nn.Linear)]:
        layer.weight = nn.Parameter(layer.weight.detach().to_sparse_csr(), requires_grad=False)
    takes = assert_takes_what_the_module_takes(plain, fast, make_map(), kind)
    assert takes or kind.startswith("coordinate-simple")  # torch has no product of three axes with such a weight


class Quantised(torch.Tensor):
    """Stands for a weight that a library has replaced by a tensor of its own class: it answers torch's calls only."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", "").startswith("segattn_triton"):
            raise TypeError("no kernel of this package knows this tensor")
        return super().__torch_function__(func, types, args, kwargs)


@each_kind
def test_weights_that_became_another_class(kind, monkeypatch):
    """After accelerate, as quantisation and sharding do it: the own forward runs, on the new weight."""
    gate, x = sat.accelerate(make(kind)), make_map()
    expected = make(kind)(x)
    torch.testing.assert_close(gate(x), expected)
    monkeypatch.setattr(swap, "_run", lambda *_, **__: pytest.fail("a kernel got the weight"))
    for module in gate.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                weight = nn.Parameter(parameter.detach().as_subclass(Quantised), requires_grad=False)
                module._parameters[name] = weight
    torch.testing.assert_close(gate(x).as_subclass(torch.Tensor), expected)
