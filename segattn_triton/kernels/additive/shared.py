"""What the kernels of additive attention share: a projection of a map, norms, and the choice of block sizes."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from math import ceil, prod
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps
from ...tuning.choice import config_for
from ...tuning.model import SMS, Config
from ...tuning.target import capability, stages_of, with_all_registers
from ..common.dot import DRAM_BYTES, FLOPS, L2_BYTES, STEP_CYCLES, precision, takes_shared_operands, unit_of
from ..common.tile import chunk_at, load_tile, load_vector, tile_ptrs

SMALLEST = 16 * 16  # values of a product


class Given(NamedTuple):
    """What the backward reads; with norms affine and coef, see `d_normed`, with one of the logits `raw`, before it."""

    dy: Tensor
    dmap: Tensor | None
    x: Tensor
    g: Tensor
    wx: Tensor
    wg: Tensor
    b: Tensor | None
    weight: Tensor
    z: Tensor
    affine: Tensor | None = None
    coef: Tensor | None = None
    raw: Tensor | None = None

    @property
    def pointers(self) -> dict[str, Any]:
        return {f"{name}_ptr": t for name, t in self._asdict().items()}


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


@triton.jit
def project_beside(
    dy,
    x,
    w_ptr,
    n,
    offs_f,
    offs_p,
    mask_p,
    C: tl.constexpr,
    F: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """What `project` has of x, and sum_c dy x [BLOCK_P], with x read once; dy and x with their strides."""
    dy_ptr, dy_stride = dy
    x_ptr, x_stride = x
    ds = tl.zeros([offs_p.shape[0]], ACC)
    h = tl.zeros([offs_p.shape[0], offs_f.shape[0]], ACC)
    for k in tl.range(0, C, BLOCK_K, num_stages=STAGES):
        offs_k, mask = chunk_at(k, mask_p, C, BLOCK_K)
        values = tl.load(tile_ptrs(x_ptr, x_stride, n, offs_k, offs_p, LAYOUT), mask, other=0.0)  # [BLOCK_K, BLOCK_P]
        w = load_weight(w_ptr, offs_f, offs_k, F, C, values.dtype)
        h = tl.dot(tl.trans(values), w, h, input_precision=PRECISION, out_dtype=ACC)
        ds += tl.sum(values.to(ACC) * load_tile(dy_ptr, dy_stride, n, offs_k, offs_p, mask, LAYOUT, ACC), 0)
    return h, ds


@triton.jit
def d_gate(ds, dmap_ptr, z_ptr, offs, mask_p, GATE: tl.constexpr, ACC: tl.constexpr):
    """du [BLOCK_P], the gradient of the logit behind its norm, from ds = sum_c dy x."""
    if dmap_ptr is not None:
        ds += tl.load(dmap_ptr + offs, mask_p, other=0.0).to(ACC)
    z = tl.load(z_ptr + offs, mask_p, other=0.0)
    return tl.where(mask_p, GATE.df(ds, z, GATE.a, GATE.b), 0.0)


@triton.jit
def add_rows(total, v):
    """total [BLOCK_P / 2, BLOCK_F] and each two rows, 8 apart, of v [BLOCK_P, BLOCK_F]: a thread of a product's result
    has both, so that nothing moves between threads."""
    pairs = tl.reshape(v, [v.shape[0] // 16, 2, 8, v.shape[1]])
    return total + tl.reshape(tl.sum(pairs, 1), total.shape)


@triton.jit
def load_affine(affine_ptr, offs_f, F: tl.constexpr, ACC: tl.constexpr):
    """Of affine (4, F) the mean and the scale of the projection of x, then of g; 0 and 1 where there is no norm."""
    mean_x = load_vector(affine_ptr, offs_f, F, ACC)
    scale_x = load_vector(affine_ptr + F, offs_f, F, ACC)
    mean_g = load_vector(affine_ptr + 2 * F, offs_f, F, ACC)
    return mean_x, scale_x, mean_g, load_vector(affine_ptr + 3 * F, offs_f, F, ACC)


@triton.jit
def normed(hx, hg, affine):
    """Both projections [BLOCK_P, BLOCK_F] less their means over the batch, and the sum of what their norms make of
    them. affine: see `load_affine`."""
    hx -= affine[0][None, :]
    hg -= affine[2][None, :]
    return hx, hg, hx * affine[1][None, :] + hg * affine[3][None, :]


@triton.jit
def d_normed(dh, hx, hg, affine, coef, mask_p):
    """The gradients [BLOCK_P, BLOCK_F] of both projections from that of the sum, hx and hg less their means: each
    scale dh - p - h q. coef: p and q of x, then of g; see `sums`."""
    dhx = dh * affine[1][None, :] - coef[0][None, :] - hx * coef[1][None, :]
    dhg = dh * affine[3][None, :] - coef[2][None, :] - hg * coef[3][None, :]
    return tl.where(mask_p[:, None], dhx, 0.0), tl.where(mask_p[:, None], dhg, 0.0)


@triton.jit
def load_logit(coef_ptr, F: tl.constexpr):
    """What `d_logit` reads of coef (4 F + 4,), see `sums`: k, p, mean and q."""
    coef_ptr += 4 * F
    return tl.load(coef_ptr), tl.load(coef_ptr + 1), tl.load(coef_ptr + 2), tl.load(coef_ptr + 3)


@triton.jit
def d_logit(du, raw_ptr, coef, offs, mask_p):
    """The gradient [BLOCK_P] of the logit before its norm from that behind it: k du - p - (raw - mean) q."""
    apart = tl.load(raw_ptr + offs, mask_p, other=0.0) - coef[2]
    return tl.where(mask_p, coef[0] * du - coef[1] - apart * coef[3], 0.0)


def side_by_side(configs: tuple[Config, ...], programs: tuple[int, ...] = (4, 2)) -> tuple[Config, ...]:
    """Of kernels that loop over tiles: so many programs an SM, of twice the warps half as many."""
    found = (replace(c, programs=4 * each // c.num_warps) for each in programs for c in configs)
    return tuple(c for c in found if c.programs)


def dot_stages(x: Tensor, elements: int, align: int, *, turned: bool, programs: int = 0) -> int:
    """Of a loop with so many elements a round. Where tiles are `turned` on their way to the tensor cores, asynchronous
    copies would move float32 one by one: a plain loop then."""
    return 1 if turned and x.element_size() > 2 else stages_of(x, elements, align, programs)


def loop_stages(
    x: Tensor, m: Maps, depths: Sequence[int], tiles: int, config: Config, rows: int, turned: bool
) -> dict[str, int]:
    """Of a loop over tiles around loops over channels, `depths` in all, which load so many rows of a block at a time:
    STAGES of the inner ones; where a block holds all channels, AHEAD of the outer one, so many tiles of maps and both
    weights a round."""
    block_p, block_f, block_k = config.blocks.values()
    how = dict(turned=turned, programs=config.programs)
    inner = dot_stages(x, rows * block_k, m.layout.align, **how)
    a_round = (tiles * block_p + len(depths) * block_f) * block_k
    outer = dot_stages(x, a_round, m.layout.align, **how) if max(depths) <= block_k else 1
    return dict(STAGES=inner, AHEAD=outer)


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
    fewer of those that take two registers or whose operands do, and the smallest tile always. The model: cycles of the
    fullest SM, whose steps multiply or bring their operands from the L2 cache, whichever is longer, and synchronise.
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

    fewest = min(c.programs for c in configs)
    smallest = max(SMALLEST, min(prod([*c.blocks.values()][:2]) for c in configs))

    def cycles(config: Config) -> float | None:
        blocks = rows, cols, depth = tuple(config.blocks.values())
        few = most // 4 if config.programs * config.num_warps > 8 else most
        always = smallest if config.programs == fewest else SMALLEST
        if rows * cols > max(few * 32 * config.num_warps, always) or depth > longest:
            return None
        r, c, d = (-(-s // b) for s, b in zip(size, blocks, strict=True))
        step = max(2 * rows * cols * depth / FLOPS[unit], (rows + cols) * depth * itemsize / L2_BYTES) + STEP_CYCLES
        work = r * c * d * step + r * rows / size[0] * nbytes / DRAM_BYTES
        gaps = 1 + 0.2 / config.programs if config.programs else 1  # which the steps of another program fill
        return work / r * ceil(programs * r / SMS) * gaps

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(precision(x), *also), exact=(size, nbytes, programs))
    config = config_for(configs, cycles, kernel, x, **how)
    return config if config.programs else with_all_registers(config, x.device)
