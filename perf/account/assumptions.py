"""What the account assumes of an H200 (sm_90), each number with its source; perf/NOTES.md has what was measured since.

[H] NVIDIA, Hopper tuning guide and H100 white paper; [M] Luo et al., Dissecting the NVIDIA Hopper Architecture through
Microbenchmarking, arXiv:2501.12084; [C] a device copy and a matrix product on an H200, as published; [E] an estimate.
A change of one of them changes both sides of every comparison: it is made in a commit that computes all of them anew.
"""

SMS = 132  # [H]
SCHEDULERS = 4  # [H] of an SM, each issues one instruction of a warp a cycle
CLOCK = 1755.0  # [H] cycles a microsecond

DRAM = 4.3e6  # [C] bytes a microsecond that a copy moves
L2 = 5.75e6  # [M] bytes a microsecond that all SMs together read from the L2 cache and write to it
SM_BYTES = 64 * CLOCK  # [H] bytes a microsecond that one SM reads from the L2 cache
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

LAUNCH = 1.8  # [E] microseconds from the end of a kernel to the start of the next in a CUDA graph
MATRIX_RATE = 790e6  # [C] floating-point operations a microsecond of a large bfloat16 product
LIBRARY_LEAST = 2.0  # [E] microseconds of a library's kernel on a problem of any size
LIBRARY = 0.8  # [E] share of DRAM's and of the matrix rate that a library's kernel reaches

SHARED_BY = 2  # [E] times that a buffer is loaded, from which on most loads find it in the L2 cache
TYPICAL = 0.618  # [E] where in the grid the program is that stands for all: in the middle, on no edge of a tiling
WHOLE = 0.75  # [E] share of a buffer by such a program from which on all programs together move all of it
