"""Between the passes over the map of SimAM: what is one value a channel.

    forward   mean = mean of x,  rate = 1 / (4 (var + eps)),  var = sum of squares about the mean / (P - 1)
    backward  pull = 2 rate / P sum de d,  push = -8 rate^2 / (P - 1) sum de d^2

of moments or sums (N, T, C); mean, rate, pull, push (N, C). A program has some channels of an image. Of one pixel var
is 0 / 0, as of the authors: all is NaN.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import STEP, Config, space
from ..common.dependent import begin
from ..common.tile import chunk_of, finish_sum, load_vector

SPACE = space(BLOCK_T=(16, 64, 128), BLOCK_C=(16, 64), num_warps=(2, 4, 8))
VALUE_US = 1e-3  # of a value of a thread


@triton.jit
def _load_tiles(ptr, n, offs_t, offs_c, tiles, C: tl.constexpr):
    """[BLOCK_T, BLOCK_C] of image n of partials (N, T, C)."""
    offs = (n.to(tl.int64) * tiles + offs_t)[:, None] * C + offs_c[None, :]
    return tl.load(ptr + offs, (offs_t < tiles)[:, None] & (offs_c < C)[None, :], other=0.0)


@triton.jit
def _pixels_of(offs_t, tiles, P, SPAN: tl.constexpr, ACC: tl.constexpr):
    """[BLOCK_T, 1]: pixels of the blocks t, t + T, ..., of SPAN each but the last of the image."""
    blocks = (P + SPAN - 1) // SPAN
    count = (blocks - 1 - offs_t + tiles) // tiles * SPAN
    count -= tl.where(offs_t == (blocks - 1) % tiles, blocks * SPAN - P, 0)
    return tl.where(offs_t < tiles, count, 0).to(ACC)[:, None]


@triton.jit
def _response_rate_kernel(
    of_mean_ptr,
    of_squares_ptr,
    mean_ptr,
    rate_ptr,
    tiles,
    P,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    begin(DEPENDENT)
    n, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    total = tl.zeros([BLOCK_T, BLOCK_C], ACC)
    squares, means = total, total
    for tile in range(0, tiles, BLOCK_T):
        offs_t = tile + tl.arange(0, BLOCK_T)
        means = _load_tiles(of_mean_ptr, n, offs_t, offs_c, tiles, C)
        squares += _load_tiles(of_squares_ptr, n, offs_t, offs_c, tiles, C)
        total += _pixels_of(offs_t, tiles, P, SPAN, ACC) * means
    mean = tl.sum(total, 0) / P
    for tile in range(0, tiles, BLOCK_T):
        offs_t = tile + tl.arange(0, BLOCK_T)
        if tiles > BLOCK_T:
            means = _load_tiles(of_mean_ptr, n, offs_t, offs_c, tiles, C)
        apart = means - mean[None, :]
        squares += _pixels_of(offs_t, tiles, P, SPAN, ACC) * apart * apart
    var = tl.sum(squares, 0) / (P - 1)
    offs = n.to(tl.int64) * C + offs_c
    tl.store(mean_ptr + offs, mean, offs_c < C)
    tl.store(rate_ptr + offs, 1.0 / (4.0 * (var + EPS)), offs_c < C)


@triton.jit
def _response_pull_kernel(
    of_pull_ptr,
    of_push_ptr,
    rate_ptr,
    pull_ptr,
    push_ptr,
    tiles,
    P,
    C: tl.constexpr,
    ACC: tl.constexpr,
    DEPENDENT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    begin(DEPENDENT)
    n, offs_c = chunk_of(tl.program_id(0), C, BLOCK_C)
    offs = n.to(tl.int64) * C + offs_c
    rate = load_vector(rate_ptr + n.to(tl.int64) * C, offs_c, C, ACC)
    pull = finish_sum(of_pull_ptr, n, offs_c, tiles, C, ACC, BLOCK_T)
    push = finish_sum(of_push_ptr, n, offs_c, tiles, C, ACC, BLOCK_T)
    tl.store(pull_ptr + offs, 2.0 * rate * pull / P, offs_c < C)
    tl.store(push_ptr + offs, -8.0 * rate * (rate * push) / (P - 1), offs_c < C)


def _config(kernel: str, partial: Tensor) -> tuple[Config, int]:
    """The config, and the programs."""
    N, tiles, C = partial.shape

    def microseconds(config: Config) -> float | None:
        block_t, block_c = config.blocks["BLOCK_T"], config.blocks["BLOCK_C"]
        values = block_t * block_c / (32 * config.num_warps)
        if values > 32 or (block_t >= 4 * tiles and block_t > 16):
            return None
        return 2 * -(-tiles // block_t) * (STEP + VALUE_US * values)

    config = config_for(SPACE, microseconds, kernel, partial, C=C, pixels=N * tiles, exact=(N, tiles))
    return config, N * -(-C // config.blocks["BLOCK_C"])


def plan_response_rate(
    of_mean: Tensor, of_squares: Tensor, span: int, mean: Tensor, rate: Tensor, P: int, eps: float
) -> Plan:
    """Fills mean and rate (N, C). span: pixels of a block of the moments."""
    (config, programs), (_, tiles, C) = _config("response_rate", of_mean), of_mean.shape
    args = dict(of_mean_ptr=of_mean, of_squares_ptr=of_squares, mean_ptr=mean, rate_ptr=rate, tiles=tiles, P=P, C=C)
    args |= dict(SPAN=span, EPS=eps, ACC=accumulator(of_mean), DEPENDENT=config.dependent)
    again = 1 if tiles <= config.blocks["BLOCK_T"] else 2
    traffic = dict(of_mean_ptr=(again, 0), of_squares_ptr=(1, 0), mean_ptr=(0, 1), rate_ptr=(0, 1))
    return Plan(_response_rate_kernel, args, config, programs, traffic)


def plan_response_pull(of_pull: Tensor, of_push: Tensor, rate: Tensor, P: int) -> Plan:
    """Makes pull and push (N, C)."""
    (config, programs), (N, tiles, C) = _config("response_pull", of_pull), of_pull.shape
    args = dict(of_pull_ptr=of_pull, of_push_ptr=of_push, rate_ptr=rate)
    args |= dict(pull_ptr=partials(rate, N, C), push_ptr=partials(rate, N, C), tiles=tiles, P=P, C=C)
    args |= dict(ACC=accumulator(of_pull), DEPENDENT=config.dependent)
    traffic = dict.fromkeys(("of_pull_ptr", "of_push_ptr", "rate_ptr"), (1, 0))
    traffic |= dict.fromkeys(("pull_ptr", "push_ptr"), (0, 1))
    return Plan(_response_pull_kernel, args, config, programs, traffic, ("pull", "push"))
