"""The mask at the image's pixels, bilinear with its corners aligned, and the gradient back: see `common.resize`.

mask (N, M, h, w) -> m (N, M, H, W), which is itself where it is of that size; dm -> dmask, gathered.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps
from ...runtime.plan import Plan
from ...tuning.model import Config
from ..common.dependent import begin
from ..common.resize import Resize, first_of, most_pixels, pairs, share_of, taps
from ..common.tile import chunk_of, load_tile, pixels_of, store_tile
from .choice import tile_config

ALIGNED = Resize(bilinear=True, align_corners=True, inverse=0.0, layout=None)


@triton.jit
def _refinement_resize_kernel(
    mask_ptr,
    m_ptr,
    strides,
    sizes,
    M: tl.constexpr,
    RESIZE: tl.constexpr,
    COARSE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    mask_stride, m_stride = strides
    H, W, h, w, tiles = sizes
    tile, offs_c = chunk_of(tl.program_id(0), M, BLOCK_C)
    n, offs_p = pixels_of(tile, tiles, BLOCK_P)
    mask = (offs_c < M)[:, None] & (offs_p < H * W)[None, :]
    top, bottom, below = taps(offs_p // W, h, H, RESIZE, ACC)
    left, right, beside = taps(offs_p % W, w, W, RESIZE, ACC)
    z = load_tile(mask_ptr, mask_stride, n, offs_c, top * w + left, mask, COARSE, ACC)
    z1 = load_tile(mask_ptr, mask_stride, n, offs_c, top * w + right, mask, COARSE, ACC)
    z2 = load_tile(mask_ptr, mask_stride, n, offs_c, bottom * w + left, mask, COARSE, ACC)
    z3 = load_tile(mask_ptr, mask_stride, n, offs_c, bottom * w + right, mask, COARSE, ACC)
    above = (1.0 - beside)[None, :] * z + beside[None, :] * z1
    under = (1.0 - beside)[None, :] * z2 + beside[None, :] * z3
    m = (1.0 - below)[None, :] * above + below[None, :] * under
    store_tile(m_ptr, m_stride, n, offs_c, offs_p, m, mask, LAYOUT)


@triton.jit
def _refinement_unsize_kernel(
    dm_ptr,
    dmask_ptr,
    strides,
    sizes,
    most_rows,
    most_cols,
    M: tl.constexpr,
    RESIZE: tl.constexpr,
    LAYOUT: tl.constexpr,
    COARSE: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """A value of the mask gathers from the pixels that took from it."""
    begin(DEPENDENT)
    dmask_stride, dm_stride = strides
    H, W, h, w, tiles = sizes
    tile, offs_c = chunk_of(tl.program_id(0), M, BLOCK_C)
    n, offs_j = pixels_of(tile, tiles, BLOCK_P)
    own = (offs_c < M)[:, None] & (offs_j < h * w)[None, :]
    row_j, col_j = offs_j // w, offs_j % w
    first_row, first_col = first_of(row_j, h, H, RESIZE, ACC), first_of(col_j, w, W, RESIZE, ACC)
    total = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for k_row in range(0, most_rows):
        row = first_row + k_row
        takes_row, share_row = share_of(row, taps(row, h, H, RESIZE, ACC), row_j, H)
        for k_col in range(0, most_cols):
            col = first_col + k_col
            takes_col, share_col = share_of(col, taps(col, w, W, RESIZE, ACC), col_j, W)
            mask = own & (takes_row & takes_col)[None, :]
            dm = load_tile(dm_ptr, dm_stride, n, offs_c, row * W + col, mask, LAYOUT, ACC)
            total += dm * (share_row * share_col)[None, :]
    store_tile(dmask_ptr, dmask_stride, n, offs_c, offs_j, total, own, COARSE)


def plan_refinement_resize(mask: Tensor, m: Tensor) -> Plan:
    (h, w), (H, W) = mask.shape[2:], m.shape[2:]
    config, args, grid = _args("refinement_resize", mask, m, m)
    args |= dict(mask_ptr=mask, m_ptr=m)
    return Plan(_refinement_resize_kernel, args, config, grid, dict(mask_ptr=(4 * H * W / (h * w), 0), m_ptr=(0, 1)))


def plan_refinement_unsize(dm: Tensor, dmask: Tensor) -> Plan:
    (h, w), (H, W) = dmask.shape[2:], dm.shape[2:]
    config, args, grid = _args("refinement_unsize", dmask, dm, dmask)
    args |= dict(dm_ptr=dm, dmask_ptr=dmask, most_rows=most_pixels(h, H, ALIGNED), most_cols=most_pixels(w, W, ALIGNED))
    wide = dm.dtype.itemsize == 8
    taken = pairs(h, H, ALIGNED, wide) * pairs(w, W, ALIGNED, wide)
    return Plan(_refinement_unsize_kernel, args, config, grid, dict(dm_ptr=(taken / (H * W), 0), dmask_ptr=(0, 1)))


def _args(kernel: str, coarse: Tensor, fine: Tensor, made: Tensor) -> tuple[Config, dict, int]:
    """The config, arguments and programs of a kernel that makes one of both maps of the other."""
    small, large = maps(t=coarse), maps(t=fine)
    target = small if made is coarse else large
    config = tile_config(kernel, made, target.C, target.P, 4, target.layout)
    chunks, tiles = -(-target.C // config.blocks["BLOCK_C"]), -(-target.P // config.blocks["BLOCK_P"])
    strides = small.stride["t"], large.stride["t"]
    args = dict(strides=strides, sizes=(*fine.shape[2:], *coarse.shape[2:], tiles), M=target.C, RESIZE=ALIGNED)
    args |= dict(COARSE=small.layout, LAYOUT=large.layout, ACC=accumulator(made), DEPENDENT=config.dependent)
    return config, args, target.N * chunks * tiles
