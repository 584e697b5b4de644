"""Products and blends, backward, where one logit stands for all pixels: programs share those of an image.

The sums of what each finds are finished by another launch, which has gate'(z) and the gradient of the map. See
`backward` for the equations and `shared` for the shapes.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import STEP, Config, space
from ...tuning.target import sms
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import chunk_of, d_logit, num_pixels
from .shared import axes_of, backward_args, gradients, load_logits, shares_of, sum_config, sum_stages

FINISH = space(BLOCK_T=(16, 64, 256), BLOCK_C=(8, 16, 32), num_warps=(4,))


@triton.jit
def _blend_sum_kernel(
    dy_ptr,
    x_ptr,
    z_ptr,
    s_ptr,
    dx_ptr,
    ds_ptr,
    total_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    AXES: tl.constexpr,
    BLEND: tl.constexpr,
    GATE: tl.constexpr,
    OUT: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One logit for all pixels: total (N, T, C) of dg, or (N, T, CHUNKS) where it is one for all channels, too."""
    begin(DEPENDENT)
    pixels, blocks, tiles = sizes
    row, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)  # of the partial sums: n * tiles + t
    n = row // tiles
    P = num_pixels(pixels, LAYOUT)
    z = load_logits(z_ptr, (0, 0), n, offs_c, tl.arange(0, BLOCK_P), P, C, AXES, LAYOUT, ACC)
    pointers = (dy_ptr, x_ptr, s_ptr, dx_ptr, ds_ptr)
    total = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for block in tl.range(row % tiles, blocks, tiles, num_stages=STAGES):
        offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
        total += gradients(pointers, strides, z, n, offs_c, offs_p, mask, BLEND, GATE, OUT, LAYOUT, ACC)
    if AXES.c:
        tl.store(total_ptr + row.to(tl.int64) * C + offs_c, tl.sum(total, 1), offs_c < C)
    else:
        tl.store(total_ptr + tl.program_id(0).to(tl.int64), tl.sum(tl.sum(total, 1), 0))


@triton.jit
def _blend_dz_kernel(
    total_ptr,
    dmap_ptr,
    z_ptr,
    dz_ptr,
    rows,
    COLS: tl.constexpr,
    GATE: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """dz (N, COLS) = (the sum over the rows of total (N, rows, COLS) + dmap) gate'(z)."""
    begin(DEPENDENT)
    n, offs_c = chunk_of(tl.program_id(0), COLS, BLOCK_C)
    dz = d_logit(total_ptr, dmap_ptr, z_ptr, n, offs_c, rows, COLS, GATE, ACC, BLOCK_T)
    tl.store(dz_ptr + n.to(tl.int64) * COLS + offs_c, dz.to(dz_ptr.dtype.element_ty), offs_c < COLS)


def plan_blend_sum(
    dy: Tensor,
    x: Tensor,
    z: Tensor,
    s: Tensor | None,
    dx: Tensor | None,
    ds: Tensor | None,
    blend: bool,
    gate: Activation,
    out: Activation | None = None,
) -> Plan:
    """Where z has one value for all pixels. Makes total (N, T, C), or (N, T, CHUNKS) if it has one for all channels."""
    m, read, args = backward_args(dy, x, z, s, dx, ds, True, blend, gate, out)
    written = (dx is not None) + (ds is not None)
    config = sum_config("blend_sum", m, x, read, 1.2 + 0.8 * read + 0.4 * written)
    chunks, tiles, programs = shares_of(m, config, sms(x.device))
    axes = axes_of(z, x)
    args |= dict(
        AXES=axes,
        total_ptr=partials(x, m.N, programs, m.C if axes.c else chunks),
        strides=m.strides_of("dy", "x", "s", "dx", "ds"),
        sizes=(m.pixels, tiles, programs),
        STAGES=sum_stages(x.device, x.element_size(), m, config, read),
        DEPENDENT=config.dependent,
    )
    each = (1 if axes.n else m.N) * programs * (1 if axes.c else chunks)
    traffic = dict.fromkeys(("dy_ptr", "x_ptr", "s_ptr"), (1, 0)) | {"z_ptr": (each, 0)}
    traffic |= dict.fromkeys(("dx_ptr", "ds_ptr", "total_ptr"), (0, 1))
    return Plan(_blend_sum_kernel, args, config, m.N * programs * chunks, traffic, ("total",))


def plan_blend_dz(total: Tensor, dmap: Tensor | None, z: Tensor, dz: Tensor, gate: Activation) -> Plan:
    """Of total (N, T, columns) the sum over what z lacks: z and dz have a value for each column, of each image or of
    all."""
    cols, images = total.shape[2] if z.shape[1] > 1 else 1, z.shape[0]
    rows = total.numel() // max(cols * images, 1)

    def microseconds(config: Config) -> float | None:
        block_t, block_c = config.blocks["BLOCK_T"], config.blocks["BLOCK_C"]
        values = block_t * block_c / (32 * config.num_warps)
        if values < 1 or (block_t >= 2 * rows and block_t > 16):
            return None
        return -(-rows // block_t) * STEP + 1e-3 * values

    config = config_for(FINISH, microseconds, "blend_dz", total, C=cols, pixels=images * rows, exact=(images, rows))
    args = dict(total_ptr=total, dmap_ptr=dmap, z_ptr=z, dz_ptr=dz, rows=rows, COLS=cols, GATE=gate)
    args |= dict(ACC=accumulator(total), DEPENDENT=config.dependent)
    traffic = dict.fromkeys(("total_ptr", "dmap_ptr", "z_ptr"), (1, 0)) | {"dz_ptr": (0, 1)}
    return Plan(_blend_dz_kernel, args, config, images * -(-cols // config.blocks["BLOCK_C"]), traffic)
