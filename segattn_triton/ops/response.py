"""Global response normalization: every channel of an image scaled by how strong it is beside the others.

    y = x + weight (x r) + bias,   r_c = norm_c / (mean_k norm_k + eps),   norm = the 2-norm over the pixels
    (Woo et al. 2023, arXiv:2301.00808)

With da = sum_p dy x, dr = weight da + dmap and i = 1 / (mean norm + eps): dnorm = dr i - i^2 / C sum_k dr_k norm_k,
    dx = dy (1 + weight r) + x dnorm / norm,   dweight = sum_n r da,   dbias = sum_np dy
and where a norm is 0 its gradient is, as torch's. 3 passes over the map forward, 5 backward; norm and r are saved. Sums
of squares are float32 whatever the map is: in float16 they overflow.
"""

import torch
from torch import Tensor

from ..kernels.common.finish import plan_finish
from ..kernels.response.apply import plan_response_apply
from ..kernels.response.norm import plan_response_bwd, plan_response_fwd
from ..kernels.response.sums import plan_response_sums
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp


def _allocate(tensors, options):
    x = tensors.x
    shape, acc = x.shape[:2], torch.promote_types(x.dtype, torch.float32)
    gate_map = x.new_empty(shape if options.return_map else (0,))
    return torch.empty_like(x), gate_map, x.new_empty(shape, dtype=acc), x.new_empty(shape, dtype=acc)


def _forward(run, outputs, tensors, options):
    (x, weight, bias), (y, gate_map, norm, response) = tensors, outputs
    squares = run.launch(plan_response_sums(x)).product
    gate_map = gate_map if options.return_map else None
    run.launch(plan_response_fwd(squares, norm, response, gate_map, options.eps))
    run.launch(plan_response_apply(x, response, weight, bias, y))


def _backward(run, grads, douts, saved, tensors, options):
    (dx, dweight, dbias), (dy, dmap), (x, weight, _), (norm, response) = grads, douts, tensors, saved
    sums = run.launch(plan_response_sums(x, dy))
    wanted = dweight is not None or dbias is not None
    back = run.launch(plan_response_bwd(sums.product, sums.total, dmap, norm, weight, options.eps, wanted))
    both = [run.empty(torch.empty_like(weight)) if d is None and wanted else d for d in (dweight, dbias)]
    if dx is not None:
        run.launch(plan_response_apply(dy, response, weight, None, dx, x, back.pull, back.dparam, both))
    elif wanted:
        run.launch(plan_finish(back.dparam, *both))


_global_response_norm = DifferentiableOp(
    schemas.global_response_norm, allocate=_allocate, forward=_forward, backward=_backward
)


def global_response_norm(*tensors: Tensor | None, **options):
    return _global_response_norm.call(tensors, options, options["return_map"])
