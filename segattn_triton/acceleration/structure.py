"""Gates known by what they compute: the graph of a forward, read as pool, small perceptron and product.

Every node of the graph is part of it, or the module is left. What is found is tried before it is taken, and what Python
read while the graph was made is watched after.
"""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from ..modules._children import folded, uses_batch
from ..reference.activations import ACTS, GATES, Spec
from . import trial
from .adapters import Gate, Parts, activation, layer, of_pixels, part, squeeze_excite_norm, window
from .lookalike import multiplies
from .perceptron import perceptron, perceptron_with_norms, split
from .swap import is_observed, plain_class
from .term import Term, X
from .terms import ENDS, LAYERS, axes_of, is_any_window, name_of, term_of
from .traced import MODULE_ATTRIBUTES, Unknown, is_of_torch, trace
from .twomaps import NORMS, attention, takes_two_maps

# those that a graph can be
KERNELS = {"squeeze_excite", "eca", "spatial_gate", "scse", "cbam", "cbam_spatial_gate", "attention_gate"}
MOST_LEAVES, MOST_WEIGHTS = 16, 2**24  # a module of more is no gate, and not traced


def is_candidate(module: nn.Module) -> bool:
    """Whether a module may be a gate, before it is traced: few small layers, with all parameters in them."""
    if is_of_torch(module) or isinstance(module, fx.GraphModule):
        return False
    leaves = [m for m in module.modules() if not m._modules]
    if not 2 <= len(leaves) <= MOST_LEAVES and not (len(leaves) == 1 and leaves[0] is not module):
        return False
    layers = [m for m in leaves if type(m) in LAYERS]
    if not 1 <= len(layers) <= 3 or not all(map(_is_small, layers)):
        return False
    norms = [m for m in leaves if isinstance(m, NORMS)]
    if norms and not any(multiplies(type(m).forward) for m in module.modules() if not is_of_torch(m)):
        return False  # a layer with its norm, of which a model has many
    weights, held = list(module.parameters()), {id(p) for m in (*layers, *norms) for p in m.parameters()}
    return all(id(p) in held for p in weights) and sum(p.numel() for p in weights) <= MOST_WEIGHTS


def _is_small(m: nn.Module) -> bool:
    along = isinstance(m, nn.Conv1d) and (m.in_channels, m.out_channels) == (1, 1)
    return isinstance(m, nn.Linear) or along or set(m.kernel_size) == {1} or is_any_window(m)


def recognised(module: nn.Module) -> Gate:
    """The adapter of a module by its graph; Unknown with the reason."""
    graph, read = trace(module)
    (result,) = next(node.args for node in graph.nodes if node.op == "output")
    if not isinstance(result, fx.Node):
        raise Unknown(f"its forward returns a {type(result).__name__}, expected the gated map alone")
    if takes_two_maps(module):
        return attention(module, graph, result, read, plain_class)
    if result.op == "call_module" or name_of(result) not in ENDS:
        raise Unknown("its forward does not end in a map times a gate")
    term, dims = term_of(trial.random_twin(module), graph, result), axes_of(module)
    kernel, reader = _reader(term, dims)

    def guarded(m: nn.Module) -> Parts:
        if not read.is_still_so(m, plain_class):
            raise ValueError("what its forward reads has changed since it was traced: its own forward runs")
        return reader(m)

    pixels, folded_only = _norms_of(term)
    if pixels or folded_only:
        keeps = _keeps_its_own(pixels, folded_only)
        return Gate(kernel, guarded, way="structure", inline=keeps, arguments=_one_map(reader))
    return Gate(kernel, guarded, way="structure")


_found: dict[tuple, Gate | str] = {}  # class and description of a module -> its adapter, or why there is none


def by_structure(module: nn.Module) -> Gate | str:
    """The adapter of a candidate by its graph, tried; or why there is none. Once for all that are described alike."""
    if is_observed(module):  # its own forward would run in its trial, too
        return "a child of it has hooks, which its own forward runs: until they are removed"
    try:
        key = _described(module)
    except Exception as error:  # of whatever it holds
        return f"it cannot be described: {error}"
    if key not in _found:
        devices = {p.device for p in module.parameters() if p.is_cuda}
        with torch.random.fork_rng(devices=devices):
            _found[key] = _tried(module)
    return _found[key]


def _described(module: nn.Module) -> tuple:
    inner = [(path, m) for path, m in module.named_modules() if not is_of_torch(m)]
    said = [(path, {k: v for k, v in vars(m).items() if k not in MODULE_ATTRIBUTES}) for path, m in inner]
    dtypes = {p.dtype for p in module.parameters()}
    return type(module), repr(module), repr(said), str(sorted(map(str, dtypes)))


@trial.as_by_default()
def _tried(module: nn.Module) -> Gate | str:
    try:
        gate = recognised(module)
        return trial.difference_everywhere(module, gate, gate.read(module)) or gate
    except Exception as error:  # of a copy, or of whatever a forward does
        return str(error)


Reader = Callable[[nn.Module], Parts]


def _reader(term: Term, dims: int) -> tuple[str, Reader]:
    """A function and how its tensors and options are read from a module, for what the whole forward is."""
    if term.kind in ("sum", "larger"):
        return _both(term, dims)
    shortcut = {"shortcut": True} if term.kind == "residual" else {}
    product = term.of[0] if shortcut else term
    if product.kind != "product":
        raise Unknown("its forward does not return its map times a gate")
    gate, inner = split(product.of[0])
    if inner.kind == "window" and inner.of == (product.of[1:] or (X,)):
        return _pooled_pixels(product, bool(shortcut))
    if product.of[1:]:
        raise Unknown("its map is multiplied by two gates, which are not those of CBAM")
    if inner.kind == "pixel" and not shortcut:
        return "spatial_gate", lambda m: Parts(layer(m, inner.how), dict(gate=_spec(m, gate, GATES)), (dims,))
    if inner.kind == "along" and inner.of[0] == Term("pool", how=("avg", "first")) and not shortcut:
        path, circular = inner.how
        return "eca", lambda m: Parts(_along(m, path), dict(circular=circular, gate=_spec(m, gate, GATES)), (dims,))
    layers, act, (pool, ties), norms = perceptron_with_norms(inner)
    places = list(zip(layers, norms, strict=False))

    def read(m: nn.Module) -> Parts:
        options = dict(pool=pool, ties=ties, **shortcut)
        gated, between = _spec(m, gate, GATES), None if len(layers) == 1 else _spec(m, act, ACTS)
        if pool == "avg+max":
            options |= dict(gate=gated) | ({} if between is None else {"act": between})
            return Parts(tuple(t for path, norm in places for t in _folded(m, path, norm)), options, (dims,))
        parts = squeeze_excite_norm(m, places, between, gated, (dims,))
        return parts._replace(options={**parts.options, **options})

    return "squeeze_excite", read


def _folded(m: nn.Module, path: str, norm: str | None) -> tuple[Tensor, Tensor | None]:
    """A layer, and the norm behind it, if there is one, by its running statistics."""
    if norm is not None and part(m, norm).running_mean is None:
        raise ValueError(f"its child {norm!r} has no running statistics")
    return layer(m, path) if norm is None else folded(part(m, path), part(m, norm))


def _pooled_pixels(product: Term, residual: bool) -> tuple[str, Reader]:
    """CBAM, or its gate of the pixels alone."""
    gate, inner = split(product.of[0])
    path, norm, how, ties = inner.how
    maps, spatial_pool = (1, "max,mean") if how == "half" else (2, how)
    if not product.of[1:]:
        if residual:
            raise Unknown("its gate of the pixels has a shortcut")
        options = dict(pool=spatial_pool, ties=ties)
        return "cbam_spatial_gate", lambda m: _with_window(
            m, path, norm, maps, (), {**options, "gate": _spec(m, gate, GATES)}
        )
    first, mlp = split(product.of[1].of[0])
    layers, act, (pool, channel_ties) = perceptron(mlp)
    if pool != "avg" and channel_ties != ties:
        raise Unknown("its two halves share the gradients of ties in two ways")

    def read(m: nn.Module) -> Parts:
        gated = _spec(m, gate, GATES)
        if gated != _spec(m, first, GATES):
            raise ValueError("its two gates differ: the kernel has one for both")
        weights = [t for path in layers for t in layer(m, path)]
        options = dict(pool=pool, spatial_pool=spatial_pool, ties=ties, gate=gated, residual=residual)
        options |= dict(act=_spec(m, act, ACTS)) if len(layers) == 2 else {}
        return _with_window(m, path, norm, maps, (*weights, *[None] * (4 - len(weights))), options)

    return "cbam", read


def _with_window(m: nn.Module, path: str, norm: str | None, maps: int, before: tuple, options: dict) -> Parts:
    """The parts with the convolution of the pixels, and its norm: folded, or that of the batch."""
    conv, bn = window(m, path, maps), None if norm is None else part(m, norm)
    if bn is None:
        return Parts((*before, conv.weight, conv.bias), options, (2,))
    if not uses_batch(bn):
        return Parts((*before, *folded(conv, bn)), options, (2,))
    if bn.weight is None:
        raise ValueError("its norm is of the batch and has no weight")
    tensors = *before, conv.weight, conv.bias, bn.weight, bn.bias
    return of_pixels(Parts(tensors, options, (2,)), bn)


def _norms_of(term: Term) -> tuple[str | None, tuple[str, ...]]:
    """The path of the norm of the pixels' convolution, and those of norms that are folded, and else not taken: in a
    perceptron of two pools."""
    product = term.of[0] if term.kind == "residual" else term
    inner = split(product.of[0])[1] if product.kind == "product" else X
    if inner.kind == "window":
        return inner.how[1], ()
    if inner.kind not in ("layer", "normed"):
        return None, ()
    _, _, (pool, _), norms = perceptron_with_norms(inner)
    return None, tuple(norm for norm in norms if norm) if pool == "avg+max" else ()


def _keeps_its_own(pixels: str | None, folded_only: tuple[str, ...]) -> Callable:
    """The forward of a gate with norms: its own where a norm is of the batch that no kernel takes, or where the
    gradient of a folded norm of the pixels would be a sum that cancels."""

    def keeps(block: nn.Module) -> bool:
        if any(uses_batch(part(block, path)) for path in folded_only):
            return True
        norm = None if pixels is None else part(block, pixels)
        learns = norm is not None and norm.weight is not None and norm.weight.requires_grad
        return learns and torch.is_grad_enabled() and not uses_batch(norm)

    def forward(block: nn.Module, gates, names: dict, *args, **kwargs):
        maps = (*args, *kwargs.values())
        if len(maps) != 1 or keeps(block):
            return type(block)._segattn_plain.forward(block, *args, **kwargs)
        return gates[0](*maps)

    return forward


def _one_map(reader: Reader) -> Callable:
    def arguments(m: nn.Module, new) -> tuple[Tensor]:
        weight = reader(m).tensors[0]
        return (new(4 if weight.dim() == 4 and weight.shape[2:] != (1, 1) else weight.shape[1]),)

    return arguments


def _both(term: Term, dims: int) -> tuple[str, Reader]:
    """Two gates of one map, of the channels and of the pixels."""
    if any(product.of[1:] for product in term.of):
        raise Unknown("its two gates are not of one map")
    gates = [split(product.of[0]) for product in term.of]
    gates.sort(key=lambda found: found[1].kind == "pixel")
    (gate, inner), (other, pixel) = gates
    if pixel.kind != "pixel" or inner.kind != "layer":
        raise Unknown("its two gates are not one of the channels and one of the pixels")
    layers, act, pool = perceptron(inner)
    if len(layers) != 2 or pool != ("avg", "first"):
        raise Unknown("its gate of the channels is not of two layers and a mean")

    def read(m: nn.Module) -> Parts:
        gated = _spec(m, gate, GATES)
        if gated != _spec(m, other, GATES):
            raise ValueError("its two gates differ: the kernel has one for both")
        tensors = tuple(t for path in (*layers, pixel.how) for t in layer(m, path))
        reduce = "sum" if term.kind == "sum" else "max"
        return Parts(tensors, dict(act=_spec(m, act, ACTS), gate=gated, reduce=reduce), (dims,))

    return "scse", read


def _spec(m: nn.Module, how: str | Spec, allowed: tuple[str, ...]) -> Spec:
    """The constants of an activation, read from its module where it is one."""
    if isinstance(how, str):
        return activation(m, how, allowed)
    if how[0] not in allowed:
        raise ValueError(f"its activation is {how[0]}: the kernels have {', '.join(allowed)}")
    return how


def _along(m: nn.Module, path: str) -> tuple[Tensor, Tensor | None]:
    conv = m.get_submodule(path)
    return conv.weight, conv.bias
