"""The GPU that plans are made for: the one that is there, or another for ahead-of-time compilation."""

from dataclasses import replace
from functools import lru_cache

import torch

from .model import Config

MOST_REGISTERS = 255  # per thread
SHARED = {75: 65536, 80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}  # bytes per program
AMD = 75  # the capability that an AMD GPU counts as: one with its 64 KB of shared memory

aimed: int | None = None


class planning_for:
    """`with planning_for(75): ...` chooses for that compute capability: for ahead-of-time compilation."""

    def __init__(self, capability: int):
        self.capability = capability

    def __enter__(self):
        global aimed
        self.before, aimed = aimed, self.capability

    def __exit__(self, *_):
        global aimed
        aimed = self.before


@lru_cache
def capability_of(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return AMD if torch.version.hip else 10 * major + minor


def capability(device: torch.device) -> int:
    """10 * major + minor of the GPU that a plan is for; an H200's where there is none, AMD's is `AMD`."""
    if aimed is not None:
        return aimed
    return capability_of(device.index or 0) if device.type == "cuda" else 90


def with_all_registers(config: Config, device: torch.device, hopper: bool = False) -> Config:
    """All registers for the threads of a kernel with many live values, on every GPU of NVIDIA's, on Hopper where asked
    for: the compiler would spill a few of them to fit one more program."""
    few = capability(device) == 90 and not hopper
    return config if few or torch.version.hip else replace(config, maxnreg=MOST_REGISTERS)


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may use."""
    return SHARED[max(c for c in SHARED if c <= max(capability(device), 75))]


def stages_of(x: torch.Tensor, elements: int, align: int) -> int:
    """Stages of a loop that loads so many elements of maps like x a round: the next rounds are on their way while one
    is computed. 1, a plain loop, where accesses are too narrow for asynchronous copies, and before sm_80. What they
    fill is shared memory: an SM has room for four programs of three or two stages, or for one of two."""
    if capability(x.device) < 80 or align * x.element_size() < 16:
        return 1
    nbytes, room = elements * x.element_size(), shared_memory(x.device)
    return next(
        (stages for stages, programs in ((3, 4), (2, 4), (2, 1)) if (stages - 1) * nbytes * programs <= room), 1
    )
