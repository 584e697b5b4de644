"""Triton or reference. The only place that imports `ops`, and that knows where Triton can run."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from segattn_triton import reference

BACKENDS = (None, "triton", "reference")


@functools.cache
def _ops():
    """The Triton implementations, or the ImportError that says why there are none."""
    try:
        from segattn_triton import ops
    except ImportError as error:
        return error
    return ops


@functools.cache
def _interpreting() -> bool:
    from triton import knobs

    return bool(knobs.runtime.interpret)


@functools.cache
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
    if x.device.type == "cpu" and _interpreting():
        return None
    if x.device.type == "meta":
        return None
    return f"x is on {x.device}: Triton runs on CUDA tensors, and on CPU tensors in its interpreter"


def implementation(name: str, backend: str | None, x: Tensor) -> Callable:
    """The function that runs op `name` on x. A named backend never falls back; None prefers Triton on a GPU."""
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
