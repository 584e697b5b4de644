"""Plans and their launch. A plan describes one kernel launch completely; only this file ever launches one.

The ahead-of-time guard, the kernel table, the probe and the tuner read the same plans, through `recorded()`.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from ..tuning import target
from ..tuning.model import Config

INTERPRETED = bool(triton.knobs.runtime.interpret)  # kernels are decorated for the interpreter or for a GPU
MAX_GRID = 2**31 - 1  # Triton skips a larger launch without an error


@dataclass(frozen=True)
class Plan:
    """One launch: `kernel[(grid,)](**args, **config)`.

    `traffic` states, for every tensor argument, the loads and stores per element of it that the kernel makes. `makes`
    names the arguments that are new buffers for what the kernel gives: "total" for `total_ptr`.
    """

    kernel: triton.JITFunction
    args: Mapping[str, Any]  # runtime arguments and the constexprs that the problem fixes, by name
    config: Config  # the block sizes, warps and stages that tuning chooses
    grid: int
    traffic: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    makes: Sequence[str] = ()
    follows: bool = False  # another launch, with nothing but allocations between

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__.removeprefix("_").removesuffix("_kernel")

    @property
    def made(self) -> dict[str, Tensor | None]:
        """The new buffers, None for each that is not wanted."""
        return {name: self.args[f"{name}_ptr"] for name in self.makes}

    @property
    def options(self) -> dict[str, Any]:
        """What the launch is given beside the arguments. A kernel that waits by itself may start before what it
        follows has ended; not behind another library's kernel, which may not have waited for those before it."""
        early = {"launch_pdl": True} if self.follows and self.args.get("DEPENDENT") else {}
        return {**self.config.launch_options, **early, "enable_fp_fusion": True}

    @property
    def layout(self) -> Any:
        """What the kernel knows of how its maps lie in memory, with `align` and `int64`; None of one that sees none."""
        return self.args.get("LAYOUT", self.args.get("WINDOW"))

    @property
    def device(self) -> torch.device:
        return next(v.device for v in self.args.values() if isinstance(v, Tensor))


collected: list[Plan] | None = None  # what is launched, while somebody asks


@contextlib.contextmanager
def recorded() -> Iterator[list[Plan]]:
    """Collect the plans that are launched inside. On meta tensors nothing runs: a whole op can be planned so."""
    global collected
    before, collected = collected, []
    try:
        yield collected
    finally:
        collected = before


def launch(plan: Plan) -> Any:
    """The kernel as compiled; None in the interpreter, and where there is nothing to do.

    A kernel's first launch loads it, which a stream that captures a CUDA graph may not: RuntimeError."""
    if plan.grid > MAX_GRID:
        raise ValueError(f"{plan.name}: {plan.grid} programs, at most {MAX_GRID} can be launched: split the batch")
    device = plan.device
    if collected is not None:
        collected.append(plan)
    if plan.grid == 0 or device.type == "meta":
        return None
    with _on(device):
        if target.is_capturing(device) and not _is_loaded(plan):
            raise target.too_early(f"{plan.name}: the kernel has not been loaded")
        return plan.kernel[(plan.grid,)](**plan.args, **plan.options)


def _is_loaded(plan: Plan) -> bool:
    """Compiled by this, it still launches nothing, and is not loaded."""
    compiled = plan.kernel.warmup(grid=(plan.grid,), **plan.args, **plan.options)
    return compiled is None or compiled.function is not None


def _on(device: torch.device) -> contextlib.AbstractContextManager:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
