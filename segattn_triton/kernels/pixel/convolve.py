"""The k x k convolution of the pools over the channels to the logit of every pixel, and its backward.

    z(h, w) = sum_mij weight_mij pools_m(h + i - r, w + j - r) + bias,    r = k // 2, zeros outside the image
    dpools_m(h, w) = sum_ij weight_mij dz(h - i + r, w - j + r)
    dweight_mij = sum_nhw pools_m(h, w) dz(h - i + r, w - j + r),    dbias = sum_nhw dz

pools, dpools (N, M, P), M = 1 or 2; z, dz (N, P); weight (1, M, k, k). A program has some columns of a few rows: of a
column of the window it loads each row once, for all of its own in whose window that is. The gradients of the parameters
are partial, (tiles, M k^2 + 1).
"""

from math import ceil

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import REGISTERS, SMS, Config, space
from ...tuning.target import capability, with_all_registers
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import only_when

SPACE = space(BLOCK_H=(1, 2, 4, 8), BLOCK_W=(32, 64, 128, 256), num_warps=(1, 2, 4))
ISSUE = 29.6e6  # instructions of threads that all SMs issue in a microsecond, with WARPS warps on each
WARPS = 12
TRIP = 0.45  # microseconds from the loads of a column to its sums


@triton.jit
def _place(tile, H, W, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """The image of a tile, its first row, and its columns [BLOCK_W]."""
    across, down = tl.cdiv(W, BLOCK_W), tl.cdiv(H, BLOCK_H)
    strip = tile // across
    return strip // down, strip % down * BLOCK_H, tile % across * BLOCK_W + tl.arange(0, BLOCK_W)


@triton.jit
def _in(row, H, mask):
    """The mask, of a row that is in the image."""
    return only_when((row >= 0) & (row < H), mask)


@triton.jit
def _column(image, top, offs_w, mask, H, W, RIGHT, ROWS: tl.constexpr):
    """ROWS rows of a map [BLOCK_W] from `top` on, so many columns to the right: zeros outside the image."""
    col = offs_w + RIGHT
    mask = mask & (col >= 0) & (col < W)
    rows = ()
    for i in tl.static_range(ROWS):
        rows += (tl.load(image + (top + i) * W + col, _in(top + i, H, mask), other=0.0),)
    return rows


@triton.jit
def _taps(weight_ptr, column, M: tl.constexpr, KERNEL: tl.constexpr, ACC: tl.constexpr):
    """A column of the weights of every map, from the top."""
    w = ()
    for i in tl.static_range(M * KERNEL):
        w += (tl.load(weight_ptr + i * KERNEL + column).to(ACC),)
    return w


@triton.jit
def _zeros(COUNT: tl.constexpr, BLOCK_W: tl.constexpr, ACC: tl.constexpr):
    rows = ()
    for _ in tl.static_range(COUNT):
        rows += (tl.zeros([BLOCK_W], ACC),)
    return rows


@triton.jit
def _windows(sums, w, rows, W0: tl.constexpr, STEP: tl.constexpr):
    """Add to the sum of each row those from it on, each times its weight: w[W0], w[W0 + STEP], ..."""
    K: tl.constexpr = len(rows) - len(sums) + 1
    added = ()
    for r in tl.static_range(len(sums)):
        total = sums[r]
        for i in tl.static_range(K):
            total += w[W0 + STEP * i] * rows[r + i]
        added += (total,)
    return added


@triton.jit
def _convolve_fwd_kernel(
    pools_ptr,
    weight_ptr,
    bias_ptr,
    z_ptr,
    map_ptr,
    H,
    W,
    M: tl.constexpr,
    KERNEL: tl.constexpr,
    GATE: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    begin(DEPENDENT)
    n, top, offs_w = _place(tl.program_id(0), H, W, BLOCK_H, BLOCK_W)
    R: tl.constexpr = KERNEL // 2
    mask = offs_w < W
    P = tl.full([], H, tl.int64) * W
    bias = tl.load(bias_ptr).to(ACC) if bias_ptr is not None else 0.0
    z = _zeros(BLOCK_H, BLOCK_W, ACC)
    for j in tl.range(KERNEL):
        w = _taps(weight_ptr, j, M, KERNEL, ACC)
        for m in tl.static_range(M):
            x = _column(pools_ptr + (M * n + m) * P, top - R, offs_w, mask, H, W, j - R, BLOCK_H + 2 * R)
            z = _windows(z, w, x, m * KERNEL, 1)
    for r in tl.static_range(BLOCK_H):
        logit, own = z[r] + bias, _in(top + r, H, mask)
        offs = n * P + (top + r) * W + offs_w
        tl.store(z_ptr + offs, logit, own)
        if map_ptr is not None:
            tl.store(map_ptr + offs, GATE.f(logit, GATE.a, GATE.b).to(map_ptr.dtype.element_ty), own)


@triton.jit
def _weight_sums(own, dz, top, H, mask, KERNEL: tl.constexpr, EXACT: tl.constexpr):
    """Of a column of the weights, from the top: the sum of the pools times dz. EXACT: of pixels in the image alone."""
    sums = ()
    for i in tl.static_range(KERNEL):
        total = tl.zeros_like(dz[0])
        for r in tl.static_range(len(own)):
            product = own[r] * dz[r + KERNEL - 1 - i]
            if EXACT:
                product = tl.where(_in(top + r, H, _in(top + r + KERNEL // 2 - i, H, mask)), product, 0.0)
            total += product
        sums += (tl.sum(total, 0),)
    return sums


@triton.jit
def _convolve_bwd_kernel(
    dz_ptr,
    pools_ptr,
    weight_ptr,
    dpools_ptr,
    dparam_ptr,
    H,
    W,
    M: tl.constexpr,
    KERNEL: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    begin(DEPENDENT)
    tile, m = tl.program_id(0) // M, tl.program_id(0) % M
    n, top, offs_w = _place(tile, H, W, BLOCK_H, BLOCK_W)
    R: tl.constexpr = KERNEL // 2
    mask, P = offs_w < W, tl.full([], H, tl.int64) * W
    image, pool = dz_ptr + n * P, (M * n + m) * P
    dpools = _zeros(BLOCK_H, BLOCK_W, ACC)
    if dparam_ptr is not None:
        param = dparam_ptr + tile.to(tl.int64) * (M * KERNEL * KERNEL + 1) + m * (KERNEL * KERNEL)
        own = _column(pools_ptr + pool, top, offs_w, mask, H, W, 0, BLOCK_H)
    total = tl.zeros([], ACC)
    following = _column(image, top - R, offs_w, mask, H, W, R, BLOCK_H + 2 * R)
    for j in tl.range(KERNEL):
        dz, more = following, only_when(j + 1 < KERNEL, mask)
        following = _column(image, top - R, offs_w, more, H, W, R - j - 1, BLOCK_H + 2 * R)
        if dpools_ptr is not None:
            w = _taps(weight_ptr + m * (KERNEL * KERNEL), j, 1, KERNEL, ACC)
            dpools = _windows(dpools, w, dz, KERNEL - 1, -1)
        if dparam_ptr is not None:
            dw = _weight_sums(own, dz, top, H, mask, KERNEL, False)
            for i in tl.static_range(KERNEL):
                total += dw[i]
                tl.store(param + i * KERNEL + j, dw[i])
    if dparam_ptr is not None:
        # Zeros stand for what is outside of the image: times NaN or infinity they are NaN.
        if total != total:
            for j in tl.range(KERNEL):
                dz = _column(image, top - R, offs_w, mask, H, W, R - j, BLOCK_H + 2 * R)
                inside = mask & (offs_w + R - j >= 0) & (offs_w + R - j < W)
                dw = _weight_sums(own, dz, top, H, inside, KERNEL, True)
                for i in tl.static_range(KERNEL):
                    tl.store(param + i * KERNEL + j, dw[i])
    if dpools_ptr is not None:
        for r in tl.static_range(BLOCK_H):
            tl.store(dpools_ptr + pool + (top + r) * W + offs_w, dpools[r], _in(top + r, H, mask))
    if dparam_ptr is not None:
        if m == 0:
            dz, dbias = _column(image, top, offs_w, mask, H, W, 0, BLOCK_H), tl.zeros([BLOCK_W], tl.float64)
            for r in tl.static_range(BLOCK_H):
                dbias += dz[r].to(tl.float64)  # many pixels' cancel
            tl.store(param + M * KERNEL * KERNEL, tl.sum(dbias, 0))


def _tiles(H: int, W: int, config: Config) -> int:
    """Of an image."""
    return -(-H // config.blocks["BLOCK_H"]) * -(-W // config.blocks["BLOCK_W"])


def _config(kernel: str, z: Tensor, M: int, k: int) -> Config:
    """By instructions: loads of the rows around those of the program, products, and backward the sums over its threads;
    and by the round trips of the columns of the window, one after the other."""
    (N, H, W), backward = z.shape, kernel == "convolve_bwd"
    widest = 4 if capability(z.device) >= 100 else 32  # pixels of a thread: Blackwell keeps less, and spills

    def microseconds(config: Config) -> float | None:
        rows, values = config.blocks["BLOCK_H"], config.blocks["BLOCK_W"] / (32 * config.num_warps)
        around, maps = rows + k - 1, 1 if backward else M
        registers = 36 + (2.6 if backward else 1.67) * values * (2 * rows + around) + maps * k
        if values < 1 or (rows * values > 1 and (registers > 232 or rows * values > widest)):
            return None
        loads, sums = maps * around * (2.5 * values + 2), rows * k * values * (2 if backward else M)
        reduced = k * (12 if config.num_warps == 1 else 150) if backward else 0
        each = 60 + k * (loads + sums + reduced + maps * k + 10)
        warps = max(N, 1) * _tiles(H, W, config) * config.num_warps * (M if backward else 1)
        most = REGISTERS / (32 * registers)
        issue = 32 * warps * each / ISSUE * max(1.0, WARPS / min(warps / SMS, most))
        trips = k * TRIP * ceil(warps / (SMS * most))
        return max(issue, trips) + 0.3 * min(issue, trips)

    config = config_for(SPACE, microseconds, kernel, z, C=M, pixels=z.numel(), also=(f"k{k}",), exact=(N, H, W))
    return with_all_registers(config, z.device, hopper=True)


def _reads(H: int, W: int, k: int, rows: int) -> float:
    """How often a pixel is loaded, on average, where a program has so many rows."""
    down = sum(min(top + rows + k // 2, H) - max(top - k // 2, 0) for top in range(0, H, rows))
    across = sum(max(W - abs(j - k // 2), 0) for j in range(k))
    return down * across / (H * W)


def plan_convolve_fwd(
    pools: Tensor, weight: Tensor, bias: Tensor | None, z: Tensor, gate_map: Tensor | None, gate: Activation
) -> Plan:
    """Fills z (N, H, W), and the map with its gate."""
    (N, H, W), M = z.shape, pools.shape[1]
    k = weight.shape[2]
    config = _config("convolve_fwd", z, M, k)
    args = dict(
        pools_ptr=pools,
        weight_ptr=weight,
        bias_ptr=bias,
        z_ptr=z,
        map_ptr=gate_map,
        H=H,
        W=W,
        M=M,
        KERNEL=k,
        GATE=gate,
        ACC=accumulator(z),
        DEPENDENT=config.dependent,
    )
    each = N * _tiles(H, W, config)
    traffic = dict(pools_ptr=(_reads(H, W, k, config.blocks["BLOCK_H"]), 0), weight_ptr=(each, 0), bias_ptr=(each, 0))
    traffic |= dict(z_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_convolve_fwd_kernel, args, config, each, traffic)


def plan_convolve_bwd(dz: Tensor, pools: Tensor, weight: Tensor, dpools: Tensor | None, with_dparam: bool) -> Plan:
    """Of dz (N, H, W) fills dpools; makes dparam (tiles, M k^2 + 1), if asked for."""
    (N, H, W), M = dz.shape, pools.shape[1]
    k = weight.shape[2]
    config = _config("convolve_bwd", dz, M, k)
    each = N * _tiles(H, W, config)
    args = dict(
        dz_ptr=dz,
        pools_ptr=pools,
        weight_ptr=weight,
        dpools_ptr=dpools,
        dparam_ptr=partials(dz, each, M * k * k + 1) if with_dparam else None,
        H=H,
        W=W,
        M=M,
        KERNEL=k,
        ACC=accumulator(dz),
        DEPENDENT=config.dependent,
    )
    reads = M * _reads(H, W, k, config.blocks["BLOCK_H"]) + with_dparam
    traffic = dict(dz_ptr=(reads, 0), pools_ptr=(1 if with_dparam else 0, 0))
    traffic |= dict(weight_ptr=(0 if dpools is None else each, 0), dpools_ptr=(0, 1), dparam_ptr=(0, 1))
    return Plan(_convolve_bwd_kernel, args, config, M * each, traffic, ("dparam",))
