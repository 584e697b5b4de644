"""Global context: every channel weighted, or shifted, by what the whole image holds where it attends to.

    y = x * gate(z)  or  y = x + z,   z = W2 act(norm(W1 v + b1)) + b2,   v = sum_p a_p x_p,   a = softmax_p <w, x_p>
    (GCNet, Cao et al. 2019, arXiv:1904.11492), norm a layer norm over the hidden channels of an image

A bias of <w, x_p> is the same for all pixels: it counts for nothing, and has no gradient. With dz = (sum_p dy x + dmap)
gate'(z), or sum_p dy + dmap, the layers' backward gives dv and the gradients of the weights; then
    ds_p = a_p (<dv, x_p> - <dv, v>),   dx_p = dy_p g + a_p dv + ds_p w,   dw = sum_np ds_p x_p
3 passes over the map forward; backward 5, or 4 of a shift, whose sums need no x. Saved are v, the divisor of the
softmax, z, and what is between the layers.
"""

import torch
from torch import Tensor

from ..kernels.channel.apply import plan_apply_fwd
from ..kernels.channel.layer_norm import plan_layer_norm_bwd, plan_layer_norm_fwd
from ..kernels.channel.mlp_bwd import plan_mlp_bwd
from ..kernels.channel.mlp_dw import plan_mlp_dw
from ..kernels.channel.mlp_fwd import plan_mlp_fwd
from ..kernels.channel.pool import plan_pool_bwd, plan_pool_fwd
from ..kernels.channel.shift import plan_shift
from ..kernels.common.activations import activation
from ..kernels.common.finish import plan_finish
from ..kernels.pixel.context import plan_context_bwd, plan_context_fwd
from ..kernels.pixel.context_settle import plan_context_inner, plan_context_merge
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp

IDENTITY = activation("identity", 0.0, 0.0)


def _allocate(tensors, options):
    x, (N, C), R = tensors.x, tensors.x.shape[:2], tensors.w1.shape[0]
    acc = torch.promote_types(x.dtype, torch.float32)
    sizes = (N, C), (N,), (N, C), (N, R), (N, R), (N,)  # v, lse, z, u, hhat, scale
    gate_map = x.new_empty((N, C) if options.return_map else (0,))
    return torch.empty_like(x), gate_map, *(x.new_empty(size, dtype=acc) for size in sizes)


def _logits(run, outputs, tensors, options) -> Tensor:
    """z (N, 1, C)"""
    x, weight, bias, w1, b1, ln_weight, ln_bias, w2, b2 = tensors
    partial = run.launch(plan_context_fwd(x, weight)).partial
    v = run.launch(plan_context_merge(partial, bias, outputs.lse)).context
    no_layer, no_peak = (None, None), (None, None, None)
    kept = outputs.pooled, *no_peak
    h = run.launch(plan_mlp_fwd(v[:, None], None, None, 1, w1, b1, *no_layer, *kept, IDENTITY, False)).z
    norm = ln_weight, ln_bias, outputs.hhat, outputs.scale, outputs.u, options.eps, options.act
    a = run.launch(plan_layer_norm_fwd(h, *norm)).a
    kept = run.empty(torch.empty_like(outputs.hhat)), *no_peak  # a again
    return run.launch(plan_mlp_fwd(a, None, None, 1, w2, b2, *no_layer, *kept, IDENTITY, False)).z


def _forward(run, outputs, tensors, options):
    z, gate_map = _logits(run, outputs, tensors, options), outputs.map if options.return_map else None
    run.launch(plan_apply_fwd(tensors.x, z, outputs.y, outputs.z, gate_map, options.gate))


def _forward_add(run, outputs, tensors, options):
    z, gate_map = _logits(run, outputs, tensors, options), outputs.map if options.return_map else None
    run.launch(plan_shift(tensors.x, z, outputs.y, outputs.z, gate_map))


def _run_backward(run, sums, grads, douts, saved, tensors, options, gate):
    """Of partial sums (N, T, C). gate: None of a shift."""
    (dx, dweight, dbias, dw1, db1, *dnorm, dw2, db2), (dy, dmap) = grads, douts
    (x, weight, _, w1, _, ln_weight, _, w2, _), (v, lse, z, u, hhat, scale) = tensors, saved
    if dbias is not None:
        run.call(Tensor.zero_, dbias)
    logits = sums, x.shape[2:].numel(), dmap, z, None, w2, None, True, IDENTITY, IDENTITY if gate is None else gate
    last = run.launch(plan_mlp_bwd(*logits))
    wanted = any(d is not None for d in dnorm)
    norm = run.launch(plan_layer_norm_bwd(last.dpooled, u, hhat, scale, ln_weight, wanted, options.act))
    if wanted:
        dweights, dbiases = (run.empty(torch.empty_like(ln_weight)) if d is None else d for d in dnorm)
        run.launch(plan_finish(norm.dparam, dweights, dbiases))
    if any(d is not None for d in (dw1, db1, dw2, db2)):
        run.launch(plan_mlp_dw(last.dz1, norm.dh, u, v, dw1, db1, dw2, db2, options.act))
    if dx is None and dweight is None:
        return
    back = run.launch(plan_mlp_bwd(norm.dh[:, None], 1, None, hhat, None, w1, None, True, IDENTITY, IDENTITY))
    settled = run.launch(plan_context_inner(back.dpooled, v))
    of = dy, x, None if gate is None else z, settled.dcontext, settled.inner, lse, weight, dx, dweight is not None, gate
    dw = run.launch(plan_context_bwd(*of)).dw
    if dweight is not None:
        run.launch(plan_finish(dw, dweight))


def _backward(run, grads, douts, saved, tensors, options):
    sums = run.launch(plan_pool_bwd(douts[0], tensors.x)).total
    _run_backward(run, sums, grads, douts, saved, tensors, options, options.gate)


def _backward_add(run, grads, douts, saved, tensors, options):
    sums = run.launch(plan_pool_fwd(douts[0], mean=True, peak=False, split=False)).total
    _run_backward(run, sums, grads, douts, saved, tensors, options, None)


_global_context = DifferentiableOp(schemas.global_context, allocate=_allocate, forward=_forward, backward=_backward)
_global_context_add = DifferentiableOp(
    schemas.global_context_add, allocate=_allocate, forward=_forward_add, backward=_backward_add
)


def global_context(*tensors: Tensor | None, **options):
    return _global_context.call(tensors, options, options["return_map"])


def global_context_add(*tensors: Tensor | None, **options):
    return _global_context_add.call(tensors, options, options["return_map"])
