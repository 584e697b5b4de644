"""SimAM: every value by how far it lies from its channel's mean.

    d = x - mean,  g = sigmoid(d^2 rate + 1/2)

x, y, g, dy, dg, dx (N, C, P); mean, rate, pull, push (N, C), see `settle`.

    forward   y = x g                                                       (read x, write y)
    backward  de = (dy x + dg) g (1 - g);  sums of de d and of de d^2       (read dy, x)
              dx = dy g + d (2 rate de + push) - pull                       (read dy, x, write dx)
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, maps, partials
from ...runtime.plan import Plan
from ...tuning.target import sms
from ..common.activations import sigmoid
from ..common.dependent import begin
from ..common.tile import chunk_of, last_first, load_tile, load_vector, num_pixels, store_tile
from .apply import apply_config
from .sums import shares, stages, sums_config


@triton.jit
def load_rate(mean_ptr, rate_ptr, n, offs_c, C: tl.constexpr, ACC: tl.constexpr):
    """mean and rate [BLOCK_C, 1]"""
    image = n.to(tl.int64) * C
    mean = load_vector(mean_ptr + image, offs_c, C, ACC)[:, None]
    return mean, load_vector(rate_ptr + image, offs_c, C, ACC)[:, None]


@triton.jit
def load_de(pointers, strides, n, offs_c, offs_p, mask, mean, rate, LAYOUT: tl.constexpr, ACC: tl.constexpr):
    """dy, d, g and de [BLOCK_C, BLOCK_P]; where masked, de is 0. The maps dy, x and dmap."""
    dy_ptr, x_ptr, dmap_ptr = pointers
    dy_stride, x_stride, dmap_stride = strides
    x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
    dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
    dg = dy * x
    if dmap_ptr is not None:
        dg += load_tile(dmap_ptr, dmap_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
    d = x - mean
    g = sigmoid(d * d * rate + 0.5, 0.0, 0.0)
    return dy, d, g, dg * (g * (1.0 - g))


@triton.jit
def _response_energy_fwd_kernel(
    x_ptr,
    mean_ptr,
    rate_ptr,
    y_ptr,
    map_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    x_stride, y_stride, map_stride = strides
    pixels, images = sizes
    n, block, offs_c = last_first(images, C, BLOCK_C)
    offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = (offs_c < C)[:, None] & (offs_p < num_pixels(pixels, LAYOUT))[None, :]
    x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
    mean, rate = load_rate(mean_ptr, rate_ptr, n, offs_c, C, ACC)
    d = x - mean
    g = sigmoid(d * d * rate + 0.5, 0.0, 0.0)
    store_tile(y_ptr, y_stride, n, offs_c, offs_p, x * g, mask, LAYOUT)
    if map_ptr is not None:
        store_tile(map_ptr, map_stride, n, offs_c, offs_p, g, mask, LAYOUT)


@triton.jit
def _response_energy_sums_kernel(
    dy_ptr,
    x_ptr,
    dmap_ptr,
    mean_ptr,
    rate_ptr,
    pull_ptr,
    push_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    pixels, blocks, tiles = sizes
    row, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)  # of the partials: n * tiles + t
    n = row // tiles
    P = num_pixels(pixels, LAYOUT)
    mean, rate = load_rate(mean_ptr, rate_ptr, n, offs_c, C, ACC)
    pointers = (dy_ptr, x_ptr, dmap_ptr)
    pull = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    push = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for block in tl.range(row % tiles, blocks, tiles, num_stages=STAGES):
        offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
        _, d, _, de = load_de(pointers, strides, n, offs_c, offs_p, mask, mean, rate, LAYOUT, ACC)
        pull += de * d
        push += de * d * d
    offs = row.to(tl.int64) * C + offs_c
    tl.store(pull_ptr + offs, tl.sum(pull, 1), offs_c < C)
    tl.store(push_ptr + offs, tl.sum(push, 1), offs_c < C)


@triton.jit
def _response_energy_bwd_kernel(
    dy_ptr,
    x_ptr,
    dmap_ptr,
    mean_ptr,
    rate_ptr,
    pull_ptr,
    push_ptr,
    dx_ptr,
    strides,
    sizes,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    dy_stride, x_stride, dmap_stride, dx_stride = strides
    pixels, images = sizes
    n, block, offs_c = last_first(images, C, BLOCK_C)
    offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = (offs_c < C)[:, None] & (offs_p < num_pixels(pixels, LAYOUT))[None, :]
    mean, rate = load_rate(mean_ptr, rate_ptr, n, offs_c, C, ACC)
    pointers, known = (dy_ptr, x_ptr, dmap_ptr), (dy_stride, x_stride, dmap_stride)
    dy, d, g, de = load_de(pointers, known, n, offs_c, offs_p, mask, mean, rate, LAYOUT, ACC)
    pull, push = load_rate(pull_ptr, push_ptr, n, offs_c, C, ACC)
    dx = dy * g + (d * (2.0 * rate * de + push) - pull)
    store_tile(dx_ptr, dx_stride, n, offs_c, offs_p, dx, mask, LAYOUT)


def plan_response_energy_fwd(x: Tensor, mean: Tensor, rate: Tensor, y: Tensor, gate_map: Tensor | None) -> Plan:
    m = maps(x=x, y=y, map=gate_map)
    config = apply_config("response_energy_fwd", m, x, 1, 2.2)
    chunks, blocks = -(-m.C // config.blocks["BLOCK_C"]), -(-m.P // config.blocks["BLOCK_P"])
    args = dict(x_ptr=x, mean_ptr=mean, rate_ptr=rate, y_ptr=y, map_ptr=gate_map)
    args |= dict(strides=m.strides_of("x", "y", "map"), sizes=(m.pixels, m.N))
    args |= dict(C=m.C, LAYOUT=m.layout, ACC=accumulator(x), DEPENDENT=config.dependent)
    traffic = dict(x_ptr=(1, 0), mean_ptr=(blocks, 0), rate_ptr=(blocks, 0), y_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_response_energy_fwd_kernel, args, config, m.N * chunks * blocks, traffic)


def plan_response_energy_sums(dy: Tensor, x: Tensor, dmap: Tensor | None, mean: Tensor, rate: Tensor) -> Plan:
    """Makes pull and push (N, T, C): the sums of de d and of de d^2."""
    m, loads = maps(dy=dy, x=x, dmap=dmap), 2 + (dmap is not None)
    config = sums_config("response_energy_sums", m, x, loads, 3.2 + loads - 2)
    chunks, blocks, tiles = shares(m, config, sms(x.device))
    args = dict(dy_ptr=dy, x_ptr=x, dmap_ptr=dmap, mean_ptr=mean, rate_ptr=rate)
    args |= dict(pull_ptr=partials(x, m.N, tiles, m.C), push_ptr=partials(x, m.N, tiles, m.C))
    args |= dict(strides=m.strides_of("dy", "x", "dmap"), sizes=(m.pixels, blocks, tiles))
    args |= dict(C=m.C, LAYOUT=m.layout, ACC=accumulator(x))
    args |= dict(STAGES=stages(x.device, x.element_size(), m, config, loads), DEPENDENT=config.dependent)
    traffic = dict.fromkeys(("dy_ptr", "x_ptr", "dmap_ptr"), (1, 0)) | dict(mean_ptr=(tiles, 0), rate_ptr=(tiles, 0))
    traffic |= dict(pull_ptr=(0, 1), push_ptr=(0, 1))
    grid = m.N * tiles * chunks
    return Plan(_response_energy_sums_kernel, args, config, grid, traffic, ("pull", "push"))


def plan_response_energy_bwd(
    dy: Tensor, x: Tensor, dmap: Tensor | None, mean: Tensor, rate: Tensor, pull: Tensor, push: Tensor, dx: Tensor
) -> Plan:
    m, loads = maps(dy=dy, x=x, dmap=dmap, dx=dx), 2 + (dmap is not None)
    config = apply_config("response_energy_bwd", m, x, loads, 3.2 + loads - 2)
    chunks, blocks = -(-m.C // config.blocks["BLOCK_C"]), -(-m.P // config.blocks["BLOCK_P"])
    args = dict(dy_ptr=dy, x_ptr=x, dmap_ptr=dmap, mean_ptr=mean, rate_ptr=rate, pull_ptr=pull, push_ptr=push)
    args |= dict(dx_ptr=dx, strides=m.strides_of("dy", "x", "dmap", "dx"), sizes=(m.pixels, m.N))
    args |= dict(C=m.C, LAYOUT=m.layout, ACC=accumulator(x), DEPENDENT=config.dependent)
    traffic = dict.fromkeys(("dy_ptr", "x_ptr", "dmap_ptr"), (1, 0)) | dict(dx_ptr=(0, 1))
    traffic |= dict.fromkeys(("mean_ptr", "rate_ptr", "pull_ptr", "push_ptr"), (blocks, 0))
    return Plan(_response_energy_bwd_kernel, args, config, m.N * chunks * blocks, traffic)
