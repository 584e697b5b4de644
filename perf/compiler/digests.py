"""What a predicted time is computed from, as a digest: it stands beside the time, and another one asks for it anew.

Of both sides the account and all that it assumes, and the versions of torch and Triton. Of ours the text of the
kernels, without comments, and what the plans give them; of a rival its own code, and how its kernels are generated.
"""

import ast
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
import triton

from ... import compiled as static
from .. import account

HERE = Path(__file__).parent


def of_plans(plans: Iterable[Any], calls: Iterable[Any]) -> str:
    return _digest(_account(), *calls, *(part for plan in plans for part in _plan(plan)))


def of_rival(function: Callable, op: str, size: str, layout: str, arch: int) -> str:
    generator = (_text(HERE / name) for name in ("inductor.py", "libraries.py", "flex.py"))
    return _digest(_account(), *generator, *_sources(function), op, size, layout, arch)


def _plan(plan: Any) -> Iterator[Any]:
    source = static.source_of(plan)
    folder = Path(inspect.getsourcefile(plan.kernel.fn)).parent
    yield from (_folder(folder), _folder(folder.parent / "common"), plan.name, plan.grid)
    yield from (sorted(plan.options.items()), source.signature, sorted(map(str, source.constants.items())))
    yield sorted(map(str, source.attrs.items()))
    yield [(name, value) for name, value in plan.args.items() if isinstance(value, (int, tuple))]
    yield [(name, value.shape) for name, value in plan.args.items() if isinstance(value, torch.Tensor)]


def _sources(function: Callable) -> Iterator[str]:
    """Of a function, and of those beside it that it calls; an object's whole module."""
    if isinstance(function, partial):
        yield str(sorted(function.keywords.items()))
        function = function.func
    if not inspect.isfunction(function):
        yield f"{function} {_text(Path(inspect.getsourcefile(type(function))))}"
        return
    yield inspect.getsource(function)
    for name in function.__code__.co_names:
        called = function.__globals__.get(name)
        if inspect.isfunction(called) and _folder_of(called) == _folder_of(function):
            yield from _sources(called)


def _folder_of(function: Callable) -> str:
    return function.__module__.rpartition(".")[0]


@lru_cache
def _account() -> str:
    return _digest(_folder(Path(account.__file__).parent), torch.__version__, triton.__version__)


@lru_cache
def _folder(folder: Path) -> str:
    return _digest(*(_text(file) for file in sorted(folder.glob("*.py"))))


@lru_cache
def _text(file: Path) -> str:
    """Its code: comments, docstrings and places in the file do not count."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return ast.dump(tree)


def _digest(*parts: Any) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:12]
