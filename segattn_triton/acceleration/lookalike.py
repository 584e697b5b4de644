"""Gates of classes that no adapter knows: what they look like by their layers and names, and what would help."""

import dis
import itertools
import re
from collections.abc import Iterator
from types import FunctionType

import torch
from torch import nn

from .adapters import is_window, pools_to_one, qualified_name

_NAME = re.compile(r"squeeze|excit|^c?se_?(layer|block|module|attention|gate)?(2d|3d)?$|channel_?(gate|att)", re.I)
_SIGMOIDS = (nn.Sigmoid, nn.Hardsigmoid)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def lookalike(module: nn.Module) -> tuple[str, str] | None:
    """(a function that would compute it, why it is left) where a module looks like a gate."""
    cls = qualified_name(type(module))
    inside = (m for m in module.modules() if m is not module and not _is_of_torch(m))
    if _is_of_torch(module) or any(list(m.parameters()) for m in inside):  # then what is inside may be one
        return None
    found = _by_its_layers(module) or _without_layers(module)
    if found is None:
        return None
    kernel, what = found
    hint = f"register_adapter({cls!r}, {kernel!r}) takes it where its forward returns the gated map alone"
    if any(isinstance(leaf, _NORMS) for leaf in _leaves(module)):
        hint += ", once its batch norm is folded into the layer before (torch.nn.utils.fusion)"
    return kernel, f"no adapter knows its class, which looks like {what}: {hint}"


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.") or isinstance(module, torch.jit.ScriptModule)


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    return (m for m in module.modules() if m is not module and not m._modules)


def _by_its_layers(module: nn.Module) -> tuple[str, str] | None:
    """(function, what it looks like) of a module of one or two small layers, a pool and a sigmoid, or the name."""
    leaves = list(_leaves(module))
    layers = [leaf for leaf in leaves if isinstance(leaf, _LAYERS)]
    held = {id(p) for leaf in leaves if isinstance(leaf, (*_LAYERS, *_NORMS)) for p in leaf.parameters()}
    if len(layers) not in (1, 2) or any(id(p) not in held for p in module.parameters()):
        return None
    gated, pooled = (any(map(test, leaves)) for test in (lambda m: isinstance(m, _SIGMOIDS), pools_to_one))
    if not (gated and pooled) and not _NAME.search(type(module).__name__):
        return None
    first = layers[0]
    if len(layers) == 1 and is_window(first):
        return "cbam_spatial_gate", "CBAM's gate of the pixels"
    if len(layers) == 1 and isinstance(first, nn.Conv1d) and (first.in_channels, first.out_channels) == (1, 1):
        return "eca", "efficient channel attention"
    if any(isinstance(leaf, nn.AdaptiveMaxPool2d) for leaf in leaves) and pooled and _returns(layers):
        return "cbam_channel_gate", "CBAM's gate of the channels"
    return ("channel_gate", "squeeze-and-excitation") if _returns(layers) else None


def _without_layers(module: nn.Module) -> tuple[str, str] | None:
    named = "simam" in type(module).__name__.lower() and not list(module.parameters())
    return ("simam", "SimAM") if named and any(isinstance(leaf, _SIGMOIDS) for leaf in _leaves(module)) else None


def _returns(layers: list[nn.Module]) -> bool:
    """Whether one or two pointwise layers end with as many channels as they begin with."""
    first, last = layers[0], layers[-1]
    pointwise = all(isinstance(m, nn.Linear) or set(m.kernel_size) == {1} for m in layers)
    return pointwise and (_width(first, "in"), _width(first, "out")) == (_width(last, "out"), _width(last, "in"))


def inline(block: nn.Module) -> Iterator[tuple[str, str]]:
    """(the child it begins with, why it is left) of what looks like a gate among the layers of a block's forward."""
    forward = getattr(type(block), "forward", None)
    if _is_of_torch(block) or not isinstance(forward, FunctionType) or not multiplies(forward):
        return
    names, children = set(forward.__code__.co_names), block._modules.items()
    kinds = [m for _, m in children if m is not None]
    gated = names & _SIGMOID_NAMES or any(isinstance(m, _SIGMOIDS) for m in kinds)
    pooled = names & _POOL_NAMES or any(map(pools_to_one, kinds))
    for name, m in children:
        if type(m) is nn.Sequential and name in names and (pooled or pools_to_one(m[0] if len(m) else m)):
            layers, last = [leaf for leaf in m if isinstance(leaf, _LAYERS)], m[-1] if len(m) else None
            if isinstance(last, _SIGMOIDS) and len(layers) in (1, 2) and _returns(layers):
                yield name, _of_its_own(block, f"its child {name!r}")
    layers = [(name, m) for name, m in children if isinstance(m, _LAYERS) and name in names]
    for (one, first), (other, last) in itertools.pairwise(layers):
        narrow = _returns([first, last]) and _width(first, "out") < _width(first, "in")
        if gated and pooled and narrow:
            yield one, _of_its_own(block, f"its children {one!r} and {other!r}")


_SIGMOID_NAMES = {"sigmoid", "hardsigmoid", "hard_sigmoid", "sigmoid_"}
_POOL_NAMES = {"mean", "avg_pool2d", "adaptive_avg_pool2d", "avg_pool3d", "adaptive_avg_pool3d"}


def _of_its_own(block: nn.Module, layers: str) -> str:
    home = type(block).__module__
    return (
        f"it looks like squeeze-and-excitation in the forward of {qualified_name(type(block))}, by {layers}: as a "
        f"module of its own, whose forward returns x times its gate, it is known by its graph, or register_adapter("
        f"'{home}.NAME_OF_ITS_CLASS', 'channel_gate') takes it"
    )


def multiplies(forward: FunctionType) -> bool:
    products = (
        i for i in dis.get_instructions(forward) if i.opname.startswith(("BINARY_OP", "BINARY_MUL", "INPLACE_MUL"))
    )
    named = {"mul", "mul_", "multiply"} & set(forward.__code__.co_names)
    return bool(named) or any(i.argrepr in ("*", "*=") or "MULTIPLY" in i.opname for i in products)


def _width(layer: nn.Module, end: str) -> int:
    return getattr(layer, f"{end}_features" if isinstance(layer, nn.Linear) else f"{end}_channels")
