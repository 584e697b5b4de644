"""Gates of classes that no adapter knows: what they look like by their layers and names, and what would help."""

import re
from collections.abc import Iterator

import torch
from torch import nn

from .adapters import pools_to_one, qualified_name

WITHOUT_KERNEL = {  # gates by their class, for which `functional` has nothing
    "timm.layers.global_context.GlobalContext": "global context",
    "timm.layers.selective_kernel.SelectiveKernel": "selective kernels",
    "timm.layers.split_attn.SplitAttn": "split attention",
    "mmcv.cnn.bricks.context_block.ContextBlock": "global context",
}
_NAME = re.compile(r"squeeze|excit|^c?se_?(layer|block|module|attention|gate)?(2d|3d)?$|channel_?(gate|att)", re.I)
_SIGMOIDS = (nn.Sigmoid, nn.Hardsigmoid)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def lookalike(module: nn.Module) -> tuple[str, str] | None:
    """(a function that would compute it, why it is left) where a module looks like a gate."""
    cls = qualified_name(type(module))
    if cls in WITHOUT_KERNEL:
        return "none", f"no function of this package computes {WITHOUT_KERNEL[cls]}"
    inside = (m for m in module.modules() if m is not module and not _is_of_torch(m))
    if _is_of_torch(module) or any(list(m.parameters()) for m in inside):  # then what is inside may be one
        return None
    found = _by_its_layers(module)
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
    first, last = layers[0], layers[-1]
    if len(layers) == 1 and isinstance(first, nn.Conv1d) and (first.in_channels, first.out_channels) == (1, 1):
        return "eca", "efficient channel attention"
    pointwise = all(isinstance(m, nn.Linear) or set(m.kernel_size) == {1} for m in layers)
    returns = _width(first, "in") == _width(last, "out") and _width(first, "out") == _width(last, "in")
    return ("channel_gate", "squeeze-and-excitation") if pointwise and returns else None


def _width(layer: nn.Module, end: str) -> int:
    return getattr(layer, f"{end}_features" if isinstance(layer, nn.Linear) else f"{end}_channels")
