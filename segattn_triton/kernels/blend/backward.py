"""Products and blends, backward. See `shared` for the shapes, `out`, s and g.

With du = dy out'(x g + s) and dg = du x summed over the axes that z lacks:
    dx = du g,    ds = du,    dz = (dg + dmap) gate'(z);    of a blend dx = du g, ds = du (1 - g), dg = du (x - s)

One pass: read dy, x, z, and s where out or a blend needs it, write dx, ds and dz. Where z keeps the pixels, a program
takes all images and channels that share its logits, and dz is whole; where one logit stands for all pixels, programs
share those of an image, and their sums are finished by another launch. Always in the same order.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.plan import Plan
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.resize import Resize
from ..common.tile import num_pixels, pixels_of
from .resize import RESIZING, logits_of, reads_of, resized
from .shared import (
    axes_of,
    backward_args,
    blend_config,
    blocks,
    gradients,
    load_logits,
    logits_traffic,
    store_logits,
)


@triton.jit
def _blend_bwd_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    z_ptr,
    s_ptr,
    dx_ptr,
    dz_ptr,
    ds_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    AXES: tl.constexpr,
    RESIZE: tl.constexpr,
    ALL_N: tl.constexpr,
    ALL_C: tl.constexpr,
    BLEND: tl.constexpr,
    GATE: tl.constexpr,
    OUT: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """ALL_N, ALL_C: a program takes its tile of all images, of all channels, and adds up what they give to dz."""
    begin(DEPENDENT)
    dy_stride, dmap_stride, x_stride, z_stride, s_stride, dx_stride, dz_stride, ds_stride = strides
    extents, pixels, tiles, images = sizes
    CHUNKS: tl.constexpr = 1 if ALL_C else (C + BLOCK_C - 1) // BLOCK_C
    ROUNDS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C if ALL_C else 1
    ROWS: tl.constexpr = 1 if ALL_C else BLOCK_C
    chunk = tl.program_id(0) % CHUNKS
    own, offs_p = pixels_of(tl.program_id(0) // CHUNKS, tiles, BLOCK_P)  # own: an image
    P = num_pixels(pixels, LAYOUT)
    mask_p = (offs_p < P)[None, :]
    total = tl.zeros([ROWS, BLOCK_P], ACC)
    z = tl.zeros([BLOCK_C if AXES.c else 1, BLOCK_P if AXES.p else 1], ACC)
    for round in range(0, (images if ALL_N else 1) * ROUNDS):
        n = own + round // ROUNDS
        offs_c = (chunk + round % ROUNDS) * BLOCK_C + tl.arange(0, BLOCK_C)
        mask = (offs_c < C)[:, None] & mask_p
        z = logits_of(z_ptr, z_stride, extents, n, offs_c, offs_p, P, C, AXES, RESIZE, LAYOUT, ACC)
        dg = gradients(
            (dy_ptr, x_ptr, s_ptr, dx_ptr, ds_ptr),
            (dy_stride, x_stride, s_stride, dx_stride, ds_stride),
            z,
            n,
            offs_c,
            offs_p,
            mask,
            BLEND,
            GATE,
            OUT,
            LAYOUT,
            ACC,
        )
        total += tl.sum(dg, 0)[None, :] if ALL_C else dg
    if dz_ptr is not None:
        offs_c = chunk * BLOCK_C + tl.arange(0, ROWS)
        if dmap_ptr is not None:
            total += load_logits(dmap_ptr, dmap_stride, own, offs_c, offs_p, P, C, AXES, LAYOUT, ACC)
        dz = GATE.df(total, z, GATE.a, GATE.b)
        store_logits(dz_ptr, dz_stride, own, offs_c, offs_p, P, dz, C, AXES, LAYOUT)


def plan_blend_bwd(
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    z: Tensor,
    s: Tensor | None,
    dx: Tensor | None,
    dz: Tensor | None,
    ds: Tensor | None,
    blend: bool,
    gate: Activation,
    out: Activation | None = None,
    rule: Resize | None = None,
) -> Plan:
    """Where z keeps the pixels, or wants no gradient. Of logits that are resized dz is that at the map's pixels."""
    axes, with_dg = axes_of(z, x, rule is not None), dz is not None
    others = dict(z=z, dz=dz, dmap=dmap if with_dg else None)
    m, read, args = backward_args(dy, x, z, s, dx, ds, with_dg, blend, gate, out, **others)
    rounds = with_dg and not axes.n, with_dg and not axes.c
    full, written = axes.c and axes.p, sum(t is not None for t in (dx, dz, ds))
    live = 1.2 + 0.8 * (read + full) + 0.4 * written + RESIZING * (rule is not None)
    config = blend_config("blend_bwd", m, x, read + full, live, rounds)
    chunks, tiles = blocks(m, config)
    m, extents = resized(m, z, x, rule)
    args |= dict(strides=m.strides_of("dy", "dmap", "x", "z", "s", "dx", "dz", "ds"))
    args |= dict(sizes=(extents, m.pixels, tiles, m.N), AXES=axes, RESIZE=rule)
    args |= dict(ALL_N=rounds[0], ALL_C=rounds[1], DEPENDENT=config.dependent)
    traffic = dict.fromkeys(("dy_ptr", "x_ptr", "s_ptr", "dmap_ptr"), (1, 0))
    traffic["z_ptr"] = logits_traffic(axes, m.N, chunks, tiles) * reads_of(z, x, rule), 0
    traffic |= dict.fromkeys(("dx_ptr", "dz_ptr", "ds_ptr"), (0, 1))
    grid = tiles * (min(m.N, 1) if rounds[0] else m.N) * (1 if rounds[1] else chunks)
    return Plan(_blend_bwd_kernel, args, config, grid, traffic)
