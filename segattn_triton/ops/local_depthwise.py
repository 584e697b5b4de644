"""Local gate with a depthwise convolution: every value weighted from its 3x3 neighbours in its own channel.

    y = x * g,   g = gate(z),   z(h, w) = sum_ij weight_cij x(h+i-1, w+j-1) + bias_c, x zero outside the image

With dz = (dy x + dg) gate'(z): dx = dy g + the correlation of dz with the flipped weights,
dweight_cij = sum_nhw dz(h, w) x(h+i-1, w+j-1), dbias_c = sum_nhw dz. Nothing is saved but the inputs.
"""

import torch
from torch import Tensor

from ..kernels.common.activations import Spec, activation
from ..kernels.common.finish import plan_finish
from ..kernels.stencil.backward import plan_stencil_bwd
from ..kernels.stencil.forward import plan_stencil_fwd
from ..runtime import schemas
from ..runtime.operator import Call, DifferentiableOp


def _allocate(x: Tensor, *args) -> tuple[Tensor, Tensor]:
    return_map = args[-1]
    return torch.empty_like(x), torch.empty_like(x) if return_map else x.new_empty((0,))


def _forward(run, outputs, x, weight, bias, gate, gate_a, gate_b, return_map):
    y, gate_map = outputs
    gate_map = gate_map if return_map else None
    run.launch(plan_stencil_fwd(x, weight, bias, y, gate_map, "dot", activation(gate, gate_a, gate_b)))


def _backward(run, grads, douts, saved, x, weight, bias, gate, gate_a, gate_b, return_map):
    dx, dweight, dbias = grads
    dy, dmap = douts
    dmap = run.native(dmap, x)
    wanted = dweight is not None, dbias is not None
    plan, partial = plan_stencil_bwd(dy, dmap, x, weight, bias, dx, *wanted, "dot", activation(gate, gate_a, gate_b))
    run.empty(partial)
    run.launch(plan)
    sums = [t for t in (dweight, dbias) if t is not None]
    if sums:
        run.launch(plan_finish(partial, *sums))


_local_gate_depthwise = DifferentiableOp(
    schemas.local_gate_depthwise,
    allocate=_allocate,
    reference="local_gate",
    forward=_forward,
    backward=_backward,
)


def local_gate_depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, *, gate: Spec, return_map: bool):
    return Call(_local_gate_depthwise, (x, weight, bias, *gate, return_map), return_map)
