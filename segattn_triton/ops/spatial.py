"""Spatial gates: one weight per pixel.

    y = x * g,   g_p = gate(z_p),   z_p = <w, x_p> + b        (sSE of Roy et al. 2018, arXiv:1803.02579)
                                    z_p = pool over channels  (parameter-free)

With ds_p = sum_c dy_cp x_cp + dg_p and dz = ds gate'(z): dx = dy g + dz dz/dx, dw_c = sum_np dz x_c, db = sum_np dz.
Nothing is saved but the inputs: z is a by-product of the read that the backward makes anyway.
"""

import torch
from torch import Tensor

from ..kernels.common.finish import plan_finish
from ..kernels.pixel.backward import plan_spatial_bwd
from ..kernels.pixel.forward import plan_spatial_fwd
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp


def _allocate(tensors, options):
    x = tensors.x
    gate_map = x.new_empty((x.shape[0], 1, *x.shape[2:]) if options.return_map else (0,))
    return torch.empty_like(x), gate_map


def _forward(run, outputs, tensors, options):
    gate_map = outputs.map if options.return_map else None
    run.launch(plan_spatial_fwd(*tensors, outputs.y, gate_map, pool="dot", gate=options.gate))


def _backward(run, grads, douts, saved, tensors, options):
    dx, dweight, dbias = grads
    with_dparam = dweight is not None or dbias is not None
    how = dict(with_dparam=with_dparam, pool="dot", split=False, gate=options.gate)
    sums = run.launch(plan_spatial_bwd(*douts, *tensors, dx, **how))
    if with_dparam:
        dweight = run.empty(torch.empty_like(tensors.weight)) if dweight is None else dweight
        run.launch(plan_finish(sums.dparam, dweight, dbias))


def _pool_forward(run, outputs, tensors, options):
    gate_map = outputs.map if options.return_map else None
    run.launch(plan_spatial_fwd(tensors.x, None, None, outputs.y, gate_map, pool=options.pool, gate=options.gate))


def _pool_backward(run, grads, douts, saved, tensors, options):
    x, split = tensors.x, options.ties == "split"
    how = dict(with_dparam=False, pool=options.pool, split=split, gate=options.gate)
    run.launch(plan_spatial_bwd(*douts, x, None, None, grads.x, **how))


_spatial_gate = DifferentiableOp(
    schemas.spatial_gate,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
)
_spatial_pool_gate = DifferentiableOp(
    schemas.spatial_pool_gate,
    allocate=_allocate,
    forward=_pool_forward,
    backward=_pool_backward,
)


def spatial_gate(*tensors: Tensor | None, **options):
    return _spatial_gate.call(tensors, options, options["return_map"])


def spatial_pool_gate(*tensors: Tensor | None, **options):
    return _spatial_pool_gate.call(tensors, options, options["return_map"])
