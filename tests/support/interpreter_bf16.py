"""bfloat16 in Triton's interpreter as on a GPU: `install()` makes casts, arithmetic, reductions and dots torch's.

The interpreter keeps bfloat16 as raw uint16, computes on these bits, truncates on casts and flushes subnormals. Here
every operation on bfloat16 operands runs in float32 and is rounded once, to nearest even; a dot accumulates in the
accumulator's dtype. Sums of any dtype are pairwise, like the trees of a GPU: the interpreter's plain running sum of
2,000 values has a larger error than any kernel. For the interpreters of triton 3.6 to 3.9.
"""

import functools

import numpy as np


def widen(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 bits."""
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32).reshape(np.shape(bits))


def narrow(values: np.ndarray) -> np.ndarray:
    """The bfloat16 bits nearest to float32 values, ties to even."""
    values = np.asarray(values, np.float32)
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64).reshape(values.shape)
    rounded = ((bits + ((bits >> 16) & 1) + 0x7FFF) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


@functools.cache
def install() -> None:
    """Patch the interpreter of this process, once."""
    import triton.language as tl
    from triton.runtime import interpreter as ti

    builder, handle = ti.InterpreterBuilder, ti.TensorHandle

    def is_bf16(value) -> bool:
        return isinstance(value, handle) and value.dtype.scalar.name == "bf16"

    def wide(value):
        return handle(widen(value.data), tl.float32) if is_bf16(value) else value

    def elementwise(method):
        @functools.wraps(method)
        def wrapped(self, *args):
            if not any(map(is_bf16, args)):
                return method(self, *args)
            out = method(self, *map(wide, args))
            return handle(out.data if out.data.dtype == np.bool_ else narrow(out.data), tl.bfloat16)

        return wrapped

    def cast(method):
        @functools.wraps(method)
        def wrapped(self, src, dst_type, *rounding):
            dst, numpy_type = dst_type.scalar, ti._get_np_dtype(dst_type)
            if dst == tl.bfloat16:
                return handle(narrow(wide(src).data.astype(np.float32)), dst)
            if is_bf16(src) and dst.primitive_bitwidth > 8:
                return handle(wide(src).data.astype(numpy_type), dst)
            return method(self, src, dst_type, *rounding)

        return wrapped

    def dot(method):
        return functools.wraps(method)(lambda self, a, b, *rest: method(self, wide(a), wide(b), *rest))

    def retyped(t, data, dtype):
        shaped = tl.block_type(dtype, list(data.shape)) if t.type.is_block() else dtype
        return tl.core.tensor(handle(data, dtype), shaped)

    def reduction(method):
        def rounded(out):
            if isinstance(out, (list, tuple)):
                return type(out)(map(rounded, out))
            return retyped(out, narrow(out.handle.data), tl.bfloat16) if out.dtype == tl.float32 else out

        @functools.wraps(method)
        def wrapped(self, t, *args, **kwargs):
            if t.dtype.scalar != tl.bfloat16:
                return method(self, t, *args, **kwargs)
            return rounded(method(self, retyped(t, widen(t.handle.data), tl.float32), *args, **kwargs))

        return wrapped

    def pairwise_sum(self, t):
        data = t.handle.data.reshape(-1) if self.axis is None else np.moveaxis(t.handle.data, self.axis, -1)
        total = np.sum(np.ascontiguousarray(data), -1)  # numpy sums pairwise along a contiguous axis
        if self.keep_dims:
            total = total.reshape([1] * t.handle.data.ndim) if self.axis is None else np.expand_dims(total, self.axis)
        return self.to_tensor(total, t.dtype)

    ti.ReduceOps.sum = pairwise_sum
    patches = (
        (builder, elementwise, ("binary_op", "unary_op", "ternary_op", "create_fma", "create_erf", "create_rsqrt")),
        (builder, cast, ("cast_impl", "create_fp_to_fp")),
        (builder, dot, ("create_dot",)),
        (ti.ReduceOps, reduction, ("sum", "min_max")),
        (ti.ScanOps, reduction, ("cumsum", "cumprod")),
    )
    for owner, wrapper, names in patches:
        for name in names:
            setattr(owner, name, wrapper(getattr(owner, name)))
    builder.get_bf16 = lambda self, value: handle(narrow(np.array([value])), tl.bfloat16)
