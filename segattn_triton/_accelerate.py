"""One line on a model people already have: the gates it holds run on the kernels, in place and reversibly.

A gate's class is swapped for a subclass of it whose forward calls a function of `segattn_triton.functional` with the
gate's own parameters (`_swap`). Nothing else of the module changes: parameters, keys, hooks and `isinstance` stay.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segattn_triton import _trial as trial
from segattn_triton._swap import SWAPPED, Accelerated, fused, is_observed, plain_class, read, swap
from segattn_triton.adapters import BLOCKS, GATES, Block, Parts, qualified_name

SLOWER: dict[str, tuple[tuple[str, int, int], ...]] = {}
"""GPU -> (kernel, fewest, most channels of its first weight) measured slower there than what it replaces."""

_MODULE = frozenset(vars(nn.Module()))  # the attributes that every module has


class Row(NamedTuple):
    """One gate of a model. status: "accelerated", or "left" for the reason given."""

    name: str
    cls: str
    kernel: str
    status: str
    reason: str = ""


class Report(tuple[Row, ...]):
    """The gates of a model, row by row; prints as a table."""

    @property
    def summary(self) -> str:
        done = sum(row.status == "accelerated" for row in self)
        return f"{done} of {len(self)} gate{'s' * (len(self) != 1)} accelerated"

    def __str__(self) -> str:
        if not self:
            return self.summary
        rows = [Row._fields, *self]
        widths = [max(len(row[i]) for row in rows) for i in range(len(Row._fields))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self.summary, *lines])


def _known_name(module: nn.Module) -> str | None:
    """The qualified name by which a gate is known, of the module's class or of one that it derives from."""
    if isinstance(module, torch.jit.ScriptModule):
        names = [module._c._type().qualified_name().removeprefix("__torch__.")]
    else:
        names = [qualified_name(cls) for cls in plain_class(module).__mro__]
    return next((name for name in names if name in GATES), None)


def _is_fsdp(module: nn.Module) -> bool:
    return any(cls.__module__.startswith("torch.distributed.fsdp.") for cls in type(module).__mro__)


def _unlike(module: nn.Module, children: frozenset[str] | None, attributes: frozenset[str]) -> str | None:
    """Where an instance differs from what is known of its class; None if nowhere."""
    cls = plain_class(module)
    if "forward" in vars(module) or getattr(cls.forward, "__module__", None) != cls.__module__:
        return "its forward was replaced"
    if children is None:
        return None
    public = {name for name in vars(module).keys() - _MODULE if not name.startswith("_")}
    for kind, more in (("a child", module._modules.keys() - children), ("an attribute", public - attributes)):
        if more:
            return f"it has {kind} {min(more)!r} that is not known"
    return None


def _device_name(tensor: Tensor) -> str | None:
    return torch.cuda.get_device_name(tensor.device) if tensor.is_cuda else None


def _slower(kernel: str, parts: Parts) -> str | None:
    weight = next((t for t in parts.tensors if t is not None), None)
    device = None if weight is None else _device_name(weight)
    for name, fewest, most in SLOWER.get(device, ()):
        if name == kernel and fewest <= weight.shape[1] <= most:
            return f"measured slower than what it replaces on {device}, with {fewest} to {most} channels"
    return None


def _why_left(path: str, module: nn.Module, name: str) -> str | None:
    """Why a known gate cannot run on the kernels, "" if it is none after all, None if nothing is in the way."""
    gate = GATES[name]
    if isinstance(module, torch.jit.ScriptModule):
        return "it is TorchScript: call accelerate() before scripting"
    if _is_fsdp(module) or path.endswith("_fsdp_wrapped_module"):
        return "it is wrapped by FSDP: call accelerate() before sharding"
    if qualified_name(plain_class(module)) != name:
        return f"its class derives from the known one: register_adapter({qualified_name(type(module))!r}, ...)"
    if reason := _unlike(module, gate.children, gate.attributes):
        return reason
    if is_observed(module):
        return "a child of it has hooks, which its own forward runs"
    parts = read(module, gate)
    if not isinstance(parts, Parts):
        return parts or ""
    return trial.disagreement(module, gate, parts) or _slower(gate.kernel, parts)


class _Found(NamedTuple):
    name: str
    module: nn.Module
    kernel: str
    reason: str | None


def _gates(model: nn.Module) -> list[_Found]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module")
    found = []
    for path, module in model.named_modules():
        name = _known_name(module)
        reason = None if name is None else _why_left(path, module, name)
        if name is not None and reason != "":
            found.append(_Found(path, module, GATES[name].kernel, reason))
    return found


def acceleration_report(model: nn.Module) -> Report:
    """The gates of a model: rows (name, cls, kernel, status, reason), which print as a table.

    status is "accelerated", or "left" with the reason, also before `accelerate` is called. kernel is the function of
    `segattn_triton.functional` that computes the gate, "+ shortcut, act" where a residual block is fused with it.
    A gate that got hooks on its children after `accelerate` is left as long as they are there.
    Errors: TypeError for no module.
    """
    blocks = {id(m._modules[b.gate]) for m, b in _blocks(model) if isinstance(m, Accelerated) and _is_fusable(m, b)}
    rows = []
    for path, module, kernel, reason in _gates(model):
        if reason is None and not isinstance(module, Accelerated):
            reason = "accelerate() was not called for it"
        epilogue = " + shortcut, act" if id(module) in blocks and reason is None else ""
        status = "accelerated" if reason is None else "left"
        rows.append(Row(path, qualified_name(plain_class(module)), kernel + epilogue, status, reason or ""))
    return Report(rows)


def _blocks(model: nn.Module) -> list[tuple[nn.Module, Block]]:
    """The residual blocks of known classes that hold a gate, and what is known of them."""
    if not isinstance(model, nn.Module):
        return []
    found = ((m, BLOCKS.get(qualified_name(plain_class(m)))) for m in model.modules())
    return [(m, b) for m, b in found if b is not None and m._modules.get(b.gate) is not None]


def _is_fusable(module: nn.Module, block: Block) -> bool:
    """Whether an instance is as its class is known, and its gate, shortcut and activation can be one."""
    children = frozenset({*block.body, block.gate, block.shortcut, block.act, *block.absent})
    missing = any(name not in module._modules for name in block.body)
    if missing or _unlike(module, children, block.attributes) is not None:
        return False
    parts = fused(module)
    return isinstance(parts, Parts) and trial.disagreement(module, None, parts) is None


def accelerate(
    model: nn.Module,
    *,
    include: Sequence[str] | None = None,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    strict: bool = False,
    verify: bool = False,
) -> nn.Module:
    """Run the attention gates of a model on the kernels: changes it in place, returns it, and prints a line.

        model = segattn_triton.accelerate(smp.Unet("se_resnet50", decoder_attention_type="scse"))
        26 of 26 gates accelerated

    Known are the gates of torchvision, timm, segmentation_models_pytorch, MONAI, OpenMMLab and nnU-Net, and those of
    `register_adapter`. In SE-ResNet and SE-ResNeXt the shortcut and the activation join the gate's kernel. Parameters,
    keys of the state_dict, hooks, isinstance, copies and DataParallel stay as they are; a pickle or torch.save holds
    the plain classes, and torch.jit.script leaves them in the model. A CUDA map runs on the Triton kernels, any other
    on the reference. While a gate's child has hooks (pruning, Grad-CAM), its own forward runs. Each class is tried once
    on random values in float64: one that computes something else than is known of it is left. `acceleration_report`
    says what was left and why; `restore` undoes.

    include: only gates of these kernels, such as ("scse", "eca"). filter_fn: (module, name) -> whether to take it.
    strict: RuntimeError, the model unchanged, if nothing is taken or something of it is left. verify: first compare
    each gate and residual block, output and gradients, with its own forward on a random map; RuntimeError, the model
    unchanged, where the error is more than four times that of its own forward. A second call changes nothing more.
    Errors: TypeError for no module; ValueError for an unknown kernel in `include`.
    """
    found = _gates(model)
    if include is not None:
        kernels = sorted({gate.kernel for gate in GATES.values()})
        for name in (include,) if isinstance(include, str) else include:
            if name not in kernels:
                raise ValueError(f"include: got {name!r}, expected kernels among {', '.join(map(repr, kernels))}")
    chosen = [
        gate
        for gate in found
        if (include is None or gate.kernel in include) and (filter_fn is None or filter_fn(gate.module, gate.name))
    ]
    if strict:
        _raise_unless_all(chosen, found)
    taken = [gate for gate in chosen if gate.reason is None and not isinstance(gate.module, Accelerated)]
    if verify:
        for gate in taken:
            _verify(gate.name, gate.module)
        for name, module in model.named_modules():
            block = BLOCKS.get(qualified_name(type(module)))
            if block and any(module._modules.get(block.gate) is gate.module for gate in taken):
                _verify(name, module)
    _swap_all(model, taken)
    print(acceleration_report(model).summary)
    return model


def _swap_all(model: nn.Module, taken: Sequence[_Found]) -> None:
    for gate in taken:
        swap(gate.module, GATES[qualified_name(type(gate.module))])
    for module, block in _blocks(model):
        if not isinstance(module, Accelerated) and not _is_fsdp(module) and _is_fusable(module, block):
            swap(module, None)


def _verify(name: str, module: nn.Module) -> None:
    fast = copy.deepcopy(module)
    (gate,) = _gates(fast)
    known = GATES[qualified_name(type(gate.module))]
    channels, dims, like = trial.takes(fast, known if gate.module is fast else None, known.read(gate.module))
    _swap_all(fast, [gate])
    trial.verify(f"{name or 'the model'} ({qualified_name(type(module))})", module, fast, channels, dims, like)


def _raise_unless_all(chosen: Sequence[_Found], found: Sequence[_Found]) -> None:
    if not chosen:
        among = f" among its {len(found)} gates by include and filter_fn" if found else ""
        raise RuntimeError(f"strict: there is nothing to accelerate in the model{among}")
    if left := [f"  {gate.name or '(the model)'}: {gate.reason}" for gate in chosen if gate.reason is not None]:
        raise RuntimeError("\n".join([f"strict: {len(left)} of {len(chosen)} gates cannot be accelerated:", *left]))


def restore(model: nn.Module) -> nn.Module:
    """Undo `accelerate`, bit for bit: every module has its own class again. In place; returns the model.

    Errors: TypeError for no module; RuntimeError where another library has swapped a class since (fully_shard).
    """
    _gates(model)
    _restore({name: module for name, module in model.named_modules() if isinstance(module, Accelerated)})
    return model


def _restore(swapped: dict[str, nn.Module]) -> None:
    for name, module in swapped.items():
        if type(module) not in SWAPPED.values():
            raise RuntimeError(f"{name}: its class is {type(module).__name__} by now: restore() before that")
    for module in swapped.values():
        module.__class__ = module._segattn_plain


@contextlib.contextmanager
def accelerated(model: nn.Module, **options) -> Iterator[Report]:
    """`with accelerated(model) as report: ...` accelerates it inside, and restores what it changed after.

    options and errors: those of `accelerate`. Gates that were accelerated before stay so.
    """

    def found() -> dict[str, nn.Module]:
        return {name: module for name, module in model.named_modules() if isinstance(module, Accelerated)}

    before = found() if isinstance(model, nn.Module) else {}
    accelerate(model, **options)
    try:
        yield acceleration_report(model)
    finally:
        known = {id(module) for module in before.values()}
        _restore({name: module for name, module in found().items() if id(module) not in known})
