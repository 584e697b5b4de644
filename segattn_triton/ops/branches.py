"""Branches weighted by a softmax over them, from logits that are given, one for each channel of each branch.

    y = sum over r of a_r x_r,   a = softmax over r of z, of one branch sigmoid(z)

dx_r = a_r dy, dz = the softmax's gradient of the sums over the pixels of dy x_r (+ dmap). x is read once forward, and
once backward, where dx is written of the same read. Saved are the inputs.
"""

import torch
from torch import Tensor

from ..kernels.blend.branches import plan_branches_fwd
from ..kernels.blend.branches_bwd import plan_branches_bwd, plan_branches_dz
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp


def _allocate(tensors, options):
    x, z = tensors
    gate_map = x.new_empty(x.shape[:2] if options.return_map else (0,))
    return torch.empty_like(x[:, : z.shape[2]]), gate_map


def _forward(run, outputs, tensors, options):
    run.launch(plan_branches_fwd(*tensors, outputs.y, outputs.map if options.return_map else None))


def _backward(run, grads, douts, saved, tensors, options):
    (dx, dz), (dy, dmap), (x, z) = grads, douts, tensors
    total = run.launch(plan_branches_bwd(dy, x, z, dx, dz is not None)).total
    if dz is not None:
        run.launch(plan_branches_dz(total, dmap, z, dz))


_radix_blend = DifferentiableOp(schemas.radix_blend, allocate=_allocate, forward=_forward, backward=_backward)


def radix_blend(*tensors: Tensor, **options):
    return _radix_blend.call(tensors, options, options["return_map"])
