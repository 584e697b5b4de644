"""The operators' formulas for torch's counter of operations, `torch.utils.flop_counter.FlopCounterMode`.

A counter keeps the formulas that there are when it is made, before the first call that it counts. They are registered
as soon as both this package and torch's module are imported; importing that here would import Triton.
"""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from .schema import Schema
from .schemas import SCHEMAS

COUNTER = "torch.utils.flop_counter"


def let_torch_count() -> None:
    """Register the formulas, now or when torch's module is imported."""
    if COUNTER in sys.modules:
        _register(sys.modules[COUNTER])
    else:
        sys.meta_path.insert(0, _Awaiting())


class _Awaiting(MetaPathFinder):
    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name != COUNTER:
            return None
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]  # another copy of this package may wait, too
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None:
            spec.loader.exec_module = _then_register(spec.loader.exec_module)
        return spec


def _then_register(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def run(module: ModuleType) -> None:
        execute(module)
        _register(module)

    return run


def _register(counter: ModuleType) -> None:
    for schema in SCHEMAS:
        forward, backward = _formulas(schema)
        counter.register_flop_formula(schema.op.overloadpacket)(forward)
        counter.register_flop_formula(schema.op_bwd.overloadpacket)(backward)


def _formulas(schema: Schema) -> tuple[Callable, Callable]:
    """Of the operators' own arguments: those of the backward begin with gradients and what was saved."""
    first, flops = schema.differentiable + len(schema.saved), schema.flops
    return lambda *args, **_: flops(*args)[0], lambda *args, **_: flops(*args[first:])[1]
