"""Local gate with a depthwise convolution: every value weighted from its K x K neighbours in its own channel.

    y = x * g,   g = gate(z),   z(h, w) = sum_ij weight_cij x(h+d(i-r), w+d(j-r)) + bias_c, x zero outside the image

d is the dilation, r = K // 2. With dz = (dy x + dg) gate'(z): dx = dy g + the correlation of dz with the flipped
weights, dweight_cij = sum_nhw dz(h, w) x(h+d(i-r), w+d(j-r)), dbias_c = sum_nhw dz. Nothing is saved but the inputs.
"""

import torch
from torch import Tensor

from ..kernels.common.finish import plan_finish
from ..kernels.stencil.backward import plan_stencil_bwd
from ..kernels.stencil.choice import is_held
from ..kernels.stencil.forward import plan_stencil_fwd
from ..runtime import schemas
from ..runtime.maps import partials
from ..runtime.operator import DifferentiableOp


def _allocate(tensors, options):
    x = tensors.x
    return torch.empty_like(x), torch.empty_like(x) if options.return_map else x.new_empty((0,))


def _near(run, x: Tensor, weight: Tensor, maps_read: int) -> Tensor:
    """The weights as a kernel wants them: those that come anew at every row with their channels side by side."""
    C, _, K, _ = weight.shape
    if is_held(K, maps_read):
        return weight
    turned = run.empty(partials(x, K, K, 1, C).permute(3, 2, 0, 1))
    run.call(Tensor.copy_, turned, weight)
    return turned


def _forward(run, outputs, tensors, options):
    gate_map, (x, weight, bias) = outputs.map if options.return_map else None, tensors
    weight = _near(run, x, weight, 1)
    run.launch(plan_stencil_fwd(x, weight, bias, outputs.y, gate_map, "dot", options.gate, options.dilation))


def _backward(run, grads, douts, saved, tensors, options):
    (dx, dweight, dbias), (dy, dmap), (x, weight, bias) = grads, douts, tensors
    dmap = run.native(dmap, x)
    weight = _near(run, x, weight, 2)
    wanted = dict(with_dweight=dweight is not None, with_dbias=dbias is not None)
    how = dict(stencil="dot", gate=options.gate, dilation=options.dilation)
    plan, partial = plan_stencil_bwd(dy, dmap, x, weight, bias, dx, **wanted, **how)
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


def local_gate_depthwise(*tensors: Tensor | None, **options):
    return _local_gate_depthwise.call(tensors, options, options["return_map"])
