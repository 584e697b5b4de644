"""Calls of libraries among what a function does on tensors without memory: convolutions, products of matrices."""

from dataclasses import dataclass

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

VIEWS = (
    "empty",
    "view",
    "as_strided",
    "alias",
    "detach",
    "t",
    "transpose",
    "permute",
    "expand",
    "unsqueeze",
    "squeeze",
)


@dataclass(frozen=True)
class Library:
    """A call of a library."""

    name: str
    nbytes: int  # of what goes in and comes out
    flops: int


class Noting(TorchDispatchMode):
    """Notes the calls of libraries; views and allocations are none."""

    def __init__(self, calls: list):
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._schema.name == "aten::conv2d":  # as it comes where nothing wants a gradient: it has no count itself
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if not name.startswith(VIEWS) and name != "t":
            outputs = result if isinstance(result, (tuple, list)) else [result]
            tensors = {id(t): t for t in (*args, *kwargs.values(), *outputs) if isinstance(t, Tensor)}
            nbytes = sum(t.numel() * t.element_size() for t in tensors.values())
            count = flop_registry.get(func._overloadpacket)
            flops = count(*args, **{k: v for k, v in kwargs.items() if k != "out"}, out_val=result) if count else 0
            self.calls.append(Library(name, nbytes, flops))
        return result
