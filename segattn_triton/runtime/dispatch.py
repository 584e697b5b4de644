"""Triton or reference. The only place that imports `ops`, and that knows where Triton can run."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.nn import Parameter
from torch.overrides import handle_torch_function, has_torch_function

from .. import reference
from . import checks as check

BACKENDS = (None, "triton", "reference")
BEYOND: dict[type, Callable] = {}  # how a public function is called with tensors of a class, where operators know none


_error: ImportError | None = None
_call: Callable | None = None  # set once the operators are imported


P = ParamSpec("P")
R = TypeVar("R")


def recalled(function: Callable[P, R]) -> Callable[P, R]:
    """A public function, whose body checks its arguments and returns a `Call`, or what the reference gives: here the
    call is made. What was seen before is not checked again; tensors may be of any class. Type checkers see the
    function's own parameters."""
    flags = [name for name, p in inspect.signature(function).parameters.items() if p.annotation is bool]

    def made(*args: P.args, **kwargs: P.kwargs) -> Any:
        for name in flags:
            if name in kwargs:
                check.flag(name, kwargs[name])
        return function(*args, **kwargs)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            known = not any(map(_is_of_a_class, (*args, *kwargs.values())))
            return _made(made(*args, **kwargs)) if known else untraced(*args, **kwargs)
        return _made(of_any_class(*args, **kwargs)) if _call is None else _call(of_any_class, args, kwargs)

    @functools.wraps(function)
    def of_any_class(*args: P.args, **kwargs: P.kwargs) -> R:
        given = (*args, *kwargs.values())
        if (beyond := next((BEYOND[type(value)] for value in given if type(value) in BEYOND), None)) is not None:
            return beyond(call, *args, **kwargs)
        if not any(map(_is_of_a_class, given)):
            return made(*args, **kwargs)
        if has_torch_function(given):  # the class has its say as in a function of torch, and calls again
            return handle_torch_function(call, given, *args, **kwargs)
        return call(*map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})

    untraced = _disable_dynamo(of_any_class)
    return call


def _made(outcome: Any) -> Any:
    """The results of the reference, or those of the operator's `Call` that is still to be made."""
    return outcome if isinstance(outcome, Tensor | tuple) else outcome()


def _is_of_a_class(value: Any) -> bool:
    """Whether it is a tensor with values in memory, of a class that knows only functions of torch. What knows operators
    as well, such as a fake or a sharded tensor, they are called with."""
    cls = type(value)
    return (
        issubclass(cls, Tensor)
        and cls not in (Tensor, Parameter)
        and cls.__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if _is_of_a_class(value) else value


def _ops():
    """The Triton implementations, or the ImportError that says why there are none. torch.compile traces it."""
    global _error, _call
    if _error is None:
        try:
            from .. import ops
            from .call import call
        except ImportError as error:
            _error = error
        else:
            # It is not read: a compiled call would be traced again once it is set.
            _call = call
            return ops
    return _error


def _interpreting() -> bool:
    from .plan import INTERPRETED  # a constant, because torch.compile traces this function

    return INTERPRETED


def _bfloat16_runs(device_index: int) -> bool:
    return bool(torch.version.hip) or torch.cuda.get_device_capability(device_index) >= (8, 0)


def _why_not_triton(x: Tensor) -> str | None:
    """What keeps x from the Triton kernels, None if nothing does."""
    if isinstance(ops := _ops(), ImportError):
        return f"Triton cannot be imported: {ops}"
    if x.is_cuda:
        if x.dtype == torch.bfloat16 and not _bfloat16_runs(x.device.index or 0):
            return "bfloat16 needs a GPU of compute capability 8.0 or higher"
        return None
    if x.device.type == "meta" or (x.device.type == "cpu" and _interpreting()):
        return None
    return f"x is on {x.device}: Triton runs on CUDA tensors, and on CPU tensors in its interpreter"


def implementation(name: str, backend: str | None, x: Tensor) -> Callable:
    """The function that runs op `name` on x. A named backend never falls back; None prefers Triton on a GPU."""
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    if traced or type(x) is not Tensor or not x.is_cuda:
        return _implementation(name, backend, x)
    key = (name, backend, x.dtype, x.get_device())
    found = _on_gpu.get(key)
    if found is None:
        found = _on_gpu[key] = _implementation(name, backend, x)
    return found


_on_gpu: dict[tuple, Callable] = {}  # what runs on a GPU does not change; asking for it all takes microseconds


def _implementation(name: str, backend: str | None, x: Tensor) -> Callable:
    if backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, expected one of {', '.join(map(repr, BACKENDS))}")
    if backend == "reference" or torch.onnx.is_in_onnx_export():
        return getattr(reference, name)
    if backend is None and not (x.is_cuda or x.device.type == "meta"):
        return getattr(reference, name)
    reason = _why_not_triton(x)
    if reason is None:
        return getattr(_ops(), name)
    if backend == "triton":
        raise RuntimeError(f'backend: "triton" cannot run here: {reason}')
    return getattr(reference, name)


def decompositions() -> dict:
    """{operator: the reference with its schema}, for `ExportedProgram.run_decompositions`: a graph of plain torch."""
    if isinstance(ops := _ops(), ImportError):
        raise ops
    return {op.op: functools.partial(_decompose, op) for op in ops.OPERATORS.values()}


def _decompose(op, *args):
    """Call the reference with the operator's arguments; what it saves for a backward is left empty."""
    define = getattr(reference, op.reference)
    tensors, options = op.schema.named(args)
    known = inspect.signature(define).parameters
    kwargs = {name: value for name, value in options._asdict().items() if name in known}
    if "stats" in op.outputs:
        kwargs["return_stats"] = True
    out = define(*tensors, **kwargs)
    out = out if isinstance(out, tuple) else (out,)
    if "stats" in op.outputs and not options.return_map:
        out = (out[0], tensors[0].new_empty((0,)), out[1])
    return (*out, *(tensors[0].new_empty((0,)) for _ in range(len(op.outputs) - len(out))))
