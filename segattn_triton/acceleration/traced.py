"""The graph of a module's forward, and all that Python read beside it while the graph was made.

A graph holds what happened once. What decided it, the attributes, methods and globals that the forward read, is kept:
where one of them changes, the graph is no longer what the module computes.
"""

import copy
import inspect
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from .adapters import spec_of
from .names import PLAIN, catches_errors, codes, why_unknown

_TORCH = str(Path(torch.__file__).parent)
_SWITCHES = tuple(str(Path(_TORCH, name)) for name in ("autograd", "amp", "utils"))
_PLAIN = tuple(str(Path(_TORCH, name)) for name in ("fx", "nn", "functional.py", "_jit_internal.py", "_tensor.py"))
MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))  # those that every module has


class Unknown(ValueError):
    """Why a forward is not taken by its graph."""


class _Missing:
    """What an attribute is that a forward asked for and that is not there: equal to itself."""


MISSING = _Missing()


class Read(NamedTuple):
    """What a forward read: of the modules by their path the attributes and the methods by name, and of globals those by
    (their home, name). types: of the module and all inside, in order, with their names. constants: what torch's
    convolutions and pools are made of, by path; those of norms and activations are read at every call."""

    attributes: dict[str, dict[str, object]]
    methods: dict[str, dict[str, FunctionType]]
    names: dict[tuple[int, str], tuple[dict, object]]
    types: list[tuple[str, type]]
    constants: dict[str, dict[str, object]]

    def is_still_so(self, module: nn.Module, plain_class: Callable[[nn.Module], type]) -> bool:
        """Whether nothing that was read has changed."""
        if [(name, plain_class(m)) for name, m in _all_of(module)] != self.types:
            return False
        for path, values in self.constants.items():
            own = _at(module, path).__dict__
            if len(own) != len(MODULE_ATTRIBUTES) + len(values):
                return False
            for name, value in values.items():
                if own.get(name, MISSING) != value:
                    return False
        for path, values in self.attributes.items():
            holder = _at(module, path)
            for name, value in values.items():
                now = getattr(holder, name, MISSING)
                if type(now) is not type(value) or now != value:
                    return False
        for path, functions in self.methods.items():
            holder = _at(module, path)
            cls, own = plain_class(holder), vars(holder)
            for name, function in functions.items():
                if name in own or getattr(cls, name, None) is not function:
                    return False
        return all(home.get(name) is value for (_, name), (home, value) in self.names.items())


def _all_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The module and all inside, with their names where they are; one that is there twice, twice."""
    found = [("", module)]
    for _, m in found:
        found += [(name, child) for name, child in m._modules.items() if child is not None]
    return found


def _paths_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(module.named_modules(remove_duplicate=False))


def _constants_of(leaf: nn.Module) -> dict[str, object]:
    """The attributes of its own of a convolution or a pool: strides, paddings, sizes of outputs."""
    return {name: value for name, value in vars(leaf).items() if name not in MODULE_ATTRIBUTES}


def _is_constant(leaf: nn.Module) -> bool:
    """Whether nothing but its weights is read of it at a call, and more decides what it computes."""
    known = isinstance(leaf, nn.Linear | nn.modules.batchnorm._NormBase) or spec_of(leaf) is not None
    return is_of_torch(leaf) and not leaf._modules and not known


def _at(module: nn.Module, path: str) -> nn.Module:
    for name in path.split(".") if path else ():
        module = module._modules[name]
    return module


def is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.") or isinstance(module, torch.jit.ScriptModule)


def trace(module: nn.Module) -> tuple[fx.Graph, Read]:
    """The graph of a module's forward of one map or two, and what it read; Unknown where something else decides it."""
    leaves = {path: _constants_of(m) for path, m in _paths_of(module) if _is_constant(m)}
    read = Read({}, {}, {}, [(name, type(m)) for name, m in _all_of(module)], leaves)
    forwards = _forwards(module)
    twin = copy.deepcopy(module, {id(t): _without_values(t) for t in (*module.parameters(), *module.buffers())})
    for path, inner in list(twin.named_modules()):
        if not isinstance(inner, torch.jit.ScriptModule):
            inner.__class__ = _watched(type(inner), path, read, is_of_torch(inner))
    own = {code for forward in forwards for code in codes(forward.__code__)}
    calls: list[str] = []
    with ThreadPoolExecutor(1) as thread:  # whose calls no profiler of the caller's watches
        graph = thread.submit(_graph_of, twin, own, calls).result()
    if calls:
        raise Unknown(f"its forward calls {calls[0]}")
    if any(map(catches_errors, own)):
        raise Unknown("its forward catches errors, which a trace has where a call has none")
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


def _graph_of(twin: nn.Module, own: set[CodeType], calls: list[str]) -> fx.Graph:
    """And in `calls` what the forwards call that it does not hold."""
    sys.setprofile(lambda frame, event, function: _note(frame, event, function, own, calls))
    try:
        return fx.Tracer().trace(twin)
    except Unknown:
        raise
    except Exception as error:  # whatever a forward does with a value that has none
        what = str(error).partition("\n")[0].partition(". ")[0]
        raise Unknown(f"its forward cannot be traced: {what}") from None
    finally:
        sys.setprofile(None)


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
    if cls.__getattr__ is not nn.Module.__getattr__ or cls.__getattribute__ is not object.__getattribute__:
        raise Unknown("its class has attributes that Python computes")

    def __getattribute__(self, name):
        value = cls.__getattribute__(self, name)
        by_torch = _is_asked_by_torch()
        if not (by_torch and (of_torch or _is_of_every_module(name))) and not hasattr(object, name):
            _note_value(path, read, name, value, by_torch)
        return value

    def __getattr__(self, name):
        """A child, a tensor, or what is missing."""
        by_torch = _is_asked_by_torch()
        try:
            value = cls.__getattr__(self, name)
        except AttributeError:
            read.attributes.setdefault(path, {})[name] = MISSING
            raise
        if not (by_torch and of_torch):
            _note_value(path, read, name, value, by_torch)
        return value

    def changed(self, name, *value):
        raise Unknown(f"its forward changes self.{name}")

    watch = {"__getattribute__": __getattribute__, "__getattr__": __getattr__}
    names = {**watch, "__setattr__": changed, "__delattr__": changed}
    return type(cls.__name__, (cls,), {**names, "__module__": cls.__module__})


def _is_of_every_module(name: str) -> bool:
    return name in MODULE_ATTRIBUTES or hasattr(nn.Module, name)


_OF_CHILDREN = {"children", "named_children", "modules", "named_modules", "get_submodule", "forward"}
_OF_CHILDREN |= {"items", "values", "keys"}  # of a dictionary of modules


def _note_value(path: str, read: Read, name: str, value: object, by_torch: bool) -> None:
    """What a forward, or a method or property that it calls, reads of a module."""
    if inspect.ismethod(value):
        function = value.__func__
        if not function.__code__.co_filename.startswith(_TORCH):
            read.methods.setdefault(path, {})[name] = function
        elif not by_torch and name not in _OF_CHILDREN:
            raise Unknown(f"its forward calls self.{name}()")
    elif name == "training":
        raise Unknown("its forward reads self.training")
    elif name in MODULE_ATTRIBUTES:
        if name != "_modules":
            raise Unknown(f"its forward reads self.{name}")
    elif not isinstance(value, nn.Module | fx.Proxy):
        read.attributes.setdefault(path, {})[name] = _plain_value(name, value)


def _is_asked_by_torch() -> bool:
    return sys._getframe(2).f_code.co_filename.startswith(_TORCH)


def _plain_value(name: str, value: object) -> object:
    parts = value if isinstance(value, tuple | list) else (value,)
    if all(isinstance(part, PLAIN) or inspect.isbuiltin(part) for part in parts):
        return list(value) if isinstance(value, list) else value  # a list may change inside
    if isinstance(value, FunctionType) and value.__code__.co_filename.startswith(_TORCH):
        return value
    raise Unknown(f"its forward reads self.{name}, a {type(value).__name__}")
