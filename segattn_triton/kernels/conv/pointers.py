"""The gate of a 3x3 convolution by loads of pointers, for any layout, dtype and C. See `conv`.

A program has BLOCK_P pixels of an image, in reading order, and BLOCK_C output channels; for each chunk of BLOCK_K input
channels it loads the tile nine times, each time moved by a tap, with zeros outside the image.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import maps
from ...runtime.plan import Plan
from ...tuning.model import space
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.dot import precision
from ..common.tile import store_tile, tile_ptrs
from .shared import fwd_args, gate_tile, matmul_config

# No 8 warps: Triton miscompiles convolution loops of pointer loads with them (pytorch/pytorch#173068).
POINTERS = space(BLOCK_P=(32, 64, 128), BLOCK_C=(16, 32, 64, 128), BLOCK_K=(16, 32, 64), num_stages=(2, 3, 4))


@triton.jit
def _conv_pointers_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    map_ptr,
    z_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    begin(DEPENDENT)
    x_stride, y_stride = strides
    H, W, tiles = sizes
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    tile = tl.program_id(0) // blocks
    n = tile // tiles
    offs_c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    offs_p = tile % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    h = offs_p // W
    w = offs_p % W
    z = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    for k in range(0, C, BLOCK_K):
        offs_k = k + tl.arange(0, BLOCK_K)
        mask_w = (offs_k < C)[:, None] & (offs_c < C)[None, :]
        for tap in range(9):
            i = tap // 3 - 1
            j = tap % 3 - 1
            inside = (h + i >= 0) & (h + i < H) & (w + j >= 0) & (w + j < W)
            x_ptrs = tile_ptrs(x_ptr, x_stride, n, offs_k, offs_p + (i * W + j), LAYOUT)
            x = tl.load(x_ptrs, (offs_k < C)[:, None] & inside[None, :], other=0.0)  # [BLOCK_K, BLOCK_P]
            w_ptrs = weight_ptr + (tap * C + offs_c[None, :]) * C + offs_k[:, None]
            weight = tl.load(w_ptrs, mask_w, other=0.0)  # [BLOCK_K, BLOCK_C]
            z = tl.dot(tl.trans(x), weight, z, input_precision=PRECISION, out_dtype=ACC)
    z = tl.trans(z)  # [BLOCK_C, BLOCK_P]
    mask = (offs_c < C)[:, None] & (h < H)[None, :]
    if z_ptr is not None:
        store_tile(z_ptr, y_stride, n, offs_c, offs_p, z, mask, LAYOUT)
    gate_tile(z, x_ptr, bias_ptr, y_ptr, map_ptr, x_stride, y_stride, n, offs_c, offs_p, mask, C, GATE, LAYOUT, ACC)


def plan_conv_pointers_fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    gate_map: Tensor | None,
    z: Tensor | None,
    gate: Activation,
) -> Plan:
    """weight (9, C, C) in x's dtype."""
    m, (H, W) = maps(x=x, y=y), x.shape[2:]
    config = matmul_config("conv_pointers_fwd", POINTERS, x, m, m.N, m.P)
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    blocks = -(-m.C // config.blocks["BLOCK_C"])
    args = fwd_args(x, bias, y, gate_map, z, m, config, gate)
    args |= dict(weight_ptr=weight, sizes=(H, W, tiles), PRECISION=precision(x))
    grid = m.N * tiles * blocks
    each = m.N * tiles
    past = min(tiles * config.blocks["BLOCK_P"] - m.P, W)  # pixels of the row below the image that the last tile holds
    taps = (3 * H - 2) * (3 * W - 2) + 3 * past - (past > 0) - (past == W)  # those that lie inside the image
    traffic = dict(x_ptr=(taps * blocks / max(m.P, 1) + 1, 0), weight_ptr=(each, 0), bias_ptr=(each, 0))
    traffic |= dict(y_ptr=(0, 1), map_ptr=(0, 1), z_ptr=(0, 1))
    return Plan(_conv_pointers_fwd_kernel, args, config, grid, traffic)
