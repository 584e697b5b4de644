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
from ...tuning.target import sms
from ..common.tile import load_vector

SPACE = space(BLOCK_ROWS=(32, 64, 128, 256), BLOCK_F=(8, 16, 32), num_warps=(4, 8))


@triton.jit
def sum_rows(ptr, offs, size, rows, COLS: tl.constexpr, ACC: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """The sum [BLOCK_F] over the rows of columns `offs` below `size`."""
    total = tl.zeros([BLOCK_ROWS, offs.shape[0]], ACC)
    for row in range(0, rows, BLOCK_ROWS):
        ids = row + tl.arange(0, BLOCK_ROWS)
        mask = (ids < rows)[:, None] & (offs < size)[None, :]
        total += tl.load(ptr + ids[:, None] * COLS + offs[None, :], mask, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def sum_three(ptr, offs_f, rows, F: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr, BLOCK_ROWS: tl.constexpr):
    """What `sums` has of one factor: alone, with hx and with hg."""
    alone = sum_rows(ptr, offs_f, F, rows, COLS, ACC, BLOCK_ROWS)
    with_x = sum_rows(ptr + F, offs_f, F, rows, COLS, ACC, BLOCK_ROWS)
    return alone, with_x, sum_rows(ptr + 2 * F, offs_f, F, rows, COLS, ACC, BLOCK_ROWS)


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
    rows,
    count,
    F: tl.constexpr,
    COLS: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    offs_f = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    offs_1 = tl.arange(0, 1)
    mask_f = offs_f < F
    is_first = offs_1 + tl.program_id(0) == 0
    s, sx, sg = sum_three(partial_ptr, offs_f, rows, F, COLS, ACC, BLOCK_ROWS)
    dbias = sum_rows(partial_ptr + COLS - 2, offs_1, 1, rows, COLS, ACC, BLOCK_ROWS)
    if stats_ptr is not None:
        dgain = sum_rows(partial_ptr + COLS - 1, offs_1, 1, rows, COLS, ACC, BLOCK_ROWS)
        last_ptr = coef_ptr + 4 * F
        dgain, k, p, q = settle_logit(gain_ptr, stats_ptr, last_ptr, dbias, dgain, count, is_first, EPS, ACC)
        one, one_x, one_g = sum_three(partial_ptr + 3 * F, offs_f, rows, F, COLS, ACC, BLOCK_ROWS)
        far, far_x, far_g = sum_three(partial_ptr + 6 * F, offs_f, rows, F, COLS, ACC, BLOCK_ROWS)
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

    def microseconds(config: Config) -> float | None:
        block_rows, block_f = config.blocks["BLOCK_ROWS"], config.blocks["BLOCK_F"]
        if block_rows * block_f > 1024 * config.num_warps:
            return None
        steps = cols // F * -(-rows // block_rows) * max(1.0, -(-F // block_f) / size)
        return steps * (STEP / 3 + 4 * block_rows * block_f / SM_BANDWIDTH) + 1e-3 * (block_f + config.num_warps)

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
        rows=rows,
        count=count,
        F=F,
        COLS=cols,
        EPS=eps,
        ACC=accumulator(partial),
    )
    blocks = -(-F // config.blocks["BLOCK_F"])
    traffic = dict(partial_ptr=((cols - 2 + (1 + normed_logit) * blocks) / cols, 0), affine_ptr=(0.5, 0))
    traffic |= dict(stats_x_ptr=(0.5, 0), stats_g_ptr=(0.5, 0), stats_ptr=(blocks, 0))
    traffic |= dict(b_ptr=(1, 0), weight_ptr=(1, 0), gain_ptr=(blocks, 0))
    traffic |= dict.fromkeys(names, (0, 1)) | dict(coef_ptr=(0, 1))
    return Plan(_additive_settle_kernel, args, config, blocks, traffic, ("coef",))
