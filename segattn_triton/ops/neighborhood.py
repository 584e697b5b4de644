"""Neighbourhood attention: every pixel attends to the K x K pixels around it, whole and split in two.

    attention   y_i = sum_j p_ij v_j,   p_i = softmax_j(s_ij)            (Hassani et al. 2023, arXiv:2204.07143)
    qk          s_ij = scale <q_i, k_j> + rel_bias[j - i]
    av          y_i = sum_j a_ij v_j

Attention saves y and lse: with p rebuilt from lse and delta_i = <y_i, dy_i> - dlse_i, ds_ij = p_ij (<dy_i, v_j> -
delta_i); qk and av save nothing but their inputs. From ds: dq_i = scale sum_j ds_ij k_j, dk_j = scale sum_i ds_ij q_i,
drel_bias_o = sum of ds at offset o. Of av: dv_j = sum_i a_ij dy_i, da_ij = <dy_i, v_j>.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..kernels.common.finish import plan_finish
from ..kernels.neighborhood.backward import plan_neighborhood_bwd
from ..kernels.neighborhood.delta import plan_neighborhood_delta
from ..kernels.neighborhood.forward import plan_neighborhood_fwd
from ..kernels.neighborhood.patch import MOST_BACKWARD, takes_products
from ..kernels.neighborhood.patch_backward import plan_neighborhood_dkv, plan_neighborhood_dq
from ..kernels.neighborhood.split import plan_neighborhood_dot, plan_neighborhood_sum
from ..kernels.neighborhood.strip import takes_strips
from ..kernels.neighborhood.strip_backward import plan_neighborhood_strip_dkv, plan_neighborhood_strip_dq
from ..kernels.neighborhood.strip_forward import plan_neighborhood_strip_fwd
from ..runtime import schemas
from ..runtime.maps import partials
from ..runtime.operator import DifferentiableOp, needs_grad


def _empty_in_order_of(t: Tensor, shape: Sequence[int]) -> Tensor:
    """A dense tensor of this shape whose axes lie in memory in the order of t's."""
    order = sorted(range(t.dim()), key=lambda axis: t.stride(axis), reverse=True)
    return t.new_empty([shape[axis] for axis in order]).permute([order.index(axis) for axis in range(t.dim())])


def _finish_bias(run, dbias: Tensor | None, drel_bias: Tensor | None) -> None:
    if drel_bias is not None:
        run.launch(plan_finish(dbias, drel_bias))


def _window(options) -> tuple[int, int, str]:
    return options.kernel_size, options.dilation, options.border


def _by_strips(tensors, others: Sequence[Tensor], options) -> bool:
    q, k, v, rel_bias = tensors
    return takes_strips((q, k, v, *others), *_window(options), rel_bias, options.scale)


def _allocate(tensors, options):
    q = tensors.q
    acc = torch.promote_types(q.dtype, torch.float32)
    return torch.empty_like(q), q.new_empty(q.shape[:4] if options.return_lse else (0,), dtype=acc)


def _forward(run, outputs, tensors, options):
    lse = outputs.lse if options.return_lse else None
    how = (outputs.y, lse, *_window(options), options.scale)
    if _by_strips(tensors, [outputs.y], options):
        run.launch(plan_neighborhood_strip_fwd(tensors.q, tensors.k, tensors.v, *how))
    else:
        run.launch(plan_neighborhood_fwd(*tensors, *how))


def _backward(run, grads, douts, saved, tensors, options):
    dq, dk, dv, drel_bias = grads
    dy, dlse = douts
    delta = run.empty(partials(tensors.q, *tensors.q.shape[:4]))
    run.launch(plan_neighborhood_delta(saved.y, dy, dlse, delta))
    given, window = (dy, *tensors, saved.lse, delta), (*_window(options), options.scale)
    if takes_products(tensors.q, options.kernel_size, options.dilation, tensors.rel_bias, options.scale, MOST_BACKWARD):
        plan_dq, plan_dkv = plan_neighborhood_dq, plan_neighborhood_dkv
        if _by_strips(tensors, [dy, *(t for t in (dq, dk, dv) if t is not None)], options):
            plan_dq, plan_dkv = plan_neighborhood_strip_dq, plan_neighborhood_strip_dkv
            given = (dy, tensors.q, tensors.k, tensors.v, saved.lse, delta)
        if dq is not None:
            run.launch(plan_dq(*given, dq, *window))
        if dk is not None or dv is not None:
            run.launch(plan_dkv(*given, dk, dv, *window))
        dq = dk = dv = None
    if any(grad is not None for grad in (dq, dk, dv, drel_bias)):
        plan = plan_neighborhood_bwd(*given, dq, dk, dv, drel_bias is not None, *window)
        _finish_bias(run, run.launch(plan).dbias, drel_bias)


def _qk_allocate(tensors, options):
    q = tensors.q
    return (_empty_in_order_of(q, (*q.shape[:4], options.kernel_size * options.kernel_size)),)


def _qk_forward(run, outputs, tensors, options):
    exclude = options.border == "mask"
    run.launch(plan_neighborhood_dot(*tensors, outputs.scores, *_window(options), options.scale, exclude))


def _qk_backward(run, grads, douts, saved, tensors, options):
    (dq, dk, drel_bias), (ds,), window = grads, douts, (*_window(options), options.scale)
    if dq is not None or drel_bias is not None:
        plan = plan_neighborhood_sum(ds, tensors.k, dq, drel_bias is not None, *window)
        _finish_bias(run, run.launch(plan).dbias, drel_bias)
    if dk is not None:
        run.launch(plan_neighborhood_sum(ds, tensors.q, dk, False, *window, to_keys=True))


def _av_allocate(tensors, options):
    attn, v = tensors
    return (_empty_in_order_of(v, (*attn.shape[:4], v.shape[4])),)


def _av_forward(run, outputs, tensors, options):
    run.launch(plan_neighborhood_sum(*tensors, outputs.y, False, *_window(options), 1.0))


def _av_backward(run, grads, douts, saved, tensors, options):
    (dattn, dv), (dy,), window = grads, douts, (*_window(options), 1.0)
    if dattn is not None:
        run.launch(plan_neighborhood_dot(dy, tensors.v, None, dattn, *window, False))
    if dv is not None:
        run.launch(plan_neighborhood_sum(tensors.attn, dy, dv, False, *window, to_keys=True))


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


def _scaled(options: Mapping, q: Tensor) -> dict:
    """The options with a scale, d^-1/2 where none is given."""
    scale = options["scale"]
    return dict(options, scale=q.shape[4] ** -0.5 if scale is None else float(scale))


def neighborhood_attention(*tensors: Tensor | None, return_lse: bool, **options):
    how = dict(_scaled(options, tensors[0]), return_lse=return_lse or needs_grad(tensors))
    return _neighborhood_attention.call(tensors, how, return_lse)


def neighborhood_qk(*tensors: Tensor | None, **options):
    return _neighborhood_qk.call(tensors, _scaled(options, tensors[0]))


def neighborhood_av(*tensors: Tensor | None, **options):
    return _neighborhood_av.call(tensors, options)
