"""The classes that accelerated modules have: subclasses of their own classes, with another forward.

What a gate holds is read at every call: a change of it is followed, and what no kernel knows runs the own forward.
"""

import copy
import copyreg
import functools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from .. import functional
from ..runtime.checks import DTYPES
from .adapters import BLOCKS, Gate, Parts, qualified_name


def is_observed(module: nn.Module) -> bool:
    """Whether something wants a child of the module to be called: a hook on one, or on all modules, or a forward that
    was replaced. The module's own hooks run anyway."""
    return nn_module._has_any_global_hook() or _children_have_hooks(module)


def _children_have_hooks(module: nn.Module) -> bool:
    return any(child is not None and has_hooks(child) for child in module._modules.values())


def has_hooks(module: nn.Module) -> bool:
    """Hooks on the module or beneath."""
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return True
    return "forward" in module.__dict__ or (bool(module._modules) and _children_have_hooks(module))


def read(module: nn.Module, gate: Gate) -> Parts | str | None:
    """What the gate computes; or why it is left; or None where there is no gate."""
    try:
        return gate.read(module)
    except ValueError as reason:
        return str(reason)


BESIDE = {  # the maps that a function takes before its weights
    "attention_gate": ("g",),
    "attention_gate_norm": ("g",),
    "gate_mul": ("z",),
    "gate_mul_resized": ("z",),
    "gate_blend": ("b", "z"),
    "radix_blend": ("z",),
    "strip_gate": ("z_h", "z_w"),
}
SINKS: dict[int, list[Callable[[Tensor], None]]] = {}  # id of a gate -> who gets its map; filled by capture_attention


def _run(module: nn.Module, gate: Gate, parts: Parts, x: Tensor, **more) -> Tensor:
    y = _gated(module, gate, parts, x, **more)
    return y + x if parts.skip else y


def _gated(module: nn.Module, gate: Gate, parts: Parts, x: Tensor, **more) -> Tensor:
    """The gate's kernel on x; whoever captures the module's map gets it."""
    options = {**parts.options, **more}
    if options.get("shortcut") is True:  # the gate's own input
        options["shortcut"] = x
    name = parts.kernel or gate.kernel
    kernel = functools.partial(getattr(functional, name), x, *map(options.pop, BESIDE.get(name, ())))
    sinks = SINKS.get(id(module)) if SINKS and _is_whole(parts) else None
    if not sinks and parts.move is None:
        return kernel(*parts.tensors, **options)
    wanted = (("return_map", sinks), ("return_stats", parts.move is not None))
    y, *more = kernel(*parts.tensors, **options, **{name: True for name, is_wanted in wanted if is_wanted})
    if parts.move is not None:
        parts.move(x, more.pop())
    for sink in sinks or ():
        sink(more[0].detach())
    return y


_WHOLE = (
    *("squeeze_excite_norm", "squeeze_excite_norms", "attention_gate_norm"),
    *("global_context", "global_context_add", "radix_blend"),
)


def _is_whole(parts: Parts) -> bool:
    """Whether the map of these parts is that of the whole gate."""
    return parts.kernel in (None, *_WHOLE)


def _kernel_parts(module: nn.Module, reading: Callable[[], Parts | str | None], maps: Sequence) -> Parts | None:
    """What the kernel gets; None where the own forward runs: for a tracer, hooks, an input or a part it cannot take."""
    if not maps or not isinstance(maps[0], Tensor) or torch.jit.is_tracing() or is_observed(module):
        return None
    parts = reading()
    if not isinstance(parts, Parts):
        return None
    for gate in (parts, *parts.more):
        if not all(_takes(x, gate) for x in maps):
            return None
    return parts


def _takes(x: Tensor, parts: Parts) -> bool:
    """Whether the function takes x beside these weights. Of other dtypes, of no pixels, of no image where running
    statistics move, and of weights that became sparse or tensors of a class of their own (quantised, sharded), the own
    forward knows what to do."""
    dtypes = (x.dtype, torch.float32)
    for t in parts.tensors:
        if t is not None and (type(t) not in _PLAIN or t.layout is not torch.strided or t.dtype not in dtypes):
            return False
    known = x.dtype in DTYPES and not _is_promoted(x) and x.layout is torch.strided
    there = x.numel() > 0 or (0 not in x.shape[1:] and parts.move is None)
    return known and x.dim() - 2 in parts.dims and there


def _is_promoted(x: Tensor) -> bool:
    """Whether x is of one half precision where autocast has its gate in the other: their product is float32."""
    device = x.device.type
    if x.dtype not in _HALVES or not torch.amp.is_autocast_available(device):
        return False
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) != x.dtype


_PLAIN, _HALVES = (Tensor, nn.Parameter), (torch.float16, torch.bfloat16)


class Accelerated:
    """What the subclasses share. A copy stays accelerated; a pickle, a torch.save and a script hold the plain class,
    so that they open without this package."""

    _segattn_plain: type[nn.Module]
    _segattn_gate: Gate | None

    def _as_plain(self) -> nn.Module:
        """The module as it was, with the same attributes."""
        plain = object.__new__(self._segattn_plain)
        plain.__dict__ = self.__dict__
        return plain

    def __reduce_ex__(self, protocol):
        new, args, *rest = self._as_plain().__reduce_ex__(protocol)
        if new is copyreg.__newobj__:  # which insists on the object's own class
            new, args = copyreg._reconstructor, (self._segattn_plain, object, None)
        return (new, args, *rest)

    def __deepcopy__(self, memo):
        return self._copied(copy.deepcopy, memo)

    def __copy__(self):
        return self._copied(copy.copy)

    def _copied(self, copying: Callable, *args):
        swapped, self.__class__ = type(self), self._segattn_plain
        try:
            twin = copying(self, *args)
        finally:
            self.__class__ = swapped
        twin.__class__ = swapped
        return twin

    def __prepare_scriptable__(self):
        """What torch.jit.script compiles, and leaves in the model: the plain module, with the same parameters."""
        return self._as_plain()


class AcceleratedGate(Accelerated):
    def forward(self, *args, **kwargs):
        gate = self._segattn_gate
        only = len(args) == 1 and not kwargs
        parts = _kernel_parts(self, lambda: read(self, gate), args) if only else None
        return super().forward(*args, **kwargs) if parts is None else _run(self, gate, parts, args[0])


class AcceleratedInline(Accelerated):
    """A block that holds the gate's layers itself."""

    def forward(self, *args, **kwargs):
        gate, maps = self._segattn_gate, maps_among((*args, *kwargs.values()))
        parts = _kernel_parts(self, lambda: read(self, gate), maps) if _are_one_batch(maps) else None
        if parts is None:
            return super().forward(*args, **kwargs)
        return _inside(self, self._segattn_plain, gate, parts, *args, **kwargs)


def _inside(block: nn.Module, cls: type[nn.Module], gate: Gate, parts: Parts, *args, **kwargs):
    """The forward of a block of this class, with kernels for the gates whose layers it holds."""
    gates = [functools.partial(_run_inside, block, gate, one) for one in (parts, *parts.more)]
    return gate.inline(block, gates, cls.forward.__globals__, *args, **kwargs)


def by_kernel(module: nn.Module, gate: Gate, x: Tensor) -> Tensor:
    """What the module's class makes of x, by the kernel where it takes the module and x."""
    parts = _kernel_parts(module, lambda: read(module, gate), (x,))
    if parts is None:
        return type(module).forward(module, x)
    if gate.inline is None:
        return _run(module, gate, parts, x)
    return _inside(module, type(module), gate, parts, x)


def maps_among(args: Iterable) -> list[Tensor]:
    """The tensors among a block's arguments, those of a dictionary included."""
    values = (value for a in args for value in (a.values() if isinstance(a, dict) else (a,)))
    return [value for value in values if isinstance(value, Tensor)]


def _are_one_batch(maps: Sequence[Tensor]) -> bool:
    return all(x.shape[:1] == maps[0].shape[:1] for x in maps)


def _run_inside(module: nn.Module, gate: Gate, parts: Parts, x: Tensor, **maps: Tensor) -> Tensor:
    """The gate inside a block. The layers before it may have changed dtypes: the maps get the one that torch's product
    and sum of them has, and float32 weights stand beside a map of any."""
    dtypes = [_dtype_of_layers(t) if name == "source" else t.dtype for name, t in maps.items()]
    dtype = functools.reduce(torch.promote_types, dtypes, x.dtype)
    x, maps = x.to(dtype), {name: t.to(dtype) for name, t in maps.items()}
    return _run(module, gate, parts if _takes(x, parts) else _in_float32(parts), x, **maps)


def _dtype_of_layers(x: Tensor) -> torch.dtype:
    """That of what a layer makes of x: autocast's, or its own."""
    device = x.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else x.dtype


def _in_float32(parts: Parts) -> Parts:
    return parts._replace(tensors=tuple(None if t is None else t.float() for t in parts.tensors))


class AcceleratedBlock(Accelerated):
    """A residual block around an accelerated gate: the shortcut and the activation are the gate's epilogue."""

    def forward(self, *args, **kwargs):
        block, modules = BLOCKS[qualified_name(self._segattn_plain)], self._modules
        only = len(args) == 1 and not kwargs
        parts = _kernel_parts(modules[block.gate], lambda: fused(self), args) if only else None
        if parts is None:
            return super().forward(*args, **kwargs)
        x = y = args[0]
        for name in block.body:
            if modules[name] is not None:
                y = modules[name](y)
        shortcut = x if modules.get(block.shortcut) is None else modules[block.shortcut](x)
        gate = modules[block.gate]
        if not _takes(y, parts) or shortcut.dtype != y.dtype or shortcut.shape != y.shape:
            return modules[block.act](gate(y) + shortcut)
        return _run(gate, gate._segattn_gate, parts, y, shortcut=shortcut)


_EPILOGUES = {nn.ReLU: "relu", nn.Identity: "identity"}


def fused(module: nn.Module) -> Parts | str:
    """The parts of a residual block's gate, shortcut and activation in one; or why not."""
    block = BLOCKS[qualified_name(plain_class(module))]
    gate, act = module._modules.get(block.gate), module._modules.get(block.act)
    if not isinstance(gate, AcceleratedGate) or gate._segattn_gate.kernel != "squeeze_excite":
        return "its gate has no kernel with a shortcut"
    if type(act) not in _EPILOGUES:
        return "its activation has no kernel"
    if nn_module._has_any_global_hook() or has_hooks(gate) or has_hooks(act):
        return "its gate or its activation has hooks"
    if any(getattr(module, name, None) is not None for name in block.absent):
        return f"it has {' and '.join(block.absent)} between gate and shortcut"
    parts = read(gate, gate._segattn_gate)
    if not isinstance(parts, Parts) or "shortcut" in parts.options:
        return "its gate has a shortcut of its own"
    return parts._replace(options={**parts.options, "out_act": _EPILOGUES[type(act)]})


SWAPPED: dict[tuple[type, Gate | None], type] = {}  # a class and how it is read -> the accelerated subclass


def swap(module: nn.Module, gate: Gate | None) -> None:
    """Accelerate a gate; a residual block, without one."""
    cls, key = type(module), (type(module), gate)
    if key not in SWAPPED:
        base = AcceleratedBlock if gate is None else AcceleratedInline if gate.inline else AcceleratedGate
        about = {"__module__": cls.__module__, "__doc__": cls.__doc__, "_segattn_plain": cls, "_segattn_gate": gate}
        SWAPPED[key] = type(f"Accelerated{cls.__name__}", (base, cls), about)
    module.__class__ = SWAPPED[key]


def plain_class(module: nn.Module) -> type:
    return module._segattn_plain if isinstance(module, Accelerated) else type(module)
