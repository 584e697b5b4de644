"""The graph of a module's forward, and all that Python read beside it while the graph was made.

A graph holds what happened once. What decided it, the attributes, methods and globals that the forward read, is kept:
where one of them changes, the graph is no longer what the module computes.
"""

import copy
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from .names import PLAIN, codes, why_unknown

_TORCH = str(Path(torch.__file__).parent)
_SWITCHES = tuple(str(Path(_TORCH, name)) for name in ("autograd", "amp", "utils"))
_PLAIN = tuple(str(Path(_TORCH, name)) for name in ("fx", "nn", "functional.py", "_jit_internal.py", "_tensor.py"))
MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))  # those that every module has


class Unknown(ValueError):
    """Why a forward is not taken by its graph."""


class Read(NamedTuple):
    """What a forward read: of the modules by their path the attributes and the methods by name, and of globals those by
    (their home, name). types: of the module and all inside, in order."""

    attributes: dict[str, dict[str, object]]
    methods: dict[str, dict[str, FunctionType]]
    names: dict[tuple[int, str], tuple[dict, object]]
    types: list[type]

    def is_still_so(self, module: nn.Module, plain_class: Callable[[nn.Module], type]) -> bool:
        """Whether nothing that was read has changed."""
        if [plain_class(m) for m in _all_of(module)] != self.types:
            return False
        for path, values in self.attributes.items():
            holder = _at(module, path)
            for name, value in values.items():
                now = getattr(holder, name, PLAIN)
                if type(now) is not type(value) or now != value:
                    return False
        for path, functions in self.methods.items():
            holder = _at(module, path)
            cls, own = plain_class(holder), vars(holder)
            for name, function in functions.items():
                if name in own or getattr(cls, name, None) is not function:
                    return False
        return all(home.get(name) is value for (_, name), (home, value) in self.names.items())


def _all_of(module: nn.Module) -> list[nn.Module]:
    """The module and all inside; one that is there twice, twice."""
    found = [module]
    for m in found:
        found += [child for child in m._modules.values() if child is not None]
    return found


def _at(module: nn.Module, path: str) -> nn.Module:
    for name in path.split(".") if path else ():
        module = module._modules[name]
    return module


def is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.") or isinstance(module, torch.jit.ScriptModule)


def trace(module: nn.Module) -> tuple[fx.Graph, Read]:
    """The graph of a module's forward of one map or two, and what it read; Unknown where something else decides it."""
    read = Read({}, {}, {}, [type(m) for m in _all_of(module)])
    forwards = _forwards(module)
    twin = copy.deepcopy(module, {id(t): _without_values(t) for t in (*module.parameters(), *module.buffers())})
    for path, inner in list(twin.named_modules()):
        if not isinstance(inner, torch.jit.ScriptModule):
            inner.__class__ = _watched(type(inner), path, read, is_of_torch(inner))
    own = {code for forward in forwards for code in codes(forward.__code__)}
    calls: list[str] = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, function: _note(frame, event, function, own, calls))
    try:
        graph = fx.Tracer().trace(twin)
    except Unknown:
        raise
    except Exception as error:  # whatever a forward does with a value that has none
        what = str(error).partition("\n")[0].partition(". ")[0]
        raise Unknown(f"its forward cannot be traced: {what}") from None
    finally:
        sys.setprofile(before)
    if calls:
        raise Unknown(f"its forward calls {calls[0]}")
    for path, values in read.attributes.items():
        for name, value in values.items():
            if isinstance(value, list) and vars(_at(twin, path)).get(name, value) != value:
                raise Unknown(f"its forward changes self.{name}")
    read.methods.setdefault("", {})["forward"] = type(module).forward
    for forward in forwards:
        names = {name for code in codes(forward.__code__) for name in code.co_names}
        home = forward.__globals__
        read.names.update({(id(home), name): (home, home[name]) for name in names & home.keys()})
    return graph, read


def _without_values(t: Tensor) -> Tensor:
    empty = torch.empty_like(t, device="meta")
    return nn.Parameter(empty, t.requires_grad) if isinstance(t, nn.Parameter) else empty


def _forwards(module: nn.Module) -> list[FunctionType]:
    """The forwards of a module and of those inside that are not torch's; plain functions of one map, or the module's of
    two."""
    found = []
    for inner in module.modules():
        if is_of_torch(inner):
            continue
        forward = type(inner).forward
        if "forward" in vars(inner) or not isinstance(forward, FunctionType) or hasattr(forward, "__wrapped__"):
            raise Unknown("its forward was replaced or is decorated")
        if forward.__code__.co_freevars not in ((), ("__class__",)):
            raise Unknown("its forward is a closure")
        kinds = [(p.kind, p.default) for p in inspect.signature(forward).parameters.values()]
        most = 2 if inner is module else 1
        plain = {*kinds} == {(inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty)}
        if not plain or not 2 <= len(kinds) <= 1 + most:
            raise Unknown("its forward takes more than one map" + ", or two" * (most == 2))
        if reason := why_unknown(forward):
            raise Unknown(reason)
        found.append(forward)
    return found


def _note(frame: FrameType, event: str, function: object, own: set[CodeType], calls: list[str]) -> None:
    """A function that a forward calls, if it is no operation of torch's: one of its own, a switch, a question."""
    caller = frame if event == "c_call" else frame.f_back
    if event not in ("call", "c_call") or caller is None or caller.f_code not in own:
        return
    if event == "c_call":
        home = getattr(function, "__module__", None)
        operation = home in ("builtins", "math", "torch._C._nn") or (home == "torch" and function.__self__ is None)
        if not operation:
            calls.append(f"{function.__name__}(), which its graph does not hold")
    elif frame.f_code not in own:
        file = frame.f_code.co_filename
        if file.startswith(_SWITCHES):
            calls.append("no_grad or autocast")
        elif not file.startswith(_PLAIN) and file != __file__:
            calls.append(f"{frame.f_code.co_name}(), a function that its graph does not hold")


def _watched(cls: type, path: str, read: Read, of_torch: bool) -> type:
    """A class whose instances note what a forward reads of them, and which it cannot change. What torch's own code
    reads of a module of torch's is part of what that computes."""

    def __getattribute__(self, name):
        value = cls.__getattribute__(self, name)
        if (
            name.startswith("__")
            or (of_torch and _is_asked_by_torch())
            or (name in MODULE_ATTRIBUTES and name != "training")
            or isinstance(value, nn.Module | Tensor | fx.Proxy)
        ):
            return value
        if inspect.ismethod(value):
            function = value.__func__
            if not function.__code__.co_filename.startswith(_TORCH):
                read.methods.setdefault(path, {})[name] = function
        elif name == "training":
            if not _is_asked_by_torch():
                raise Unknown("its forward reads self.training")
        else:
            read.attributes.setdefault(path, {})[name] = _plain_value(name, value)
        return value

    def changed(self, name, *value):
        raise Unknown(f"its forward changes self.{name}")

    names = {"__getattribute__": __getattribute__, "__setattr__": changed, "__delattr__": changed}
    return type(cls.__name__, (cls,), {**names, "__module__": cls.__module__})


def _is_asked_by_torch() -> bool:
    return sys._getframe(2).f_code.co_filename.startswith(_TORCH)


def _plain_value(name: str, value: object) -> object:
    parts = value if isinstance(value, tuple | list) else (value,)
    if all(isinstance(part, PLAIN) or inspect.isbuiltin(part) for part in parts):
        return list(value) if isinstance(value, list) else value  # a list may change inside
    if isinstance(value, FunctionType) and value.__code__.co_filename.startswith(_TORCH):
        return value
    raise Unknown(f"its forward reads self.{name}, a {type(value).__name__}")
