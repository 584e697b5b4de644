"""Your model: how long a training step takes, how much of it gates take, what can be gained, and what was.

Four copies are timed in interleaved rounds, forward and backward: the model as it is, accelerated, compiled, and both.
The time in gates is taken in the model as it is, from events around every module that `accelerate` would take; with a
share f of the step, Amdahl's law allows at most 1 / (1 - f) times the speed.
"""

import copy
import importlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from ...draft import write_text
from .. import terminal
from ..measure import backends, env, timing
from ..measure import points as measure
from ..measure.backends import Cpu, TimedCall
from ..measure.child import one_line
from ..options import Failure, Usage
from ..report.render import render
from ..report.render.your_model import MODEL_FILE, WAYS, markdown

TIMED_STEPS = 7  # in which the gates are timed


def run(
    spec: str, size: str, out: Path, *, cpu: bool = False, backend: Cpu | None = None, console: Console | None = None
) -> Path:
    """Measure, print, and write OUT/model.json, OUT/model.md and the page; its path. An earlier one is kept."""
    accelerate, factory, shape = _accelerate(), factory_of(spec), _shape(size)
    if backend is None and not cpu and (problem := env.unusable_gpu()):
        raise Usage(problem)
    backend, console = backend or backends.find(cpu), console or terminal.console()
    model = made(factory, spec).to(backend.device).train()
    try:
        x = torch.randn(shape, device=backend.device)
        step(model, x)
    except Exception as error:
        raise Failure(f"--model: a step of {spec} on {size} fails: {one_line(error)}") from error
    fast = accelerate(copy.deepcopy(model))
    gates = taken(model, fast)
    found, failed = _steps(model, fast, x, backend)
    if "eager" not in found:
        raise Failure(f"--model: {spec} cannot be timed: {failed['eager']}")
    values = {
        "model": spec,
        "input": list(shape),
        "gates": gates,
        "variants": found,
        "failed": failed,
        **_share(model, gates, x, backend, found["eager"]["ms"]),
        "environment": env.collect() | {"device": backend.name},
    }
    _set_aside(out)
    text = markdown(values)
    write_text(out / MODEL_FILE, json.dumps(values, indent=1, default=str))
    write_text((out / MODEL_FILE).with_suffix(".md"), text)
    console.print(text, markup=False, soft_wrap=True)
    return render(out)


def _set_aside(out: Path) -> None:
    path = out / MODEL_FILE
    if path.exists():
        number = next(i for i in range(1, 10**6) if not path.with_stem(f"{path.stem}-{i}").exists())
        for old in (path, path.with_suffix(".md")):
            if old.exists():
                old.rename(old.with_stem(f"{old.stem}-{number}"))


def _accelerate() -> Callable[[nn.Module], nn.Module]:
    import segattn_triton

    found = getattr(segattn_triton, "accelerate", None)
    if found is None:
        raise Usage("--model: this version of segattn_triton has no accelerate(); expected a newer one")
    return found


def factory_of(spec: str) -> Callable[[], nn.Module]:
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise Usage(f"--model: got {spec!r}, expected package.module:factory")
    sys.path.insert(0, "")  # a module beside the caller
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise Usage(f"--model: cannot import {spec}: {one_line(error)}") from None
    finally:
        sys.path.remove("")
    if not callable(found):
        raise Usage(f"--model: {spec} is a {type(found).__name__}, expected a function that returns a model")
    return found


def made(factory: Callable[[], nn.Module], spec: str) -> nn.Module:
    try:
        model = factory()
    except (Exception, SystemExit) as error:
        raise Usage(f"--model: {spec}() fails: {one_line(error)}") from None
    if not isinstance(model, nn.Module):
        raise Usage(f"--model: {spec}() returned a {type(model).__name__}, expected a torch.nn.Module")
    return model


def _shape(size: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8})+", size):
        raise Usage(f"--input: got {size[:60]!r}, expected sizes such as 8x3x512x512")
    shape = tuple(map(int, size.split("x")))
    if (needed := 4 * math.prod(shape)) > (there := memory()):
        raise Usage(f"--input: {size} takes {needed / 1e9:,.0f} GB, expected less than the {there / 1e9:,.0f} GB here")
    return shape


def memory() -> float:
    """Bytes of this machine, where the system says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def step(model: nn.Module, x: Tensor) -> None:
    """Forward and backward, without an optimiser."""
    loss = sum(t.float().mean() for t in _tensors(model(x)))
    loss.backward()
    model.zero_grad(set_to_none=True)


def _tensors(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors that an output holds."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (Mapping, tuple, list)):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(part)


def taken(model: nn.Module, fast: nn.Module) -> list[str]:
    """The outermost modules that acceleration has changed."""
    theirs = dict(fast.named_modules())
    changed = [n for n, m in model.named_modules() if n not in theirs or type(theirs[n]) is not type(m)]
    return [n for n in changed if not any(n != other and f"{n}.".startswith(f"{other}.") for other in changed if other)]


def _steps(model: nn.Module, fast: nn.Module, x: Tensor, backend: Cpu) -> tuple[dict, dict]:
    """Times and peak memory by variant; why the others have none."""
    runs: dict[str, TimedCall] = {}
    failed: dict[str, str] = {}
    with backends.tuned_convolutions(True):
        for name in WAYS:
            module = model if name in ("eager", "compiled") else fast
            try:
                compiled = backend.compile_model(module) if name in ("compiled", "both") else module
                runs[name] = TimedCall(lambda m=compiled: step(m, x), "eager" if module is model else "segattn")
                backend.run(runs[name])
                backend.synchronize()
            except Exception as error:
                runs.pop(name, None)
                failed[name] = one_line(error)
                measure.recover(backend)
        samples = timing.interleaved(runs, backend, on_error=lambda n, e: failed.update({n: one_line(e)}))
        peaks = {name: backend.peak_memory(runs[name]) for name in samples}
    found = {n: {"ms": s.ms, "ms_20": s.ms_20, "ms_80": s.ms_80, "peak_memory": peaks[n]} for n, s in samples.items()}
    return found, failed


def _share(model: nn.Module, gates: list[str], x: Tensor, backend: Cpu, ms: float) -> dict[str, Any]:
    """What the gates take of a step of the model as it is, and what that allows."""
    try:
        inside = median(_inside(model, gates, x, backend) for _ in range(TIMED_STEPS)) if gates else 0.0
    except Exception as error:  # hooks on a backward do not go with every in-place operation
        return {"gates_ms": None, "share": None, "limit": None, "reason": one_line(error)}
    share = min(inside / ms, 1.0)
    return {"gates_ms": inside, "share": share, "limit": 1 / (1 - share) if share < 1 else None}


def _inside(model: nn.Module, gates: list[str], x: Tensor, backend: Cpu) -> float:
    """Milliseconds between the events around the gates, forward and backward, of one step."""
    spans: list[list] = []
    begun: dict[tuple[str, str], Any] = {}

    def begin(*key):
        begun[key] = backend.event()
        begun[key].record()

    def end(*key):
        if key in begun:
            spans.append([begun.pop(key), backend.event()])
            spans[-1][1].record()

    hooks = []
    for name in gates:
        m = model.get_submodule(name)
        hooks += [
            m.register_forward_pre_hook(lambda *_, n=name: begin(n, "forward")),
            m.register_forward_hook(lambda *_, n=name: end(n, "forward")),
            m.register_full_backward_pre_hook(lambda *_, n=name: begin(n, "backward")),
            m.register_full_backward_hook(lambda *_, n=name: end(n, "backward")),
        ]
    try:
        step(model, x)
        backend.synchronize()
    finally:
        for hook in hooks:
            hook.remove()
    return sum(first.elapsed_time(last) for first, last in spans)
