"""The gate of every channel applied to the map: y = x * g, and the last pass of its backward.

x, y, dy, dx (N, C, P); z (N, K, C), partial logits, summed in order: g = gate(sum_k z); dpooled (N, K, C) likewise.

    forward   y = x * g                                                                        (read x, write y)
    backward  dx = dy * g + dpooled * d pooled / dx:                                            (read dy, write dx)
              1 / P of the mean; 1 at the first maximum, or 1 / count at every maximum          (then reads x too)

The pixel blocks run backwards, all images together: what the pool read last is still in the L2 cache.
"""

import triton
import triton.language as tl
from torch import Tensor

from segattn_triton.kernels.activations import Activation
from segattn_triton.kernels.tile import (
    Maps,
    accumulator,
    is_peak,
    load_tile,
    load_vector,
    maps,
    num_pixels,
    store_tile,
    tile_ptrs,
)
from segattn_triton.launch import Plan
from segattn_triton.tuning import Config, Footprint, choose, space

SPACE = tuple(
    c
    for c in space(BLOCK_C=(1, 2, 4, 8, 16, 32, 64, 128, 256), BLOCK_P=(4096, 1024, 256, 64, 16), num_warps=(4, 8))
    if 512 <= c.blocks["BLOCK_C"] * c.blocks["BLOCK_P"] <= 1024 * c.num_warps  # of 64 values a thread some spill
)


@triton.jit
def _place(images, C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """The image, channels [BLOCK_C] and pixels [BLOCK_P] of this program; the last pixels of every image come first."""
    CHUNKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    pid = tl.num_programs(0) - 1 - tl.program_id(0)
    n = pid // CHUNKS % images
    block = pid // CHUNKS // images
    return n, pid % CHUNKS * BLOCK_C + tl.arange(0, BLOCK_C), block * BLOCK_P + tl.arange(0, BLOCK_P), block


@triton.jit
def _load_sum(ptr, n, offs_c, C: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr):
    """[BLOCK_C]: the sum over k of partials (N, K, C) of image n."""
    ptr += n.to(tl.int64) * (K * C)
    if K == 1:
        return load_vector(ptr, offs_c, C, ACC)
    else:
        BLOCK_K: tl.constexpr = triton.next_power_of_2(K)
        offs_k = tl.arange(0, BLOCK_K)
        mask = (offs_k < K)[:, None] & (offs_c < C)[None, :]
        return tl.sum(tl.load(ptr + offs_k[:, None] * C + offs_c[None, :], mask, other=0.0).to(ACC), 0)


@triton.jit
def _load_last(ptr, stride, n, offs_c, offs_p, mask, LAYOUT: tl.constexpr, ACC: tl.constexpr):
    """A tile that no later pass reads: it is the first to leave the cache."""
    ptrs = tile_ptrs(ptr, stride, n, offs_c, offs_p, LAYOUT)
    return tl.load(ptrs, mask, other=0.0, eviction_policy="evict_first").to(ACC)


@triton.jit
def _apply_fwd_kernel(
    x_ptr,
    z_ptr,
    y_ptr,
    logit_ptr,
    map_ptr,
    x_stride,
    y_stride,
    pixels,
    images,
    C: tl.constexpr,
    K: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    n, offs_c, offs_p, block = _place(images, C, BLOCK_C, BLOCK_P)
    mask = (offs_c < C)[:, None] & (offs_p < num_pixels(pixels, LAYOUT))[None, :]
    x = _load_last(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
    z = _load_sum(z_ptr, n, offs_c, C, K, ACC)
    g = GATE.f(z, GATE.a, GATE.b)
    offs = n.to(tl.int64) * C + offs_c
    mine = (offs_c < C) & (block == 0)
    tl.store(logit_ptr + offs, z, mine)
    if map_ptr is not None:
        tl.store(map_ptr + offs, g.to(map_ptr.dtype.element_ty), mine)
    store_tile(y_ptr, y_stride, n, offs_c, offs_p, x * g[:, None], mask, LAYOUT)


@triton.jit
def _apply_bwd_kernel(
    dy_ptr,
    x_ptr,
    z_ptr,
    dpooled_ptr,
    highest_ptr,
    found_ptr,
    dx_ptr,
    dy_stride,
    x_stride,
    dx_stride,
    pixels,
    images,
    C: tl.constexpr,
    K: tl.constexpr,
    MEAN: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    n, offs_c, offs_p, _ = _place(images, C, BLOCK_C, BLOCK_P)
    P = num_pixels(pixels, LAYOUT)
    mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
    dy = _load_last(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
    image = n.to(tl.int64) * C
    g = GATE.f(load_vector(z_ptr + image, offs_c, C, ACC), GATE.a, GATE.b)
    dv = _load_sum(dpooled_ptr, n, offs_c, C, K, ACC)
    if MEAN and found_ptr is not None:
        dv *= 0.5
    dx = dy * g[:, None]
    if MEAN:
        dx += (dv / P)[:, None]
    if found_ptr is not None:
        found = tl.load(found_ptr + image + offs_c, offs_c < C, other=1)
        if highest_ptr is None:
            dx += tl.where(offs_p[None, :] == found[:, None], dv[:, None], 0.0)
        else:
            x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
            highest = load_vector(highest_ptr + image, offs_c, C, ACC)
            dx += is_peak(x, highest[:, None]).to(ACC) * (dv / found)[:, None]
    store_tile(dx_ptr, dx_stride, n, offs_c, offs_p, dx, mask, LAYOUT)


def _blocks(m: Maps, config: Config) -> tuple[int, int]:
    return -(-m.C // config.blocks["BLOCK_C"]), -(-m.P // config.blocks["BLOCK_P"])


def _config(m: Maps, itemsize: int, loads: int, live: float) -> Config:
    def footprint(config: Config) -> Footprint:
        block_c, block_p = config.blocks["BLOCK_C"], config.blocks["BLOCK_P"]
        chunks, blocks = _blocks(m, config)
        waste = chunks * block_c / m.C * blocks * block_p / m.P
        row = (block_c if m.layout.channels_last else block_p) * itemsize
        return Footprint(block_c * block_p, itemsize, loads, live, m.N * chunks * blocks, waste, row)

    return choose(SPACE, footprint)


def plan_apply_fwd(x: Tensor, z: Tensor, y: Tensor, logit: Tensor, gate_map: Tensor | None, gate: Activation) -> Plan:
    """y = x * gate(sum_k z); the sum also fills `logit` (N, C), and its gate the map."""
    m = maps(x, y)
    config = _config(m, x.element_size(), loads=1, live=1.2)
    chunks, blocks = _blocks(m, config)
    args = dict(
        x_ptr=x,
        z_ptr=z,
        y_ptr=y,
        logit_ptr=logit,
        map_ptr=gate_map,
        x_stride=m.strides[0],
        y_stride=m.strides[1],
        pixels=m.pixels,
        images=m.N,
        C=m.C,
        K=z.shape[1],
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
    )
    traffic = dict(x_ptr=(1, 0), z_ptr=(blocks, 0), y_ptr=(0, 1), logit_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_apply_fwd_kernel, args, config, m.N * chunks * blocks, traffic)


def plan_apply_bwd(
    dy: Tensor,
    x: Tensor,
    z: Tensor,
    dpooled: Tensor,
    mean: bool,
    highest: Tensor | None,
    found: Tensor | None,
    dx: Tensor,
    gate: Activation,
) -> Plan:
    """z, highest, found (N, C). `found` pixels share the gradient of `highest`; without it `found` is the one pixel."""
    split = highest is not None
    m = maps(*([dy, x, dx] if split else [dy, dx]))
    config = _config(m, x.element_size(), loads=1 + split, live=1.2 + split)
    chunks, blocks = _blocks(m, config)
    args = dict(
        dy_ptr=dy,
        x_ptr=x if split else None,
        z_ptr=z,
        dpooled_ptr=dpooled,
        highest_ptr=highest,
        found_ptr=found,
        dx_ptr=dx,
        dy_stride=m.strides[0],
        x_stride=m.strides[1],
        dx_stride=m.strides[-1],
        pixels=m.pixels,
        images=m.N,
        C=m.C,
        K=dpooled.shape[1],
        MEAN=mean,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
    )
    traffic = dict(
        dy_ptr=(1, 0),
        x_ptr=(1, 0),
        z_ptr=(blocks, 0),
        dpooled_ptr=(blocks, 0),
        highest_ptr=(blocks, 0),
        found_ptr=(blocks, 0),
        dx_ptr=(0, 1),
    )
    return Plan(_apply_bwd_kernel, args, config, m.N * chunks * blocks, traffic)
