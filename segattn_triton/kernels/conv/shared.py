"""A full 3x3 convolution in a gate: y = x * gate(z + b), z_op = sum over tap t and channel c of w_toc x_c,p+t.

x, y, z, map (N, C, H, W); weight (9, C_out, C_in), so that both operands of the dot are contiguous along its
reduction; bias (C,). An implicit GEMM of [pixels, C_in] by [C_in, C_out] for each chunk of C_in and each of the 9 taps,
on tensor cores where the dtype has them, in 2 passes over the map: read x, write y (and z, where the backward
wants it). The taps of a tile and the x of its epilogue come from cache. Here is what the variants share:

    conv_pointers     any layout, dtype and C
    conv_descriptors  rows of pixels copied by the tensor memory accelerator, which fills what lies outside with zeros
    conv_pointwise    z comes from the library's convolution, 3 passes (read x and z, write y); and the backward
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps, accumulator
from ...tuning.choice import config_for
from ...tuning.model import BYTES_IN_FLIGHT, REGISTERS, SMS, Config
from ...tuning.target import capability, shared_memory
from ..common.activations import Activation
from ..common.dot import DRAM_BYTES, FLOPS, L2_BYTES, STEP_CYCLES, precision, unit_of
from ..common.tile import load_tile, load_vector, store_tile


@triton.jit
def gate_tile(
    z,
    x_ptr,
    bias_ptr,
    y_ptr,
    map_ptr,
    x_stride,
    y_stride,
    n,
    offs_c,
    offs_p,
    mask,
    C: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Store y, and the map, of the tile with the convolution z [BLOCK_C, BLOCK_P]."""
    if bias_ptr is not None:
        z += load_vector(bias_ptr, offs_c, C, ACC)[:, None]
    g = GATE.f(z, GATE.a, GATE.b)
    if map_ptr is not None:
        store_tile(map_ptr, y_stride, n, offs_c, offs_p, g, mask, LAYOUT)
    x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
    store_tile(y_ptr, y_stride, n, offs_c, offs_p, x * g, mask, LAYOUT)


def matmul_config(kernel: str, configs: tuple[Config, ...], x: Tensor, m: Maps, rows: int, row: int) -> Config:
    """For the forward over `rows` runs of `row` pixels that a tile does not cross, in all images together.

    The model: cycles of the fullest SM. A step multiplies one chunk of one tap, or of a column of taps where a program
    has ROWS of its own, and costs the products, or bringing its operands from the L2 cache, whichever is longer, and a
    synchronisation.
    """
    shared, itemsize = shared_memory(x.device), x.element_size()
    unit, target = unit_of(x), capability(x.device)
    longest = 16 if unit == "cores" else 64 if 90 <= target < 120 else 32  # chunk, where registers hold the operands

    def cycles(config: Config) -> float | None:
        p, c, k = (config.blocks[name] for name in ("BLOCK_P", "BLOCK_C", "BLOCK_K"))
        height = config.blocks.get("ROWS")
        taps, boxes = (1, 1) if height is None else (3, height + 2)
        many, threads = height or 1, 32 * config.num_warps
        values = many * p * c // threads
        if many > 1 and (not 90 <= target < 100 or p < 16 * config.num_warps):  # a warp's product has 16 rows
            return None
        operands = (boxes * p + taps * c) * k * itemsize
        exchange = (p + 1) * (c + 8) * max(4, itemsize)  # z turns from rows of pixels to rows of channels
        used = max(config.num_stages * operands, exchange) + 1024
        most = 64 if unit != "cores" else 32 if itemsize == 4 else 16  # of the sums, without spills
        if many > 1 and values <= 32 * many:  # of one row are in registers beside the sums when it is stored
            most = 128
        if unit == "tensor" and target < 90 and values > 32 and p * k > 16 * threads:  # addresses besides the sums
            return None
        if used > shared or values > most or k > longest or (unit == "cores" and config.num_stages > 2):
            return None
        registers = 64 + 2 * values if many == 1 else 64 + values
        resident = min(shared // used, REGISTERS // (registers * threads))
        ahead = config.num_stages - 1.5  # steps whose operands are on their way
        starved = max(1.0, BYTES_IN_FLIGHT / (resident * ahead * operands))
        step = max(2 * taps * many * p * c * k / FLOPS[unit], operands / L2_BYTES * starved) + STEP_CYCLES
        steps = 9 // taps * -(-m.C // k) + 1 / ahead
        ends = 2 * many * p * c * itemsize / DRAM_BYTES * (1.0 if resident == 1 else 0.3)  # else another computes
        programs = -(-rows // many) * -(-row // p) * -(-m.C // c)
        return float(-(-programs // SMS) * (steps * step + ends))

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(precision(x),), exact=(rows, row))
    return config_for(configs, cycles, kernel, x, **how)


def fwd_args(x, bias, y, gate_map, z, m: Maps, config: Config, gate: Activation) -> dict:
    return dict(
        x_ptr=x,
        bias_ptr=bias,
        y_ptr=y,
        map_ptr=gate_map,
        z_ptr=z,
        strides=m.strides_of("x", "y"),
        C=m.C,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
    )
