"""The gate of a 3x3 convolution by the tensor memory accelerator, for 16-bit channels_last maps. See `conv`.

A program has BLOCK_P pixels of ROWS rows and BLOCK_C output channels; each step copies BLOCK_K input channels of these
rows and of their neighbours, moved by a tap along the row: each row's box serves the three rows that it is a neighbour
of. What lies outside the image, and past the last channel, arrives as zeros.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ...runtime.maps import maps
from ...runtime.plan import Plan
from ...tuning.model import space
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import store_tile
from .shared import fwd_args, gate_tile, matmul_config

DESCRIPTORS = space(
    ROWS=(1, 2, 4),
    BLOCK_P=(64, 128, 256),
    BLOCK_C=(16, 32, 64, 128),
    BLOCK_K=(16, 32, 64),
    num_warps=(4, 8),
    num_stages=(2, 3, 4),
)


@triton.jit
def _boxes(desc, n, h, w, k, ROWS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr):
    """ROWS rows from h on, each [BLOCK_P, BLOCK_K]."""
    found = ()
    for i in tl.static_range(ROWS):
        found += (tl.reshape(desc.load([n, h + i, w, k]), [BLOCK_P, BLOCK_K]),)
    return found


@triton.jit
def _summed(z, boxes, first: tl.constexpr, weight, ROWS: tl.constexpr):
    """Each row's sum and the product of its neighbour at the tap's row."""
    sums = ()
    for i in tl.static_range(ROWS):
        sums += (tl.dot(boxes[first + i], weight, z[i]),)
    return sums


@triton.jit
def _conv_descriptors_fwd_kernel(
    x_desc,  # (N, H, W, C), box [1, 1, BLOCK_P, BLOCK_K]
    weight_desc,  # (9, C, C), box [1, BLOCK_C, BLOCK_K]
    x_ptr,
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
    DEPENDENT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    begin(DEPENDENT)
    x_stride, y_stride = strides
    H, W, tiles = sizes
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    chunks: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
    groups = (H + ROWS - 1) // ROWS
    group = tl.program_id(0) // blocks // tiles
    n = group // groups
    first_h = group % groups * ROWS
    first_c = tl.program_id(0) % blocks * BLOCK_C
    first_w = tl.program_id(0) // blocks % tiles * BLOCK_P
    z = ()
    for _ in tl.static_range(ROWS):
        z += (tl.zeros([BLOCK_P, BLOCK_C], ACC),)
    for step in range(3 * chunks):
        k = step // 3 * BLOCK_K
        column = step % 3
        boxes = _boxes(x_desc, n, first_h - 1, first_w + column - 1, k, ROWS + 2, BLOCK_P, BLOCK_K)
        for row in tl.static_range(3):
            weight = tl.reshape(weight_desc.load([3 * row + column, first_c, k]), [BLOCK_C, BLOCK_K])
            z = _summed(z, boxes, row, tl.trans(weight), ROWS)
    offs_c = first_c + tl.arange(0, BLOCK_C)
    offs_w = first_w + tl.arange(0, BLOCK_P)
    for i in tl.static_range(ROWS):
        h = first_h + i
        sums = tl.trans(z[i])  # [BLOCK_C, BLOCK_P]
        offs_p = h * W + offs_w
        width = tl.where(h < H, W, 0)  # of the row: of none past the last one
        mask = (offs_c < C)[:, None] & (offs_w < width)[None, :]
        if z_ptr is not None:
            store_tile(z_ptr, y_stride, n, offs_c, offs_p, sums, mask, LAYOUT)
        gate_tile(
            sums, x_ptr, bias_ptr, y_ptr, map_ptr, x_stride, y_stride, n, offs_c, offs_p, mask, C, GATE, LAYOUT, ACC
        )


def takes_descriptors(x: Tensor) -> bool:
    """Whether the tensor memory accelerator can read x: 16-bit, channels_last, all addresses multiples of 16 bytes."""
    m = maps(x=x)
    batch, pixel = m.stride["x"]
    dense = batch >= pixel * m.P or m.N == 1
    aligned = m.layout.align == 8 and x.data_ptr() % 16 == 0
    return x.element_size() == 2 and m.layout.channels_last and dense and aligned and m.N > 0


def plan_conv_descriptors_fwd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    gate_map: Tensor | None,
    z: Tensor | None,
    gate: Activation,
) -> Plan:
    """weight (9, C, C) in x's dtype. The boxes of the descriptors are the config's blocks."""
    m, (H, W) = maps(x=x, y=y), x.shape[2:]
    config = matmul_config("conv_descriptors_fwd", DESCRIPTORS, x, m, m.N * H, W)
    height, block_p, block_c, block_k = (config.blocks[name] for name in ("ROWS", "BLOCK_P", "BLOCK_C", "BLOCK_K"))
    groups, tiles, blocks = -(-H // height), -(-W // block_p), -(-m.C // block_c)
    batch, pixel = (stride * m.layout.align for stride in m.stride["x"])
    batch = batch if m.N > 1 else pixel * m.P
    x_strides = [batch, pixel * W, pixel, 1]
    args = fwd_args(x, bias, y, gate_map, z, m, config, gate)
    args |= dict(
        x_desc=TensorDescriptor(x, [m.N, H, W, m.C], x_strides, [1, 1, block_p, block_k]),
        weight_desc=TensorDescriptor(weight, [9, m.C, m.C], [m.C * m.C, m.C, 1], [1, block_c, block_k]),
        sizes=(H, W, tiles),
    )
    each = m.N * groups * tiles
    starts = [tile * block_p + tap for tile in range(tiles) for tap in (-1, 0, 1)]
    columns = sum(max(0, min(start + block_p, W) - max(start, 0)) for start in starts)
    above = range(-1, groups * height - 1, height)
    rows = sum(min(start + height + 2, H) - max(start, 0) for start in above)  # outside a box is filled without a load
    traffic = dict(x_desc=(columns * rows * blocks / max(H * W, 1), 0), weight_desc=(each, 0))
    traffic |= dict(x_ptr=(1, 0), bias_ptr=(each * height, 0), y_ptr=(0, 1), map_ptr=(0, 1), z_ptr=(0, 1))
    return Plan(_conv_descriptors_fwd_kernel, args, config, each * blocks, traffic)
