"""What the gates of a model look at: their maps, taken while the model runs, without a change to the model.

A gate of this package is asked for its map by a pair of hooks, an accelerated one by its entry in `swap.SINKS`. Both
are gone after the context, and neither does anything in a copy or a pickle of the model.
"""

import contextlib
import copyreg
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from .. import functional
from .api import acceleration_report
from .report import NOT_CALLED
from .survey import OWN
from .swap import SINKS, AcceleratedGate, AcceleratedInline


def _returns_map(function: Callable) -> bool:
    return "return_map" in inspect.signature(function).parameters


def _has_map(module: nn.Module) -> bool:
    if isinstance(module, AcceleratedGate | AcceleratedInline):
        return _returns_map(getattr(functional, module._segattn_gate.kernel))
    return isinstance(module, OWN) and _returns_map(module.forward)


class _Tap:
    """Hooks of a gate of this package: it is asked for its map, which its caller sees only if that asked, too."""

    sink: Callable[[Tensor], None] | None = None

    def __init__(self, module: nn.Module, sink: Callable[[Tensor], None]):
        self.sink, self.asked = sink, False
        self.place = list(inspect.signature(module.forward).parameters).index("return_map")
        before = module.register_forward_pre_hook(self.ask, with_kwargs=True)
        self.handles = before, module.register_forward_hook(self.take, prepend=True)

    def __reduce__(self):
        """In a copy or a pickle of the module the hooks do nothing."""
        return copyreg.__newobj__, (_Tap,)

    def ask(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self.sink is None:
            return None
        self.asked = args[self.place] if len(args) > self.place else kwargs.get("return_map", False)
        return args[: self.place], {**kwargs, "return_map": True}

    def take(self, module: nn.Module, args: tuple, output):
        if self.sink is None:
            return None
        y, gate_map = output
        self.sink(gate_map.detach())
        return output if self.asked else y

    def close(self) -> None:
        self.sink = None
        for handle in self.handles:
            handle.remove()


class _Entry:
    """The entry of an accelerated gate in SINKS."""

    def __init__(self, module: nn.Module, sink: Callable[[Tensor], None]):
        self.module, self.sink = module, sink
        SINKS.setdefault(id(module), []).append(sink)

    def close(self) -> None:
        sinks = SINKS[id(self.module)]
        sinks.remove(self.sink)
        if not sinks:
            del SINKS[id(self.module)]


def _chosen(model: nn.Module, names: str | Sequence[str]) -> dict[str, nn.Module]:
    """Qualified name -> gate, in the model's order."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module")
    patterns = (names,) if isinstance(names, str) else tuple(names)
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"names: got {names!r}, expected a pattern such as 'decoder.*', or several")
    gates = {name: module for name, module in model.named_modules() if _has_map(module)}
    if not gates:
        known = sum(row.reason == NOT_CALLED for row in acceleration_report(model))
        hint = f"; it has {known} of other libraries: segattn_triton.accelerate(model) first" if known else ""
        raise ValueError(
            f"model: got {type(model).__name__} without a gate of this package or an accelerated one{hint}"
        )
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in gates):
            raise ValueError(f"names: {pattern!r} matches none of the model's gates: {', '.join(map(repr, gates))}")
    return {name: gate for name, gate in gates.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


@contextlib.contextmanager
def capture_attention(model: nn.Module, names: str | Sequence[str] = "*") -> Iterator[dict[str, Tensor]]:
    """`with capture_attention(model, names="decoder.*") as maps: model(x)` fills {qualified name of a gate: its map}.

    Gates are the modules of this package and what `accelerate` has taken, fused residual blocks and inlined gates
    included; names is a pattern of shell style, or several. A map is what `return_map=True` gives, in x's dtype and
    on its device, detached: (N, 1, *spatial) by pixel, (N, C) by channel, (N, C, H, W) by value, (N, heads, k*k, H, W)
    of neighbourhood attention; of scSE, the gate of the pixels. A gate that runs again has the map of its last call;
    one that was not called, or ran its own forward because a child has hooks, has none; nor has timm's CBAM in eval
    where its norm's weight wants a gradient, so call it under torch.no_grad. The dictionary stays after the context;
    outputs, gradients and the model do not change, and outside nothing is different. Inside, what torch.compile
    compiled runs in eager mode. Contexts nest.
    Errors: TypeError for no module or no pattern; ValueError for a model without gates, or a pattern that matches none.
    """
    gates = _chosen(model, names)
    maps: dict[str, Tensor] = {}
    eager = "torch._dynamo" in sys.modules  # without it nothing is compiled
    with contextlib.ExitStack() as stack:
        if eager:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, gate in gates.items():
            tap = _Tap if isinstance(gate, OWN) else _Entry
            stack.callback(tap(gate, lambda gate_map, name=name: maps.__setitem__(name, gate_map)).close)
        yield maps
