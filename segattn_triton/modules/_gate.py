"""What every gate's module shares: options that are checked when it is made, its repr, and images without a batch."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..runtime import checks as check


class GateModule(nn.Module):
    """A module on feature maps (N, C, *spatial), channels before space as in NCHW. It keeps its options by the names of
    its function's; `shown` are the sizes that its repr begins with."""

    def __init__(self, shown: dict[str, Any], spatial_dims: int | None, backend: str | None, **options):
        super().__init__()
        check.module_options(backend=backend, spatial_dims=spatial_dims, **options)
        self.shown, self.spatial_dims = shown, spatial_dims
        self.options, self.backend = options, backend

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
