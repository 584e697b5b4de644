"""Every operator on tensors of every type and shape, numbers and pointers, in Triton's interpreter: what comes out.

Prints a JSON object; with the word `fast` of the interpreter as `interpreter_fast` patches it. What Triton refuses is a
result, too.
"""

import itertools
import json
import operator
import os
import sys
import warnings

os.environ["TRITON_INTERPRET"] = "1"  # before the first import of triton

import torch
import triton
import triton.language as tl

TYPES = (tl.int1, tl.uint8, tl.int8, tl.int32, tl.uint32, tl.int64, tl.float16, tl.float32, tl.float64)
NUMBERS = (0, 2, -3, 2**31, 2**40, True, 0.0, -0.0, 1.5, 1e40, float("nan"))
OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "lt", "eq", "and_", "lshift")


def _result(name: str, left, right, place) -> str:
    try:
        out = getattr(operator, name)(left, right)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    data = out.handle.data - (place if out.dtype.is_ptr() else 0)
    return f"{out.dtype} {out.type} {[int(size) for size in out.shape]} {data.dtype} {data.tolist()}"


def _results(found: dict[str, str], pointer) -> None:
    """Called from within a kernel, where `tl` is the interpreter's."""
    four = tl.arange(0, 4)
    tensors = {f"{kind}": four.to(kind) for kind in TYPES}
    tensors |= {"column": tl.arange(2, 4)[:, None], "scalar": tl.sum(four, 0), "pointer": pointer}
    operands = {**tensors, **{repr(n): n for n in NUMBERS}}
    for (a, left), (b, right), name in itertools.product(operands.items(), operands.items(), OPERATORS):
        if a in tensors or b in tensors:
            found[f"{name} {a} {b}"] = _result(name, left, right, pointer.handle.data)
    for (a, left), kind in itertools.product(list(tensors.items())[:-1], TYPES):
        found[f"to {a} {kind}"] = _result("add", left.to(kind), 1, pointer.handle.data)


@triton.jit
def _kernel(pointer, BODY: tl.constexpr, FOUND: tl.constexpr):
    BODY(FOUND, pointer)


if __name__ == "__main__":
    if "fast" in sys.argv[1:]:
        import interpreter_fast

        interpreter_fast.install()
    else:  # the computation in 64 bits asserts
        from triton.runtime import interpreter

        interpreter.interpreter_builder.options.__dict__["sanitize_overflow"] = False
    warnings.simplefilter("ignore")
    results: dict[str, str] = {}
    _kernel[(1,)](torch.zeros(4), _results, results)
    json.dump(results, sys.stdout)
