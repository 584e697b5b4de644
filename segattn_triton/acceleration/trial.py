"""Whether a gate computes what its adapter says: tried once for each class, in float64, and on request for each gate.

What an adapter knows of a class was true of some version of its library. A trial on random values finds a version of
which it is not, before a number comes out wrong.
"""

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .adapters import Gate, Parts
from .swap import Accelerated, AcceleratedGate, maps_among, plain_class, swap

_DRAWN = torch.float32  # whatever the default is
_tried: dict[tuple, str | None] = {}  # class, options -> how it disagrees


@contextlib.contextmanager
def as_by_default() -> Iterator[None]:
    """A trial is the same whatever is active where it is made: a default device, inference mode, autocast."""
    with torch.device("cpu"), torch.inference_mode(False), torch.autocast("cpu", enabled=False):
        yield


def arguments(module: nn.Module, gate: Gate | None, parts: Parts, new: Callable[..., Tensor], side: int) -> tuple:
    """What the forward of a gate or a block takes: maps that `new` makes, of `side` pixels an axis or a multiple."""
    weight = next((t for t in parts.tensors if t is not None), torch.empty(1, 8))  # without any, 8 channels
    dims = next((d for d in (weight.dim() - 2, 2) if d in parts.dims), parts.dims[0])

    def made(channels: int, times: int = 1) -> Tensor:
        return new(2, channels, *[times * side] * dims)

    if gate is not None and gate.arguments:
        return gate.arguments(module, made)
    if gate is None or gate.inline:
        layers = (m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d))
        return (made(next(layers).in_channels),)
    in_weight = weight.shape[-1 if weight.dim() < 2 else 1]
    return (made({"eca": 8, "local_gate": weight.shape[0]}.get(gate.kernel, in_weight)),)


def _each(args: tuple, of: Callable[[Tensor], Tensor]) -> tuple:
    """The arguments with each map replaced, in dictionaries too."""
    return tuple({key: of(t) for key, t in a.items()} if isinstance(a, dict) else of(a) for a in args)


@torch.no_grad()
def random_twin(like: nn.Module) -> nn.Module:
    """A copy in its own classes, in float64 on the CPU, of random values that no ReLU passes unseen."""
    twin = copy.deepcopy(like)
    for module in twin.modules():
        if isinstance(module, Accelerated):
            module.__class__ = module._segattn_plain
    twin = twin.to_empty(device="cpu").double().eval()
    generator = torch.Generator().manual_seed(0)
    for t in twin.parameters():
        fan_in = max(1, t.numel() // max(1, t.shape[0] if t.dim() else 1))
        t.copy_(torch.randn(t.shape, generator=generator, dtype=_DRAWN) / fan_in**0.5)
    for t in twin.buffers():
        t.copy_(torch.rand(t.shape, generator=generator, dtype=_DRAWN) + 0.5)
    return twin


def _gates_of(module: nn.Module) -> Iterator[tuple[str, Gate]]:
    """The accelerated gates of a block, by the name that they have in it."""
    for name, child in module.named_modules():
        if isinstance(child, AcceleratedGate):
            yield name, child._segattn_gate


@as_by_default()
@torch.no_grad()
def disagreement(module: nn.Module, gate: Gate | None, parts: Parts) -> str | None:
    """How a gate, or a residual block whose gate is accelerated, differs from its own forward; None if it does not."""
    key = plain_class(module), gate, repr([(one.kernel, one.options) for one in (parts, *parts.more)]), parts.dims
    if key not in _tried:
        plain, fast = random_twin(module), random_twin(module)
        for name, inner in _gates_of(module) if gate is None else ():
            swap(fast.get_submodule(name), inner)
        swap(fast, gate)
        normal = functools.partial(torch.randn, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        _tried[key] = _difference(plain, fast, arguments(module, gate, parts, normal, side=5))
    return _tried[key]


def _difference(plain: nn.Module, fast: nn.Module, args: tuple) -> str | None:
    try:
        expected, got = plain(*args), fast(*args)
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
        shapes = " and ".join(str(tuple(x.shape)) for x in maps_among(args))
        return f"its forward failed on a map of shape {shapes}: {error}"
    if not isinstance(expected, Tensor):
        return f"its forward returns a {type(expected).__name__}, expected the gated map alone"
    same = got.shape == expected.shape and torch.allclose(got, expected, rtol=1e-6, atol=1e-8)
    other = "its forward computes something else than is known of its class"
    return None if same else f"{other}, maybe of another version: register_adapter() for a subclass of it"


_SHAPES = ((2, 5, 4, 3), (1, 4, 7, 2), (3, 1, 6, 2))  # images and the sizes of their axes


@torch.no_grad()
def difference_everywhere(module: nn.Module, gate: Gate, parts: Parts) -> str | None:
    """How a gate that is known by its graph alone differs from its own forward: in float64 and its own dtype, under
    autocast, training or not, of several sizes and memory orders, called twice. Values, dtype and strides of the
    result, whether it is the map itself, the map afterwards, and all gradients are compared."""
    plain = random_twin(module).requires_grad_()
    fast = copy.deepcopy(plain)
    swap(fast, gate)
    own = next((p.dtype for p in module.parameters()), torch.float32)
    cases = [(torch.float64, None), (own, None), (torch.float32, torch.bfloat16), (torch.float32, torch.float16)]
    for (dtype, autocast), training in itertools.product(cases, (False, True)):
        if training and autocast:
            continue
        for both in (plain, fast):
            both.to(dtype).train(training)
        for maps in _maps_of(module, gate, parts, dtype):
            shapes = " and ".join(str(tuple(x.shape)) for x in maps)
            where = f"for a map of {shapes} in {dtype}, autocast {autocast}, training {training}"
            tolerance = _TOLERANCES[autocast or dtype]
            has_to = dtype == torch.float64 and not training and all(x.is_contiguous() for x in maps)
            for gradients, _ in itertools.product((False, True), range(2)):
                expected, got = (_outcome(m, maps, autocast, gradients) for m in (plain, fast))
                if expected is None and has_to:
                    return f"its forward failed on a map of shape {shapes}"
                if expected is not None and not _agree(got, expected, tolerance):
                    return f"its forward computes something else than its graph says, {where}"
    return None


_TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}  # of the largest


def _maps_of(module: nn.Module, gate: Gate, parts: Parts, dtype: torch.dtype) -> Iterator[tuple[Tensor, ...]]:
    likes = arguments(module, gate, parts, torch.empty, side=1)
    for N, *sides in _SHAPES:
        generator = torch.Generator().manual_seed(1)
        shapes = [(N, like.shape[1], *sides[: like.dim() - 2]) for like in likes]
        maps = tuple(torch.randn(shape, generator=generator, dtype=_DRAWN).to(dtype) for shape in shapes)
        yield maps
        yield tuple(x.movedim(1, -1).contiguous().movedim(-1, 1) for x in maps)


def _outcome(module: nn.Module, maps: tuple[Tensor, ...], autocast: torch.dtype | None, gradients: bool) -> dict | None:
    """What a forward does, and its backward; None where the forward raises, with the buffers as before: a batch norm
    of one value a channel counts the batch, then raises."""
    before = [b.clone() for b in module.buffers()]
    leaves = [x.clone(memory_format=torch.preserve_format).requires_grad_(gradients) for x in maps]
    weights = [p for p in module.parameters() if gradients]
    with torch.set_grad_enabled(gradients):
        given = [leaf * 1 for leaf in leaves]  # which a forward may change in place
        try:
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                y = module(*given)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError):
            with torch.no_grad():
                for b, value in zip(module.buffers(), before, strict=True):
                    b.copy_(value)
            return None
    same = [y is x for x in given]
    facts = y.dtype, y.shape, [s for s, n in zip(y.stride(), y.shape, strict=True) if n > 1], same
    values = [y.detach(), *(x.detach() for x in given), *module.buffers()]
    if gradients:
        dy = torch.linspace(0.5, 1, y.numel(), dtype=_DRAWN).reshape(y.shape).to(y.dtype)
        values += torch.autograd.grad(y, [*leaves, *weights], dy, allow_unused=True)
    return {"facts": facts, "values": [None if t is None else t.clone() for t in values]}


def _agree(got: dict | None, expected: dict, tolerance: float) -> bool:
    if got is None or got["facts"] != expected["facts"]:
        return False
    largest = max(t.abs().max().item() for t in expected["values"] if t is not None)
    for ours, theirs in zip(got["values"], expected["values"], strict=True):
        if (ours is None) != (theirs is None):
            return False
        if ours is not None and not (ours - theirs).abs().max().item() <= tolerance * largest:
            return False
    return True


def _outputs_and_gradients(module: nn.Module, args: tuple) -> dict[str, Tensor]:
    """y, dx of each map and the gradient of each parameter, in float64, of a fixed gradient of y."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    args = _each(args, lambda x: x.clone().requires_grad_())
    named = {f"dx{n or ''}": x for n, x in enumerate(maps_among(args))} | named
    with torch.enable_grad():
        y = module(*args)
    dy = torch.linspace(0.5, 1, y.numel(), device=y.device, dtype=_DRAWN).reshape(y.shape).to(y.dtype)
    grads = torch.autograd.grad(y, list(named.values()), dy, allow_unused=True)
    values = dict(zip(["y", *named], [y.detach(), *grads], strict=True))
    return {name: value.double() for name, value in values.items() if value is not None}


def verify(name: str, module: nn.Module, fast: nn.Module, gate: Gate | None, parts: Parts) -> None:
    """Raise RuntimeError unless `fast` is at most four times as far from float64 as the module itself.

    Map and gradient are positive, as after a ReLU: sums that cancel would make the error of either a matter of luck.
    """
    given = (t for t in (*module.parameters(), *parts.tensors) if t is not None and t.is_floating_point())
    like = next(given, torch.empty(0, dtype=_DRAWN))  # parts may be wider than the module: folded, or none
    if like.is_meta:
        raise RuntimeError(f"verify: {name} has no values to compare: it is on the meta device")
    positive = functools.partial(torch.rand, generator=torch.Generator().manual_seed(0), dtype=_DRAWN)
    args = _each(arguments(module, gate, parts, positive, side=6), lambda x: x.to(like))
    exact = _outputs_and_gradients(copy.deepcopy(module).double(), _each(args, Tensor.double))
    own, ours = _outputs_and_gradients(copy.deepcopy(module), args), _outputs_and_gradients(fast, args)
    sizes = {key: value.abs().max().item() for key, value in exact.items()}
    largest = max(sizes.values())  # a gradient that is zero but for rounding, as before a norm, has no size of its own
    sizes = {key: size if size > 2.0**-40 * largest else largest for key, size in sizes.items()}
    apart = max((own[key] - exact[key]).abs().max().item() / sizes[key] for key in sizes if sizes[key])
    eps = max(torch.finfo(like.dtype).eps, 2.0**-23)  # torch's own hardsigmoid has float32 constants
    relative = 4 * (apart + eps)
    for key, size in sizes.items():
        error = (ours[key] - exact[key]).abs().max().item()
        if not error <= relative * size:
            raise RuntimeError(
                f"verify: {name}: {key} is off by {error:.3g}, expected at most {relative * size:.3g} of {size:.3g}. "
                "The model is unchanged"
            )
