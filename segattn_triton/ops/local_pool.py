"""Parameter-free local gate: every value weighted from a pool of its 3x3 neighbours in its own channel.

    y = x * g,   g = gate(z),   z = mean or maximum of those neighbours that lie in the image

With dz = (dy x + dg) gate'(z): dx = dy g + the sum over the windows that hold x of dz / (number of neighbours), or of
the dz of those windows whose maximum x is. Nothing is saved but x: the backward finds the maxima again.
"""

import torch
from torch import Tensor

from ..kernels.stencil.backward import plan_stencil_bwd
from ..kernels.stencil.forward import plan_stencil_fwd
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp


def _allocate(tensors, options):
    x = tensors.x
    return torch.empty_like(x), torch.empty_like(x) if options.return_map else x.new_empty((0,))


def _forward(run, outputs, tensors, options):
    gate_map = outputs.map if options.return_map else None
    run.launch(plan_stencil_fwd(tensors.x, None, None, outputs.y, gate_map, options.pool, options.gate))


def _backward(run, grads, douts, saved, tensors, options):
    x, (dy, dmap) = tensors.x, douts
    dmap = run.native(dmap, x)
    stencil = options.ties if options.pool == "max" else options.pool
    how = dict(with_dweight=False, with_dbias=False, stencil=stencil, gate=options.gate)
    plan, _ = plan_stencil_bwd(dy, dmap, x, None, None, grads.x, **how)
    run.launch(plan)


_local_pool_gate = DifferentiableOp(
    schemas.local_pool_gate,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
)


def local_pool_gate(*tensors: Tensor | None, **options):
    return _local_pool_gate.call(tensors, options, options["return_map"])
