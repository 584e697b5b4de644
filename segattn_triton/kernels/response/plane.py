"""SimAM where a program has whole planes: forward, and backward, in one launch each. See `energy` for the equations.

    forward   moments of x, then y = x g                      (read x, read x, write y)
    backward  sums of de d and of de d^2, then dx             (read dy and x, read dy and x, write dx)

What is read again was read by the same program, which goes back from the last block: from the L2 cache, as far as the
planes of all programs that run together fit. In NCHW, where a plane is one piece of memory, of as many planes as fill
the GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import Maps, accumulator, maps
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.grids import FULL, MANY, filled
from ...tuning.model import Config, Footprint, cost, looping
from ...tuning.target import rounds_ahead, sms, stages_for
from ..common.activations import sigmoid
from ..common.dependent import begin
from ..common.tile import chunk_of, load_tile, num_pixels, store_tile
from .energy import load_de, load_rate
from .moments import moments_of
from .sums import TILES

SPACE = looping(tuple(c for c in TILES if 512 <= c.blocks["BLOCK_C"] * c.blocks["BLOCK_P"] <= 1024 * c.num_warps))
VALUES = 32  # of a thread, of which half of the time is a program's that has an SM by itself
MOST = 64  # bytes of a map that a thread holds: of more, fewer programs fit an SM than there are planes for it


@triton.jit
def _response_plane_fwd_kernel(
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
    EPS: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    x_stride, y_stride, map_stride = strides
    pixels, blocks = sizes
    n, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    P = num_pixels(pixels, LAYOUT)
    mean, squares = moments_of(x_ptr, x_stride, n, offs_c, (0, blocks, 1), P, C, LAYOUT, ACC, STAGES, BLOCK_P)
    rate = 1.0 / (4.0 * (squares / (P - 1) + EPS))
    offs = n.to(tl.int64) * C + offs_c
    tl.store(mean_ptr + offs, mean, offs_c < C)
    tl.store(rate_ptr + offs, rate, offs_c < C)
    for back in tl.range(0, blocks, num_stages=STAGES):
        offs_p = (blocks - 1 - back) * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
        x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)  # [BLOCK_C, BLOCK_P]
        d = x - mean[:, None]
        g = sigmoid(d * d * rate[:, None] + 0.5, 0.0, 0.0)
        store_tile(y_ptr, y_stride, n, offs_c, offs_p, x * g, mask, LAYOUT)
        if map_ptr is not None:
            store_tile(map_ptr, map_stride, n, offs_c, offs_p, g, mask, LAYOUT)


@triton.jit
def _response_plane_bwd_kernel(
    dy_ptr,
    x_ptr,
    dmap_ptr,
    mean_ptr,
    rate_ptr,
    dx_ptr,
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
    dy_stride, x_stride, dmap_stride, dx_stride = strides
    pixels, blocks = sizes
    n, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    P = num_pixels(pixels, LAYOUT)
    mean, rate = load_rate(mean_ptr, rate_ptr, n, offs_c, C, ACC)
    pointers, known = (dy_ptr, x_ptr, dmap_ptr), (dy_stride, x_stride, dmap_stride)
    pulls = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    pushes = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for block in tl.range(0, blocks, num_stages=STAGES):
        offs_p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
        _, d, _, de = load_de(pointers, known, n, offs_c, offs_p, mask, mean, rate, LAYOUT, ACC)
        pulls += de * d
        pushes += de * d * d
    pull = 2.0 * rate * tl.sum(pulls, 1)[:, None] / P
    push = -8.0 * rate * (rate * tl.sum(pushes, 1)[:, None]) / (P - 1)
    for back in tl.range(0, blocks, num_stages=STAGES):
        offs_p = (blocks - 1 - back) * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (offs_c < C)[:, None] & (offs_p < P)[None, :]
        dy, d, g, de = load_de(pointers, known, n, offs_c, offs_p, mask, mean, rate, LAYOUT, ACC)
        dx = dy * g + (d * (2.0 * rate * de + push) - pull)
        store_tile(dx_ptr, dx_stride, n, offs_c, offs_p, dx, mask, LAYOUT)


def in_planes(x: Tensor) -> bool:
    """Whether a program has whole planes of a map like x: one piece of memory each, and enough to fill the GPU."""
    m = maps(x=x)
    return not m.layout.channels_last and filled(m.N * m.C / sms(x.device)) >= FULL


def _stages(m: Maps, device: torch.device, itemsize: int, config: Config, loads: int) -> int:
    elements = loads * config.blocks["BLOCK_C"] * config.blocks["BLOCK_P"]
    return stages_for(device, itemsize, elements, m.layout.align, config.programs)


def _config(kernel: str, m: Maps, x: Tensor, loads: int, live: float) -> Config:
    size, device, itemsize = sms(x.device), x.device, x.element_size()

    def footprint(config: Config) -> Footprint | float | None:
        block_c, block_p = config.blocks["BLOCK_C"], config.blocks["BLOCK_P"]
        chunks, blocks = -(-m.C // block_c), -(-m.P // block_p)
        waves = m.N * chunks / (config.programs * size)
        wide = block_c * block_p * itemsize > MOST * 32 * config.num_warps
        if wide or (1 < waves < MANY and filled(waves) < FULL):
            return None
        waste = chunks * block_c / m.C * blocks * block_p / m.P
        how = dict(ahead=rounds_ahead(_stages(m, device, itemsize, config, loads)), sms=size)
        grid, row = m.N * chunks, block_p * itemsize
        found = Footprint(block_c * block_p, itemsize, loads, live, grid, waste, row, **how)
        if grid > size:
            return found
        return cost(config, found) * (1 + found.tile / (32 * config.num_warps) / VALUES)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(loads,), exact=m.N)
    return config_for(SPACE, footprint, kernel, x, **how)


def _plan(kernel, args: dict, m: Maps, x: Tensor, config: Config, loads: int, traffic: dict) -> Plan:
    args |= dict(sizes=(m.pixels, -(-m.P // config.blocks["BLOCK_P"])), C=m.C, LAYOUT=m.layout, ACC=accumulator(x))
    args |= dict(STAGES=_stages(m, x.device, x.element_size(), config, loads), DEPENDENT=config.dependent)
    return Plan(kernel, args, config, m.N * -(-m.C // config.blocks["BLOCK_C"]), traffic)


def plan_response_plane_fwd(
    x: Tensor, mean: Tensor, rate: Tensor, y: Tensor, gate_map: Tensor | None, eps: float
) -> Plan:
    """Fills mean and rate (N, C)."""
    m = maps(x=x, y=y, map=gate_map)
    config = _config("response_plane_fwd", m, x, 1, 3.2)
    args = dict(x_ptr=x, mean_ptr=mean, rate_ptr=rate, y_ptr=y, map_ptr=gate_map, EPS=eps)
    args |= dict(strides=m.strides_of("x", "y", "map"))
    traffic = dict(x_ptr=(2, 0)) | dict.fromkeys(("mean_ptr", "rate_ptr", "y_ptr", "map_ptr"), (0, 1))
    return _plan(_response_plane_fwd_kernel, args, m, x, config, 1, traffic)


def plan_response_plane_bwd(dy: Tensor, x: Tensor, dmap: Tensor | None, mean: Tensor, rate: Tensor, dx: Tensor) -> Plan:
    m, loads = maps(dy=dy, x=x, dmap=dmap, dx=dx), 2 + (dmap is not None)
    config = _config("response_plane_bwd", m, x, loads, 3.2 + loads - 2)
    args = dict(dy_ptr=dy, x_ptr=x, dmap_ptr=dmap, mean_ptr=mean, rate_ptr=rate, dx_ptr=dx)
    args |= dict(strides=m.strides_of("dy", "x", "dmap", "dx"))
    traffic = dict.fromkeys(("dy_ptr", "x_ptr", "dmap_ptr"), (2, 0)) | dict(dx_ptr=(0, 1))
    traffic |= dict.fromkeys(("mean_ptr", "rate_ptr"), (1, 0))
    return _plan(_response_plane_bwd_kernel, args, m, x, config, loads, traffic)
