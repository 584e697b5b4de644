"""Branches weighted by a softmax over them, forward: y = sum over r of a_r x_r, a = softmax over r of z.

x (N, R, C, P), y (N, C, P), z and a (N, R, C). Of one branch a = sigmoid(z).
Every map once: read x, write y; and a, if it is asked for.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps, accumulator, maps
from ...runtime.plan import Plan
from ..common.activations import sigmoid
from ..common.dependent import begin
from ..common.tile import chunk_of, load_tile, load_vector, num_pixels, only_when, pixels_of, store_tile, tile_ptrs
from .shared import blend_config, blocks

AHEAD = 4  # branches whose tiles a program loads before it weights the first


@triton.jit
def logit_of(z_ptr, n, r, offs_c, C: tl.constexpr, RADIX: tl.constexpr, ACC: tl.constexpr):
    """z [BLOCK_C] of branch r of image n."""
    return load_vector(z_ptr + n.to(tl.int64) * (RADIX * C) + r * C, offs_c, C, ACC)


@triton.jit
def weight_of(z, peak, RADIX: tl.constexpr):
    """What is a once it is divided by the norm, of a logit where the channel has this peak: so small that a sum of all
    branches by it is no larger than the largest of them."""
    if RADIX == 1:
        return sigmoid(z, 0.0, 0.0)
    else:
        return tl.exp(z - peak) * (1.0 / triton.next_power_of_2(RADIX))


@triton.jit
def peak_and_norm(z_ptr, n, offs_c, C: tl.constexpr, RADIX: tl.constexpr, ACC: tl.constexpr):
    """The largest logit of each channel [BLOCK_C], and the sum of the weights that `weight_of` gives by it."""
    peak = tl.zeros([offs_c.shape[0]], ACC) if RADIX == 1 else logit_of(z_ptr, n, 0, offs_c, C, RADIX, ACC)
    for r in tl.static_range(1, RADIX):
        peak = tl.maximum(peak, logit_of(z_ptr, n, r, offs_c, C, RADIX, ACC))
    norm = tl.zeros_like(peak) + (1.0 if RADIX == 1 else 0.0)
    for r in tl.static_range(RADIX if RADIX > 1 else 0):
        norm += weight_of(logit_of(z_ptr, n, r, offs_c, C, RADIX, ACC), peak, RADIX)
    return peak, norm


def reads_of_logits(radix: int, branches: int = 1) -> int:
    """How often a program reads a logit of its channels: for the peak, for the norm, and that of a branch itself; all
    those of `branches` together."""
    return 2 * branches + 1 if radix > 1 else 1


@triton.jit
def _branches_fwd_kernel(
    x_ptr,
    z_ptr,
    y_ptr,
    map_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    RADIX: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    AHEAD: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    x_stride, y_stride = strides
    pixels, tiles = sizes
    tile, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    n, offs_p = pixels_of(tile, tiles, BLOCK_P)
    mask = (offs_c < C)[:, None] & (offs_p < num_pixels(pixels, LAYOUT))[None, :]
    ahead = ()  # under way while the logits are
    for r in tl.static_range(AHEAD):
        ahead += (tl.load(tile_ptrs(x_ptr, x_stride, n, r * C + offs_c, offs_p, LAYOUT), mask, other=0.0),)
    peak, norm = peak_and_norm(z_ptr, n, offs_c, C, RADIX, ACC)
    y = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for r in tl.static_range(RADIX):
        if r < AHEAD:
            x = ahead[r].to(ACC)
        else:
            x = load_tile(x_ptr, x_stride, n, r * C + offs_c, offs_p, mask, LAYOUT, ACC)
        weight = weight_of(logit_of(z_ptr, n, r, offs_c, C, RADIX, ACC), peak, RADIX)
        y += x * weight[:, None]
        if map_ptr is not None:
            a = (weight / norm).to(map_ptr.dtype.element_ty)
            first = only_when(tile % tiles == 0, offs_c < C)
            tl.store(map_ptr + n.to(tl.int64) * (RADIX * C) + r * C + offs_c, a, first)
    store_tile(y_ptr, y_stride, n, offs_c, offs_p, y * (1.0 / norm)[:, None], mask, LAYOUT)


def maps_of(radix: int, **tensors: Tensor | None) -> Maps:
    """Of maps of all branches, the first of them with all their channels, and of maps of one: C is that of one."""
    m = maps(**tensors)
    return m._replace(C=m.C // radix)


def plan_branches_fwd(x: Tensor, z: Tensor, y: Tensor, gate_map: Tensor | None) -> Plan:
    """x (N, R C, *S); z (N, R, C), contiguous."""
    radix = z.shape[1]
    m = maps_of(radix, x=x, y=y)
    loads = min(radix, AHEAD)
    config = blend_config("branches_fwd", m, x, loads, 1.2 + 0.6 * loads, (False, False))
    chunks, tiles = blocks(m, config)
    args = dict(
        x_ptr=x,
        z_ptr=z,
        y_ptr=y,
        map_ptr=gate_map,
        strides=m.strides_of("x", "y"),
        sizes=(m.pixels, tiles),
        C=m.C,
        RADIX=radix,
        LAYOUT=m.layout,
        ACC=accumulator(x),
        AHEAD=loads,
        DEPENDENT=config.dependent,
    )
    traffic = dict(x_ptr=(1, 0), z_ptr=(reads_of_logits(radix) * tiles, 0), y_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_branches_fwd_kernel, args, config, m.N * chunks * tiles, traffic)
