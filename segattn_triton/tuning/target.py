"""The GPU that plans are made for: the one that is there, or another for ahead-of-time compilation."""

from dataclasses import replace
from functools import lru_cache

import torch

from .model import REGISTERS, SMS, Config

MOST_REGISTERS = 255  # per thread
SHARED = {75: 65536, 80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}  # bytes per program
SIZES = {75: 40, 80: 108, 86: 84, 89: 142, 90: SMS, 100: 148, 120: 188}  # SMs of T4, A100, A40, L40S, H200, B200, 6000
BESIDE = 4096  # bytes of shared memory that a program may need for reductions, and what the system takes
AMD = 75  # the capability that an AMD GPU counts as: one with its 64 KB of shared memory

aimed: tuple[int, int] | None = None  # compute capability, SMs


class planning_for:
    """`with planning_for(75): ...` chooses for that compute capability: for ahead-of-time compilation. `sms`: of which
    GPU with it; None of a common one."""

    def __init__(self, capability: int, sms: int | None = None):
        self.target = capability, sms or SIZES.get(capability, SMS)

    def __enter__(self):
        global aimed
        self.before, aimed = aimed, self.target

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
        return aimed[0]
    return capability_of(device.index or 0) if device.type == "cuda" else 90


@lru_cache
def sms_of(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def sms(device: torch.device) -> int:
    """The SMs of the GPU, or of the part of it, that a plan is for; an H200's where there is none."""
    if aimed is not None:
        return aimed[1]
    return sms_of(device.index or 0) if device.type == "cuda" else SMS


def is_capturing(device: torch.device) -> bool:
    """Whether the device's current stream captures a CUDA graph."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def too_early(what: str) -> RuntimeError:
    """A capture takes launches, and nothing that has to be read or loaded first."""
    return RuntimeError(
        f"{what}, and the current stream captures a CUDA graph; expected the same call (shapes, strides, dtypes, "
        "options, and what requires a gradient) to have been made once before the capture, forward and backward"
    )


def takes_dependent_launches(device: torch.device) -> bool:
    """NVIDIA's GPUs from Hopper on; not Triton's interpreter."""
    import triton  # by the first plan: tables are read without it

    return capability(device) >= 90 and not torch.version.hip and not triton.knobs.runtime.interpret


def registers_of(config: Config, device: torch.device) -> int | None:
    """What a thread may have so that as many programs as planned are on an SM, whatever the compiler would like."""
    if not config.programs or torch.version.hip:
        return None
    most = REGISTERS // (32 * config.num_warps * config.programs) // 8 * 8
    return most if most < MOST_REGISTERS else with_all_registers(config, device).maxnreg


def with_all_registers(config: Config, device: torch.device, hopper: bool = False) -> Config:
    """All registers for the threads of a kernel with many live values, on every GPU of NVIDIA's, on Hopper where asked
    for: the compiler would spill a few of them to fit one more program."""
    few = capability(device) == 90 and not hopper
    return config if few or torch.version.hip else replace(config, maxnreg=MOST_REGISTERS)


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may use."""
    return SHARED[max(c for c in SHARED if c <= max(capability(device), 75))]


def stages_of(x: torch.Tensor, elements: int, align: int, programs: int = 0) -> int:
    """Stages of a loop that loads so many elements of maps like x a round: see `stages_for`."""
    return stages_for(x.device, x.element_size(), elements, align, programs)


def stages_for(device: torch.device, itemsize: int, elements: int, align: int, programs: int = 0) -> int:
    """The next rounds are on their way while one is computed. 1, a plain loop, where accesses are too narrow for
    asynchronous copies, and before sm_80. What they fill is shared memory: an SM has room for its `programs`, each with
    some beside; where their number is left open, for four of three or two stages, or for one of two."""
    if capability(device) < 80 or align * itemsize < 16:
        return 1
    nbytes, room = elements * itemsize, shared_memory(device)
    if programs:
        return next((stages for stages in (3, 2) if programs * ((stages - 1) * nbytes + BESIDE) <= room), 1)
    return next(
        (stages for stages, programs in ((3, 4), (2, 4), (2, 1)) if (stages - 1) * nbytes * programs <= room), 1
    )


def rounds_ahead(stages: int) -> float:
    """Rounds of such a loop that are on their way together; of a plain one, where loads wait for their use, a part."""
    return stages - 1 if stages > 1 else 0.25
