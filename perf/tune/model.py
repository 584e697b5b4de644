"""Behind `segattn_triton.tune`: the fastest configs for what one forward and backward of a model launches."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...acceleration.swap import Accelerated
from ...catalog import BY_NAME, ROWS, Op, Problem
from ...compiled import plans_of
from ...runtime.maps import is_channels_last, native
from ...runtime.operator import OPERATORS
from ...tuning import choice as tuning
from ..measure import backends
from ..measure.backends import Cpu
from ..options import Usage
from .tuner import Tuner, refusal

UNVARIED = ("kernel_size", "dilation", "scale", "spatial_pool", "act", "residual", "eps")  # options, by some rows


def tune_model(
    model: nn.Module,
    example: Sequence[Tensor],
    seconds: float,
    out: Path | None = None,
    backend: Cpu | None = None,
    say: Callable[[str], None] = print,
    **how: Any,
) -> float:
    """Tune what one forward and backward of the model launches; the milliseconds that a step saves."""
    if problem := refusal():
        raise Usage(f"tune: {problem}")
    calls = captured(model, example)
    if not calls:
        raise Usage("tune: the model called no gate of segattn_triton in Triton; expected one, and a CUDA input")
    tuner = Tuner(backend or backends.find(), out, seconds, say, **how)
    tuner.run([problem for _, problem in calls])
    results = {(r.key, r.bucket): r for r in tuner.results}
    total = 0.0
    for name, problem in calls:
        with tuning.using(()):
            choices = [p.config.choice for p in plans_of(problem, tuner.arch) if p.config.choice is not None]
        mine = [results[c.key, c.bucket] for c in choices if (c.key, c.bucket) in results]
        saved = sum(r.saved for r in mine)
        total += saved
        say(f"{name or 'the model'}: {problem.op} {problem.size}: {saved:.4f} ms saved")
    tuning.forget()
    say(tuner.summary())
    say(f"the table: {tuner.path}")
    return total


def captured(model: nn.Module, example: Sequence[Tensor]) -> list[tuple[str, Problem]]:
    """(name of the module, problem) of every gate that a forward of the model calls."""
    found: list[tuple[str, Problem]] = []
    inside = threading.local()
    inside.names = []

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "segattn" and (problem := _problem_of(func._opname, args)):
                found.append((inside.names[-1] if inside.names else "", problem))
            return func(*args, **(kwargs or {}))

    hooks, ours = [], None
    for name, module in model.named_modules():
        if ours is not None and (ours == "" or name.startswith(f"{ours}.")):
            continue  # a hook on a gate's children would change what it runs
        if type(module).__module__.startswith("segattn_triton.") or isinstance(module, Accelerated):
            ours = name
            hooks.append(module.register_forward_pre_hook(lambda m, args, name=name: inside.names.append(name)))
            hooks.append(module.register_forward_hook(lambda m, args, out: inside.names.clear(), always_call=True))
    try:
        with Calls():
            model(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _problem_of(name: str, args: Sequence) -> Problem | None:
    """The problem of a call of an operator, None of one that no row of the catalog describes."""
    if name not in OPERATORS or name not in BY_NAME:
        return None
    tensors, options = OPERATORS[name].schema.named(args)
    alike = [BY_NAME[name], *(r for r in ROWS if r.op is BY_NAME[name].op)]
    row = next((r for r in alike if r.fits(*tensors) and set(r.options) <= set(options._fields)), None)
    if row is None:
        return None
    tensors = tensors[: len(row.inputs)]
    keywords = {k: getattr(options, k) for k in options._fields if k in row.options or k in UNVARIED}
    sizes = _sizes(row, tensors)
    x, given = row.as_map(next(iter(row.inputs.values())), tensors[0]), [t for t in tensors[1:] if t is not None]
    N, C, *S = x.shape
    return Problem(
        row.name,
        str(x.dtype)[6:],
        "channels_last" if is_channels_last(native(x)) else "contiguous",
        N,
        C,
        tuple(S),
        tuple((k, v) for k, v in sizes.items() if k not in ("N", "C", "S") and v != tuple(S)),
        str(given[0].dtype)[6:] if given else "",
        tuple(keywords.items()),
        tuple(n.removesuffix("?") for n, t in zip(row.inputs, tensors, strict=True) if t is None),
        tuple(t is not None and t.requires_grad for t in tensors),
    )


def _sizes(row: Op, tensors: Sequence[Tensor | None]) -> dict[str, Any]:
    """What the names in the row's shapes stand for."""
    found: dict[str, Any] = {}
    for t, spec in zip(tensors, row.inputs.values(), strict=True):
        if t is not None:
            head, tail = spec.partition("*")[0].split(), spec.partition("*")[2].split()
            found |= zip(head, t.shape, strict=False)
            if tail:
                end = t.dim() - len(tail) + 1
                found |= {tail[0]: tuple(t.shape[len(head) : end]), **dict(zip(tail[1:], t.shape[end:], strict=True))}
    return {name: size for name, size in found.items() if not name.isdigit()}
