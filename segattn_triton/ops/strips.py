"""The means of a map's rows and of its columns, and a gate of each row and column, whose logits are given.

    v_h = mean_w x,  v_w = mean_h x                           dx = dv_h / W + dv_w / H
    y = x g,  g = gate(z_h) gate(z_w) or gate(z_h + z_w)      dx = dy g, dz_h and dz_w sums of (dy x + dmap) dg/dz

Means 1 pass over the map, gradient 1; the gate 2 passes, gradients 3: sums over rows and columns, and dx, of one read.
Saved are the inputs.
"""

import torch
from torch import Tensor

from ..kernels.coordinate.apply import plan_coordinate_apply
from ..kernels.coordinate.finish import plan_coordinate_finish
from ..kernels.coordinate.mean import plan_coordinate_mean
from ..kernels.coordinate.sums import plan_coordinate_sums
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp

NOTHING = None, None


def _allocate_means(tensors, options):
    N, C, H, W = tensors.x.shape
    return tensors.x.new_empty((N, C, H, 1)), tensors.x.new_empty((N, C, 1, W))


def _forward_means(run, outputs, tensors, options):
    sums = run.launch(plan_coordinate_mean(tensors.x))
    run.launch(plan_coordinate_finish(sums.rows, sums.cols, *outputs))


def _backward_means(run, grads, douts, saved, tensors, options):
    run.launch(plan_coordinate_apply(None, NOTHING, douts, grads.x))


def _allocate(tensors, options):
    y = torch.empty_like(tensors.x)
    return y, torch.empty_like(tensors.x) if options.return_map else tensors.x.new_empty((0,))


def _forward(run, outputs, tensors, options):
    (x, *z), gate_map = tensors, outputs.map if options.return_map else None
    run.launch(plan_coordinate_apply(x, z, NOTHING, outputs.y, gate_map, options.combine == "product", options.gate))


def _backward(run, grads, douts, saved, tensors, options):
    (dx, *dz), (x, *z), (dy, dmap) = grads, tensors, douts
    how = options.combine == "product", options.gate
    if all(d is None for d in dz):
        run.launch(plan_coordinate_apply(dy, z, NOTHING, dx, None, *how))
        return
    sums = run.launch(plan_coordinate_sums(dy, x, run.native(dmap, x), *z, dx, *how))
    run.launch(plan_coordinate_finish(sums.rows, sums.cols, *dz))


_strip_means = DifferentiableOp(
    schemas.strip_means, allocate=_allocate_means, forward=_forward_means, backward=_backward_means
)
_strip_gate = DifferentiableOp(
    schemas.strip_gate, allocate=_allocate, forward=_forward, backward=_backward, maps=("x", "z_h", "z_w")
)


def strip_means(x: Tensor, **options):
    return _strip_means.call((x,), options)


def strip_gate(*tensors: Tensor, **options):
    return _strip_gate.call(tensors, options, options["return_map"])
