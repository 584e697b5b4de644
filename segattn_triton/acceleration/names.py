"""What the code of a forward names outside of its module, checked before anything runs: no state, no switch, nothing
that can change inside and stay the same object."""

import builtins
import dis
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

import torch

PLAIN = (bool, int, float, str, type(None))  # values that cannot change inside
_BUILTINS = {"len", "int", "float", "bool", "str", "tuple", "list", "range", "zip", "enumerate", "isinstance", "map"}
_BUILTINS |= {"hasattr", "getattr", "max", "min", "abs", "sum", "round", "super", "slice", "reversed", "any", "all"}
_ROUND_ABOUT = {"__dict__", "__class__", "__globals__", "__code__", "__closure__"}
_CONSTANTS = {"pi", "e", "tau", "inf", "nan", "newaxis"}
_STATE = {"STORE_GLOBAL": "changes", "DELETE_GLOBAL": "changes", "IMPORT_NAME": "imports"}


def codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def catches_errors(code: CodeType) -> bool:
    """Whether it has a `try` or a `with`."""
    return any(one.opname in ("PUSH_EXC_INFO", "SETUP_FINALLY", "SETUP_WITH") for one in dis.get_instructions(code))


def why_unknown(forward: FunctionType) -> str | None:
    """What of its names makes a forward more than its graph; None where nothing does."""
    for code in codes(forward.__code__):
        if odd := _ROUND_ABOUT & {*code.co_names}:
            return f"its forward reads {odd.pop()}"
        read = list(dis.get_instructions(code))
        for at, one in enumerate(read):
            if one.opname in _STATE:
                return f"its forward {_STATE[one.opname]} {one.argval}"
            if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                attributes = [i.argval for i in _attributes(read[at + 1 :])]
                if reason := _of_global(one.argval, attributes, forward.__globals__):
                    return reason
    return None


def _attributes(after: list[dis.Instruction]) -> Iterator[dis.Instruction]:
    for one in after:
        if one.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            yield one
        elif one.opname not in ("CACHE", "PUSH_NULL", "NOP"):
            return


def _of_global(name: str, attributes: list[str], home: dict) -> str | None:
    if name not in home:
        value = getattr(builtins, name, None)
        known = name in _BUILTINS or (isinstance(value, type) and issubclass(value, BaseException))
        return None if known else f"its forward uses {name}, which its graph does not hold"
    value, path = home[name], name
    while isinstance(value, ModuleType) and (value.__name__ == "math" or value.__name__.partition(".")[0] == "torch"):
        if not attributes:
            return f"its forward hands on the module {path}"
        module, (first, *attributes) = value, attributes
        path, value = f"{path}.{first}", getattr(value, first, None)
        if isinstance(value, PLAIN) and (module.__name__ not in ("math", "torch") or first not in _CONSTANTS):
            return f"its forward reads {path}, a switch"
    parts = value if isinstance(value, tuple) else (value,)
    return None if all(map(_stays, parts)) else f"its forward reads the global {path}, a {type(value).__name__}"


def _stays(value: object) -> bool:
    """Whether a value is a plain one, a type of torch's or Python's, or an operation of torch's."""
    if isinstance(value, PLAIN):
        return True
    home = getattr(value, "__module__", None) or type(value).__module__
    of_torch = home.partition(".")[0] in ("torch", "builtins", "math")
    known = isinstance(value, type | FunctionType | BuiltinFunctionType | torch.dtype | torch.memory_format)
    return of_torch and known
