"""Concurrent spatial and channel squeeze and excitation: a gate for every channel beside one for every pixel.

    y = x * gc + x * gp, or the maximum of both         (Roy et al. 2018, arXiv:1803.02579)
    gc = gate(zc),  zc = W2 act(W1 v + b1) + b2,  v = mean over the pixels of x;    gp_p = gate(<weight, x_p> + bias)

The forward pools x, and applies both gates in one pass that has all channels of a pixel at hand. Of the sum,
dgc_c = sum_p dy x and dgp_p = sum_c dy x + dmap; of the maximum, of what each of the two is. One pass forms both, and
dx = dy gc + dy gp + dzp weight + dv / P needs a second, which reads gp and dzp per pixel. Saved are v, zc and z1 = W1 v
+ b1.
"""

import torch
from torch import Tensor

from ..kernels.channel.apply import plan_apply_bwd
from ..kernels.channel.mlp_bwd import plan_mlp_bwd
from ..kernels.channel.mlp_dw import plan_mlp_dw
from ..kernels.channel.mlp_fwd import plan_mlp_fwd
from ..kernels.channel.pool import plan_pool_fwd
from ..kernels.channel.scse import plan_scse_bwd
from ..kernels.common.finish import plan_finish
from ..kernels.pixel.forward import plan_spatial_fwd
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp


def _allocate(tensors, options):
    x, w1 = tensors.x, tensors.w1
    N, C = x.shape[:2]
    acc = torch.promote_types(x.dtype, torch.float32)
    return (
        torch.empty_like(x),
        x.new_empty((N, 1, *x.shape[2:]) if options.return_map else (0,)),
        x.new_empty((N, C), dtype=acc),  # v
        x.new_empty((N, C), dtype=acc),  # zc
        x.new_empty((N, w1.shape[0]), dtype=acc),  # z1
    )


def _forward(run, outputs, tensors, options):
    (x, *layers, weight, bias), (y, gate_map, pooled, zc, z1) = tensors, outputs
    sums = run.launch(plan_pool_fwd(x, True, False, False))
    pixels, saved = x.shape[2:].numel(), (pooled, None, None, z1)
    mlp = run.launch(plan_mlp_fwd(sums.total, None, None, pixels, *layers, *saved, options.act, False))
    gate_map = gate_map if options.return_map else None
    how = dict(pool="dot", gate=options.gate, reduce=options.reduce)
    run.launch(plan_spatial_fwd(x, weight, bias, y, gate_map, **how, zc=mlp.z, logit=zc))


def _backward(run, grads, douts, saved, tensors, options):
    (dx, *dparams, dweight, dbias), (dy, dmap), (pooled, zc, z1) = grads, douts, saved
    x, w1, _, w2, _, weight, bias = tensors
    acts, gates, reduce = options.act, options.gate, options.reduce
    with_mlp = dx is not None or any(d is not None for d in dparams)
    with_dparam = dweight is not None or dbias is not None
    wanted = with_mlp, with_dparam, dx is not None
    sums = run.launch(plan_scse_bwd(dy, dmap, x, zc, weight, bias, *wanted, reduce, gates))
    if with_dparam and dweight is None:
        dweight = run.empty(torch.empty_like(weight))
    if not with_mlp:
        run.launch(plan_finish(sums.dparam, dweight, dbias))
        return
    pixels, layers = x.shape[2:].numel(), (z1, w1, w2)
    finish = dict(partial=sums.dparam, sums=(dweight, dbias))
    mlp = run.launch(plan_mlp_bwd(sums.total, pixels, None, zc, *layers, dx is not None, acts, gates, **finish))
    if dx is not None:
        pixel_gate = weight, sums.gp, sums.dzp
        run.launch(plan_apply_bwd(dy, x, zc, mlp.dpooled, True, None, None, dx, gates, pixel_gate, reduce))
    if any(d is not None for d in dparams):
        run.launch(plan_mlp_dw(mlp.dz, mlp.dz1, z1, pooled, *dparams, acts))


_scse = DifferentiableOp(
    schemas.scse,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
)


def scse(*tensors: Tensor | None, **options):
    return _scse.call(tensors, options, options["return_map"])
