"""What every gate's module shares: options that are checked when it is made, its repr, and images without a batch."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

from torch import Tensor, nn

from ..runtime import checks as check

OrZero = Annotated[int | None, "or zero"]
NUMBERS = {  # annotation -> what is checked
    **{int: int, int | None: int, OrZero: int, float: float, float | None: float},
    **{bool: bool, bool | None: bool},
}


class GateModule(nn.Module):
    """A module on feature maps (N, C, *spatial), channels before space as in NCHW. It keeps its options by the names of
    its function's; `shown` are the sizes that its repr begins with."""

    def __init__(self, shown: dict[str, Any], spatial_dims: int | None, backend: str | None, **options):
        super().__init__()
        check.module_options(backend=backend, spatial_dims=spatial_dims, **options)
        self.shown, self.spatial_dims = shown, spatial_dims
        self.options, self.backend = options, backend

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = of_checked_numbers(cls.__init__)

    def extra_repr(self) -> str:
        last = {name: getattr(self, name) for name in ("spatial_dims", "backend")}
        known = {**self.shown, **self.options, **{name: v for name, v in last.items() if v is not None}}
        return ", ".join(f"{name}={value!r}" for name, value in known.items())

    def __prepare_scriptable__(self):
        """What torch.jit.script asks for."""
        raise RuntimeError(
            f"torch.jit.script: {type(self).__name__} calls kernels, which TorchScript cannot hold: "
            "use torch.export.export"
        )


def of_checked_numbers(make: Callable) -> Callable:
    """An `__init__` that takes no int below `least`, no number without an end, and no other value for True or False."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def run(self, *args, **named):
        try:
            bound = signature.bind(self, *args, **named)
        except TypeError:  # of names that do not exist Python says more
            return make(self, *args, **named)
        for name, value in bound.arguments.items():
            parameter = signature.parameters[name]
            kind = NUMBERS.get(parameter.annotation)
            if kind is None or (value is None and parameter.annotation is not kind):
                continue
            if kind is bool:
                check.flag(name, value)
            else:
                check.number(name, value, kind, least=least(parameter))
                bound.arguments[name] = int(value) if kind is int else value  # of numpy's a plain one
        make(*bound.args, **bound.kwargs)

    return run


def least(parameter: inspect.Parameter) -> int:
    """The least int that it takes: one, or zero where that is the default or said to mean something."""
    return 0 if parameter.default == 0 or parameter.annotation == OrZero else 1


def by_rank(forward: Callable) -> Callable:
    """A forward that takes one image without a batch, too, where the module knows its number of spatial axes."""

    @functools.wraps(forward)
    def run(self, x: Tensor, *maps: Tensor | None, **named):
        if not check.is_one_image(x, self.spatial_dims):
            return forward(self, x, *maps, **named)
        returned = forward(self, *(_batched(t) for t in (x, *maps)), **{k: _batched(v) for k, v in named.items()})
        return tuple(t[0] for t in returned) if isinstance(returned, tuple) else returned[0]

    return run


def _batched(value: Any) -> Any:
    return value[None] if isinstance(value, Tensor) else value
