"""What a launch of a plan would give the compiler: every argument's type, and what is known of its value."""

from typing import Any

import torch
from torch import Tensor
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from ..runtime.plan import Plan

POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
    torch.int8: "*i8",
}
DIVISIBLE = [["tt.divisibility", 16]]


def _specialise(path, value: Any, constexprs: dict, attrs: dict):
    """The signature of a runtime argument, as Triton's launcher specialises it."""
    if value is None or (isinstance(value, int) and value == 1):
        constexprs[path] = value
        return "constexpr"
    if isinstance(value, Tensor):
        if value.data_ptr() % 16 == 0:
            attrs[path] = DIVISIBLE
        return POINTERS[value.dtype]
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{POINTERS[value.base.dtype][1:]}{list(value.block_shape)}>"
    if isinstance(value, tuple):
        return tuple(_specialise((*path, i), v, constexprs, attrs) for i, v in enumerate(value))
    if isinstance(value, int):
        if value % 16 == 0:
            attrs[path] = DIVISIBLE
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    raise TypeError(f"{path}: no signature for a {type(value).__name__}")


def source_of(plan: Plan) -> ASTSource:
    values = {**plan.args, **plan.config.blocks}
    signature, constexprs, attrs = {}, {}, {}
    for i, param in enumerate(plan.kernel.params):
        value = values[param.name]
        if param.is_constexpr:
            signature[param.name] = "constexpr"
            constexprs[(i,)] = value
        else:
            signature[param.name] = _specialise((i,), value, constexprs, attrs)
    return ASTSource(fn=plan.kernel, signature=signature, constexprs=constexprs, attrs=attrs)
