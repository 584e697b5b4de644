"""The gradient of logits that were brought to the pixels of a map: each gathers from the pixels that took from it.

    dz_j = sum over pixels p of share_pj gate'(z_p) (du x + dmap)_p

A program takes logits side by side in a row, and asks the pixels of each in turn, row by row, as many as the logit
with most of them has. Logits of all channels compute the gradient at a pixel again, where it is asked for: dy and x
come from memory once, for the next logits from the cache; the logits around are loaded once a row of pixels. That of
logits of one channel is a map of one channel, `fine` (N, P), and is read.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import REGISTERS, STEP, Config, space
from ...tuning.target import sms
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.resize import Resize, most_pixels, pairs, share_of, takers_of, taps
from ..common.tile import load_tile, num_pixels, store_tile
from .resize import logits_around, logits_beside
from .shared import gradients

SPACE = tuple(
    c
    for c in space(BLOCK_C=(1, 4, 16, 64), BLOCK_P=(256, 64, 16), num_warps=(4,))
    if 256 <= c.blocks["BLOCK_C"] * c.blocks["BLOCK_P"] <= 1024
)
CYCLES = 1755  # a microsecond


@triton.jit
def _blend_gather_kernel(
    fine_ptr,
    dy_ptr,
    dmap_ptr,
    x_ptr,
    z_ptr,
    s_ptr,
    dz_ptr,
    dy_stride,
    dmap_stride,
    x_stride,
    z_stride,
    s_stride,
    dz_stride,
    sizes,
    pixels,
    tiles,
    most_rows,
    most_cols,
    C: tl.constexpr,
    RESIZE: tl.constexpr,
    GATE: tl.constexpr,
    OUT: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    CHUNKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    H, W, h, w = sizes[0], sizes[1], sizes[2], sizes[3]
    pid = tl.program_id(0)
    n = pid // CHUNKS // tiles // h
    row_j = pid // CHUNKS // tiles % h
    offs_c = pid % CHUNKS * BLOCK_C + tl.arange(0, BLOCK_C)
    offs_j = pid // CHUNKS % tiles * BLOCK_P + tl.arange(0, BLOCK_P)  # of the logits of a row
    own = (offs_c < C)[:, None] & (offs_j < w)[None, :]
    P = num_pixels(pixels, LAYOUT)
    first_row, rows = takers_of(row_j, most_rows, h, H, RESIZE, ACC)
    first_col, cols = takers_of(offs_j, most_cols, w, W, RESIZE, ACC)
    most = tl.max(cols, 0)
    total = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for k_row in range(0, rows):
        row = first_row + k_row
        top, bottom, below = taps(row, h, H, RESIZE, ACC)
        share_row = share_of(row, (top, bottom, below), row_j, H)[1]
        if fine_ptr is None:
            above = logits_around(z_ptr, z_stride, n, offs_c, top, offs_j, own, w, RESIZE, ACC)
            under = above
            if RESIZE.bilinear:
                under = logits_around(z_ptr, z_stride, n, offs_c, bottom, offs_j, own, w, RESIZE, ACC)
        for k_col in range(0, most):
            col = first_col + k_col
            col_taps = taps(col, w, W, RESIZE, ACC)
            share_col = share_of(col, col_taps, offs_j, W)[1]
            mask = own & (k_col < cols)[None, :]
            offs_p = row * W + col
            if fine_ptr is not None:
                dz = tl.load(fine_ptr + n.to(tl.int64) * P + offs_p[None, :], mask, other=0.0)
            else:
                z = above[1]
                if RESIZE.bilinear:
                    z = (1.0 - below) * logits_beside(above, col_taps, offs_j)
                    z += below * logits_beside(under, col_taps, offs_j)
                dg = gradients(
                    (dy_ptr, x_ptr, s_ptr, None, None),
                    (dy_stride, x_stride, s_stride, dy_stride, dy_stride),
                    z,
                    n,
                    offs_c,
                    offs_p,
                    mask,
                    False,
                    GATE,
                    OUT,
                    LAYOUT,
                    ACC,
                )
                if dmap_ptr is not None:
                    dg += load_tile(dmap_ptr, dmap_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
                dz = GATE.df(dg, z, GATE.a, GATE.b)
            total += tl.where(mask, dz * (share_row * share_col)[None, :], 0.0)
    if fine_ptr is not None:
        offs = n.to(tl.int64) * (h * w) + row_j * w + offs_j[None, :]
        tl.store(dz_ptr + offs, total.to(dz_ptr.dtype.element_ty), own)
    else:
        LAYOUT_Z: tl.constexpr = RESIZE.layout
        store_tile(dz_ptr, dz_stride, n, offs_c, row_j * w + offs_j, total, own, LAYOUT_Z)


def _gather_config(x: Tensor, C: int, h: int, w: int, layout, reads: int) -> Config:
    """A pixel is asked once the one before it has answered, by all programs of an SM in turn; what is left of a wave
    takes as long as a whole one. Registers and instructions as compiled for bfloat16."""
    images, logits, size, itemsize = x.shape[0], x.shape[0] * h * w, sms(x.device), x.element_size()

    def microseconds(config: Config) -> float:
        """Of a round, of all waves; of equals the one with long rows, few programs and few idle lanes."""
        block_c, block_p = config.blocks["BLOCK_C"], config.blocks["BLOCK_P"]
        threads = 32 * config.num_warps
        values = block_c * block_p / threads
        registers = 32 + 12 * values if layout.channels_last else 28 + 14 * values
        instructions = 70 + 28 * values if layout.channels_last else 50 + 47 * values
        resident = min(2048 // threads, int(REGISTERS / (threads * registers)))
        chunks, tiles = -(-C // block_c), -(-w // block_p)
        waves = images * h * chunks * tiles / size / resident
        idle = chunks * block_c * tiles * block_p / (C * w)
        issue = resident * instructions * config.num_warps / 4 / CYCLES
        row = (min(block_c, C) if layout.channels_last else min(block_p, w)) * itemsize
        return (max(1.0, waves) + 0.01 * waves) * max(STEP, issue) * (1 + 1 / row) * (1 + 1e-3 * idle)

    how = dict(C=C, pixels=logits, layout=layout, also=(reads,), exact=(images, h, w))
    return config_for(SPACE, microseconds, "blend_gather", x, **how)


def plan_blend_gather(
    fine: Tensor | None,
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    z: Tensor,
    s: Tensor | None,
    dz: Tensor,
    gate: Activation,
    out: Activation | None,
    rule: Resize,
) -> Plan:
    """dz as z; of the gradient at the map's pixels in `fine`, if it is given, which is all that is read then."""
    (H, W), (h, w) = x.shape[2:], z.shape[2:]
    given = {} if fine is not None else dict(dy=dy, dmap=dmap, x=x, s=s if out is not None else None)
    m = maps(**given) if given else maps(fine=fine)
    coarse = maps(z=z, dz=dz)
    config = _gather_config(x, m.C, h, w, m.layout, max(1, sum(t is not None for t in given.values())))
    chunks, tiles = -(-m.C // config.blocks["BLOCK_C"]), -(-w // config.blocks["BLOCK_P"])
    args = {f"{name}_ptr": given.get(name) for name in ("dy", "dmap", "x", "s")}
    args |= dict.fromkeys(("dy_stride", "dmap_stride", "x_stride", "s_stride"), (0, 0))
    args |= {name: stride for name, stride in m.strides.items() if name != "fine_stride"}
    args |= {f"{name}_stride": coarse.stride[name] for name in ("z", "dz")}
    args |= dict(
        fine_ptr=fine,
        z_ptr=None if given == {} else z,
        dz_ptr=dz,
        sizes=(H, W, h, w),
        pixels=m.pixels,
        tiles=tiles,
        most_rows=most_pixels(h, H, rule),
        most_cols=most_pixels(w, W, rule),
        C=m.C,
        RESIZE=rule._replace(layout=coarse.layout),
        GATE=gate,
        OUT=out,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
    )
    rows, cols = pairs(h, H, rule, x.element_size() == 8), pairs(w, W, rule, x.element_size() == 8)
    traffic = dict.fromkeys(("fine_ptr", "dy_ptr", "dmap_ptr", "x_ptr", "s_ptr"), (rows * cols / (H * W), 0))
    traffic |= dict(z_ptr=((6 if rule.bilinear else 1) * rows / h, 0), dz_ptr=(0, 1))
    return Plan(_blend_gather_kernel, args, config, m.N * h * tiles * chunks, traffic)
