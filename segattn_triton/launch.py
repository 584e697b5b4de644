"""Plans and their launch. A plan describes one kernel launch completely; only this file ever launches one.

The ahead-of-time guard, the kernel table, the probe and the tuner read the same plans, through `recorded()`.

Planning takes longer than a small kernel runs. So the launches of an operator are kept as a *tape*, and repeated when
it is called with tensors of the same shapes, strides, dtypes, alignment and options: see `replayed`.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from segattn_triton import tuning
from segattn_triton.tuning import Config

INTERPRETED = bool(triton.knobs.runtime.interpret)  # kernels are decorated for the interpreter or for a GPU
FAULTY = INTERPRETED and triton.__version__ == "3.9.0"  # whose interpreter refuses masks with a scalar condition
MAX_GRID = 2**31 - 1  # Triton skips a larger launch without an error
MOST_TAPES = 4096


@dataclass(frozen=True)
class Plan:
    """One launch: `kernel[(grid,)](**args, **config)`.

    `traffic` states, for every tensor argument, the loads and stores per element of it that the kernel makes.
    """

    kernel: triton.JITFunction
    args: Mapping[str, Any]  # runtime arguments and the constexprs that the problem fixes, by name
    config: Config  # the block sizes, warps and stages that tuning chooses
    grid: int
    traffic: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__.removeprefix("_").removesuffix("_kernel")

    @property
    def layout(self) -> Any:
        """What the kernel knows of how its maps lie in memory, with `align` and `int64`; None of one that sees none."""
        return self.args.get("LAYOUT", self.args.get("WINDOW"))

    @property
    def device(self) -> torch.device:
        return next(v.device for v in self.args.values() if isinstance(v, Tensor))


_recorder: list[Plan] | None = None


@contextlib.contextmanager
def recorded() -> Iterator[list[Plan]]:
    """Collect the plans that are launched inside. On meta tensors nothing runs: a whole op can be planned so."""
    global _recorder
    before, _recorder = _recorder, []
    try:
        yield _recorder
    finally:
        _recorder = before


def launch(plan: Plan) -> None:
    if plan.grid > MAX_GRID:
        raise ValueError(f"{plan.name}: {plan.grid} programs, at most {MAX_GRID} can be launched: split the batch")
    device = plan.device
    if _recorder is not None:
        _recorder.append(plan)
    if plan.grid == 0 or device.type == "meta":
        return
    taping = getattr(_local, "taping", None)
    unseen = contextlib.nullcontext() if taping is None else _disable_current_modes()  # the interpreter calls torch
    with _on(device), unseen:
        compiled = plan.kernel[(plan.grid,)](**plan.args, **plan.config.launch_options, enable_fp_fusion=True)
    if taping is not None:
        taping.launches.append((plan, compiled))


def _on(device: torch.device) -> contextlib.AbstractContextManager:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


# what an operator may do beside its launches, for these alone to repeat it
_aten = torch.ops.aten
_ALLOCATIONS = {
    _aten.empty.memory_format,
    _aten.empty_like.default,
    _aten.empty_strided.default,
    _aten.new_empty.default,
    _aten.new_empty_strided.default,
}
_HARMLESS = {
    _aten.alias.default,
    _aten.as_strided.default,
    _aten.detach.default,
    _aten.permute.default,
    _aten.promote_types.default,
    _aten.select.int,
    _aten.slice.Tensor,
    _aten.squeeze.dim,
    _aten.transpose.int,
    _aten.unsqueeze.default,
    _aten.view.default,
}
_local = threading.local()
_tapes: dict[tuple, "Tape | None"] = {}
_handles: dict[int, Any] = {}  # compiled kernels, for good: unloading one would break a CUDA graph's capture


class _Taping(TorchDispatchMode):
    """Watches an operator: its launches, the tensors that it allocates, and whether it does anything else."""

    def __init__(self):
        super().__init__()
        self.launches: list[tuple[Plan, Any]] = []
        self.allocated: list[Tensor] = []
        self.only_launches = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in _ALLOCATIONS:
            self.allocated.append(out)
        elif func not in _HARMLESS:
            self.only_launches = False
        return out

    def __enter__(self):
        super().__enter__()
        torch.empty(0)  # proves that this is not blind: modes are off inside some others
        self.only_launches = bool(self.allocated)
        self.allocated.clear()
        _local.taping = self
        return self

    def __exit__(self, *error):
        _local.taping = None
        return super().__exit__(*error)


class Tape:
    """Launches with their arguments, where a tensor is the place of one: among those given, then the temporary ones,
    then views."""

    def __init__(self, taping: _Taping, tensors: Sequence[Any]):
        """LookupError where an argument is not one of these tensors, nor computed from them by views alone."""
        self.temporary = [(t.shape, t.stride(), t.dtype, t.device) for t in taping.allocated]
        self.views: list[tuple] = []
        self._owned = [*tensors, *taping.allocated]
        self._known = list(self._owned)
        self.launches = [self._launch(plan, compiled) for plan, compiled in taping.launches]
        self.device = taping.launches[0][0].device if taping.launches else torch.device("cpu")
        del self._owned, self._known

    def _launch(self, plan: Plan, compiled: Any) -> tuple[Callable, list, list[tuple[int, int]]]:
        values = {**plan.args, **plan.config.blocks}
        names = plan.kernel.arg_names
        constants = [None if isinstance(values[name], Tensor) else values[name] for name in names]
        if any(hasattr(value, "base") for value in constants):
            raise LookupError("a descriptor holds a tensor")
        places = [(i, self._place(values[name])) for i, name in enumerate(names) if isinstance(values[name], Tensor)]
        return _runner(plan, compiled), constants, places

    def _place(self, t: Tensor) -> int:
        for i, known in enumerate(self._known):
            if known is t:
                return i
        owners = [
            i for i, known in enumerate(self._owned)
            if isinstance(known, Tensor) and known.untyped_storage()._cdata == t.untyped_storage()._cdata
        ]  # fmt: skip
        if len(owners) != 1 or self._known[owners[0]].dtype != t.dtype:
            raise LookupError("a tensor of unknown origin")
        offset = t.storage_offset() - self._known[owners[0]].storage_offset()
        self.views.append((owners[0], t.shape, t.stride(), offset))
        self._known.append(t)
        return len(self._known) - 1

    def run(self, tensors: list) -> None:
        """`tensors`: those given, as when it was recorded."""
        for shape, stride, dtype, device in self.temporary:
            tensors.append(torch.empty_strided(shape, stride, dtype=dtype, device=device))
        for owner, shape, stride, offset in self.views:
            base = tensors[owner]
            tensors.append(base.as_strided(shape, stride, base.storage_offset() + offset))
        if self.device.type == "cuda" and torch.cuda.current_device() != self.device.index:
            with torch.cuda.device(self.device):
                return self._run(tensors)
        self._run(tensors)

    def _run(self, tensors: list) -> None:
        for runner, constants, places in self.launches:
            arguments = constants.copy()
            for i, place in places:
                arguments[i] = tensors[place]
            runner(*arguments)


def _runner(plan: Plan, compiled: Any) -> Callable:
    """(*arguments in the kernel's order) launches it."""
    if INTERPRETED:
        names, options = plan.kernel.arg_names, {"num_warps": plan.config.num_warps}
        return lambda *values: plan.kernel[(plan.grid,)](**dict(zip(names, values, strict=True)), **options)
    if compiled is None:
        raise LookupError("a hook of Triton's kept the kernel from being compiled")
    _handles[id(compiled)] = compiled
    return compiled[(plan.grid, 1, 1)]


def signature(name: str, arguments: Sequence[Any]) -> tuple | None:
    """What the launches of an operator follow from, None where they have to be planned: shapes and strides, so that
    all integers are the same, dtypes, and how far each pointer is from a multiple of 16 bytes."""
    if _recorder is not None:
        return None
    known = [
        (a.shape, a.stride(), a.dtype, a.data_ptr() & 15, a.get_device())
        if isinstance(a, Tensor)
        else (tuple(a) if isinstance(a, list) else a)
        for a in arguments
    ]
    return name, tuning.epoch, *known


def tape(key: tuple | None) -> Tape | None:
    return _tapes.get(key)


@contextlib.contextmanager
def taped(key: tuple | None, arguments: Sequence[Any], outputs: Sequence[Any]) -> Iterator[None]:
    """Record what is launched inside for `key`, as launches with these tensors, if there is nothing but launches."""
    tensors = [*arguments, *outputs]
    given = [t for t in tensors if isinstance(t, Tensor)]
    if key is None or key in _tapes or given[0].device.type == "meta" or len({id(t) for t in given}) < len(given):
        yield
        return
    with _Taping() as taping:
        yield
    if len(_tapes) >= MOST_TAPES:
        _tapes.clear()
    try:
        _tapes[key] = Tape(taping, tensors) if taping.only_launches else None
    except LookupError:
        _tapes[key] = None
