"""One line on a model people already have: the gates it holds run on the kernels, in place and reversibly.

A gate's class is swapped for a subclass of it whose forward calls a function of `segattn_triton.functional` with the
gate's own parameters (`swap`). Nothing else of the module changes: parameters, keys, hooks and `isinstance` stay.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from . import trial
from .adapters import ADAPTERS, BLOCKS, qualified_name
from .report import NOT_CALLED, Report, Row, announce
from .structure import KERNELS
from .survey import Found, blocks_of, gates_of, is_fsdp, is_fusable, own_modules
from .swap import SWAPPED, Accelerated, plain_class, swap


def acceleration_report(model: nn.Module) -> Report:
    """The gates of a model: rows (name, cls, kernel, by, status, reason), which print as a table.

    by says how a gate was found: by the name of its class, register_adapter, its structure, or only its look. status is
    "accelerated", or "left" with the reason, also before `accelerate` is called. kernel is the function of
    `segattn_triton.functional` that computes the gate, "+ shortcut, act" where a residual block is fused with it.
    A gate that got hooks on its children after `accelerate` is left as long as they are there.
    Errors: TypeError for no module.
    """
    found = gates_of(model)
    blocks = {id(m._modules[b.gate]) for m, b in blocks_of(model) if isinstance(m, Accelerated) and is_fusable(m, b)}
    rows = []
    for gate in found:
        module, reason = gate.module, gate.reason
        if reason is None and not isinstance(module, Accelerated):
            reason = NOT_CALLED
        kernel = gate.kernel + (" + shortcut, act" if id(module) in blocks and reason is None else "")
        status = "accelerated" if reason is None else "left"
        rows.append(Row(gate.name, qualified_name(plain_class(module)), kernel, gate.by, status, reason or ""))
    return Report(rows, own_modules(model))


def accelerate(
    model: nn.Module,
    *,
    include: Sequence[str] | None = None,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    strict: bool = False,
    verify: bool = False,
    by_structure: bool = True,
    verbose: bool = True,
) -> nn.Module:
    """Run the attention gates of a model on the kernels: changes it in place, returns it, and prints a line.

        model = segattn_triton.accelerate(smp.Unet("se_resnet50", decoder_attention_type="scse"))
        26 of 26 gates accelerated

    Known are the gates of torchvision, timm, segmentation_models_pytorch, MONAI, OpenMMLab and nnU-Net, those of
    `register_adapter`, and copies of SE, ECA, sSE, scSE, CBAM and the attention gate of any class, by the graph of
    their forward. In SE-ResNet and SE-ResNeXt the shortcut and the activation join the gate's kernel. Parameters, keys
    of the state_dict, hooks, isinstance, copies and DataParallel stay as they are; a pickle or torch.save holds the
    plain classes, and torch.jit.script leaves them in the model. A CUDA map runs on the Triton kernels, any other on
    the reference. While a gate's child has hooks (pruning, Grad-CAM), its own forward runs. Each class is tried once on
    random values: one that computes something else than is known of it is left. `acceleration_report` says what was
    left and why; `restore` undoes.

    include: only gates of these kernels, such as ("scse", "eca"). filter_fn: (module, name) -> whether to take it.
    strict: RuntimeError, the model unchanged, if nothing is taken or something of it is left. verify: first compare
    each gate and residual block, output and gradients, with its own forward on a random map; RuntimeError, the model
    unchanged, where the error is more than four times that of its own forward. by_structure: False takes known classes
    only; a copy that is known by its graph was tried in float64, its own dtype and under autocast, gradients included,
    and runs its own forward where an attribute, method or global that its forward reads has changed since. verbose:
    print the line, on rank 0 only where torch.distributed runs; it says where nothing gets faster. What was left, and
    why, goes to the logger `segattn_triton` at level INFO, what was taken at DEBUG. A second call changes nothing more.
    Errors: TypeError for no module; ValueError for an unknown kernel in `include`.
    """
    found = gates_of(model)
    _check_kernels(() if include is None else include)
    chosen = [
        gate
        for gate in found
        if (include is None or gate.kernel in include)
        and (by_structure or gate.by not in ("structure", "look"))
        and (filter_fn is None or filter_fn(gate.module, gate.name))
    ]
    if strict:
        _raise_unless_all(chosen, found)
    taken = [gate for gate in chosen if gate.reason is None and not isinstance(gate.module, Accelerated)]
    if verify:
        _verify_all(model, taken)
    _swap_all(model, taken)
    announce(acceleration_report(model), verbose)
    return model


def _check_kernels(include: str | Sequence[str]) -> None:
    kernels = sorted({gate.kernel for gate in ADAPTERS.values()} | KERNELS)
    for name in (include,) if isinstance(include, str) else include:
        if name not in kernels:
            raise ValueError(f"include: got {name!r}, expected kernels among {', '.join(map(repr, kernels))}")


def _swap_all(model: nn.Module, taken: Sequence[Found]) -> None:
    for gate in taken:
        swap(gate.module, gate.gate)
    for module, block in blocks_of(model):
        if not isinstance(module, Accelerated) and not is_fsdp(module) and is_fusable(module, block):
            swap(module, None)


@trial.as_by_default()
def _verify_all(model: nn.Module, taken: Sequence[Found]) -> None:
    """The gates, then the residual blocks that hold one."""
    for gate in taken:
        _verify(gate.name, gate.module)
    for name, module in model.named_modules():
        block = BLOCKS.get(qualified_name(type(module)))
        if block and any(module._modules.get(block.gate) is gate.module for gate in taken):
            _verify(name, module)


def _verify(name: str, module: nn.Module) -> None:
    fast = copy.deepcopy(module)
    (gate,) = gates_of(fast)
    parts = gate.gate.read(gate.module)
    _swap_all(fast, [gate])
    title = f"{name or 'the model'} ({qualified_name(type(module))})"
    trial.verify(title, module, fast, gate.gate if gate.module is fast else None, parts)


def _raise_unless_all(chosen: Sequence[Found], found: Sequence[Found]) -> None:
    if not chosen:
        among = f" among its {len(found)} gates by include and filter_fn" if found else ""
        raise RuntimeError(f"strict: there is nothing to accelerate in the model{among}")
    if left := [f"  {gate.name or '(the model)'}: {gate.reason}" for gate in chosen if gate.reason is not None]:
        raise RuntimeError("\n".join([f"strict: {len(left)} of {len(chosen)} gates cannot be accelerated:", *left]))


def restore(model: nn.Module) -> nn.Module:
    """Undo `accelerate`, bit for bit: every module has its own class again. In place; returns the model.

    Errors: TypeError for no module; RuntimeError where another library has swapped a class since (fully_shard).
    """
    gates_of(model)
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
