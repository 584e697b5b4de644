"""How the reference computes: at least fp32, autocast off, one rounding at the end; and where a kernel may round."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_state = threading.local()


def in_full_precision(fn: Callable) -> Callable:
    """Run `fn` on tensors of at least fp32, with autocast off, and return x's dtype; a vector of statistics as wide as
    it is.

    The floating tensors among the arguments share the widest of their dtypes and fp32.
    """

    @functools.wraps(fn)
    def wrapped(x: Tensor, *args, **kwargs):
        tensors = [t for t in (x, *args, *kwargs.values()) if isinstance(t, Tensor)]
        wide = functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)

        def widen(value):
            return value.to(wide) if isinstance(value, Tensor) else value

        with contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            out = fn(widen(x), *map(widen, args), **{k: widen(v) for k, v in kwargs.items()})
        return tuple(t.to(x.dtype) if t.dim() > 1 else t for t in out) if isinstance(out, tuple) else out.to(x.dtype)

    return wrapped


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, t: Tensor, forward_dtype, backward_dtype):
        ctx.dtype = backward_dtype
        return t if forward_dtype is None else t.to(forward_dtype).to(t.dtype)

    @staticmethod
    def backward(ctx, dt: Tensor):
        return dt if ctx.dtype is None else dt.to(ctx.dtype).to(dt.dtype), None, None


def rounding_point(name: str, t: Tensor) -> Tensor:
    """`t`, rounded to 16 bits inside `rounded(...)` where `name` is named; its gradient where `"d" + name` is.

    A kernel that hands an intermediate to a tensor core or a library rounds it there. The error budget of such
    an op is the reference's own error with exactly these points rounded. Outside `rounded` this is `t` itself.
    """
    points, dtype = getattr(_state, "rounding", ((), None))
    forward, backward = (dtype if point in points else None for point in (name, "d" + name))
    return t if forward is backward is None else _Round.apply(t, forward, backward)


def rounding_error(name: str, t: Tensor) -> Tensor | None:
    """What rounding to 16 bits adds to `t`, a constant, inside `rounded(...)` where `name` is named; else None.

    For an intermediate that a kernel rounds in one of its uses only.
    """
    points, dtype = getattr(_state, "rounding", ((), None))
    return (t.to(dtype).to(t.dtype) - t).detach() if name in points else None


@contextlib.contextmanager
def rounded(points: tuple[str, ...], dtype: torch.dtype) -> Iterator[None]:
    """Inside, `rounding_point` rounds the named intermediates to `dtype`."""
    before = getattr(_state, "rounding", ((), None))
    _state.rounding = (points, dtype)
    try:
        yield
    finally:
        _state.rounding = before
