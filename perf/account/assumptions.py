"""What the account assumes of an H200 (sm_90) and of other GPUs, each number with its source.

[H] NVIDIA, Hopper tuning guide and H100 white paper; [M] Luo et al., Dissecting the NVIDIA Hopper Architecture through
Microbenchmarking, arXiv:2501.12084; [R] measured on an H200, `perf/results/nvidia-h200/facts.jsonl`; [D] NVIDIA, data
sheets; [E] an estimate. Of other GPUs nothing was measured.
A change of one of them changes both sides of every comparison: it is made in a commit that computes all of them anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SMS = 132  # [H]
SCHEDULERS = 4  # [H] of an SM, each issues one instruction of a warp a cycle
CLOCK = 1755.0  # [H] cycles a microsecond

DRAM = 4.27e6  # [R] bytes a microsecond that a copy moves
L2 = 8.5e6  # [R] bytes a microsecond that all SMs together read from the L2 cache, of 8 to 32 MB
SM_BYTES = 64  # [H] bytes a cycle that one SM reads from the L2 cache
SECTOR = 32  # [H] bytes that an access moves at least

# [E] microseconds from a load to its use, of data in DRAM, while memory is busy: a verdict is given for each
ROUND_TRIPS = (0.55, 0.7, 0.9)
ROUND_TRIP = 0.7
L2_TRIP = 0.16  # [M] of data in the L2 cache
L1_CYCLES = 40  # [M] of data in the L1 cache
SHARED_CYCLES = 30  # [M] from a load of shared memory, or a shuffle, to its use
SPECIAL_CYCLES = 24  # [E] of a function that is not arithmetic: reciprocal, exponential, conversion
MATRIX_CYCLES = 33  # [M] of a matrix product of a warp
CONSTANT_CYCLES = 30  # [E] of a constant, or of a number such as the program's
BARRIER_CYCLES = 30  # [E] until the last warp of a program has come
OPERAND_CYCLES = 12  # [E] until a store has read its operands

WAVEFRONT = 128  # [H] bytes of shared memory that an SM moves a cycle; a shuffle takes one
SPECIAL_LANES = 16  # [H] special functions of an SM a cycle
MATRIX = {"HMMA": 0.62 * 2048, "HGMMA": 2048}  # [M] products of 16-bit numbers, each with a sum, of an SM a cycle

LAUNCH = 1.57  # [R] microseconds from the end of a kernel to the start of the next in a CUDA graph
MATRIX_RATE = 762e6  # [R] floating-point operations a microsecond of a large bfloat16 product
LIBRARY_LEAST = 2.0  # [E] microseconds of a library's kernel on a problem of any size
LIBRARY = 0.8  # [E] share of DRAM's and of the matrix rate that a library's kernel reaches

SHARED_BY = 2  # [E] times that a buffer is loaded, from which on most loads find it in the L2 cache
TYPICAL = 0.618  # [E] where in the grid the program is that stands for all: in the middle, on no edge of a tiling
WHOLE = 0.75  # [E] share of a buffer by such a program from which on all programs together move all of it


@dataclass(frozen=True)
class Machine:
    """What differs from GPU to GPU; all else is taken as on an H200. Microseconds and bytes."""

    name: str
    sms: int
    clock: float
    dram: float
    l2: float
    matrix: Mapping[str, float]
    matrix_rate: float
    places: tuple[int, ...]  # in a kernel's constants, of the sizes of a program, of the grid, of its parameters


H200 = Machine("NVIDIA H200", SMS, CLOCK, DRAM, L2, MATRIX, MATRIX_RATE, (0x0, 0xC, 0x210))


def _other(
    name: str, sms: int, clock: float, dram: float, matrix_rate: float, places: tuple[int, ...] = (0x0, 0xC, 0x160)
) -> Machine:
    """dram, matrix_rate: of the data sheet [D], bytes and operations a microsecond. Of them it reaches the share that
    an H200 reaches of its 4.8 TB/s and 989 TFLOP/s [E]; its L2 cache brings as many bytes a cycle and SM [E]."""
    rate = matrix_rate * MATRIX_RATE / 989e6
    matrix = {"HMMA": matrix_rate / 2 / sms / clock}
    return Machine(name, sms, clock, dram * DRAM / 4.8e6, L2 / SMS / CLOCK * sms * clock, matrix, rate, places)


BLACKWELL = (0x360, 0x370, 0x380)
MACHINES = {
    80: _other("NVIDIA A100", 108, 1410, 2.039e6, 312e6),
    86: _other("NVIDIA A40", 84, 1740, 0.696e6, 149.7e6),
    89: _other("NVIDIA L40S", 142, 2520, 0.864e6, 362e6),
    90: H200,
    100: _other("NVIDIA B200", 148, 1965, 8e6, 2250e6, BLACKWELL),
    120: _other("NVIDIA RTX PRO 6000 Blackwell", 188, 2617, 1.792e6, 503.8e6, BLACKWELL),
}
