"""A map times the gate of its rows and columns, and what their means give back to it.

t, out (N, C, H, W); z_h, pull_h (N, C, H), z_w, pull_w (N, C, W), see `shared` for g.

    forward   y = x g, the map g                                  (read x, write y)
    backward  dx = dy g + pull_h / W + pull_w / H                 (read dy, write dx)

Without t, the pulls alone: the gradient of both means.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import num_pixels
from .choice import tile_config
from .shared import coordinate_maps, coordinate_ptrs, gate_of, load_rows, vector_strides


@triton.jit
def _coordinate_apply_kernel(
    t_ptr,
    out_ptr,
    map_ptr,
    z_h_ptr,
    z_w_ptr,
    pull_h_ptr,
    pull_w_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    PRODUCT: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """The last rows come first: the means and the sums read them last."""
    begin(DEPENDENT)
    t_stride, out_stride, map_stride, z_h_stride, z_w_stride, pull_h_stride, pull_w_stride = strides
    images, H, width, columns = sizes
    W = num_pixels(width, LAYOUT)
    CHUNKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    pid = tl.num_programs(0) - 1 - tl.program_id(0)
    offs_c = pid % CHUNKS * BLOCK_C + tl.arange(0, BLOCK_C)
    offs_w = pid // CHUNKS % columns * BLOCK_W + tl.arange(0, BLOCK_W)
    n = pid // CHUNKS // columns % images
    offs_h = pid // CHUNKS // columns // images * BLOCK_H + tl.arange(0, BLOCK_H)
    mask_h = (offs_c < C)[:, None] & (offs_h < H)[None, :]
    mask_w = (offs_c < C)[:, None] & (offs_w < W)[None, :]
    mask = mask_h[:, :, None] & mask_w[:, None, :]
    out = tl.zeros([BLOCK_C, BLOCK_H, BLOCK_W], ACC)
    if z_h_ptr is not None:
        z_h = load_rows(z_h_ptr, z_h_stride, n, offs_c, offs_h, mask_h, LAYOUT, ACC)
        z_w = load_rows(z_w_ptr, z_w_stride, n, offs_c, offs_w, mask_w, LAYOUT, ACC)
        g = gate_of(z_h, z_w, PRODUCT, GATE)
        t = tl.load(coordinate_ptrs(t_ptr, t_stride, n, offs_c, offs_h, offs_w, W, LAYOUT), mask, other=0.0)
        out = t.to(ACC) * g
        if map_ptr is not None:
            ptrs = coordinate_ptrs(map_ptr, map_stride, n, offs_c, offs_h, offs_w, W, LAYOUT)
            tl.store(ptrs, g.to(map_ptr.dtype.element_ty), mask)
    if pull_h_ptr is not None:
        out += (load_rows(pull_h_ptr, pull_h_stride, n, offs_c, offs_h, mask_h, LAYOUT, ACC) / W)[:, :, None]
    if pull_w_ptr is not None:
        out += (load_rows(pull_w_ptr, pull_w_stride, n, offs_c, offs_w, mask_w, LAYOUT, ACC) / H)[:, None, :]
    ptrs = coordinate_ptrs(out_ptr, out_stride, n, offs_c, offs_h, offs_w, W, LAYOUT)
    tl.store(ptrs, out.to(out_ptr.dtype.element_ty), mask)


def plan_coordinate_apply(
    t: Tensor | None,
    z: tuple[Tensor | None, Tensor | None],
    pull: tuple[Tensor | None, Tensor | None],
    out: Tensor,
    gate_map: Tensor | None = None,
    product: bool = True,
    gate: Activation | None = None,
) -> Plan:
    """z: z_h and z_w, beside t. pull: of the rows and of the columns, if there is any."""
    m, width = coordinate_maps(*z, *pull, out=out, t=t, map=gate_map)
    loads = int(t is not None)
    written, vectors = 1 + (gate_map is not None), max(sum(v is not None for v in (*z, *pull)) // 2, 1)
    live = 0.4 + loads + 0.5 * written + 0.5 * vectors
    config, (chunks, blocks, columns) = tile_config("coordinate_apply", m, out, max(loads, 1), live, vectors, written)
    (z_h, z_w), (pull_h, pull_w) = z, pull
    args = dict(t_ptr=t, out_ptr=out, map_ptr=gate_map, z_h_ptr=z_h, z_w_ptr=z_w, pull_h_ptr=pull_h, pull_w_ptr=pull_w)
    args |= dict(
        strides=(*m.strides_of("t", "out", "map"), *map(vector_strides, (*z, *pull))),
        sizes=(m.N, out.shape[2], width, columns),
        C=m.C,
        PRODUCT=product,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(out),
        DEPENDENT=config.dependent,
    )
    traffic = dict.fromkeys(("z_h_ptr", "pull_h_ptr"), (columns, 0)) | dict(t_ptr=(1, 0))
    traffic |= dict.fromkeys(("z_w_ptr", "pull_w_ptr"), (blocks, 0)) | dict(out_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_coordinate_apply_kernel, args, config, m.N * chunks * blocks * columns, traffic)
