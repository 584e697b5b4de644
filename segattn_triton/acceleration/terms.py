"""What each node of a forward's graph is of the map: pool, layer, activation, product.

A node without a term, and one whose value is used twice or not at all, is none of a gate's. The nodes are run on random
values beside, so that a reshape is known by what it does.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from ..reference.activations import ACTIVATIONS
from .adapters import is_window, layer, pools_to_one, spec_of
from .term import Term, Value, X, across, added, is_map, is_of_pixels, is_vector, of_both_pools, pair, weighted
from .traced import Unknown

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
SIDES = ((5, 7, 3), (6, 4, 8))  # of the maps on which the nodes run


def axes_of(module: nn.Module) -> int:
    """The spatial axes of the map, by the layers and pools."""
    sizes = {"1d": 1, "2d": 2, "3d": 3}
    names = [type(m).__name__[-2:] for m in module.modules() if not isinstance(m, nn.Conv1d | nn.BatchNorm1d)]
    return next((sizes[name] for name in names if name in sizes), 2)


def term_of(twin: nn.Module, graph: fx.Graph, result: fx.Node) -> Term:
    """What a forward is of its map, whatever the map's size."""
    terms = [Terms(twin, graph, sides).of(result) for sides in SIDES]
    if len({*terms}) != 1:
        raise Unknown("its forward depends on the size of the map")
    return terms[0]


class Terms:
    """Runs a graph on values and terms."""

    def __init__(self, twin: nn.Module, graph: fx.Graph, sides: tuple[int, ...]):
        self.twin, self.graph, self.values = twin, graph, {}
        called = [twin.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"]
        layers = [m for m in called if isinstance(m, LAYERS) and not is_any_window(m)]
        first = layers[0] if layers else None
        any_number = first is None or (isinstance(first, nn.Conv1d) and first.in_channels == 1)
        self.channels = 6 if any_number else first.in_features if isinstance(first, nn.Linear) else first.in_channels
        generator = torch.Generator().manual_seed(0)
        shape = (2, self.channels, *sides[: axes_of(twin)])
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
            if found.term is None or found.term is X or self._is_unused_place(node):
                continue
            users = [u for u in node.users if u.op == "output" or self._counts(u)]
            if len(users) != 1 and not (users and (is_map(found.term) or found.term == Term("flat"))):
                raise Unknown(f"its value {node.name} is used {len(users)} times, expected once")

    def _counts(self, node: fx.Node) -> bool:
        return self.values[node].term is not None and not self._is_unused_place(node)

    def _is_unused_place(self, node: fx.Node) -> bool:
        """The indices of torch.max, which its values are unpacked with."""
        return self.values[node].term is not None and self.values[node].term.kind == "places" and not node.users

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
        if isinstance(value, torch.return_types.max) and len(maps) == len(node.all_input_nodes) == 1:
            return Value(value, across(maps[0], "max", value.values) or self._peak(maps[0], value.values))
        if not isinstance(value, Tensor):
            if not isinstance(value, int | float | tuple | list):  # sizes, and what is counted with them
                raise Unknown(f"its forward has {name_of(node)}, which makes no map")
            return Value(value, None)
        term = self._term(node, args, kwargs, maps, value) if maps else None
        if term is None:
            raise Unknown(f"its forward has {name_of(node)}, which no gate of the kernels has there")
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
        name = name_of(node)
        if isinstance(maps[0].value, tuple):
            return maps[0].term if value is maps[0].value.values else Term("places", (maps[0].term,))
        if name == "cat":
            return pair([self.values[n] for n in node.args[0]], value)
        if name in _RESHAPES and (len(maps) == 1 or name.endswith("_as")):
            given = self.values[node.args[0]]
            return None if given.term is None else self._same_vector(given, value) or self._flat(given, value)
        if len(maps) == 2 and node.args[0] is not node.args[1]:
            plain = len(node.args) == 2 and not node.kwargs and not (name in _IN_PLACE and maps[0].term is X)
            return self._of_two(_IN_PLACE.get(name, name), maps, value) if plain else None
        if len(maps) != 1:
            return None
        (given,) = maps
        if is_map(given.term) or given.term == Term("flat"):
            pooled = self._pooled(node, name, value) if given.term in (X, Term("flat")) else None
            return pooled or (across(given, name, value) if len(node.all_input_nodes) == 1 else None)
        if len(node.all_input_nodes) > 1:
            return None
        return (
            self._hard_sigmoid(name, args, given.term)
            or self._weighted(name, node, given.term)
            or self._activated(name, args, kwargs, given)
        )

    def _weighted(self, name: str, node: fx.Node, given: Term) -> Term | None:
        """A pool, or a sum of pools, times a number or over one."""
        numbers = [a for a in node.args if type(a) in (int, float)]
        if len(node.args) != 2 or len(numbers) != 1 or node.kwargs:
            return None
        over = name in ("truediv", "div") and node.args[1] is numbers[0] and numbers[0] != 0
        if name != "mul" and not over:
            return None
        return weighted(given, 1 / numbers[0] if over else numbers[0])

    def _hard_sigmoid(self, name: str, args: tuple, given: Term) -> Term | None:
        """relu6(z + 3) / 6, as it is written where torch's is not used: the sum, the clip, the quotient."""
        number = args[1] if len(args) == 2 and isinstance(args[1], int | float) else None
        if name == "add" and number == 3 and is_vector(given):
            return Term("shifted", (given,))
        if name == "relu6" and given.kind == "shifted":
            return Term("clipped", given.of)
        if given.kind == "clipped" and (name, number) in (("truediv", 6), ("div", 6), ("mul", 1 / 6)):
            return Term("act", given.of, ("hard_sigmoid", 1 / 6, 0.5))
        return None

    def _of_module(self, path: str, given: Value, value: Tensor) -> Term | None:
        m = self.twin.get_submodule(path)
        if pools_to_one(m):
            return Term("pool", how=("avg", "first")) if given.term is X else None
        if isinstance(m, nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool3d):
            whole = value.numel() == 2 * self.channels and set(_tuple(m.output_size)) == {1}
            return Term("pool", how=("max", "first")) if given.term is X and whole else None
        if given.term.kind in ("pair", "half"):
            known = is_window(m, 1 if given.term.kind == "half" else 2)
            how = given.term.how if given.term.kind == "pair" else ("half", given.term.how)
            return Term("window", given.term.of, (path, None, *how)) if known else None
        if type(m) is nn.BatchNorm2d and given.term.kind == "window" and given.term.how[1] is None:
            return given.term._replace(how=(given.term.how[0], path, *given.term.how[2:]))
        if type(m) in (nn.BatchNorm1d, nn.BatchNorm2d):
            return Term("normed", (given.term,), path) if given.term.kind == "layer" else None
        if isinstance(m, nn.Conv1d) and (m.in_channels, m.out_channels) == (1, 1) and given.value.shape[1:2] == (1,):
            padded = {"zeros": False, "circular": True}.get(m.padding_mode)
            odd = m.kernel_size[0] % 2 == 1 and m.padding == (m.kernel_size[0] // 2,)
            plain = odd and m.stride == m.dilation == (1,) and padded is not None
            return Term("along", (given.term,), (path, padded)) if plain and is_vector(given.term) else None
        if isinstance(m, LAYERS):
            layer(self.twin, path)
            if given.term is X and isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) and m.out_channels == 1:
                return Term("pixel", how=path)
            return Term("layer", (given.term,), path) if is_vector(given.term) else None
        if type(m) is nn.ReLU6:
            return Term("clipped", given.term.of) if given.term.kind == "shifted" else None
        if isinstance(m, nn.Identity | nn.Flatten | nn.Unflatten):
            return given.term if type(m) is nn.Identity else self._same_vector(given, value)
        return Term("act", (given.term,), path) if given.term is not X and spec_of(m) is not None else None

    def _same_vector(self, given: Value, value: Tensor) -> Term | None:
        """The term of a vector that was reshaped, or repeated to the map's shape."""
        if given.term in (X, Term("flat")):
            return None
        v, S = given.value, self.x.shape[2:]
        if is_of_pixels(given.term):
            if value.shape == (2, 1, *S):
                return given.term if torch.equal(value.flatten(), v.flatten()) else None
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

    def _peak(self, given: Value, value: Tensor) -> Term | None:
        """The maximum of each channel along the one axis of its pixels."""
        same = given.term == Term("flat") and torch.equal(value.flatten(1), given.value.amax(2))
        return Term("pool", how=("max", "first")) if same else None

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
        """A map times its gate, sums of gated maps, the larger of two; the sum of a perceptron of two pools."""
        terms = [v.term for v in maps]
        if name == "add" and maps[0].value.shape == maps[1].value.shape == value.shape:
            if found := added(*terms) or (of_both_pools(*terms) if is_vector(terms[0]) else None):
                return found
        if value.shape != self.x.shape:
            return None
        at = next((i for i, t in enumerate(terms) if is_map(t) and terms[1 - i].kind not in _MAPS), None)
        if name == "mul" and at is not None:
            base, gate, ones = terms[at], maps[1 - at], [1] * (self.x.dim() - 2)
            narrow = (2, 1, *self.x.shape[2:]) if is_of_pixels(gate.term) else (2, self.channels, *ones)
            known = gate.value.shape in (narrow, self.x.shape)
            return Term("product", (gate.term,) if base is X else (gate.term, base)) if known else None
        if any(v.value.shape != self.x.shape for v in maps):
            return None
        if name == "add" and X in terms and maps[1 - terms.index(X)].term.kind == "product":
            return Term("residual", (maps[1 - terms.index(X)].term,))
        if all(t.kind == "product" for t in terms):
            return {"add": Term("sum", tuple(terms)), "max": Term("larger", tuple(terms))}.get(name)
        return None


_MAPS = ("x", "flat", "product", "sum", "larger", "residual")
ENDS = {"mul", "add", "iadd", "add_", "max"}
_RESHAPES = {"view", "reshape", "flatten", "squeeze", "unsqueeze", "expand", "expand_as", "contiguous", "getitem"}
_RESHAPES |= {"transpose", "permute", "swapaxes", "unflatten", "view_as", "reshape_as"}
_POOLS = {"mean": ("avg", "first"), "amax": ("max", "split")}
_POOLS |= {f"adaptive_avg_pool{d}d": ("avg", "first") for d in (1, 2, 3)}
_WINDOWS = {f"avg_pool{d}d" for d in (1, 2, 3)}
_POOLS |= {name: ("avg", "first") for name in _WINDOWS}
_WINDOWS |= {f"max_pool{d}d" for d in (1, 2, 3)}
_POOLS |= {f"{how}max_pool{d}d": ("max", "first") for d in (1, 2, 3) for how in ("", "adaptive_")}
_ACTIVATIONS = {"sigmoid": "sigmoid", "relu": "relu", "relu_": "relu", "sigmoid_": "sigmoid", "tanh": "tanh"}
_ACTIVATIONS |= {"hardsigmoid": "hard_sigmoid", "silu": "silu", "hardswish": "hardswish", "gelu": "gelu"}
_ACTIVATIONS |= {"leaky_relu": "leaky_relu"}
_OPTIONS = {"relu": ("inplace",), "silu": ("inplace",), "hardsigmoid": ("inplace",), "hardswish": ("inplace",)}
_OPTIONS |= {"leaky_relu": ("negative_slope", "inplace")}
_SYNONYMS = {"multiply": "mul", "maximum": "max", "hard_sigmoid": "hardsigmoid", "_hardsigmoid": "hardsigmoid"}
_IN_PLACE = {"iadd": "add", "add_": "add"}


def name_of(node: fx.Node) -> str:
    """The operation's name, of functions of torch, operators and methods alike."""
    if node.op == "call_module":
        return f"the module {node.target}"
    name = node.target if isinstance(node.target, str) else node.target.__name__
    return _SYNONYMS.get(name, name)


def is_any_window(m: nn.Module) -> bool:
    """A convolution of the pair of maps, or of half their sum."""
    return is_window(m) or (is_window(m, 1) and m.kernel_size != (1, 1))


def _tuple(size) -> tuple:
    return tuple(size) if isinstance(size, tuple | list) else (size,)
