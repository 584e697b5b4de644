"""Additive attention, forward: y = x * gate(z), and z where the backward wants it. See `additive`.

3 passes over the map: read x and g, write y; 2 without y, where the logits have a norm of their own. What a program
reads again, x for the product and both maps for the next chunk of projections, comes from the cache.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps
from ...runtime.plan import Plan
from ...tuning.model import space
from ..common.activations import Activation, relu
from ..common.dot import precision
from ..common.tile import chunk_at, load_tile, load_vector, num_pixels, pixels_of, store_tile
from .shared import dot_config, dot_stages, load_affine, normed, project

SPACE = space(BLOCK_P=(32, 64, 128), BLOCK_F=(16, 32, 64, 128, 256), BLOCK_K=(16, 32, 64))


@triton.jit
def _additive_fwd_kernel(
    x_ptr,
    g_ptr,
    wx_ptr,
    wg_ptr,
    b_ptr,
    weight_ptr,
    bias_ptr,
    affine_ptr,
    y_ptr,
    map_ptr,
    z_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    G: tl.constexpr,
    F: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    LAYOUT_G: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    x_stride, g_stride, y_stride = strides
    pixels, tiles = sizes
    n, offs_p = pixels_of(tl.program_id(0), tiles, BLOCK_P)
    P = num_pixels(pixels, LAYOUT)
    mask_p = offs_p < P
    z = tl.zeros([BLOCK_P], ACC)
    for first in range(0, F, BLOCK_F):
        offs_f = first + tl.arange(0, BLOCK_F)
        h = tl.zeros([BLOCK_P, BLOCK_F], ACC)
        hx = project(h, x_ptr, x_stride, wx_ptr, n, offs_f, offs_p, mask_p, C, F, LAYOUT, PRECISION, STAGES, BLOCK_K)
        h = hx if affine_ptr is None else h
        h = project(h, g_ptr, g_stride, wg_ptr, n, offs_f, offs_p, mask_p, G, F, LAYOUT_G, PRECISION, STAGES, BLOCK_K)
        if affine_ptr is not None:
            hx, _, h = normed(hx, h, load_affine(affine_ptr, offs_f, F, ACC))
        if b_ptr is not None:
            h += load_vector(b_ptr, offs_f, F, ACC)[None, :]
        weighted = relu(h, 0.0, 0.0) * load_vector(weight_ptr, offs_f, F, ACC)[None, :]
        z += tl.sum(tl.where((offs_f < F)[None, :], weighted, 0.0), 1)
    if bias_ptr is not None:
        z += tl.load(bias_ptr).to(ACC)
    gate = GATE.f(z, GATE.a, GATE.b)
    image = n.to(tl.int64) * P
    if map_ptr is not None:
        tl.store(map_ptr + image + offs_p, gate.to(map_ptr.dtype.element_ty), mask_p)
    if z_ptr is not None:
        tl.store(z_ptr + image + offs_p, z, mask_p)
    if y_ptr is not None:
        for k in tl.range(0, C, BLOCK_K, num_stages=STAGES):
            offs_k, mask = chunk_at(k, mask_p, C, BLOCK_K)
            x = load_tile(x_ptr, x_stride, n, offs_k, offs_p, mask, LAYOUT, ACC)
            store_tile(y_ptr, y_stride, n, offs_k, offs_p, x * gate[None, :], mask, LAYOUT)


def plan_additive_fwd(
    x: Tensor,
    g: Tensor,
    wx: Tensor,
    wg: Tensor,
    b: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor | None,
    gate_map: Tensor | None,
    z: Tensor | None,
    gate: Activation,
    affine: Tensor | None = None,
) -> Plan:
    """x and y lie alike; y, and z (N, P), where they are wanted. affine (4, F): see `normed`."""
    m, mg, F = maps(x=x, y=y), maps(g=g), wx.shape[0]
    nbytes = ((1 if y is None else 2) * m.C + mg.C) * m.P * x.element_size()
    size = (max(m.P, 1), F, m.C + mg.C)
    how = dict(also=(mg.C, F)) if affine is None else dict(also=(mg.C, F, y is None, "norm"), most=32)
    config = dot_config("additive_fwd", SPACE, x, m, size, nbytes, m.N, **how)
    block_p, block_f, block_k = config.blocks.values()
    tiles = -(-m.P // block_p)
    turned = not (m.layout.channels_last and mg.layout.channels_last)
    args = dict(
        x_ptr=x,
        g_ptr=g,
        wx_ptr=wx,
        wg_ptr=wg,
        b_ptr=b,
        weight_ptr=weight,
        bias_ptr=bias,
        affine_ptr=affine,
        y_ptr=y,
        map_ptr=gate_map,
        z_ptr=z,
        strides=(*m.strides_of("x"), *mg.strides_of("g"), *m.strides_of("y")),
        sizes=(m.pixels, tiles),
        C=m.C,
        G=mg.C,
        F=F,
        GATE=gate,
        LAYOUT=m.layout,
        LAYOUT_G=mg.layout,
        ACC=accumulator(x),
        PRECISION=precision(x),
        STAGES=dot_stages(x, (block_p + block_f) * block_k, m.layout.align, turned=turned),
    )
    grid, blocks = m.N * tiles, -(-F // block_f)
    traffic = dict(x_ptr=(blocks + (y is not None), 0), g_ptr=(blocks, 0))
    traffic |= dict.fromkeys(("wx_ptr", "wg_ptr", "b_ptr", "weight_ptr", "bias_ptr", "affine_ptr"), (grid, 0))
    traffic |= dict.fromkeys(("y_ptr", "map_ptr", "z_ptr"), (0, 1))
    return Plan(_additive_fwd_kernel, args, config, grid, traffic)
