"""Between the passes over the map of a global response normalization: what is one value a channel.

    forward   norm_c = sqrt(sum_t squares_tc),  response_c = norm_c / (mean_c norm + eps)
    backward  dr_c = weight_c sum_t product_tc + dmap_c,  with i = 1 / (mean_c norm + eps)
              dnorm_c = dr_c i - i^2 / C sum_k dr_k norm_k,  pull_c = dnorm_c / norm_c, 0 where norm is 0
              dweight_c = sum_n response_c sum_t product_tc,  dbias_c = sum_nt total_tc, of each image here

squares, product, total (N, T, C); norm, response, pull, dweight, dbias (N, C). One program an image: where it has all
channels at once, it reads the partials once.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import Config, space
from ..common.dependent import begin
from ..common.tile import finish_sum, load_vector

# a warp has 128 channels of its own, and no sum over tiles goes through shared memory; or several have the same
APART = tuple(
    c
    for c in space(BLOCK_T=(1, 4), BLOCK_C=(1024, 512, 256), num_warps=(8, 4, 2))
    if c.blocks["BLOCK_C"] == 128 * c.num_warps
)
SPACE = APART + space(BLOCK_T=(8, 16, 32), BLOCK_C=(256, 512), num_warps=(4, 8))
# microseconds by the account: of a program's begin and end; of a tile, where a warp has its own channels of all; of
# tiles that are loaded at once, and of each value of a thread among them
BEGIN_US = {"response_fwd": 0.7, "response_bwd": 1.4}
TILE_US = {"response_fwd": 0.04, "response_bwd": 0.15}
ROUND_US = {"response_fwd": 0.03, "response_bwd": 0.4}
VALUE_US = {"response_fwd": 0.0185, "response_bwd": 0.009}
NARROW_US = 1.5  # of many channels in narrow blocks: their sums cross warps
MOST_VALUES = 32  # of a thread, of each of two sums


@triton.jit
def _response_fwd_kernel(
    squares_ptr,
    norm_ptr,
    response_ptr,
    map_ptr,
    tiles,
    C: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    begin(DEPENDENT)
    n = tl.program_id(0)
    image = n.to(tl.int64) * C
    total = tl.zeros([BLOCK_C], ACC)
    norm = total
    for chunk in range(0, C, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        norm = tl.sqrt(finish_sum(squares_ptr, n, offs_c, tiles, C, ACC, BLOCK_T))
        tl.store(norm_ptr + image + offs_c, norm, offs_c < C)
        total += tl.where(offs_c < C, norm, 0.0)
    mean = tl.sum(total, 0) / C + EPS
    for chunk in range(0, C, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        if C > BLOCK_C:
            norm = tl.sqrt(finish_sum(squares_ptr, n, offs_c, tiles, C, ACC, BLOCK_T))
        tl.store(response_ptr + image + offs_c, norm / mean, offs_c < C)
        if map_ptr is not None:
            tl.store(map_ptr + image + offs_c, (norm / mean).to(map_ptr.dtype.element_ty), offs_c < C)


@triton.jit
def _sums_of_both(product_ptr, total_ptr, n, offs_c, tiles, C: tl.constexpr, ACC: tl.constexpr, BLOCK_T: tl.constexpr):
    """Both over the tiles of image n, [BLOCK_C] each, their loads under way together; zeros of a total that is None."""
    product = tl.zeros([BLOCK_T, offs_c.shape[0]], ACC)
    total = product
    for tile in range(0, tiles, BLOCK_T):
        offs_t = tile + tl.arange(0, BLOCK_T)
        offs = (n.to(tl.int64) * tiles + offs_t)[:, None] * C + offs_c[None, :]
        mask = (offs_t < tiles)[:, None] & (offs_c < C)[None, :]
        product += tl.load(product_ptr + offs, mask, other=0.0)
        if total_ptr is not None:
            total += tl.load(total_ptr + offs, mask, other=0.0)
    return tl.sum(product, 0), tl.sum(total, 0)


@triton.jit
def _load_both(pointers, n, offs_c, tiles, C: tl.constexpr, ACC: tl.constexpr, BLOCK_T: tl.constexpr):
    """norm, dr, and the sums of the products and of dy, [BLOCK_C] each."""
    product_ptr, total_ptr, dmap_ptr, norm_ptr, weight_ptr = pointers
    image = n.to(tl.int64) * C
    norm = load_vector(norm_ptr + image, offs_c, C, ACC)
    weight = load_vector(weight_ptr, offs_c, C, ACC)
    da, db = _sums_of_both(product_ptr, total_ptr, n, offs_c, tiles, C, ACC, BLOCK_T)
    dr = da * weight
    if dmap_ptr is not None:
        dr += load_vector(dmap_ptr + image, offs_c, C, ACC)
    return norm, dr, da, db


@triton.jit
def _response_bwd_kernel(
    product_ptr,
    total_ptr,
    dmap_ptr,
    norm_ptr,
    weight_ptr,
    pull_ptr,
    dparam_ptr,
    tiles,
    C: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    begin(DEPENDENT)
    n = tl.program_id(0)
    image = n.to(tl.int64) * C
    pointers = product_ptr, total_ptr, dmap_ptr, norm_ptr, weight_ptr
    norms = tl.zeros([BLOCK_C], ACC)
    both = norms
    norm, dr, da, db = norms, norms, norms, norms
    for chunk in range(0, C, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        norm, dr, da, db = _load_both(pointers, n, offs_c, tiles, C, ACC, BLOCK_T)
        norms += norm
        both += dr * norm  # 0 past the last channel
    mean = tl.sum(norms, 0) / C + EPS
    common = tl.sum(both, 0) / (C * mean * mean)
    for chunk in range(0, C, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        if C > BLOCK_C:
            norm, dr, da, db = _load_both(pointers, n, offs_c, tiles, C, ACC, BLOCK_T)
        pull = tl.where(norm == 0.0, 0.0, (dr / mean - common) / tl.where(norm == 0.0, 1.0, norm))
        tl.store(pull_ptr + image + offs_c, pull, offs_c < C)
        if dparam_ptr is not None:
            tl.store(dparam_ptr + 2 * image + offs_c, da * (norm / mean), offs_c < C)
            tl.store(dparam_ptr + 2 * image + C + offs_c, db, offs_c < C)


def _config(kernel: str, partial: Tensor) -> Config:
    N, tiles, C = partial.shape

    def microseconds(config: Config) -> float | None:
        block_t, block_c = config.blocks["BLOCK_T"], config.blocks["BLOCK_C"]
        values = block_t * block_c / (32 * config.num_warps)
        times, rounds = -(-C // block_c) * (1 if block_c >= C else 2), -(-tiles // block_t)
        begin = BEGIN_US[kernel] + NARROW_US * (C > 256 and block_c <= 512)
        if config in APART:
            return begin + times * TILE_US[kernel] * tiles * (1.0 if block_t == 1 else 1.5)
        if values > MOST_VALUES:
            return None
        return begin + times * rounds * (ROUND_US[kernel] + VALUE_US[kernel] * values)

    return config_for(SPACE, microseconds, kernel, partial, C=C, pixels=N * tiles, exact=(N, tiles))


def plan_response_fwd(squares: Tensor, norm: Tensor, response: Tensor, gate_map: Tensor | None, eps: float) -> Plan:
    """Fills norm and response (N, C), and the map."""
    config, (N, tiles, C) = _config("response_fwd", squares), squares.shape
    args = dict(squares_ptr=squares, norm_ptr=norm, response_ptr=response, map_ptr=gate_map, tiles=tiles)
    args |= dict(C=C, EPS=eps, ACC=accumulator(squares), DEPENDENT=config.dependent)
    again = 1 if config.blocks["BLOCK_C"] >= C else 2
    traffic = dict(squares_ptr=(again, 0)) | dict.fromkeys(("norm_ptr", "response_ptr", "map_ptr"), (0, 1))
    return Plan(_response_fwd_kernel, args, config, N, traffic)


def plan_response_bwd(
    product: Tensor, total: Tensor, dmap: Tensor | None, norm: Tensor, weight: Tensor, eps: float, with_dparam: bool
) -> Plan:
    """Makes pull (N, C), and dparam (N, 2 C), dweight and dbias of each image, if asked for."""
    config, (N, tiles, C) = _config("response_bwd", product), product.shape
    args = dict(
        product_ptr=product,
        total_ptr=total if with_dparam else None,
        dmap_ptr=dmap,
        norm_ptr=norm,
        weight_ptr=weight,
        pull_ptr=partials(norm, N, C),
        dparam_ptr=partials(norm, N, 2 * C) if with_dparam else None,
        tiles=tiles,
        C=C,
        EPS=eps,
        ACC=accumulator(product),
        DEPENDENT=config.dependent,
    )
    again = 1 if config.blocks["BLOCK_C"] >= C else 2
    traffic = dict.fromkeys(("product_ptr", "total_ptr", "dmap_ptr", "norm_ptr"), (again, 0))
    traffic |= dict(weight_ptr=(again * N, 0), pull_ptr=(0, 1), dparam_ptr=(0, 1))
    return Plan(_response_bwd_kernel, args, config, N, traffic, ("pull", "dparam"))
