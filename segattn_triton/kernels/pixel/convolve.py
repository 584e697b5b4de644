"""The k x k convolution of the pools over the channels to the logit of every pixel, and its backward.

    z(h, w) = sum_mij weight_mij pools_m(h + i - r, w + j - r) + bias,    r = k // 2, zeros outside the image
    dpools_m(h, w) = sum_ij weight_mij dz(h - i + r, w - j + r)
    dweight_mij = sum_nhw pools_m(h, w) dz(h - i + r, w - j + r),    dbias = sum_nhw dz

pools, dpools (N, M, P), M = 1 or 2; z, dz (N, P); weight (1, M, k, k). A program has a run of pixels, whose
surroundings it reads from the cache, a tap at a time: k^2 times what it holds, so that a large k is slow. The
gradients of the parameters are partial, (programs, M k^2 + 1).
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import REGISTERS, SMS, STEP, Config, space
from ...tuning.target import capability
from ..common.activations import Activation
from ..common.dependent import begin

SPACE = space(BLOCK_P=(64, 128, 256, 512, 1024, 2048, 4096), num_warps=(1, 2, 4, 8))
ISSUE = 29.6e6  # instructions of threads that all SMs issue in a microsecond, with WARPS warps on each
WARPS = 12


@triton.jit
def _place(H, W, tiles, BLOCK_P: tl.constexpr):
    """The image of this program, its pixels [BLOCK_P], their rows and columns."""
    offs_p = tl.program_id(0) % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    row = offs_p // W
    return tl.program_id(0) // tiles, offs_p, row, offs_p - row * W


@triton.jit
def _inside(row, col, down, right, mask_p, H, W):
    """Whether the pixel so far down and to the right is in the image."""
    return mask_p & (row + down >= 0) & (row + down < H) & (col + right >= 0) & (col + right < W)


@triton.jit
def _convolve_fwd_kernel(
    pools_ptr,
    weight_ptr,
    bias_ptr,
    z_ptr,
    map_ptr,
    H,
    W,
    tiles,
    M: tl.constexpr,
    KERNEL: tl.constexpr,
    GATE: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    n, offs_p, row, col = _place(H, W, tiles, BLOCK_P)
    P = H * W
    mask_p = offs_p < P
    offs_m = tl.arange(0, M)[:, None]
    here = pools_ptr + n.to(tl.int64) * M * P + (offs_m.to(tl.int64) * P + offs_p[None, :])
    sums = tl.zeros([M, BLOCK_P], ACC)
    for tap in tl.range(0, KERNEL * KERNEL, loop_unroll_factor=4):
        down = tap // KERNEL - KERNEL // 2
        right = tap % KERNEL - KERNEL // 2
        inside = _inside(row, col, down, right, mask_p, H, W)
        w = tl.load(weight_ptr + offs_m * (KERNEL * KERNEL) + tap).to(ACC)
        sums += w * tl.load(here + (down * W + right), inside[None, :], other=0.0)  # [M, BLOCK_P]
    z = tl.sum(sums, 0)
    if bias_ptr is not None:
        z += tl.load(bias_ptr).to(ACC)
    image = n.to(tl.int64) * P
    tl.store(z_ptr + image + offs_p, z, mask_p)
    if map_ptr is not None:
        tl.store(map_ptr + image + offs_p, GATE.f(z, GATE.a, GATE.b).to(map_ptr.dtype.element_ty), mask_p)


@triton.jit
def _convolve_bwd_kernel(
    dz_ptr,
    pools_ptr,
    weight_ptr,
    dpools_ptr,
    dparam_ptr,
    H,
    W,
    tiles,
    M: tl.constexpr,
    KERNEL: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    begin(DEPENDENT)
    n, offs_p, row, col = _place(H, W, tiles, BLOCK_P)
    P = H * W
    TAPS: tl.constexpr = KERNEL * KERNEL
    mask_p = offs_p < P
    here = dz_ptr + n.to(tl.int64) * P + offs_p
    offs_m = tl.arange(0, M)[:, None]
    offs = n.to(tl.int64) * M * P + (offs_m.to(tl.int64) * P + offs_p[None, :])
    dpools = tl.zeros([M, BLOCK_P], ACC)
    if dparam_ptr is not None:
        param = dparam_ptr + tl.program_id(0).to(tl.int64) * (M * TAPS + 1)
        pools = tl.load(pools_ptr + offs, mask_p[None, :], other=0.0)  # [M, BLOCK_P]
    for tap in tl.range(0, TAPS, loop_unroll_factor=4):
        down = tap // KERNEL - KERNEL // 2
        right = tap % KERNEL - KERNEL // 2
        inside = _inside(row, col, -down, -right, mask_p, H, W)
        dz = tl.load(here - (down * W + right), inside, other=0.0)[None, :]
        if dparam_ptr is not None:
            dw = tl.sum(tl.where(inside[None, :], pools * dz, 0.0), 1)
            tl.store(param + tl.arange(0, M) * TAPS + tap, dw)
        if dpools_ptr is not None:
            dpools += tl.load(weight_ptr + offs_m * TAPS + tap).to(ACC) * dz
    if dpools_ptr is not None:
        tl.store(dpools_ptr + offs, dpools, mask_p[None, :])
    if dparam_ptr is not None:
        dz = tl.load(here, mask_p, other=0.0)
        tl.store(param + M * TAPS, tl.sum(dz.to(tl.float64), 0))  # many pixels' cancel


def _config(kernel: str, z: Tensor, M: int, k: int) -> Config:
    """A tap takes a few instructions a pixel, and some a thread; backward a sum over the program, and then its row."""
    N, P, backward = z.shape[0], z.shape[1:].numel(), kernel == "convolve_bwd"

    widest = 4 if capability(z.device) >= 100 else 32  # pixels of a thread: Blackwell keeps less, and spills

    def microseconds(config: Config) -> float | None:
        block_p, warps = config.blocks["BLOCK_P"], config.num_warps
        programs, values = N * -(-P // block_p), block_p / (32 * warps)
        registers = 32 + values * (8 + 2 * M)
        if values < 1 or registers > 232 or values > widest:
            return None
        once = 8 + (M * (12 if warps == 1 else 40) if backward else 0)
        issue = programs * block_p * k * k * (10 + (3 if backward else 2) * M + once / values) / ISSUE
        active = min(programs * warps / SMS, REGISTERS / (32 * registers))
        return issue * max(1.0, WARPS / max(active, 0.1)) + (STEP * programs / 256 if backward else 0.0)

    return config_for(SPACE, microseconds, kernel, z, C=M, pixels=N * P, also=(f"k{k}",), exact=N)


def _reads(H: int, W: int, k: int) -> float:
    """How many taps find a pixel in the image, on average."""
    rows, cols = (sum(max(size - abs(i - k // 2), 0) for i in range(k)) for size in (H, W))
    return rows * cols / (H * W)


def plan_convolve_fwd(
    pools: Tensor, weight: Tensor, bias: Tensor | None, z: Tensor, gate_map: Tensor | None, gate: Activation
) -> Plan:
    """Fills z (N, H, W), and the map with its gate."""
    (N, H, W), M = z.shape, pools.shape[1]
    k = weight.shape[2]
    config = _config("convolve_fwd", z, M, k)
    tiles = -(-H * W // config.blocks["BLOCK_P"])
    args = dict(
        pools_ptr=pools,
        weight_ptr=weight,
        bias_ptr=bias,
        z_ptr=z,
        map_ptr=gate_map,
        H=H,
        W=W,
        tiles=tiles,
        M=M,
        KERNEL=k,
        GATE=gate,
        ACC=accumulator(z),
        DEPENDENT=config.dependent,
    )
    each = N * tiles
    traffic = dict(pools_ptr=(_reads(H, W, k), 0), weight_ptr=(each, 0), bias_ptr=(each, 0))
    traffic |= dict(z_ptr=(0, 1), map_ptr=(0, 1))
    return Plan(_convolve_fwd_kernel, args, config, each, traffic)


def plan_convolve_bwd(dz: Tensor, pools: Tensor, weight: Tensor, dpools: Tensor | None, with_dparam: bool) -> Plan:
    """Of dz (N, H, W) fills dpools; makes dparam (programs, M k^2 + 1), if asked for."""
    (N, H, W), M = dz.shape, pools.shape[1]
    k = weight.shape[2]
    config = _config("convolve_bwd", dz, M, k)
    tiles = -(-H * W // config.blocks["BLOCK_P"])
    each = N * tiles
    args = dict(
        dz_ptr=dz,
        pools_ptr=pools,
        weight_ptr=weight,
        dpools_ptr=dpools,
        dparam_ptr=partials(dz, each, M * k * k + 1) if with_dparam else None,
        H=H,
        W=W,
        tiles=tiles,
        M=M,
        KERNEL=k,
        ACC=accumulator(dz),
        DEPENDENT=config.dependent,
    )
    traffic = dict(dz_ptr=(_reads(H, W, k) + with_dparam, 0), pools_ptr=(1 if with_dparam else 0, 0))
    traffic |= dict(weight_ptr=(0 if dpools is None else each, 0), dpools_ptr=(0, 1), dparam_ptr=(0, 1))
    return Plan(_convolve_bwd_kernel, args, config, each, traffic, ("dparam",))
