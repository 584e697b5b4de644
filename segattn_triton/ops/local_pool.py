"""Parameter-free local gate: every value weighted from a pool of its 3x3 neighbours in its own channel.

    y = x * g,   g = gate(z),   z = mean or maximum of those neighbours that lie in the image

With dz = (dy x + dg) gate'(z): dx = dy g + the sum over the windows that hold x of dz / (number of neighbours), or of
the dz of those windows whose maximum x is. Nothing is saved but x: the backward finds the maxima again.
"""

import torch
from torch import Tensor

from ..kernels.common.activations import Spec, activation
from ..kernels.stencil.backward import plan_stencil_bwd
from ..kernels.stencil.forward import plan_stencil_fwd
from ..runtime import schemas
from ..runtime.operator import Call, DifferentiableOp


def _allocate(x: Tensor, *args) -> tuple[Tensor, Tensor]:
    return_map = args[-1]
    return torch.empty_like(x), torch.empty_like(x) if return_map else x.new_empty((0,))


def _forward(run, outputs, x, pool, ties, gate, gate_a, gate_b, return_map):
    y, gate_map = outputs
    gate_map = gate_map if return_map else None
    run.launch(plan_stencil_fwd(x, None, None, y, gate_map, pool, activation(gate, gate_a, gate_b)))


def _backward(run, grads, douts, saved, x, pool, ties, gate, gate_a, gate_b, return_map):
    dy, dmap = douts
    dmap = run.native(dmap, x)
    stencil = ties if pool == "max" else pool
    plan, _ = plan_stencil_bwd(
        dy, dmap, x, None, None, grads[0], False, False, stencil, activation(gate, gate_a, gate_b)
    )
    run.launch(plan)


_local_pool_gate = DifferentiableOp(
    schemas.local_pool_gate,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
)


def local_pool_gate(x: Tensor, *, pool: str, gate: Spec, ties: str, return_map: bool):
    return Call(_local_pool_gate, (x, pool, ties, *gate, return_map), return_map)
