"""Between the passes over the map of a global response normalization: what is one value a channel.

    forward   norm_c = sqrt(sum_t squares_tc),  response_c = norm_c / (mean_c norm + eps)
    backward  dr_c = weight_c sum_t product_tc + dmap_c,  with i = 1 / (mean_c norm + eps)
              dnorm_c = dr_c i - i^2 / C sum_k dr_k norm_k,  pull_c = dnorm_c / norm_c, 0 where norm is 0
              dweight_c = sum_n response_c sum_t product_tc,  dbias_c = sum_nt total_tc, of each image here

squares, product, total (N, T, C); norm, response, pull, dweight, dbias (N, C). One program an image.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import STEP, Config, space
from ..common.dependent import begin
from ..common.tile import finish_sum, load_vector

SPACE = tuple(  # a warp has 128 channels of its own, and no sum over tiles goes through shared memory
    c
    for c in space(BLOCK_T=(1, 4), BLOCK_C=(1024, 512, 256), num_warps=(8, 4, 2))
    if c.blocks["BLOCK_C"] == 128 * c.num_warps
)
UNROLLED = 4  # tiles on their way together, in a loop over one at a time as well
VALUE_US = 1e-3  # of a value of a thread


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
    for chunk in range(0, C, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        norm = tl.sqrt(finish_sum(squares_ptr, n, offs_c, tiles, C, ACC, BLOCK_T))
        tl.store(norm_ptr + image + offs_c, norm, offs_c < C)
        total += tl.where(offs_c < C, norm, 0.0)
    mean = tl.sum(total, 0) / C + EPS
    for chunk in range(0, C, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        norm = tl.sqrt(finish_sum(squares_ptr, n, offs_c, tiles, C, ACC, BLOCK_T))
        tl.store(response_ptr + image + offs_c, norm / mean, offs_c < C)
        if map_ptr is not None:
            tl.store(map_ptr + image + offs_c, (norm / mean).to(map_ptr.dtype.element_ty), offs_c < C)


@triton.jit
def _load_dr(
    product_ptr, weight_ptr, dmap_ptr, n, offs_c, tiles, C: tl.constexpr, ACC: tl.constexpr, BLOCK_T: tl.constexpr
):
    """(dr, sum_t product) [BLOCK_C]"""
    da = finish_sum(product_ptr, n, offs_c, tiles, C, ACC, BLOCK_T)
    dr = da * load_vector(weight_ptr, offs_c, C, ACC)
    if dmap_ptr is not None:
        dr += load_vector(dmap_ptr + n.to(tl.int64) * C, offs_c, C, ACC)
    return dr, da


@triton.jit
def _response_bwd_kernel(
    product_ptr,
    total_ptr,
    dmap_ptr,
    norm_ptr,
    weight_ptr,
    pull_ptr,
    dweight_ptr,
    dbias_ptr,
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
    norms = tl.zeros([BLOCK_C], ACC)
    both = tl.zeros([BLOCK_C], ACC)
    for chunk in range(0, C, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        norm = load_vector(norm_ptr + image, offs_c, C, ACC)
        dr, _ = _load_dr(product_ptr, weight_ptr, dmap_ptr, n, offs_c, tiles, C, ACC, BLOCK_T)
        norms += norm
        both += tl.where(offs_c < C, dr * norm, 0.0)
    mean = tl.sum(norms, 0) / C + EPS
    common = tl.sum(both, 0) / (C * mean * mean)
    for chunk in range(0, C, BLOCK_C):
        offs_c = chunk + tl.arange(0, BLOCK_C)
        norm = load_vector(norm_ptr + image, offs_c, C, ACC)
        dr, da = _load_dr(product_ptr, weight_ptr, dmap_ptr, n, offs_c, tiles, C, ACC, BLOCK_T)
        pull = tl.where(norm == 0.0, 0.0, (dr / mean - common) / tl.where(norm == 0.0, 1.0, norm))
        tl.store(pull_ptr + image + offs_c, pull, offs_c < C)
        if dweight_ptr is not None:
            tl.store(dweight_ptr + image + offs_c, da * (norm / mean), offs_c < C)
        if dbias_ptr is not None:
            db = finish_sum(total_ptr, n, offs_c, tiles, C, ACC, BLOCK_T)
            tl.store(dbias_ptr + image + offs_c, db, offs_c < C)


def _config(kernel: str, partial: Tensor) -> Config:
    N, tiles, C = partial.shape

    def microseconds(config: Config) -> float:
        block_t, block_c = config.blocks["BLOCK_T"], config.blocks["BLOCK_C"]
        values = block_t * block_c / (32 * config.num_warps)
        return 2 * -(-C // block_c) * (-(-tiles // max(block_t, UNROLLED)) * STEP + VALUE_US * values)

    return config_for(SPACE, microseconds, kernel, partial, C=C, pixels=N * tiles, exact=(N, tiles))


def plan_response_fwd(squares: Tensor, norm: Tensor, response: Tensor, gate_map: Tensor | None, eps: float) -> Plan:
    """Fills norm and response (N, C), and the map."""
    config, (N, tiles, C) = _config("response_fwd", squares), squares.shape
    args = dict(squares_ptr=squares, norm_ptr=norm, response_ptr=response, map_ptr=gate_map, tiles=tiles)
    args |= dict(C=C, EPS=eps, ACC=accumulator(squares), DEPENDENT=config.dependent)
    traffic = dict(squares_ptr=(2, 0)) | dict.fromkeys(("norm_ptr", "response_ptr", "map_ptr"), (0, 1))
    return Plan(_response_fwd_kernel, args, config, N, traffic)


def plan_response_bwd(
    product: Tensor,
    total: Tensor,
    dmap: Tensor | None,
    norm: Tensor,
    weight: Tensor,
    eps: float,
    with_dweight: bool,
    with_dbias: bool,
) -> Plan:
    """Makes pull (N, C), and dweight and dbias (N, C) of each image, if asked for."""
    config, (N, tiles, C) = _config("response_bwd", product), product.shape
    args = dict(
        product_ptr=product,
        total_ptr=total,
        dmap_ptr=dmap,
        norm_ptr=norm,
        weight_ptr=weight,
        pull_ptr=partials(norm, N, C),
        dweight_ptr=partials(norm, N, C) if with_dweight else None,
        dbias_ptr=partials(norm, N, C) if with_dbias else None,
        tiles=tiles,
        C=C,
        EPS=eps,
        ACC=accumulator(product),
        DEPENDENT=config.dependent,
    )
    traffic = dict(product_ptr=(2, 0), total_ptr=(with_dbias, 0), dmap_ptr=(2, 0), norm_ptr=(2, 0))
    traffic |= dict(weight_ptr=(2 * N, 0)) | dict.fromkeys(("pull_ptr", "dweight_ptr", "dbias_ptr"), (0, 1))
    return Plan(_response_bwd_kernel, args, config, N, traffic, ("pull", "dweight", "dbias"))
