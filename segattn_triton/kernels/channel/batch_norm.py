"""A batch norm of vectors, one of every image, and the activation after it: the layer between two of a perceptron.

    forward   hhat = (h - mean) / sqrt(var + eps),  u = hhat weight + bias,  a = act(u)
    backward  du = da act'(u),  dweight = sum_n du hhat,  dbias = sum_n du
              dh = weight / sqrt(var + eps) (du - dbias / N - hhat dweight / N)

h (N, K, R) and da likewise partial, summed over k in order; hhat, u, a, dh (N, R); stats (2 R,): the means over the
images, then the variances about them, biased. A program has BLOCK_R channels of all images, BLOCK_N at a time, which it
reads again from the cache. It works on the differences from the first image, and the variance is a sum of squares about
the mean: of images that are alike, whose differences are all that is left, no digit is lost. A bias `b1` that h lacks
moves the mean in the statistics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import SM_BANDWIDTH, STEP, Config, space
from ..common.activations import Activation
from ..common.dependent import begin
from ..common.tile import load_vector, only_when

SPACE = space(BLOCK_N=(2, 4, 8, 16, 32, 64), BLOCK_R=(16, 32, 64, 128), num_warps=(1, 2, 4, 8))


@triton.jit
def _rows(n, images, offs_r, R: tl.constexpr, BLOCK_N: tl.constexpr):
    """Offsets and mask [BLOCK_N, BLOCK_R] of the images from n on."""
    offs_n = n + tl.arange(0, BLOCK_N)
    return offs_n.to(tl.int64)[:, None] * R + offs_r[None, :], (offs_n < images)[:, None] & (offs_r < R)[None, :]


@triton.jit
def _load_whole(ptr, n, images, offs_r, K: tl.constexpr, R: tl.constexpr, ACC: tl.constexpr, BLOCK_N: tl.constexpr):
    """Of the images from n on partials (N, K, R) summed over k in order, 0 past the last; offsets and mask of the sums
    [BLOCK_N, BLOCK_R]."""
    offs, mask = _rows(n, images, offs_r, R, BLOCK_N)
    row = (n + tl.arange(0, BLOCK_N)).to(tl.int64)[:, None] * (K * R) + offs_r[None, :]
    whole = tl.zeros([BLOCK_N, offs_r.shape[0]], ACC)
    for k in range(0, K):
        whole += tl.load(ptr + row + k * R, mask, other=0.0)
    return whole, offs, mask


@triton.jit
def _load_apart(
    h_ptr,
    first,
    mean,
    n,
    images,
    offs_r,
    K: tl.constexpr,
    R: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """h - first - mean [BLOCK_N, BLOCK_R] of the images from n on, 0 past the last."""
    h, _, mask = _load_whole(h_ptr, n, images, offs_r, K, R, ACC, BLOCK_N)
    return tl.where(mask, (h - first[None, :]) - mean[None, :], 0.0)


@triton.jit
def _batch_norm_fwd_kernel(
    h_ptr,
    b1_ptr,
    weight_ptr,
    bias_ptr,
    stats_ptr,
    hhat_ptr,
    u_ptr,
    a_ptr,
    images,
    K: tl.constexpr,
    R: tl.constexpr,
    EPS: tl.constexpr,
    ACT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    begin(DEPENDENT)
    offs_r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    first = tl.zeros([BLOCK_R], ACC)
    for k in range(0, K):
        first += tl.load(h_ptr + k * R + offs_r, only_when(images > 0, offs_r < R), other=0.0)
    mean = tl.zeros([BLOCK_R], ACC)
    total = tl.zeros([BLOCK_N, BLOCK_R], ACC)
    for n in range(0, images, BLOCK_N):
        total += _load_apart(h_ptr, first, mean, n, images, offs_r, K, R, ACC, BLOCK_N)
    mean = tl.sum(total, 0) / tl.maximum(images, 1)
    squares = tl.zeros([BLOCK_N, BLOCK_R], ACC)
    for n in range(0, images, BLOCK_N):
        apart = _load_apart(h_ptr, first, mean, n, images, offs_r, K, R, ACC, BLOCK_N)
        squares += apart * apart
    var = tl.sum(squares, 0) / tl.maximum(images, 1)
    scale = 1.0 / tl.sqrt(var + EPS)
    weight = load_vector(weight_ptr, offs_r, R, ACC)
    bias = tl.zeros([BLOCK_R], ACC)
    if bias_ptr is not None:
        bias += load_vector(bias_ptr, offs_r, R, ACC)
    if b1_ptr is not None:
        b1 = load_vector(b1_ptr, offs_r, R, ACC)
        bias += b1 - b1  # NaN where b1 is not finite
    for n in range(0, images, BLOCK_N):
        offs, mask = _rows(n, images, offs_r, R, BLOCK_N)
        hhat = _load_apart(h_ptr, first, mean, n, images, offs_r, K, R, ACC, BLOCK_N) * scale[None, :]
        u = hhat * weight[None, :] + bias[None, :]
        tl.store(hhat_ptr + offs, hhat, mask)
        tl.store(a_ptr + offs, ACT.f(u, ACT.a, ACT.b), mask)
        if u_ptr is not None:
            tl.store(u_ptr + offs, u, mask)
    mean += first
    if b1_ptr is not None:
        mean += b1
    tl.store(stats_ptr + offs_r, mean, offs_r < R)
    tl.store(stats_ptr + R + offs_r, var, offs_r < R)


@triton.jit
def _load_du(
    da_ptr,
    u_ptr,
    n,
    images,
    offs_r,
    K: tl.constexpr,
    R: tl.constexpr,
    ACT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """du [BLOCK_N, BLOCK_R] of the images from n on: da times act'(u)."""
    da, offs, mask = _load_whole(da_ptr, n, images, offs_r, K, R, ACC, BLOCK_N)
    if u_ptr is None:
        return da
    else:
        u = tl.load(u_ptr + offs, mask, other=0.0)
        return tl.where(mask, ACT.df(da, u, ACT.a, ACT.b), 0.0)


@triton.jit
def _batch_norm_bwd_kernel(
    da_ptr,
    u_ptr,
    hhat_ptr,
    weight_ptr,
    stats_ptr,
    dh_ptr,
    dweight_ptr,
    dbias_ptr,
    images,
    K: tl.constexpr,
    R: tl.constexpr,
    EPS: tl.constexpr,
    ACT: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    begin(DEPENDENT)
    offs_r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    dweight = tl.zeros([BLOCK_N, BLOCK_R], ACC)
    dbias = tl.zeros([BLOCK_N, BLOCK_R], ACC)
    for n in range(0, images, BLOCK_N):
        offs, mask = _rows(n, images, offs_r, R, BLOCK_N)
        du = _load_du(da_ptr, u_ptr, n, images, offs_r, K, R, ACT, ACC, BLOCK_N)
        dweight += du * tl.load(hhat_ptr + offs, mask, other=0.0)
        dbias += du
    dweight = tl.sum(dweight, 0)
    dbias = tl.sum(dbias, 0)
    if dh_ptr is not None:
        var = load_vector(stats_ptr + R, offs_r, R, ACC)
        scale = load_vector(weight_ptr, offs_r, R, ACC) / tl.sqrt(var + EPS)
        for n in range(0, images, BLOCK_N):
            offs, mask = _rows(n, images, offs_r, R, BLOCK_N)
            du = _load_du(da_ptr, u_ptr, n, images, offs_r, K, R, ACT, ACC, BLOCK_N)
            hhat = tl.load(hhat_ptr + offs, mask, other=0.0)
            dh = (du - (dbias / images)[None, :] - hhat * (dweight / images)[None, :]) * scale[None, :]
            tl.store(dh_ptr + offs, dh, mask)
    if dweight_ptr is not None:
        tl.store(dweight_ptr + offs_r, dweight.to(dweight_ptr.dtype.element_ty), offs_r < R)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + offs_r, dbias.to(dbias_ptr.dtype.element_ty), offs_r < R)


def _config(kernel: str, h: Tensor, images: int, R: int, K: int, rounds: int) -> Config:
    """Rounds over the images follow one another, each a latency and what one SM reads of it."""

    def microseconds(config: Config) -> float | None:
        block_n, block_r = config.blocks["BLOCK_N"], config.blocks["BLOCK_R"]
        values = block_n * block_r / (32 * config.num_warps)
        if values > 16 or (block_r >= 2 * R and block_r > 16) or (block_n >= 2 * images and block_n > 2):
            return None
        steps = rounds * -(-images // block_n)
        return steps * (STEP + 4 * K * block_n * block_r / SM_BANDWIDTH) + 1e-3 * (values + block_r / 16)

    return config_for(SPACE, microseconds, kernel, h, C=R, pixels=images, also=(K,))


def plan_batch_norm_fwd(
    h: Tensor,
    b1: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stats: Tensor,
    hhat: Tensor,
    u: Tensor | None,
    eps: float,
    act: Activation,
) -> Plan:
    """Of partials h (N, K, R). Makes a (N, 1, R)."""
    N, K, R = h.shape
    config = _config("batch_norm_fwd", h, N, R, K, 3)
    args = dict(
        h_ptr=h,
        b1_ptr=b1,
        weight_ptr=weight,
        bias_ptr=bias,
        stats_ptr=stats,
        hhat_ptr=hhat,
        u_ptr=u,
        a_ptr=h.new_empty((N, 1, R)),
        images=N,
        K=K,
        R=R,
        EPS=eps,
        ACT=act,
        ACC=accumulator(h),
        DEPENDENT=config.dependent,
    )
    traffic = dict(h_ptr=(3 + 1 / max(N, 1), 0)) | dict.fromkeys(("b1_ptr", "weight_ptr", "bias_ptr"), (1, 0))
    traffic |= dict.fromkeys(("stats_ptr", "hhat_ptr", "u_ptr", "a_ptr"), (0, 1))
    return Plan(_batch_norm_fwd_kernel, args, config, -(-R // config.blocks["BLOCK_R"]), traffic, ("a",))


def plan_batch_norm_bwd(
    da: Tensor,
    u: Tensor | None,
    hhat: Tensor,
    weight: Tensor,
    stats: Tensor,
    with_dh: bool,
    dweight: Tensor | None,
    dbias: Tensor | None,
    eps: float,
    act: Activation | None,
) -> Plan:
    """Of da (N, K, R), which is du where there is no u. Makes dh (N, R), if asked for."""
    N, K, R = da.shape
    config = _config("batch_norm_bwd", hhat, N, R, K, 2)
    args = dict(
        da_ptr=da,
        u_ptr=u,
        hhat_ptr=hhat,
        weight_ptr=weight if with_dh else None,
        stats_ptr=stats if with_dh else None,
        dh_ptr=torch.empty_like(hhat) if with_dh else None,
        dweight_ptr=dweight,
        dbias_ptr=dbias,
        images=N,
        K=K,
        R=R,
        EPS=eps,
        ACT=act,
        ACC=accumulator(hhat),
        DEPENDENT=config.dependent,
    )
    rounds = 1 + with_dh
    traffic = dict.fromkeys(("da_ptr", "u_ptr", "hhat_ptr"), (rounds, 0)) | dict(weight_ptr=(1, 0), stats_ptr=(0.5, 0))
    traffic |= dict.fromkeys(("dh_ptr", "dweight_ptr", "dbias_ptr"), (0, 1))
    return Plan(_batch_norm_bwd_kernel, args, config, -(-R // config.blocks["BLOCK_R"]), traffic, ("dh",))
