"""Spatial gates: one weight per pixel.

    y = x * g,   g_p = gate(z_p),   z_p = <w, x_p> + b        (sSE of Roy et al. 2018, arXiv:1803.02579)
                                    z_p = pool over channels  (parameter-free)

With ds_p = sum_c dy_cp x_cp + dg_p and dz = ds gate'(z): dx = dy g + dz dz/dx, dw_c = sum_np dz x_c, db = sum_np dz.
Nothing is saved but the inputs: z is a by-product of the read that the backward makes anyway.
"""

import torch
from torch import Tensor

from ..kernels.common.activations import Spec, activation
from ..kernels.common.finish import plan_finish
from ..kernels.pixel.backward import plan_spatial_bwd
from ..kernels.pixel.forward import plan_spatial_fwd
from ..runtime import schemas
from ..runtime.operator import Call, DifferentiableOp


def _allocate(x: Tensor, *args) -> tuple[Tensor, Tensor]:
    return_map = args[-1]
    gate_map = x.new_empty((x.shape[0], 1, *x.shape[2:]) if return_map else (0,))
    return torch.empty_like(x), gate_map


def _forward(run, outputs, x, weight, bias, gate, gate_a, gate_b, return_map):
    y, gate_map = outputs
    gate_map = gate_map if return_map else None
    run.launch(plan_spatial_fwd(x, weight, bias, y, gate_map, "dot", activation(gate, gate_a, gate_b)))


def _backward(run, grads, douts, saved, x, weight, bias, gate, gate_a, gate_b, return_map):
    dx, dweight, dbias = grads
    with_dparam = dweight is not None or dbias is not None
    gates = activation(gate, gate_a, gate_b)
    sums = run.launch(plan_spatial_bwd(*douts, x, weight, bias, dx, with_dparam, "dot", False, gates))
    if with_dparam:
        dweight = run.empty(torch.empty_like(weight)) if dweight is None else dweight
        run.launch(plan_finish(sums.dparam, dweight, dbias))


def _pool_forward(run, outputs, x, pool, ties, gate, gate_a, gate_b, return_map):
    y, gate_map = outputs
    gate_map = gate_map if return_map else None
    run.launch(plan_spatial_fwd(x, None, None, y, gate_map, pool, activation(gate, gate_a, gate_b)))


def _pool_backward(run, grads, douts, saved, x, pool, ties, gate, gate_a, gate_b, return_map):
    split = ties == "split"
    run.launch(plan_spatial_bwd(*douts, x, None, None, grads[0], False, pool, split, activation(gate, gate_a, gate_b)))


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


def spatial_gate(x: Tensor, weight: Tensor, bias: Tensor | None, *, gate: Spec, return_map: bool):
    return Call(_spatial_gate, (x, weight, bias, *gate, return_map), return_map)


def spatial_pool_gate(x: Tensor, *, pool: str, gate: Spec, ties: str, return_map: bool):
    return Call(_spatial_pool_gate, (x, pool, ties, *gate, return_map), return_map)
