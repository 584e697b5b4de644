"""A gate of every pixel after one of every channel, applied in one pass: the product between them is in registers.

    y = x * (gc * gp), plus x if residual,    gp = gate(z)

x, y (N, C, P); gc (N, C), left out of a gate of the pixels alone; z (N, P). 2 passes over the map: read x, write y. The
tiles run backwards: what the pass before this one read last is still in the L2 cache. The backward is in `chain_bwd`.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps
from ...runtime.plan import Plan
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import channels_at_once, chunk_at, load_tile, load_vector, num_pixels, store_tile
from .shared import chain_config


@triton.jit
def _chain_fwd_kernel(
    x_ptr,
    gc_ptr,
    z_ptr,
    y_ptr,
    x_stride,
    y_stride,
    pixels,
    tiles,
    C: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    pid = tl.num_programs(0) - 1 - tl.program_id(0)
    n = pid // tiles
    P = num_pixels(pixels, LAYOUT)
    offs_p = pid % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    mask_p = offs_p < P
    gp = GATE.f(tl.load(z_ptr + n.to(tl.int64) * P + offs_p, mask_p, other=0.0), GATE.a, GATE.b)
    for chunk in range(0, C, BLOCK_C):
        offs_c, mask = chunk_at(chunk, mask_p, C, BLOCK_C)
        x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
        g = gp[None, :]
        if gc_ptr is not None:
            g *= load_vector(gc_ptr + n.to(tl.int64) * C, offs_c, C, ACC)[:, None]
        y = x * g
        if RESIDUAL:
            y += x
        store_tile(y_ptr, y_stride, n, offs_c, offs_p, y, mask, LAYOUT)


def plan_chain_fwd(x: Tensor, gc: Tensor | None, z: Tensor, y: Tensor, residual: bool, gate: Activation) -> Plan:
    m = maps(x=x, y=y)
    config = chain_config("chain_fwd", m, x, loads=1, live=2.3 if m.layout.align == 1 else 1.4)
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    args = dict(
        x_ptr=x,
        gc_ptr=gc,
        z_ptr=z,
        y_ptr=y,
        **m.strides,
        pixels=m.pixels,
        tiles=tiles,
        C=m.C,
        RESIDUAL=residual,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        DEPENDENT=config.dependent,
        BLOCK_C=channels_at_once(m.C),
    )
    traffic = dict(x_ptr=(1, 0), gc_ptr=(tiles, 0), z_ptr=(1, 0), y_ptr=(0, 1))
    return Plan(_chain_fwd_kernel, args, config, m.N * tiles, traffic)
