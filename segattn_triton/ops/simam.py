"""SimAM: every value weighted by how far it lies from the mean of its channel.

    y = x g,   g = sigmoid(d^2 / (4 (var + eps)) + 1/2),   d = x - mean,   var = sum d^2 / (P - 1), over the P pixels
    (Yang et al. 2021, proceedings.mlr.press/v139/yang21o)

With rate = 1 / (4 (var + eps)) and de = (dy x + dmap) g (1 - g):
    dx = dy g + 2 rate (d de - mean of d de) - 8 rate^2 d / (P - 1) sum de d^2
because the sum of d is 0. 3 passes over the map forward, 5 backward; mean and rate are saved. In NCHW, where planes
fill the GPU, each direction is one launch: what a program reads again it finds in the L2 cache, if there is room.
"""

import torch
from torch import Tensor

from ..kernels.response.energy import plan_response_energy_bwd, plan_response_energy_fwd, plan_response_energy_sums
from ..kernels.response.moments import plan_response_moments
from ..kernels.response.plane import in_planes, plan_response_plane_bwd, plan_response_plane_fwd
from ..kernels.response.settle import plan_response_pull, plan_response_rate
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp


def _allocate(tensors, options):
    (x,) = tensors
    shape, acc = x.shape[:2], torch.promote_types(x.dtype, torch.float32)
    gate_map = torch.empty_like(x) if options.return_map else x.new_empty((0,))
    return torch.empty_like(x), gate_map, x.new_empty(shape, dtype=acc), x.new_empty(shape, dtype=acc)


def _forward(run, outputs, tensors, options):
    (x,), (y, gate_map, mean, rate) = tensors, outputs
    if in_planes(x):
        gate_map = gate_map if options.return_map else None
        run.launch(plan_response_plane_fwd(x, mean, rate, y, gate_map, options.eps))
        return
    plan = plan_response_moments(x)
    moments, span = run.launch(plan), plan.config.blocks["BLOCK_P"]
    run.launch(plan_response_rate(moments.mean, moments.squares, span, mean, rate, x.shape[2:].numel(), options.eps))
    run.launch(plan_response_energy_fwd(x, mean, rate, y, gate_map if options.return_map else None))


def _backward(run, grads, douts, saved, tensors, options):
    (dx,), (dy, dmap), (x,), (mean, rate) = grads, douts, tensors, saved
    dmap = run.native(dmap, x)
    if in_planes(x):
        run.launch(plan_response_plane_bwd(dy, x, dmap, mean, rate, dx))
        return
    sums = run.launch(plan_response_energy_sums(dy, x, dmap, mean, rate))
    back = run.launch(plan_response_pull(sums.pull, sums.push, rate, x.shape[2:].numel()))
    run.launch(plan_response_energy_bwd(dy, x, dmap, mean, rate, back.pull, back.push, dx))


_simam = DifferentiableOp(schemas.simam, allocate=_allocate, forward=_forward, backward=_backward)


def simam(*tensors: Tensor, **options):
    return _simam.call(tensors, options, options["return_map"])
