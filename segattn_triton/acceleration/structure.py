"""Gates known by what they compute: the graph of a forward, read as pool, small perceptron and product.

Each node of the graph gets a term: what it is of the map. A node without one, and one whose value is used twice or not
at all, leaves the gate. The nodes are run on random values beside, so that a reshape is known by what it does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from ..reference.activations import ACTIVATIONS, ACTS, GATES, Spec
from . import trial
from .adapters import Gate, Parts, activation, layer, pools_to_one, spec_of
from .swap import plain_class
from .traced import MODULE_ATTRIBUTES, Unknown, is_of_torch, trace

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
KERNELS = {"squeeze_excite", "eca", "spatial_gate", "scse"}  # those that a graph can be
MOST_LEAVES, MOST_WEIGHTS = 16, 2**24  # a module of more is no gate, and not traced
SIDES = (5, 7, 3)  # of the map on which the nodes run


class Term(NamedTuple):
    """What a node is: x, flat (x with one axis of pixels), pool, layer, along (a convolution over the channels), pixel
    (one value a pixel), act, product, sum, larger, residual. `of` are its terms, `how` the rest."""

    kind: str
    of: tuple["Term", ...] = ()
    how: Any = None


X = Term("x")


class Value(NamedTuple):
    """A node's value, and its term; None of a plain number, such as a size."""

    value: Any
    term: Term | None


def is_candidate(module: nn.Module) -> bool:
    """Whether a module may be a gate, before it is traced: few small layers, with all parameters in them."""
    if is_of_torch(module) or isinstance(module, fx.GraphModule):
        return False
    leaves = [m for m in module.modules() if not m._modules]
    if not 2 <= len(leaves) <= MOST_LEAVES and not (len(leaves) == 1 and leaves[0] is not module):
        return False
    layers = [m for m in leaves if type(m) in _LAYERS]
    if not 1 <= len(layers) <= 3 or not all(map(_is_small, layers)):
        return False
    weights, held = list(module.parameters()), {id(p) for m in layers for p in m.parameters()}
    return all(id(p) in held for p in weights) and sum(p.numel() for p in weights) <= MOST_WEIGHTS


def _is_small(m: nn.Module) -> bool:
    along = isinstance(m, nn.Conv1d) and (m.in_channels, m.out_channels) == (1, 1)
    return isinstance(m, nn.Linear) or along or set(m.kernel_size) == {1}


def recognised(module: nn.Module) -> Gate:
    """The adapter of a module by its graph; Unknown with the reason."""
    graph, read = trace(module)
    (result,) = next(node.args for node in graph.nodes if node.op == "output")
    if not isinstance(result, fx.Node):
        raise Unknown(f"its forward returns a {type(result).__name__}, expected the gated map alone")
    if result.op == "call_module" or _name(result) not in _ENDS:
        raise Unknown("its forward does not end in a map times a gate")
    term, dims = _Terms(trial.random_twin(module), graph).of(result), _dims(module)
    kernel, reader = _reader(term, dims)

    def guarded(m: nn.Module) -> Parts:
        if not read.is_still_so(m, plain_class):
            raise ValueError("what its forward reads has changed since it was traced: its own forward runs")
        return reader(m)

    return Gate(kernel, guarded, way="structure")


_found: dict[tuple, Gate | str] = {}  # class and description of a module -> its adapter, or why there is none


def by_structure(module: nn.Module) -> Gate | str:
    """The adapter of a candidate by its graph, tried; or why there is none. Once for all that are described alike."""
    inner = [(path, m) for path, m in module.named_modules() if not is_of_torch(m)]
    said = [(path, {k: v for k, v in vars(m).items() if k not in MODULE_ATTRIBUTES}) for path, m in inner]
    dtypes = {p.dtype for p in module.parameters()}
    key = type(module), repr(module), repr(said), str(sorted(map(str, dtypes)))
    if key not in _found:
        devices = {p.device for p in module.parameters() if p.is_cuda}
        with torch.random.fork_rng(devices=devices):
            _found[key] = _tried(module)
    return _found[key]


def _tried(module: nn.Module) -> Gate | str:
    try:
        gate = recognised(module)
        return trial.difference_everywhere(module, gate, gate.read(module)) or gate
    except Exception as error:  # of a copy, or of whatever a forward does
        return str(error)


def _dims(module: nn.Module) -> int:
    """The spatial axes of the map, by the layers and pools."""
    sizes = {"1d": 1, "2d": 2, "3d": 3}
    names = [type(m).__name__[-2:] for m in module.modules() if not isinstance(m, nn.Conv1d)]
    return next((sizes[name] for name in names if name in sizes), 2)


class _Terms:
    """Runs a graph on values and terms."""

    def __init__(self, twin: nn.Module, graph: fx.Graph):
        self.twin, self.graph, self.values = twin, graph, {}
        layers = [m for m in twin.modules() if isinstance(m, _LAYERS)]
        first = layers[0]
        along = isinstance(first, nn.Conv1d) and first.in_channels == 1
        self.channels = 6 if along else first.in_features if isinstance(first, nn.Linear) else first.in_channels
        generator = torch.Generator().manual_seed(0)
        shape = (2, self.channels, *SIDES[: _dims(twin)])
        self.x = torch.randn(shape, generator=generator, dtype=torch.float64)

    @torch.no_grad()
    def of(self, result: fx.Node) -> Term:
        for node in self.graph.nodes:
            if node.op != "output":
                self.values[node] = self._run(node)
        self._check_users()
        return self.values[result].term

    def _check_users(self) -> None:
        for node, found in self.values.items():
            if found.term is None or found.term is X:
                continue
            users = [u for u in node.users if u.op == "output" or self.values[u].term is not None]
            if len(users) != 1:
                raise Unknown(f"its value {node.name} is used {len(users)} times, expected once")

    def _run(self, node: fx.Node) -> Value:
        if node.op == "placeholder":
            return Value(self.x, X)
        if node.op == "get_attr":
            raise Unknown(f"its forward uses {node.target} beside its layers")
        args = fx.map_arg(node.args, lambda n: self.values[n].value)
        kwargs = fx.map_arg(node.kwargs, lambda n: self.values[n].value)
        known = [self.values[n] for n in node.all_input_nodes]
        maps = [v for v in known if v.term is not None]
        value = self._call(node, args, kwargs)
        if not isinstance(value, Tensor):
            return Value(value, None)
        term = self._term(node, args, kwargs, maps, value)
        if term is None:
            raise Unknown(f"its forward has {_name(node)}, which no gate of the kernels has there")
        return Value(value, term)

    def _call(self, node: fx.Node, args: tuple, kwargs: dict) -> Any:
        args = tuple(a.clone() if isinstance(a, Tensor) else a for a in args)  # whatever it does in place
        try:
            if node.op == "call_module":
                return self.twin.get_submodule(node.target)(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], node.target)(*args[1:], **kwargs)
            return node.target(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise Unknown(f"its forward failed on a map of shape {tuple(self.x.shape)}: {error}") from None

    def _term(self, node: fx.Node, args: tuple, kwargs: dict, maps: list[Value], value: Tensor) -> Term | None:
        if node.op == "call_module":
            return self._of_module(node.target, maps[0], value)
        name = _name(node)
        if name in _RESHAPES and (len(maps) == 1 or name.endswith("_as")):
            given = self.values[node.args[0]]
            return None if given.term is None else self._same_vector(given, value) or self._flat(given, value)
        if len(maps) == 2 and node.args[0] is not node.args[1]:
            plain = len(node.args) == 2 and not node.kwargs and not (name in _IN_PLACE and maps[0].term is X)
            return self._of_two(_IN_PLACE.get(name, name), maps, value) if plain else None
        if len(maps) != 1:
            return None
        (given,) = maps
        if given.term in (X, Term("flat")):
            return self._pooled(node, name, value)
        return self._activated(name, args, kwargs, given) if len(node.all_input_nodes) == 1 else None

    def _of_module(self, path: str, given: Value, value: Tensor) -> Term | None:
        m = self.twin.get_submodule(path)
        if pools_to_one(m):
            return Term("pool", how=("avg", "first")) if given.term is X else None
        if isinstance(m, nn.Conv1d) and (m.in_channels, m.out_channels) == (1, 1) and given.value.shape[1:2] == (1,):
            padded = {"zeros": False, "circular": True}.get(m.padding_mode)
            odd = m.kernel_size[0] % 2 == 1 and m.padding == (m.kernel_size[0] // 2,)
            plain = odd and m.stride == m.dilation == (1,) and padded is not None
            return Term("along", (given.term,), (path, padded)) if plain and _is_vector(given) else None
        if isinstance(m, _LAYERS):
            layer(self.twin, path)
            if given.term is X and isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) and m.out_channels == 1:
                return Term("pixel", how=path)
            return Term("layer", (given.term,), path) if _is_vector(given) else None
        if isinstance(m, nn.Identity | nn.Flatten):
            return given.term if type(m) is nn.Identity else self._same_vector(given, value)
        return Term("act", (given.term,), path) if given.term is not X and spec_of(m) is not None else None

    def _same_vector(self, given: Value, value: Tensor) -> Term | None:
        """The term of a vector that was reshaped, or repeated to the map's shape."""
        if given.term in (X, Term("flat")):
            return None
        v, S = given.value, self.x.shape[2:]
        if given.term.kind == "pixel" or _is_of_pixels(given.term):
            same = value.shape in (v.shape, self.x.shape) and torch.equal(value, v.expand_as(value))
            return given.term if same else None
        flat = v if v.dim() == 2 else v.flatten(1)
        if v.shape == self.x.shape:
            return None
        if value.shape[0] == v.shape[0] and torch.equal(value.flatten(1), flat):
            return given.term
        if flat.shape != self.x.shape[:2] or value.shape != self.x.shape:
            return None
        return given.term if torch.equal(value, flat.reshape(*flat.shape, *[1] * len(S)).expand_as(value)) else None

    def _flat(self, given: Value, value: Tensor) -> Term | None:
        same = given.term is X and value.shape == self.x.flatten(2).shape and torch.equal(value, self.x.flatten(2))
        return Term("flat") if same else None

    def _pooled(self, node: fx.Node, name: str, value: Tensor) -> Term | None:
        """A mean or maximum of each channel over all pixels, whatever their number."""
        kind = _POOLS.get(name)
        if kind is None or value.shape[:2] != self.x.shape[:2] or value.numel() != 2 * self.channels:
            return None
        if (name in _WINDOWS) != (len(node.all_input_nodes) > 1):  # a window of the size of the map, whatever it is
            return None
        expected = self.x.flatten(2).mean(2) if kind[0] == "avg" else self.x.flatten(2).amax(2)
        return Term("pool", how=kind) if torch.allclose(value.flatten(1), expected, rtol=1e-12, atol=0) else None

    def _activated(self, name: str, args, kwargs, given: Value) -> Term | None:
        spec = _ACTIVATIONS.get(name)
        if spec is None:
            return None
        options = {**dict(zip(_OPTIONS.get(name, ()), args[1:], strict=False)), **kwargs}
        options.pop("inplace", None)
        options.pop("input", None)
        if name == "leaky_relu":
            spec = (spec, float(options.pop("negative_slope", 0.01)), 0.0)
        elif name == "gelu" and options.pop("approximate", "none") != "none":
            return None
        else:
            spec = (spec, ACTIVATIONS[spec].a, ACTIVATIONS[spec].b)
        return None if options or len(args) > 1 + len(_OPTIONS.get(name, ())) else Term("act", (given.term,), spec)

    def _of_two(self, name: str, maps: list[Value], value: Tensor) -> Term | None:
        """A map times its gate, sums of gated maps, the larger of two."""
        if value.shape != self.x.shape:
            return None
        terms = [v.term for v in maps]
        if name == "mul" and X in terms:
            gate, ones = maps[1 - terms.index(X)], [1] * (self.x.dim() - 2)
            narrow = (2, 1, *self.x.shape[2:]) if _is_of_pixels(gate.term) else (2, self.channels, *ones)
            known = gate.value.shape in (narrow, self.x.shape) and gate.term.kind not in _MAPS
            return Term("product", (gate.term,)) if known else None
        if any(v.value.shape != self.x.shape for v in maps):
            return None
        if name == "add" and X in terms and maps[1 - terms.index(X)].term.kind == "product":
            return Term("residual", (maps[1 - terms.index(X)].term,))
        if all(t.kind == "product" for t in terms):
            return {"add": Term("sum", tuple(terms)), "max": Term("larger", tuple(terms))}.get(name)
        return None


_MAPS = ("x", "flat", "product", "sum", "larger", "residual")
_ENDS = {"mul", "add", "iadd", "add_", "max"}
_RESHAPES = {"view", "reshape", "flatten", "squeeze", "unsqueeze", "expand", "expand_as", "contiguous", "getitem"}
_RESHAPES |= {"transpose", "permute", "swapaxes", "unflatten", "view_as", "reshape_as"}
_POOLS = {"mean": ("avg", "first"), "amax": ("max", "split")}
_POOLS |= {f"adaptive_avg_pool{d}d": ("avg", "first") for d in (1, 2, 3)}
_WINDOWS = {f"avg_pool{d}d" for d in (1, 2, 3)}
_POOLS |= {name: ("avg", "first") for name in _WINDOWS}
_ACTIVATIONS = {"sigmoid": "sigmoid", "relu": "relu", "relu_": "relu", "sigmoid_": "sigmoid", "tanh": "tanh"}
_ACTIVATIONS |= {"hardsigmoid": "hard_sigmoid", "silu": "silu", "hardswish": "hardswish", "gelu": "gelu"}
_ACTIVATIONS |= {"leaky_relu": "leaky_relu"}
_OPTIONS = {"relu": ("inplace",), "silu": ("inplace",), "hardsigmoid": ("inplace",), "hardswish": ("inplace",)}
_OPTIONS |= {"leaky_relu": ("negative_slope", "inplace")}
_SYNONYMS = {"multiply": "mul", "maximum": "max", "hard_sigmoid": "hardsigmoid", "_hardsigmoid": "hardsigmoid"}
_IN_PLACE = {"iadd": "add", "add_": "add"}


def _name(node: fx.Node) -> str:
    """The operation's name, of functions of torch, operators and methods alike."""
    if node.op == "call_module":
        return f"the module {node.target}"
    name = node.target if isinstance(node.target, str) else node.target.__name__
    return _SYNONYMS.get(name, name)


def _is_vector(given: Value) -> bool:
    """Whether it is one value a channel, or a layer's outputs, of each image."""
    kinds = ("pool", "layer", "along", "act")
    return given.term.kind in kinds and not _is_of_pixels(given.term)


def _is_of_pixels(term: Term) -> bool:
    return term.kind == "pixel" or (bool(term.of) and any(map(_is_of_pixels, term.of)))


Reader = Callable[[nn.Module], Parts]


def _reader(term: Term, dims: int) -> tuple[str, Reader]:
    """A function and how its tensors and options are read from a module, for what the whole forward is."""
    if term.kind in ("sum", "larger"):
        return _both(term, dims)
    shortcut = {"shortcut": True} if term.kind == "residual" else {}
    product = term.of[0] if shortcut else term
    if product.kind != "product":
        raise Unknown("its forward does not return its map times a gate")
    gate, inner = _split(product.of[0])
    if inner.kind == "pixel" and not shortcut:
        return "spatial_gate", lambda m: Parts(layer(m, inner.how), dict(gate=_spec(m, gate, GATES)), (dims,))
    if inner.kind == "along" and inner.of[0] == Term("pool", how=("avg", "first")) and not shortcut:
        path, circular = inner.how
        return "eca", lambda m: Parts(_along(m, path), dict(circular=circular, gate=_spec(m, gate, GATES)), (dims,))
    layers, act, (pool, ties) = _perceptron(inner)

    def read(m: nn.Module) -> Parts:
        tensors = tuple(t for path in layers for t in layer(m, path))
        options = dict(pool=pool, ties=ties, gate=_spec(m, gate, GATES), **shortcut)
        return Parts(tensors, options if len(layers) == 1 else {**options, "act": _spec(m, act, ACTS)}, (dims,))

    return "squeeze_excite", read


def _both(term: Term, dims: int) -> tuple[str, Reader]:
    """Two gates of one map, of the channels and of the pixels."""
    gates = [_split(product.of[0]) for product in term.of]
    gates.sort(key=lambda found: found[1].kind == "pixel")
    (gate, inner), (other, pixel) = gates
    if pixel.kind != "pixel" or inner.kind != "layer":
        raise Unknown("its two gates are not one of the channels and one of the pixels")
    layers, act, pool = _perceptron(inner)
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


def _split(term: Term) -> tuple[str | Spec, Term]:
    """The activation at the end, the identity without one, and what is inside."""
    return (term.how, term.of[0]) if term.kind == "act" else (_IDENTITY, term)


def _perceptron(term: Term) -> tuple[list[str], str | Spec, tuple[str, str]]:
    """The paths of one or two layers in order, the activation between them, and the pool before."""
    if term.kind != "layer":
        raise Unknown("its gate is not made by a layer")
    layers, act, inner = [term.how], _IDENTITY, term.of[0]
    if inner.kind != "pool":
        act, inner = _split(inner)
        if inner.kind != "layer" or inner.of[0].kind != "pool":
            raise Unknown("its gate is more than two layers after a pool")
        layers, inner = [inner.how, *layers], inner.of[0]
    return layers, act, inner.how


_IDENTITY: Spec = ("identity", 0.0, 0.0)


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
