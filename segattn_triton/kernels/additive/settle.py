"""Additive attention with norms, backward: the gradients of the parameters, and what pixels want, from `sums`.

The partial sums of `sums` are added over their rows; its docstring has the equations.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...runtime.maps import accumulator, partials
from ...runtime.plan import Plan
from ...tuning.choice import config_for
from ...tuning.model import SM_BANDWIDTH, STEP, Config, space
from ...tuning.target import sms, stages_for
from ..common.tile import load_vector

SPACE = space(BLOCK_ROWS=(32, 64, 128, 256), BLOCK_F=(4, 8, 16), num_warps=(4, 8))
MOST_SUMS = 48  # of a thread, beside as many values that are on their way


@triton.jit
def add_columns(total, ptr, offs, size, row, rows, COLS: tl.constexpr):
    """To total [BLOCK_ROWS, BLOCK_F] the rows from `row` on of columns `offs` below `size`."""
    ids = row + tl.arange(0, total.shape[0])
    mask = (ids < rows)[:, None] & (offs < size)[None, :]
    return total + tl.load(ptr + ids[:, None] * COLS + offs[None, :], mask, other=0.0)


@triton.jit
def add_three(sums, ptr, offs_f, row, rows, F: tl.constexpr, COLS: tl.constexpr):
    """What `sums` has of one factor: alone, with hx and with hg."""
    alone = add_columns(sums[0], ptr, offs_f, F, row, rows, COLS)
    with_x = add_columns(sums[1], ptr + F, offs_f, F, row, rows, COLS)
    return alone, with_x, add_columns(sums[2], ptr + 2 * F, offs_f, F, row, rows, COLS)


@triton.jit
def in_all(sums):
    return tl.sum(sums[0], 0), tl.sum(sums[1], 0), tl.sum(sums[2], 0)


@triton.jit
def store_as(ptr, offs, value, mask):
    """A gradient that is wanted, in its parameter's dtype."""
    if ptr is not None:
        tl.store(ptr + offs, value.to(ptr.dtype.element_ty), mask)


@triton.jit
def settle_logit(gain_ptr, stats_ptr, coef_ptr, dbias, dgain, count, is_first, EPS: tl.constexpr, ACC: tl.constexpr):
    """Of the norm of the logits: the gradient of its gain, and k, p, q [1] of dz = k du - p - zc q, into coef."""
    offs = tl.arange(0, 1)
    scale = 1.0 / tl.sqrt(tl.load(stats_ptr + 1 + offs) + EPS)
    k = tl.load(gain_ptr + offs).to(ACC) * scale
    p = k * (dbias / count)
    q = k * (scale * scale * (dgain / count))
    tl.store(coef_ptr + offs, k, is_first)
    tl.store(coef_ptr + 1 + offs, p, is_first)
    tl.store(coef_ptr + 2 + offs, tl.load(stats_ptr + offs), is_first)
    tl.store(coef_ptr + 3 + offs, q, is_first)
    return dgain * scale, k, p, q


@triton.jit
def settle_norm(
    dgain_ptr, coef_ptr, stats_ptr, scale, s, sh, offs_f, count, F: tl.constexpr, EPS: tl.constexpr, ACC: tl.constexpr
):
    """Of one projection, with s and sh the sums of dh and dh h: the gradient of its gain, and p and q of
    scale dh - p - h q, into coef; zeros without a norm."""
    p = tl.zeros_like(s)
    q = tl.zeros_like(s)
    if stats_ptr is not None:
        of_var = 1.0 / tl.sqrt(tl.load(stats_ptr + F + offs_f, offs_f < F, other=1.0) + EPS)
        store_as(dgain_ptr, offs_f, sh * of_var, offs_f < F)
        p = scale * (s / count)
        q = scale * (of_var * of_var * (sh / count))
    tl.store(coef_ptr + offs_f, p, offs_f < F)
    tl.store(coef_ptr + F + offs_f, q, offs_f < F)


@triton.jit
def _additive_settle_kernel(
    partial_ptr,
    affine_ptr,
    stats_x_ptr,
    stats_g_ptr,
    stats_ptr,
    b_ptr,
    weight_ptr,
    gain_ptr,
    coef_ptr,
    db_ptr,
    dweight_ptr,
    dbias_ptr,
    dgain_x_ptr,
    dgain_g_ptr,
    dgain_ptr,
    sizes,
    F: tl.constexpr,
    COLS: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    rows, count = sizes
    offs_f = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    offs_1 = tl.arange(0, 1)
    mask_f = offs_f < F
    is_first = offs_1 + tl.program_id(0) == 0
    zeros = tl.zeros([BLOCK_ROWS, BLOCK_F], ACC)
    of_du, of_one, of_far = (zeros, zeros, zeros), (zeros, zeros, zeros), (zeros, zeros, zeros)
    of_logit = tl.zeros([BLOCK_ROWS, 2], ACC)
    offs_2 = COLS - 2 + tl.arange(0, 2)
    for row in tl.range(0, rows, BLOCK_ROWS, num_stages=STAGES):
        of_du = add_three(of_du, partial_ptr, offs_f, row, rows, F, COLS)
        of_logit = add_columns(of_logit, partial_ptr, offs_2, COLS, row, rows, COLS)
        if stats_ptr is not None:
            of_one = add_three(of_one, partial_ptr + 3 * F, offs_f, row, rows, F, COLS)
            of_far = add_three(of_far, partial_ptr + 6 * F, offs_f, row, rows, F, COLS)
    s, sx, sg = in_all(of_du)
    of_logit = tl.sum(of_logit, 0)[:, None]
    is_bias = (tl.arange(0, 2) == 0)[:, None]
    dbias = tl.sum(tl.where(is_bias, of_logit, 0.0), 0)
    if stats_ptr is not None:
        dgain = tl.sum(tl.where(is_bias, 0.0, of_logit), 0)
        last_ptr = coef_ptr + 4 * F
        dgain, k, p, q = settle_logit(gain_ptr, stats_ptr, last_ptr, dbias, dgain, count, is_first, EPS, ACC)
        one, one_x, one_g = in_all(of_one)
        far, far_x, far_g = in_all(of_far)
        s = k * s - p * one - q * far
        sx = k * sx - p * one_x - q * far_x
        sg = k * sg - p * one_g - q * far_g
        store_as(dgain_ptr, offs_1, dgain, is_first)
    store_as(dbias_ptr, offs_1, dbias, is_first)
    scale_x = load_vector(affine_ptr + F, offs_f, F, ACC)
    scale_g = load_vector(affine_ptr + 3 * F, offs_f, F, ACC)
    dweight = scale_x * sx + scale_g * sg
    if b_ptr is not None:
        dweight += load_vector(b_ptr, offs_f, F, ACC) * s
    store_as(dweight_ptr, offs_f, dweight, mask_f)
    weight = load_vector(weight_ptr, offs_f, F, ACC)
    store_as(db_ptr, offs_f, weight * s, mask_f)
    s *= weight
    settle_norm(dgain_x_ptr, coef_ptr, stats_x_ptr, scale_x, s, weight * sx, offs_f, count, F, EPS, ACC)
    settle_norm(dgain_g_ptr, coef_ptr + 2 * F, stats_g_ptr, scale_g, s, weight * sg, offs_f, count, F, EPS, ACC)


def plan_additive_settle(
    partial: Tensor,
    affine: Tensor,
    stats: tuple[Tensor | None, Tensor | None, Tensor | None],
    b: Tensor | None,
    weight: Tensor,
    gain: Tensor | None,
    grads: tuple[Tensor | None, ...],
    count: int,
    eps: float,
) -> Plan:
    """stats of x, of g and of the logits; grads: db, dweight, dbias, and of the gains of x, g and the logits, those
    that are wanted. Makes coef (4 F,), 4 more for the norm of the logits, see `shared.d_normed`; `count` values a
    channel."""
    (rows, cols), F, normed_logit = partial.shape, affine.shape[1], stats[2] is not None
    size = sms(partial.device)

    def at_once(config: Config) -> int:
        return cols // F * config.blocks["BLOCK_ROWS"] * config.blocks["BLOCK_F"]

    def microseconds(config: Config) -> float | None:
        values = at_once(config)
        if values > MOST_SUMS * 32 * config.num_warps:
            return None
        rounds = -(-rows // config.blocks["BLOCK_ROWS"]) * max(1.0, -(-F // config.blocks["BLOCK_F"]) / size)
        return rounds * (STEP + 4 * values / SM_BANDWIDTH) + 1e-3 * (config.blocks["BLOCK_F"] + config.num_warps)

    config = config_for(SPACE, microseconds, "additive_settle", partial, C=F, pixels=rows, also=(cols,))
    names = ("db_ptr", "dweight_ptr", "dbias_ptr", "dgain_x_ptr", "dgain_g_ptr", "dgain_ptr")
    args = dict(
        partial_ptr=partial,
        affine_ptr=affine,
        **dict(zip(("stats_x_ptr", "stats_g_ptr", "stats_ptr"), stats, strict=True)),
        b_ptr=b if grads[1] is not None else None,
        weight_ptr=weight,
        gain_ptr=gain,
        coef_ptr=partials(partial, 4 * F + 4 * normed_logit),
        **dict(zip(names, grads, strict=True)),
        sizes=(rows, count),
        F=F,
        COLS=cols,
        EPS=eps,
        ACC=accumulator(partial),
        STAGES=stages_for(partial.device, partial.element_size(), at_once(config), 4, programs=1),
    )
    blocks = -(-F // config.blocks["BLOCK_F"])
    traffic = dict(partial_ptr=((cols - 2 + 2 * blocks) / cols, 0), affine_ptr=(0.5, 0))
    traffic |= dict(stats_x_ptr=(0.5, 0), stats_g_ptr=(0.5, 0), stats_ptr=(blocks, 0))
    traffic |= dict(b_ptr=(1, 0), weight_ptr=(1, 0), gain_ptr=(blocks, 0))
    traffic |= dict.fromkeys(names, (0, 1)) | dict(coef_ptr=(0, 1))
    return Plan(_additive_settle_kernel, args, config, blocks, traffic, ("coef",))
