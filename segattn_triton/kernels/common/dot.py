"""Products of tiles on the device: their precision, and what they cost."""

import torch
from torch import Tensor

from ...tuning.target import capability

L2_BYTES, DRAM_BYTES = 48, 18  # per cycle and SM
FLOPS = {"tensor": 4096, "tf32": 2048, "cores": 256}  # per cycle and SM
STEP_CYCLES = 64  # of synchronisation in each step of the reduction


def precision(x: Tensor) -> str:
    """Of the dot; torch may let convolutions of float32 run in TF32, and a GPU needs to have it."""
    allowed = x.dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "tf32"
    return "tf32" if allowed and capability(x.device) >= 80 else "ieee"


def takes_shared_operands(x: Tensor) -> bool:
    """Whether the tensor cores read operands from shared memory, not from registers, which are left for sums."""
    return 90 <= capability(x.device) < 120


def unit_of(x: Tensor) -> str:
    """What multiplies: tensor cores, those in TF32, or the ordinary cores."""
    if capability(x.device) < 80:  # Triton does not use Turing's tensor cores
        return "cores"
    return "tf32" if precision(x) == "tf32" else "tensor" if x.element_size() == 2 else "cores"
