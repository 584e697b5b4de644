"""What the kernels of additive attention share: a projection of a map, and the choice of block sizes."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from math import ceil

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps
from ...tuning.choice import config_for
from ...tuning.model import SMS, Config
from ...tuning.target import capability, stages_of, with_all_registers
from ..common.dot import DRAM_BYTES, FLOPS, L2_BYTES, STEP_CYCLES, precision, takes_shared_operands, unit_of
from ..common.tile import chunk_at, tile_ptrs


@triton.jit
def load_weight(w_ptr, offs_f, offs_k, F: tl.constexpr, C: tl.constexpr, like: tl.constexpr):
    """[BLOCK_K, BLOCK_F] of a weight (F, C), in the dtype of the map that it multiplies."""
    mask = (offs_k < C)[:, None] & (offs_f < F)[None, :]
    return tl.load(w_ptr + offs_f[None, :] * C + offs_k[:, None], mask, other=0.0).to(like)


@triton.jit
def project(
    h,
    x_ptr,
    x_stride,
    w_ptr,
    n,
    offs_f,
    offs_p,
    mask_p,
    C: tl.constexpr,
    F: tl.constexpr,
    LAYOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """h [BLOCK_P, BLOCK_F] and the projections of the pixels of a map (N, C, P) by a weight (F, C)."""
    for k in tl.range(0, C, BLOCK_K, num_stages=STAGES):
        offs_k, mask = chunk_at(k, mask_p, C, BLOCK_K)
        x = tl.load(tile_ptrs(x_ptr, x_stride, n, offs_k, offs_p, LAYOUT), mask, other=0.0)  # [BLOCK_K, BLOCK_P]
        w = load_weight(w_ptr, offs_f, offs_k, F, C, x.dtype)
        h = tl.dot(tl.trans(x), w, h, input_precision=PRECISION, out_dtype=h.dtype)
    return h


def side_by_side(configs: tuple[Config, ...]) -> tuple[Config, ...]:
    """Of kernels that loop over tiles: two programs an SM, or four of the smaller configs."""
    return tuple(replace(c, programs=programs) for programs in (4, 2) for c in configs)


def dot_stages(x: Tensor, elements: int, align: int, *, turned: bool, programs: int = 0) -> int:
    """Of a loop with so many elements a round. Where tiles are `turned` on their way to the tensor cores, asynchronous
    copies would move float32 one by one: a plain loop then."""
    return 1 if turned and x.element_size() > 2 else stages_of(x, elements, align, programs)


def dot_config(
    kernel: str,
    configs: tuple[Config, ...],
    x: Tensor,
    m: Maps,
    size: tuple[int, int, int],
    nbytes: int,
    programs: int,
    also: Sequence[Hashable],
    most: int = 64,
) -> Config:
    """For a product of `size` (rows, columns, depth) in every one of `programs` problems, which move `nbytes` each.

    A config's blocks are those of the rows, the columns and the depth; `most` sums of a thread fit without spills,
    fewer of those that take two registers or whose operands do. The model: cycles of the fullest SM, whose steps
    multiply or bring their operands from the L2 cache, whichever is longer, and synchronise.
    """
    itemsize, unit = x.element_size(), unit_of(x)
    from_shared = takes_shared_operands(x) and capability(x.device) < 100  # Blackwell spills with as much
    if unit == "tensor":
        most, longest = (most, 64) if from_shared else (min(most, 48), 32)
    elif itemsize <= 4 and from_shared:
        most, longest = most // 2, 16 if unit == "cores" else 32
    else:
        few = itemsize <= 4 and capability(x.device) >= 100  # registers: Blackwell spills first
        most, longest = most // (8 if few else 4), 16

    def cycles(config: Config) -> float | None:
        blocks = rows, cols, depth = tuple(config.blocks.values())
        few = most // 4 if config.programs > 2 else most
        if rows * cols > few * 32 * config.num_warps or depth > longest:
            return None
        r, c, d = (-(-s // b) for s, b in zip(size, blocks, strict=True))
        step = max(2 * rows * cols * depth / FLOPS[unit], (rows + cols) * depth * itemsize / L2_BYTES) + STEP_CYCLES
        work = r * c * d * step + r * rows / size[0] * nbytes / DRAM_BYTES
        gaps = 1 + 0.2 / config.programs if config.programs else 1  # which the steps of another program fill
        return work / r * ceil(programs * r / SMS) * gaps

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(precision(x), *also), exact=(size, nbytes, programs))
    config = config_for(configs, cycles, kernel, x, **how)
    return config if config.programs else with_all_registers(config, x.device)
