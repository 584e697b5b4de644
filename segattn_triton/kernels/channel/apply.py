"""The gate of every channel applied to the map, and the last pass of its backward.

x, s, y, du, dx (N, C, P); z (N, K, C), partial logits, summed in order: g = gate(sum_k z); dpooled (N, K, C) likewise.

    forward   y = out(x * g + s), out and the shortcut s left out where there is none          (read x, s, write y)
    backward  dx = du * g + dpooled * d pooled / dx:                                           (read du, write dx)
              1 / P of the mean; 1 at the first maximum, or 1 / count at every maximum         (then reads x too)
              BOTH: dpooled (N, 2, K, C), of the mean and of the maximum
              and of a pixel gate beside it, dx = du * g + du * gp + dzp * weight              (gp, dzp (N, P))

du is dy, or dy out'(x * g + s) by the pass before this one. Without du this is the gradient of the pool alone: that of
a map which gates another one. The pixel blocks run backwards, all images together: what the pool read last is still in
the L2 cache.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps, accumulator, maps
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import Config, Footprint, space
from ...tuning.target import capability, with_all_registers
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import (
    d_pool,
    last_first,
    load_sum,
    load_tile,
    load_vector,
    num_pixels,
    only_when,
    shares,
    store_tile,
    tile_ptrs,
)

# a warp has four pixels: sums of partials over warps that share fewer go through shared memory again and again
SPACE = tuple(
    c
    for c in space(BLOCK_C=(1, 2, 4, 8, 16, 32, 64, 128, 256), BLOCK_P=(4096, 1024, 256, 64, 16), num_warps=(4, 8))
    if 512 <= c.blocks["BLOCK_C"] * c.blocks["BLOCK_P"] <= 1024 * c.num_warps  # of 64 values a thread some spill
    and c.blocks["BLOCK_P"] >= 4 * c.num_warps
)


@triton.jit
def _load_last(ptr, stride, n, offs_c, offs_p, mask, LAYOUT: tl.constexpr, ACC: tl.constexpr):
    """A tile that no later pass reads: it is the first to leave the cache."""
    ptrs = tile_ptrs(ptr, stride, n, offs_c, offs_p, LAYOUT)
    return tl.load(ptrs, mask, other=0.0, eviction_policy="evict_first").to(ACC)


@triton.jit
def _apply_fwd_kernel(
    x_ptr,
    z_ptr,
    shortcut_ptr,
    y_ptr,
    logit_ptr,
    map_ptr,
    x_stride,
    shortcut_stride,
    y_stride,
    pixels,
    images,
    C: tl.constexpr,
    K: tl.constexpr,
    GATE: tl.constexpr,
    OUT: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    n, block, offs_c = last_first(images, C, BLOCK_C)
    offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = (offs_c < C)[:, None] & (offs_p < num_pixels(pixels, LAYOUT))[None, :]
    x = _load_last(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
    z = load_sum(z_ptr, n, offs_c, C, K, ACC)
    g = GATE.f(z, GATE.a, GATE.b)
    offs = n.to(tl.int64) * C + offs_c
    mine = only_when(block == 0, offs_c < C)
    tl.store(logit_ptr + offs, z, mine)
    if map_ptr is not None:
        tl.store(map_ptr + offs, g.to(map_ptr.dtype.element_ty), mine)
    y = x * g[:, None]
    if shortcut_ptr is not None:
        y += load_tile(shortcut_ptr, shortcut_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
    if OUT is not None:
        y = OUT.f(y, OUT.a, OUT.b)
    store_tile(y_ptr, y_stride, n, offs_c, offs_p, y, mask, LAYOUT)


@triton.jit
def _apply_bwd_kernel(
    du_ptr,
    x_ptr,
    z_ptr,
    dpooled_ptr,
    highest_ptr,
    found_ptr,
    weight_ptr,
    gp_ptr,
    dzp_ptr,
    dx_ptr,
    du_stride,
    x_stride,
    dx_stride,
    pixels,
    images,
    C: tl.constexpr,
    K: tl.constexpr,
    MEAN: tl.constexpr,
    BOTH: tl.constexpr,
    GATE: tl.constexpr,
    REDUCE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    n, block, offs_c = last_first(images, C, BLOCK_C)
    offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
    P = num_pixels(pixels, LAYOUT)
    mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
    image = n.to(tl.int64) * C
    dx = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    x = dx
    if x_ptr is not None:
        x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
    if du_ptr is not None:
        du = _load_last(du_ptr, du_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        g = GATE.f(load_vector(z_ptr + image, offs_c, C, ACC), GATE.a, GATE.b)[:, None]
        if gp_ptr is None:
            dx = du * g
        else:
            gp = load_vector(gp_ptr + n.to(tl.int64) * P, offs_p, P, ACC)[None, :]
            dzp = load_vector(dzp_ptr + n.to(tl.int64) * P, offs_p, P, ACC)[None, :]
            if REDUCE == "max":
                to_c, to_p = shares(x * g, x * gp)
                dx = du * (to_c * g + to_p * gp)
            else:
                dx = du * g + du * gp
            dx += dzp * load_vector(weight_ptr, offs_c, C, ACC)[:, None]
    dx += d_pool(x, dpooled_ptr, highest_ptr, found_ptr, n, offs_c, offs_p, P, C, K, MEAN, BOTH, ACC)
    store_tile(dx_ptr, dx_stride, n, offs_c, offs_p, dx, mask, LAYOUT)


def tiles_of(m: Maps, config: Config) -> tuple[int, int]:
    return -(-m.C // config.blocks["BLOCK_C"]), -(-m.P // config.blocks["BLOCK_P"])


def apply_config(
    kernel: str, m: Maps, x: Tensor, loads: int, live: float, by_channel: int = 0, by_pixel: int = 0
) -> Config:
    """Bytes that are read for each channel by every block of pixels, and for each pixel by every block of channels."""
    itemsize = x.element_size()
    tall = capability(x.device) >= 90 or m.layout.channels_last

    def footprint(config: Config) -> Footprint | None:
        block_c, block_p = config.blocks["BLOCK_C"], config.blocks["BLOCK_P"]
        if not tall and block_c > 8 * config.num_warps:  # more gates a thread than older GPUs keep without spills
            return None
        chunks, blocks = tiles_of(m, config)
        waste = chunks * block_c / m.C * blocks * block_p / m.P
        row = (block_c if m.layout.channels_last else block_p) * itemsize
        programs, side = m.N * chunks * blocks, by_channel / block_p + by_pixel / block_c
        return Footprint(block_c * block_p, itemsize, loads, live, programs, waste, row, side)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads, f"{live:g}"), exact=(m.N, by_channel, by_pixel))
    config = config_for(SPACE, footprint, kernel, x, **how)
    squeezed = m.layout.channels_last and itemsize == 4 and 80 < capability(x.device) < 90
    return with_all_registers(config, x.device) if squeezed else config


def plan_apply_fwd(
    x: Tensor,
    z: Tensor,
    y: Tensor,
    logit: Tensor,
    gate_map: Tensor | None,
    gate: Activation,
    shortcut: Tensor | None = None,
    out: Activation | None = None,
) -> Plan:
    """y = out(x * gate(sum_k z) + shortcut); the sum also fills `logit` (N, C), and its gate the map."""
    m = maps(y=y, x=x, shortcut=shortcut)
    loads, live = (1, 1.2) if shortcut is None else (2, 6.2)
    config = apply_config("apply_fwd", m, x, loads, live, z.shape[1] * z.element_size())
    chunks, blocks = tiles_of(m, config)
    args = dict(
        x_ptr=x,
        z_ptr=z,
        shortcut_ptr=shortcut,
        y_ptr=y,
        logit_ptr=logit,
        map_ptr=gate_map,
        **m.strides,
        pixels=m.pixels,
        images=m.N,
        C=m.C,
        K=z.shape[1],
        GATE=gate,
        OUT=out,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
    )
    read = dict(x_ptr=1, z_ptr=blocks, shortcut_ptr=1)
    traffic = {name: (times, 0) for name, times in read.items()}
    traffic |= {name: (0, 1) for name in ("y_ptr", "logit_ptr", "map_ptr")}
    return Plan(_apply_fwd_kernel, args, config, m.N * chunks * blocks, traffic)


def plan_apply_bwd(
    du: Tensor | None,
    x: Tensor,
    z: Tensor | None,
    dpooled: Tensor,
    mean: bool,
    highest: Tensor | None,
    found: Tensor | None,
    dx: Tensor,
    gate: Activation,
    pixel_gate: tuple[Tensor, Tensor, Tensor] | None = None,
    reduce: str = "sum",
    both: bool = False,
) -> Plan:
    """z, highest, found (N, C). `found` pixels share the gradient of `highest`; without it `found` is the one pixel.
    dpooled (N, K, C), or of both pools (N, 2 K, C).

    pixel_gate: the weight (1, C), the gate (N, P) of every pixel and the gradient (N, P) of its logit.
    """
    reads_x = highest is not None or (pixel_gate is not None and reduce == "max")
    weight, gp, dzp = pixel_gate or (None, None, None)
    m = maps(du=du, x=x if reads_x else None, dx=dx)
    live = 1.2 + (highest is not None) + (0 if pixel_gate is None else 2.5 if reduce == "max" else 0.5)
    by_pixel = 0 if gp is None else gp.element_size() + dzp.element_size()
    by_channel = dpooled.shape[1] * dpooled.element_size()
    config = apply_config("apply_bwd", m, x, max(1, (du is not None) + reads_x), live, by_channel, by_pixel)
    chunks, blocks = tiles_of(m, config)
    args = dict(
        du_ptr=du,
        x_ptr=x if reads_x else None,
        z_ptr=z,
        dpooled_ptr=dpooled,
        highest_ptr=highest,
        found_ptr=found,
        weight_ptr=weight,
        gp_ptr=gp,
        dzp_ptr=dzp,
        dx_ptr=dx,
        **m.strides,
        pixels=m.pixels,
        images=m.N,
        C=m.C,
        K=dpooled.shape[1] // (1 + both),
        MEAN=mean,
        BOTH=both,
        GATE=gate,
        REDUCE=reduce,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
    )
    read = dict(du_ptr=1, x_ptr=1, weight_ptr=m.N * blocks, gp_ptr=chunks, dzp_ptr=chunks)
    read |= dict.fromkeys(("z_ptr", "dpooled_ptr", "highest_ptr", "found_ptr"), blocks)
    traffic = {name: (times, 0) for name, times in read.items()} | {"dx_ptr": (0, 1)}
    return Plan(_apply_bwd_kernel, args, config, m.N * chunks * blocks, traffic)
