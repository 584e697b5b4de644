"""Efficient channel attention: one weight per channel, from the means of its neighbours in the order of channels.

    y = x * g,   g = gate(z),   z_c = sum_j w_j v_{c + j - k // 2} + b,   v = mean over the pixels of x
    (Wang et al. 2020, arXiv:1910.03151)

With ds_c = sum_p dy_cp x_cp + dg_c and dz = ds gate'(z): dw_j = sum_nc dz_c v_{c + j - k // 2}, db = sum_nc dz_c and
dx = dy g + dv / P, where dv is the convolution of dz with the taps in reverse. Saved are v and z.
"""

import torch
from torch import Tensor

from ..kernels.channel.apply import plan_apply_bwd, plan_apply_fwd
from ..kernels.channel.band import plan_band_bwd, plan_band_dw, plan_band_fwd
from ..kernels.channel.pool import plan_pool_bwd, plan_pool_fwd
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp


def _allocate(tensors, options):
    x = tensors.x
    shape = x.shape[:2]
    acc = torch.promote_types(x.dtype, torch.float32)
    gate_map = x.new_empty(shape if options.return_map else (0,))
    return torch.empty_like(x), gate_map, x.new_empty(shape, dtype=acc), x.new_empty(shape, dtype=acc)


def _forward(run, outputs, tensors, options):
    (x, weight, bias), (y, gate_map, pooled, z) = tensors, outputs
    sums = run.launch(plan_pool_fwd(x, True, False, False))
    band = run.launch(plan_band_fwd(sums.total, x.shape[2:].numel(), weight, bias, options.circular, pooled))
    gate_map = gate_map if options.return_map else None
    run.launch(plan_apply_fwd(x, band.z, y, z, gate_map, options.gate))


def _backward(run, grads, douts, saved, tensors, options):
    (dx, dweight, dbias), (dy, dmap), (pooled, z), (x, weight, _) = grads, douts, saved, tensors
    circular, gates, with_dparam = options.circular, options.gate, dweight is not None or dbias is not None
    sums = run.launch(plan_pool_bwd(dy, x))
    band = run.launch(plan_band_bwd(sums.total, dmap, z, weight, circular, with_dparam, dx is not None, gates))
    if dx is not None:
        run.launch(plan_apply_bwd(dy, x, z, band.dpooled, True, None, None, dx, gates))
    if with_dparam:
        run.launch(plan_band_dw(band.dz, pooled, weight.shape[2], circular, dweight, dbias))


_eca = DifferentiableOp(
    schemas.eca,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
)


def eca(*tensors: Tensor | None, **options):
    return _eca.call(tensors, options, options["return_map"])
