"""`segattn_triton.tune`."""

from importlib import import_module
from os import PathLike
from pathlib import Path

from torch import Tensor, nn


def tune(model: nn.Module, *example: Tensor, budget: float = 600.0, out: str | PathLike | None = None) -> float:
    """Find the fastest configs for what one forward and backward of `model(*example)` launches; the ms that it saves.

    Every candidate is verified against the reference before it is timed; what runs today is kept where it is faster.
    The result is a table in the home folder, or in `out`, printed at the end; from then on every process of this user
    on this GPU chooses by the one in the home folder. `budget` is in seconds; another call goes on where one ended.
    RuntimeError without a GPU, while a CUDA graph is captured, under torch.compile, in a forked process, where
    deterministic algorithms are asked for, and for a model without a gate that runs in Triton.
    """
    if not budget > 0:
        raise ValueError(f"budget: got {budget!r}, expected a positive number of seconds")
    if not example:
        raise ValueError("example: got no input, expected those of a call of the model")
    # perf imports all the rest and is imported by none of it: it is fetched when asked for
    try:
        perf = import_module("..perf.tune.model", __package__)
    except ModuleNotFoundError as error:  # a build of the Kernel Hub has no perf
        message = f'{error.name} is not installed: pip install "segattn_triton[perf]"'
        raise ModuleNotFoundError(message, name=error.name) from error
    try:
        return perf.tune_model(model, example, budget, None if out is None else Path(out))
    except perf.Usage as error:
        raise RuntimeError(str(error)) from None
