"""A full 3x3 convolution in a gate: y = x * gate(z + b), z_op = sum over tap t and channel c of w_toc x_c,p+t.

x, y, z, map (N, C, H, W); weight (9, C_out, C_in), so that both operands of the dot are contiguous along its
reduction; bias (C,). An implicit GEMM of [pixels, C_in] by [C_in, C_out] for each chunk of C_in and each of the 9 taps,
on tensor cores where the dtype has them, in 2 passes over the map: read x, write y (and z, where the backward
wants it). The taps of a tile and the x of its epilogue come from cache.

    pointers      any layout, dtype and C
    descriptors   rows of pixels copied by the tensor memory accelerator, which fills what lies outside with zeros
    library       z comes from the library's convolution: one pointwise kernel, 3 passes (read x and z, write y)

Backward, one pointwise kernel, 5 passes: read x, z, dy, write dz and the direct term of dx:
    dz = (dy x + dmap) gate'(z + b),    direct = dy gate(z + b),    db_c = sum_np dz
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from segattn_triton.kernels.activations import Activation
from segattn_triton.kernels.tile import (
    Maps,
    accumulator,
    load_tile,
    load_vector,
    maps,
    num_pixels,
    partials,
    store_tile,
    tile_ptrs,
)
from segattn_triton.launch import Plan
from segattn_triton.tuning import (
    BYTES_IN_FLIGHT,
    REGISTERS,
    SMS,
    Config,
    Footprint,
    capability,
    config_for,
    shared_memory,
    space,
)

# No 8 warps: Triton miscompiles convolution loops of pointer loads with them (pytorch/pytorch#173068).
POINTERS = space(BLOCK_P=(32, 64, 128), BLOCK_C=(16, 32, 64, 128), BLOCK_K=(16, 32, 64), num_stages=(2, 3, 4))
DESCRIPTORS = space(
    BLOCK_P=(64, 128, 256), BLOCK_C=(16, 32, 64, 128), BLOCK_K=(16, 32, 64), num_warps=(4, 8), num_stages=(2, 3, 4)
)
POINTWISE = space(BLOCK_C=(1, 4, 16, 64, 256), BLOCK_P=(1, 4, 16, 64, 256, 1024), num_warps=(4, 8))

L2_BYTES, DRAM_BYTES = 48, 18  # per cycle and SM
FLOPS = {"tensor": 4096, "tf32": 2048, "cores": 256}  # per cycle and SM
STEP_CYCLES = 64  # of synchronisation in each step of the reduction


@triton.jit
def _gate_tile(
    z,
    x_ptr,
    bias_ptr,
    y_ptr,
    map_ptr,
    x_stride,
    y_stride,
    n,
    offs_c,
    offs_p,
    mask,
    C: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Store y, and the map, of the tile with the convolution z [BLOCK_C, BLOCK_P]."""
    if bias_ptr is not None:
        z += load_vector(bias_ptr, offs_c, C, ACC)[:, None]
    g = GATE.f(z, GATE.a, GATE.b)
    if map_ptr is not None:
        store_tile(map_ptr, y_stride, n, offs_c, offs_p, g, mask, LAYOUT)
    x = load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
    store_tile(y_ptr, y_stride, n, offs_c, offs_p, x * g, mask, LAYOUT)


@triton.jit
def _conv_pointers_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    map_ptr,
    z_ptr,
    x_stride,
    y_stride,
    H,
    W,
    tiles,
    C: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
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
    _gate_tile(z, x_ptr, bias_ptr, y_ptr, map_ptr, x_stride, y_stride, n, offs_c, offs_p, mask, C, GATE, LAYOUT, ACC)


@triton.jit
def _conv_descriptors_fwd_kernel(
    x_desc,  # (N, H, W, C), box [1, 1, BLOCK_P, BLOCK_K]
    weight_desc,  # (9, C, C), box [1, BLOCK_C, BLOCK_K]
    x_ptr,
    bias_ptr,
    y_ptr,
    map_ptr,
    z_ptr,
    x_stride,
    y_stride,
    H,
    W,
    tiles,
    C: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    chunks: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
    row = tl.program_id(0) // blocks // tiles
    n = row // H
    h = row % H
    first_c = tl.program_id(0) % blocks * BLOCK_C
    first_w = tl.program_id(0) // blocks % tiles * BLOCK_P
    z = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    for step in range(9 * chunks):
        k = step // 9 * BLOCK_K
        tap = step % 9
        x = x_desc.load([n, h + tap // 3 - 1, first_w + tap % 3 - 1, k])
        weight = weight_desc.load([tap, first_c, k])
        z = tl.dot(tl.reshape(x, [BLOCK_P, BLOCK_K]), tl.trans(tl.reshape(weight, [BLOCK_C, BLOCK_K])), z)
    z = tl.trans(z)  # [BLOCK_C, BLOCK_P]
    offs_c = first_c + tl.arange(0, BLOCK_C)
    offs_w = first_w + tl.arange(0, BLOCK_P)
    offs_p = h * W + offs_w
    mask = (offs_c < C)[:, None] & (offs_w < W)[None, :]
    if z_ptr is not None:
        store_tile(z_ptr, y_stride, n, offs_c, offs_p, z, mask, LAYOUT)
    _gate_tile(z, x_ptr, bias_ptr, y_ptr, map_ptr, x_stride, y_stride, n, offs_c, offs_p, mask, C, GATE, LAYOUT, ACC)


@triton.jit
def _conv_library_fwd_kernel(
    x_ptr,
    z_ptr,
    bias_ptr,
    y_ptr,
    map_ptr,
    x_stride,
    y_stride,
    pixels,
    tiles,
    C: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    n = tl.program_id(0) // blocks // tiles
    offs_c = tl.program_id(0) // tiles % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    offs_p = tl.program_id(0) % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    mask = (offs_c < C)[:, None] & (offs_p < num_pixels(pixels, LAYOUT))[None, :]
    z = load_tile(z_ptr, y_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
    _gate_tile(z, x_ptr, bias_ptr, y_ptr, map_ptr, x_stride, y_stride, n, offs_c, offs_p, mask, C, GATE, LAYOUT, ACC)


@triton.jit
def _conv_bwd_kernel(
    dy_ptr,
    dmap_ptr,
    x_ptr,
    z_ptr,
    bias_ptr,
    dz_ptr,
    direct_ptr,
    db_ptr,
    dy_stride,
    dmap_stride,
    x_stride,
    z_stride,
    pixels,
    tiles,
    all_tiles,
    programs,
    C: tl.constexpr,
    GATE: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    blocks: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    first = tl.program_id(0) // blocks
    offs_c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    db = tl.zeros([BLOCK_C, BLOCK_P], ACC)
    for tile in range(first, all_tiles, programs):
        n = tile // tiles
        offs_p = tile % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (offs_c < C)[:, None] & (offs_p < num_pixels(pixels, LAYOUT))[None, :]
        dy = load_tile(dy_ptr, dy_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        z = load_tile(z_ptr, z_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        if bias_ptr is not None:
            z += load_vector(bias_ptr, offs_c, C, ACC)[:, None]
        if direct_ptr is not None:
            store_tile(direct_ptr, z_stride, n, offs_c, offs_p, dy * GATE.f(z, GATE.a, GATE.b), mask, LAYOUT)
        dg = dy * load_tile(x_ptr, x_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        if dmap_ptr is not None:
            dg += load_tile(dmap_ptr, dmap_stride, n, offs_c, offs_p, mask, LAYOUT, ACC)
        dz = tl.where(mask, GATE.df(dg, z, GATE.a, GATE.b), 0.0)
        if dz_ptr is not None:
            store_tile(dz_ptr, z_stride, n, offs_c, offs_p, dz, mask, LAYOUT)
        if db_ptr is not None:
            db += dz
    if db_ptr is not None:
        tl.store(db_ptr + first * C + offs_c, tl.sum(db, 1), offs_c < C)


def tf32() -> bool:
    """Whether torch lets convolutions of float32 run in TF32."""
    return torch.backends.cudnn.conv.fp32_precision == "tf32"


def _precision(x: Tensor) -> str:
    return "tf32" if x.dtype == torch.float32 and tf32() else "ieee"


def _matmul_config(kernel: str, configs: tuple[Config, ...], x: Tensor, m: Maps, rows: int, row: int) -> Config:
    """For the forward over `rows` runs of `row` pixels that a tile does not cross, in all images together.

    The model: cycles of the fullest SM. A step multiplies one chunk of one tap, and costs the products, or bringing
    its operands from the L2 cache, whichever is longer, and a synchronisation.
    """
    shared, itemsize = shared_memory(x.device), x.element_size()
    unit = "tf32" if _precision(x) == "tf32" else "tensor" if itemsize == 2 else "cores"
    target = capability(x.device)
    unit = unit if target >= 80 else "cores"  # Triton does not use Turing's tensor cores
    longest = 16 if unit == "cores" else 64 if 90 <= target < 120 else 32  # chunk, where registers hold the operands

    def cycles(config: Config) -> float | None:
        p, c, k = (config.blocks[name] for name in ("BLOCK_P", "BLOCK_C", "BLOCK_K"))
        values, threads = p * c // (32 * config.num_warps), 32 * config.num_warps
        operands = (p + c) * k * itemsize
        exchange = (p + 1) * (c + 8) * max(4, itemsize)  # z turns from rows of pixels to rows of channels
        used = max(config.num_stages * operands, exchange) + 1024
        most = 64 if unit != "cores" else 32 if itemsize == 4 else 16  # of the sums, without spills
        if used > shared or values > most or k > longest or (unit == "cores" and config.num_stages > 2):
            return None
        resident = min(shared // used, REGISTERS // ((64 + 2 * values) * threads))
        ahead = config.num_stages - 1.5  # steps whose operands are on their way
        starved = max(1.0, BYTES_IN_FLIGHT / (resident * ahead * operands))
        step = max(2 * p * c * k / FLOPS[unit], operands / L2_BYTES * starved) + STEP_CYCLES
        steps = 9 * -(-m.C // k) + 1 / ahead
        ends = 2 * p * c * itemsize / DRAM_BYTES * (1.0 if resident == 1 else 0.3)  # else another program computes
        programs = rows * -(-row // p) * -(-m.C // c)
        return float(-(-programs // SMS) * (steps * step + ends))

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(_precision(x),), exact=(rows, row))
    return config_for(configs, cycles, kernel, x, **how)


def _fwd_args(x, bias, y, gate_map, z, m: Maps, gate: Activation) -> dict:
    return dict(
        x_ptr=x,
        bias_ptr=bias,
        y_ptr=y,
        map_ptr=gate_map,
        z_ptr=z,
        x_stride=m.strides[0],
        y_stride=m.strides[1],
        C=m.C,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
    )


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
    m, (H, W) = maps(x, y), x.shape[2:]
    config = _matmul_config("conv_pointers_fwd", POINTERS, x, m, m.N, m.P)
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    blocks = -(-m.C // config.blocks["BLOCK_C"])
    args = _fwd_args(x, bias, y, gate_map, z, m, gate)
    args |= dict(weight_ptr=weight, H=H, W=W, tiles=tiles, PRECISION=_precision(x))
    grid = m.N * tiles * blocks
    each = m.N * tiles
    past = min(tiles * config.blocks["BLOCK_P"] - m.P, W)  # pixels of the row below the image that the last tile holds
    taps = (3 * H - 2) * (3 * W - 2) + 3 * past - (past > 0) - (past == W)  # those that lie inside the image
    traffic = dict(x_ptr=(taps * blocks / max(m.P, 1) + 1, 0), weight_ptr=(each, 0), bias_ptr=(each, 0))
    traffic |= dict(y_ptr=(0, 1), map_ptr=(0, 1), z_ptr=(0, 1))
    return Plan(_conv_pointers_fwd_kernel, args, config, grid, traffic)


def takes_descriptors(x: Tensor) -> bool:
    """Whether the tensor memory accelerator can read x: 16-bit, channels_last, all addresses multiples of 16 bytes."""
    m = maps(x)
    dense = m.strides[0][0] >= m.strides[0][1] * m.P or m.N == 1
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
    m, (H, W) = maps(x, y), x.shape[2:]
    config = _matmul_config("conv_descriptors_fwd", DESCRIPTORS, x, m, m.N * H, W)
    block_p, block_c, block_k = (config.blocks[name] for name in ("BLOCK_P", "BLOCK_C", "BLOCK_K"))
    tiles, blocks = -(-W // block_p), -(-m.C // block_c)
    batch, pixel = (stride * m.layout.align for stride in m.strides[0])
    batch = batch if m.N > 1 else pixel * m.P
    x_strides = [batch, pixel * W, pixel, 1]
    args = _fwd_args(x, bias, y, gate_map, z, m, gate)
    args |= dict(
        x_desc=TensorDescriptor(x, [m.N, H, W, m.C], x_strides, [1, 1, block_p, block_k]),
        weight_desc=TensorDescriptor(weight, [9, m.C, m.C], [m.C * m.C, m.C, 1], [1, block_c, block_k]),
        H=H,
        W=W,
        tiles=tiles,
    )
    each = m.N * H * tiles
    traffic = dict(x_desc=(9 * blocks, 0), weight_desc=(each, 0), x_ptr=(1, 0), bias_ptr=(each, 0))
    traffic |= dict(y_ptr=(0, 1), map_ptr=(0, 1), z_ptr=(0, 1))
    return Plan(_conv_descriptors_fwd_kernel, args, config, each * blocks, traffic)


def _pointwise_config(kernel: str, x: Tensor, m: Maps, loads: int, live: float) -> Config:
    itemsize = x.element_size()

    def footprint(config: Config) -> Footprint:
        p, c = config.blocks["BLOCK_P"], config.blocks["BLOCK_C"]
        tiles = -(-m.P // p) * -(-m.C // c)
        row = (min(c, m.C) if m.layout.channels_last else min(p, m.P)) * itemsize
        return Footprint(p * c, itemsize, loads, live, m.N * tiles, tiles * p * c / (m.P * m.C), row)

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(f"{live:g}",), exact=m.N)
    return config_for(POINTWISE, footprint, kernel, x, **how)


def plan_conv_library_fwd(
    x: Tensor, z: Tensor, bias: Tensor | None, y: Tensor, gate_map: Tensor | None, gate: Activation
) -> Plan:
    """z, y and the map lie alike."""
    m = maps(x, y)
    config = _pointwise_config("conv_library_fwd", x, m, loads=2, live=1.5)
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    blocks = -(-m.C // config.blocks["BLOCK_C"])
    args = _fwd_args(x, bias, y, gate_map, z, m, gate) | dict(pixels=m.pixels, tiles=tiles)
    each = m.N * tiles
    traffic = dict(x_ptr=(1, 0), z_ptr=(1, 0), bias_ptr=(each, 0), y_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_conv_library_fwd_kernel, args, config, each * blocks, traffic)


def plan_conv_bwd(
    dy: Tensor,
    dmap: Tensor | None,
    x: Tensor,
    z: Tensor,
    bias: Tensor | None,
    dz: Tensor | None,
    direct: Tensor | None,
    with_db: bool,
    gate: Activation,
) -> Plan:
    """z, dz and direct lie alike. With db, the plan's `db_ptr` is a new buffer (programs, C) of partial sums."""
    m = maps(x, z, dy, *(() if dmap is None else (dmap,)))
    config = _pointwise_config("conv_bwd", x, m, loads=3, live=3 + with_db)
    tiles = -(-m.P // config.blocks["BLOCK_P"])
    blocks = -(-m.C // config.blocks["BLOCK_C"])
    programs = min(m.N * tiles, -(-8 * SMS // blocks))  # enough for every SM; few, so that the partial sums stay small
    args = dict(
        dy_ptr=dy,
        dmap_ptr=dmap,
        x_ptr=x,
        z_ptr=z,
        bias_ptr=bias,
        dz_ptr=dz,
        direct_ptr=direct,
        db_ptr=partials(x, programs, m.C) if with_db else None,
        dy_stride=m.strides[2],
        dmap_stride=m.strides[-1],
        x_stride=m.strides[0],
        z_stride=m.strides[1],
        pixels=m.pixels,
        tiles=tiles,
        all_tiles=m.N * tiles,
        programs=programs,
        C=m.C,
        GATE=gate,
        LAYOUT=m.layout,
        ACC=accumulator(x),
    )
    traffic = dict(dy_ptr=(1, 0), dmap_ptr=(1, 0), x_ptr=(1, 0), z_ptr=(1, 0), bias_ptr=(m.N * tiles, 0))
    traffic |= dict(dz_ptr=(0, 1), direct_ptr=(0, 1), db_ptr=(0, 1))
    return Plan(_conv_bwd_kernel, args, config, programs * blocks, traffic)
