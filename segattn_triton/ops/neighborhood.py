"""Neighbourhood attention: every pixel attends to the K x K pixels around it, whole and split in two.

    attention   y_i = sum_j p_ij v_j,   p_i = softmax_j(s_ij)            (Hassani et al. 2023, arXiv:2204.07143)
    qk          s_ij = scale <q_i, k_j> + rel_bias[j - i]
    av          y_i = sum_j a_ij v_j

Attention saves y and lse: with p rebuilt from lse and delta_i = <y_i, dy_i> - dlse_i, ds_ij = p_ij (<dy_i, v_j> -
delta_i); qk and av save nothing but their inputs. From ds: dq_i = scale sum_j ds_ij k_j, dk_j = scale sum_i ds_ij q_i,
drel_bias_o = sum of ds at offset o. Of av: dv_j = sum_i a_ij dy_i, da_ij = <dy_i, v_j>.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.common.finish import plan_finish
from ..kernels.neighborhood.backward import plan_neighborhood_bwd, plan_neighborhood_delta
from ..kernels.neighborhood.forward import plan_neighborhood_fwd
from ..kernels.neighborhood.split import plan_neighborhood_dot, plan_neighborhood_sum
from ..runtime import schemas
from ..runtime.maps import partials
from ..runtime.operator import Call, DifferentiableOp, needs_grad


def _empty_in_order_of(t: Tensor, shape: Sequence[int]) -> Tensor:
    """A dense tensor of this shape whose axes lie in memory in the order of t's."""
    order = sorted(range(t.dim()), key=lambda axis: t.stride(axis), reverse=True)
    return t.new_empty([shape[axis] for axis in order]).permute([order.index(axis) for axis in range(t.dim())])


def _finish_bias(run, dbias: Tensor | None, drel_bias: Tensor | None) -> None:
    if drel_bias is not None:
        run.launch(plan_finish(dbias, drel_bias))


def _allocate(q, k, v, rel_bias, kernel_size, dilation, border, scale, return_lse):
    acc = torch.promote_types(q.dtype, torch.float32)
    return torch.empty_like(q), q.new_empty(q.shape[:4] if return_lse else (0,), dtype=acc)


def _forward(run, outputs, q, k, v, rel_bias, kernel_size, dilation, border, scale, return_lse):
    y, lse = outputs
    run.launch(
        plan_neighborhood_fwd(q, k, v, rel_bias, y, lse if return_lse else None, kernel_size, dilation, border, scale)
    )


def _backward(run, grads, douts, saved, q, k, v, rel_bias, kernel_size, dilation, border, scale, return_lse):
    (dq, dk, dv, drel_bias), (dy, dlse), (y, lse) = grads, douts, saved
    delta = run.empty(partials(q, *q.shape[:4]))
    run.launch(plan_neighborhood_delta(y, dy, dlse, delta))
    plan = plan_neighborhood_bwd(
        dy, q, k, v, rel_bias, lse, delta, dq, dk, dv, drel_bias is not None, kernel_size, dilation, border, scale
    )
    _finish_bias(run, run.launch(plan).dbias, drel_bias)


def _qk_allocate(q, k, rel_bias, kernel_size, dilation, border, scale):
    return (_empty_in_order_of(q, (*q.shape[:4], kernel_size * kernel_size)),)


def _qk_forward(run, outputs, q, k, rel_bias, kernel_size, dilation, border, scale):
    exclude = border == "mask"
    run.launch(plan_neighborhood_dot(q, k, rel_bias, outputs[0], kernel_size, dilation, border, scale, exclude))


def _qk_backward(run, grads, douts, saved, q, k, rel_bias, kernel_size, dilation, border, scale):
    (dq, dk, drel_bias), (ds,) = grads, douts
    if dq is not None or drel_bias is not None:
        plan = plan_neighborhood_sum(ds, k, dq, drel_bias is not None, kernel_size, dilation, border, scale)
        _finish_bias(run, run.launch(plan).dbias, drel_bias)
    if dk is not None:
        run.launch(plan_neighborhood_sum(ds, q, dk, False, kernel_size, dilation, border, scale, to_keys=True))


def _av_allocate(attn, v, kernel_size, dilation, border):
    return (_empty_in_order_of(v, (*attn.shape[:4], v.shape[4])),)


def _av_forward(run, outputs, attn, v, kernel_size, dilation, border):
    run.launch(plan_neighborhood_sum(attn, v, outputs[0], False, kernel_size, dilation, border, 1.0))


def _av_backward(run, grads, douts, saved, attn, v, kernel_size, dilation, border):
    (dattn, dv), (dy,) = grads, douts
    if dattn is not None:
        run.launch(plan_neighborhood_dot(dy, v, None, dattn, kernel_size, dilation, border, 1.0, False))
    if dv is not None:
        run.launch(plan_neighborhood_sum(attn, dy, dv, False, kernel_size, dilation, border, 1.0, to_keys=True))


_neighborhood_attention = DifferentiableOp(
    schemas.neighborhood_attention,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    views=3,
)
_neighborhood_qk = DifferentiableOp(
    schemas.neighborhood_qk,
    allocate=_qk_allocate,
    forward=_qk_forward,
    backward=_qk_backward,
    views=2,
)
_neighborhood_av = DifferentiableOp(
    schemas.neighborhood_av,
    allocate=_av_allocate,
    forward=_av_forward,
    backward=_av_backward,
    views=2,
)


def _scale(scale: float | None, q: Tensor) -> float:
    return q.shape[4] ** -0.5 if scale is None else float(scale)


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_bias: Tensor | None,
    *,
    kernel_size: int,
    dilation: int,
    border: str,
    scale: float | None,
    return_lse: bool,
):
    with_lse = return_lse or needs_grad((q, k, v, rel_bias))
    options = kernel_size, dilation, border, _scale(scale, q), with_lse
    return Call(_neighborhood_attention, (q, k, v, rel_bias, *options), return_lse)


def neighborhood_qk(
    q: Tensor,
    k: Tensor,
    rel_bias: Tensor | None,
    *,
    kernel_size: int,
    dilation: int,
    border: str,
    scale: float | None,
):
    return Call(_neighborhood_qk, (q, k, rel_bias, kernel_size, dilation, border, _scale(scale, q)))


def neighborhood_av(attn: Tensor, v: Tensor, *, kernel_size: int, dilation: int, border: str):
    return Call(_neighborhood_av, (attn, v, kernel_size, dilation, border))
