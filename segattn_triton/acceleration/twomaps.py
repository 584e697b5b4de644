"""The attention gate by its graph: x * gate(norm(<w, relu(norm(Wg g) + norm(Wx x))>)) of two maps, in either order.

Layers and norms are modules of the gate, the ReLU, the sum and the gate's activation modules or functions.
"""

from types import FunctionType

import torch
from torch import Tensor, fx, nn

from ..reference.activations import ACTIVATIONS, GATES
from .adapters import Gate, Parts, activation, part
from .adapters.attention import Layer, attention_parts
from .traced import Read, Unknown

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def takes_two_maps(module: nn.Module) -> bool:
    forward = type(module).forward
    return isinstance(forward, FunctionType) and forward.__code__.co_argcount == 3 and not forward.__defaults__


def attention(module: nn.Module, graph: fx.Graph, result: fx.Node, read: Read, plain_class) -> Gate:
    """The adapter of a module by its graph of two maps; Unknown where it is no attention gate."""
    places = [node for node in graph.nodes if node.op == "placeholder"]
    found = _Matcher(module, places)
    x, psi = found.product(result)
    weight, inner = found.layers(found.gated(found.narrow(psi, x)))
    g_layers, x_layers = found.projections(inner, x)
    if len(found.used) != len([node for node in graph.nodes if node.op not in ("placeholder", "output")]):
        raise Unknown("its forward computes more than an attention gate")
    order, map_name = [place.target for place in places], x.target
    (gating_name,) = {*order} - {map_name}
    known = Layer(*x_layers), Layer(*g_layers), Layer(*weight)

    def parts(m: nn.Module) -> Parts:
        if not read.is_still_so(m, plain_class):
            raise ValueError("what its forward reads has changed since it was traced: its own forward runs")
        gate = activation(m, found.gate, GATES) if isinstance(found.gate, str) else found.gate
        return attention_parts(m, *known, gate)

    def forward(block: nn.Module, gates, names_of_module: dict, *args: Tensor, **kwargs: Tensor):
        maps = {**dict(zip(order, args, strict=False)), **kwargs}
        both = len(args) + len(kwargs) == 2 and maps.keys() == set(order)
        if not both or not _are_alike(*maps.values(), part(block, x_layers[0]).weight):
            return type(block)._segattn_plain.forward(block, *args, **kwargs)
        return gates[0](maps[map_name], g=maps[gating_name])

    def arguments(m: nn.Module, new) -> tuple[Tensor, ...]:
        maps = {map_name: x_layers[0], gating_name: g_layers[0]}
        return tuple(new(part(m, maps[name]).in_channels) for name in order)

    return Gate("attention_gate", parts, inline=forward, arguments=arguments, way="structure")


def _are_alike(one: object, other: object, weight: Tensor) -> bool:
    """Whether both are maps of one dtype and size, which torch's layers take."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return False
    casts = one.dtype == weight.dtype or torch.is_autocast_enabled(one.device.type)
    return casts and one.dtype == other.dtype and one.shape[2:] == other.shape[2:]


class _Matcher:
    """The nodes of a graph, from its end to its maps; each is used once."""

    def __init__(self, module: nn.Module, places: list[fx.Node]):
        self.module, self.places, self.used, self.gate = module, places, set(), None

    def child(self, node: object) -> nn.Module | None:
        return (
            self.module.get_submodule(node.target) if isinstance(node, fx.Node) and node.op == "call_module" else None
        )

    def take(self, node: fx.Node, of: int) -> list[fx.Node]:
        """The nodes that this one is computed from, `of` many, and nothing else."""
        args = list(node.args)
        plain = len(args) == of and all(isinstance(a, fx.Node) for a in args) and not node.kwargs
        if not plain or len(node.users) != 1:
            raise Unknown(f"its value {node.name} is no part of an attention gate")
        self.used.add(node)
        return args

    def is_called(self, node: object, *names: str) -> bool:
        if not isinstance(node, fx.Node) or node.op not in ("call_function", "call_method"):
            return False
        return (node.target if isinstance(node.target, str) else node.target.__name__) in names

    def product(self, node: object) -> tuple[fx.Node, fx.Node]:
        """x and what it is multiplied by."""
        if not self.is_called(node, "mul", "multiply"):
            raise Unknown("its forward does not end in a map times a gate")
        one, other = self.take(node, 2)
        if other in self.places:
            one, other = other, one
        if one not in self.places:
            raise Unknown("its forward does not end in one of its maps times a gate")
        return one, other

    def narrow(self, node: fx.Node, x: fx.Node) -> fx.Node:
        """The gate before it is repeated to the shape of x, where it is."""
        return self.take(node, 2)[0] if self.is_called(node, "expand_as") and node.args[1] is x else node

    def gated(self, node: fx.Node) -> fx.Node:
        """What the gate's activation is of."""
        if self.is_called(node, "sigmoid"):
            self.gate = ("sigmoid", ACTIVATIONS["sigmoid"].a, ACTIVATIONS["sigmoid"].b)
        elif self.child(node) is not None and not isinstance(self.child(node), (*_CONVOLUTIONS, *NORMS)):
            self.gate = node.target
        else:
            raise Unknown("its gate has no activation")
        return self.take(node, 1)[0]

    def layers(self, node: fx.Node) -> tuple[tuple[str, str | None], fx.Node]:
        """The convolution and the norm after it, by their names, and what they are of."""
        norm = None
        if isinstance(self.child(node), NORMS):
            norm, (node,) = node.target, self.take(node, 1)
        if not isinstance(self.child(node), _CONVOLUTIONS):
            raise Unknown("its gate is not made by a convolution")
        return (node.target, norm), self.take(node, 1)[0]

    def projections(self, node: fx.Node, x: fx.Node) -> tuple[tuple[str, str | None], tuple[str, str | None]]:
        """The layers of g and those of x, whose sum a ReLU is of."""
        if not (isinstance(self.child(node), nn.ReLU) or self.is_called(node, "relu", "relu_")):
            raise Unknown("its gate has no ReLU")
        args = [a for a in node.args if isinstance(a, fx.Node)]
        self.used.add(node)
        if len(args) != 1 or len(node.users) != 1 or not self.is_called(args[0], "add", "iadd", "add_"):
            raise Unknown("its ReLU is not of a sum")
        found = {map_: names for names, map_ in map(self.layers, self.take(args[0], 2))}
        if found.keys() != set(self.places):
            raise Unknown("its sum is not of its two maps")
        return found[next(place for place in self.places if place is not x)], found[x]
