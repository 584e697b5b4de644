"""The gates that a model holds, and what keeps each from the kernels: nothing, or a reason in words."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import modules
from . import trial
from .adapters import ADAPTERS, BLOCKS, Block, Gate, Parts, check_readers, qualified_name
from .lookalike import inline, lookalike
from .structure import by_structure, is_candidate
from .swap import AcceleratedGate, AcceleratedInline, fused, is_observed, plain_class, read

SLOWER: dict[str, tuple[tuple[str, int, int], ...]] = {}
"""GPU -> (kernel, fewest, most channels of its first weight) measured slower there than what it replaces."""

_SUBCLASS = "register_adapter() for a subclass of it says what it computes"
_MODULE = frozenset(vars(nn.Module()))  # the attributes that every module has


class Found(NamedTuple):
    """A gate: its name in the model, how it computes, where that is known, and why it is left; None where the kernels
    can run it. by: how it was found, by name, register_adapter, structure or look."""

    name: str
    module: nn.Module
    kernel: str
    reason: str | None
    gate: Gate | None = None

    @property
    def by(self) -> str:
        return "look" if self.gate is None else self.gate.way


def gates_of(model: nn.Module) -> list[Found]:
    """The gates of known classes and what looks like one, in the model's order. TypeError for no module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module")
    check_readers()
    found: list[Found] = []
    for path, module in model.named_modules():
        name = _known_name(module)
        if name is not None and (reason := _why_left(path, module, name)) != "":
            found.append(Found(path, module, ADAPTERS[name].kernel, reason, ADAPTERS[name]))
        elif name is None and not _is_inside(path, module, found):
            found.extend(_without_adapter(path, module))
    return found


def _without_adapter(path: str, module: nn.Module) -> Iterator[Found]:
    """The gate that a module of no known class is by its graph, or looks like."""
    gate = module._segattn_gate if isinstance(module, AcceleratedGate | AcceleratedInline) else None
    wrapped = path.endswith("_fsdp_wrapped_module")
    if gate is None and not wrapped and is_candidate(module) and not any(map(_known_name, module.modules())):
        gate = by_structure(module)
    if isinstance(gate, Gate):
        reason = "a child of it has hooks, which its own forward runs: until they are removed"
        parts = reason if is_observed(module) else read(module, gate)
        yield Found(path, module, gate.kernel, None if isinstance(parts, Parts) else parts, gate)
    elif like := lookalike(module):
        kernel, reason = like
        yield Found(path, module, kernel, reason if gate is None else f"{reason} ({gate})")
    else:
        for child, reason in inline(module):
            yield Found(f"{path}.{child}".lstrip("."), module, "channel_gate", reason)


def _is_inside(path: str, module: nn.Module, found: list[Found]) -> bool:
    """Whether it belongs to this package, or to the gate before."""
    gate = found[-1].name if found else None
    return isinstance(module, OWN) or gate == "" or (gate is not None and path.startswith(f"{gate}."))


OWN = tuple(cls for cls in map(vars(modules).get, modules.__all__) if isinstance(cls, type))


def own_modules(model: nn.Module) -> int:
    """How many of a model's modules are this package's, those inside one of them not counted."""
    return 1 if isinstance(model, OWN) else sum(map(own_modules, model.children()))


def _known_name(module: nn.Module) -> str | None:
    """The qualified name by which a gate is known, of the module's class or of one that it derives from."""
    if isinstance(module, torch.jit.ScriptModule):
        names = [module._c._type().qualified_name().removeprefix("__torch__.")]
    else:
        names = [qualified_name(cls) for cls in plain_class(module).__mro__]
    return next((name for name in names if name in ADAPTERS), None)


def _why_left(path: str, module: nn.Module, name: str) -> str | None:
    """Why a known gate cannot run on the kernels, "" if it is none after all, None if nothing is in the way."""
    gate = ADAPTERS[name]
    if isinstance(module, torch.jit.ScriptModule):
        return "it is TorchScript: call accelerate() before scripting"
    if is_fsdp(module) or path.endswith("_fsdp_wrapped_module"):
        return "it is wrapped by FSDP: call accelerate() before sharding"
    if qualified_name(plain_class(module)) != name:
        return f"its class derives from the known one: register_adapter({qualified_name(type(module))!r}, ...)"
    if reason := _unlike(module, gate.children, gate.attributes):
        return reason
    if is_observed(module):
        return "a child of it has hooks, which its own forward runs: until they are removed"
    parts = read(module, gate)
    if not isinstance(parts, Parts):
        return parts or ""
    return trial.disagreement(module, gate, parts) or _slower(gate.kernel, parts)


def _unlike(module: nn.Module, children: frozenset[str] | None, attributes: frozenset[str]) -> str | None:
    """Where an instance differs from what is known of its class; None if nowhere."""
    cls = plain_class(module)
    if "forward" in vars(module) or getattr(cls.forward, "__module__", None) != cls.__module__:
        return f"its forward was replaced: call accelerate() before that, or {_SUBCLASS}"
    if children is None:
        return None
    public = {name for name in vars(module).keys() - _MODULE if not name.startswith("_")}
    for kind, more in (("a child", module._modules.keys() - children), ("an attribute", public - attributes)):
        if more:
            return f"it has {kind} {min(more)!r} that is not known: {_SUBCLASS}"
    return None


def is_fsdp(module: nn.Module) -> bool:
    return any(cls.__module__.startswith("torch.distributed.fsdp.") for cls in type(module).__mro__)


def _slower(kernel: str, parts: Parts) -> str | None:
    weight = next((t for t in parts.tensors if t is not None), None)
    device = None if weight is None else _device_name(weight)
    for name, fewest, most in SLOWER.get(device, ()):
        if name == kernel and fewest <= weight.shape[1] <= most:
            return f"measured slower than what it replaces on {device}, with {fewest} to {most} channels"
    return None


def _device_name(tensor: Tensor) -> str | None:
    return torch.cuda.get_device_name(tensor.device) if tensor.is_cuda else None


def blocks_of(model: nn.Module) -> list[tuple[nn.Module, Block]]:
    """The residual blocks of known classes that hold a gate, and what is known of them."""
    found = ((m, BLOCKS.get(qualified_name(plain_class(m)))) for m in model.modules())
    return [(m, b) for m, b in found if b is not None and m._modules.get(b.gate) is not None]


def is_fusable(module: nn.Module, block: Block) -> bool:
    """Whether an instance is as its class is known, and its gate, shortcut and activation can be one."""
    children = frozenset({*block.body, block.gate, block.shortcut, block.act, *block.absent})
    missing = any(name not in module._modules for name in block.body)
    if missing or _unlike(module, children, block.attributes) is not None:
        return False
    parts = fused(module)
    return isinstance(parts, Parts) and trial.disagreement(module, None, parts) is None
