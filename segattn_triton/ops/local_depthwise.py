"""Local gate with a depthwise convolution: every value weighted from its K x K neighbours in its own channel.

    y = x * g,   g = gate(z),   z(h, w) = sum_ij weight_cij x(h+d(i-r), w+d(j-r)) + bias_c, x zero outside the image

d is the dilation, r = K // 2. With dz = (dy x + dg) gate'(z): dx = dy g + the correlation of dz with the flipped
weights, dweight_cij = sum_nhw dz(h, w) x(h+d(i-r), w+d(j-r)), dbias_c = sum_nhw dz. Nothing is saved but the inputs.

Passes: forward 2, backward 3; where a large map in channels_last is turned for its backward (`_turns`), 6 more.
"""

import torch
from torch import Tensor

from ..kernels.common.finish import plan_finish
from ..kernels.conv.turn import plan_turn
from ..kernels.stencil.backward import plan_stencil_bwd
from ..kernels.stencil.choice import is_held
from ..kernels.stencil.forward import plan_stencil_fwd
from ..runtime import schemas
from ..runtime.maps import is_channels_last_natively, partials
from ..runtime.operator import DifferentiableOp

TURNED_FROM = 2**20  # elements of a map


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


def _turns(x: Tensor, weight: Tensor) -> bool:
    """Whether the backward gets the maps in NCHW: of a window whose weights and sums no thread holds, in channels_last
    more is computed twice, and the loads of a row are waited for longer. By the account (bfloat16, 7 x 7 dilated by 3,
    8 x 64 x 64 x 64) it takes 120 microseconds there, in NCHW 74, and a turn 4; of 1.3 million elements 66 and 50."""
    return not is_held(weight.shape[2], 2) and x.numel() >= TURNED_FROM and is_channels_last_natively(x)


def _turned(run, t: Tensor | None) -> Tensor | None:
    if t is None:
        return None
    turned = run.empty(t.new_empty(t.shape))
    run.launch(plan_turn(t, turned))
    return turned


def _backward(run, grads, douts, saved, tensors, options):
    (dx, dweight, dbias), (dy, dmap), (x, weight, bias) = grads, douts, tensors
    dmap, made = run.native(dmap, x), dx
    if _turns(x, weight):
        dy, dmap, x = (_turned(run, t) for t in (dy, dmap, x))
        made = None if dx is None else run.empty(x.new_empty(x.shape))
    weight = _near(run, x, weight, 2)
    wanted = dict(with_dweight=dweight is not None, with_dbias=dbias is not None)
    how = dict(stencil="dot", gate=options.gate, dilation=options.dilation)
    plan, partial = plan_stencil_bwd(dy, dmap, x, weight, bias, made, **wanted, **how)
    run.empty(partial)
    run.launch(plan)
    if made is not dx:
        run.launch(plan_turn(made, dx))
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
