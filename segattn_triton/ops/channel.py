"""Channel gates: one weight per channel, from what a whole image holds.

    y = out(x * g + s),   g = gate(z),   z = W2 act(W1 v + b1) + b2,   v = pool over the pixels of x, or of a source
    (squeeze and excitation, Hu et al. 2018, arXiv:1709.01507)         or one layer, z = W1 v + b1
    CBAM's: the sum of the z of the mean and of the maximum            (Woo et al. 2018, arXiv:1807.06521)

With du = dy out'(x * g + s), ds_c = sum_p du_cp x_cp + dg_c and dz = ds gate'(z), the perceptron's backward gives dv
and the gradients of the weights. dx = du g + dv dv/dx: 1/P of a mean, all of it at the first maximum or shared by all
maxima. The shortcut's gradient is du, which the first pass writes for the second to read; out is the identity or
relu, so that du is dy or 0 and rounds no product. With a source, dx = du g is complete in the first pass, and
dv dv/dsource is the source's gradient. Saved are v, z and z1 = W1 v + b1, and of a maximum its pixel, or its value
and count.
"""

import torch
from torch import Tensor

from ..kernels.channel.apply import plan_apply_bwd, plan_apply_fwd
from ..kernels.channel.mlp_bwd import plan_mlp_bwd
from ..kernels.channel.mlp_dw import plan_mlp_dw
from ..kernels.channel.mlp_fwd import plan_mlp_fwd
from ..kernels.channel.pool import plan_pool_bwd, plan_pool_fwd
from ..kernels.common.activations import activation
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp

BOTH = "avg+max"


def _allocate(tensors, options):
    x, source, pool = tensors.x, tensors.source, options.pool
    N, C = x.shape[:2]
    inputs, pools = C if source is None else source.shape[1], 1 + (pool == BOTH)
    squeezed = (N, inputs)
    acc = torch.promote_types(x.dtype, torch.float32)
    split = pool != "avg" and options.ties == "split"
    return (
        torch.empty_like(x),
        x.new_empty((N, C) if options.return_map else (0,)),
        x.new_empty((N, pools * inputs), dtype=acc),  # v
        x.new_empty((N, C), dtype=acc),  # z
        x.new_empty((0,) if tensors.w2 is None else (N, pools * tensors.w1.shape[0]), dtype=acc),  # z1
        x.new_empty(squeezed if split else (0,), dtype=acc),  # the maximum
        x.new_empty((0,) if pool == "avg" else squeezed, dtype=torch.int32),  # its first pixel, or its count
    )


def _wanted(t: Tensor) -> Tensor | None:
    return t if t.dim() == 2 else None


def _out(name: str):
    return None if name == "identity" else activation(name, 0.0, 0.0)


def _forward(run, outputs, tensors, options):
    x, *layers, source, shortcut = tensors
    y, gate_map, pooled, z, *saved = outputs
    z1, highest, found = map(_wanted, saved)
    source = x if source is None else source
    pool, split, pixels = options.pool, options.ties == "split", source.shape[2:].numel()
    sums = run.launch(plan_pool_fwd(source, pool != "max", pool != "avg", split))
    partial, saved = (sums.total, sums.peak, sums.at), (pooled, highest, found, z1)
    mlp = run.launch(plan_mlp_fwd(*partial, pixels, *layers, *saved, options.act, split, pool == BOTH))
    added = run.native(shortcut, x)
    run.launch(plan_apply_fwd(x, mlp.z, y, z, _wanted(gate_map), options.gate, added, _out(options.out_act)))


def _backward(run, grads, douts, saved, tensors, options):
    (dx, *dparams, dsource, dshortcut), (dy, dmap) = grads, douts
    x, w1, _, w2, _, source, shortcut = tensors
    pooled, z = saved[:2]
    z1, highest, found = map(_wanted, saved[2:])
    pool, acts, gates, out = options.pool, options.act, options.gate, _out(options.out_act)
    dmix = dx if source is None else dsource  # of the map that is pooled
    both = pool == BOTH
    with_sums = dmix is not None or any(d is not None for d in dparams)
    added, du = run.native(shortcut, x), run.native(dshortcut, x)
    if du is None and out is not None and source is None and dx is not None:
        du = run.empty(torch.empty_like(dy))
    dx_now = None if source is None else dx
    sums = run.launch(plan_pool_bwd(dy, x, z, gates, added, out, du, dx_now, with_sums))
    if dshortcut is not None and du is not dshortcut:
        run.call(Tensor.copy_, dshortcut, du)
    if not with_sums:
        return
    pixels = x.shape[2:].numel()
    mlp = run.launch(plan_mlp_bwd(sums.total, pixels, dmap, z, z1, w1, w2, dmix is not None, acts, gates, both))
    if dmix is not None:
        first = (dy if du is None else du, x, z) if source is None else (None, source, None)
        how = pool != "max", highest, found
        run.launch(plan_apply_bwd(*first, mlp.dpooled, *how, dmix, gates, both=both))
    if any(d is not None for d in dparams):
        run.launch(plan_mlp_dw(mlp.dz, mlp.dz1, z1, pooled, *dparams, acts, both))


_squeeze_excite = DifferentiableOp(
    schemas.squeeze_excite,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    maps=("x", "source", "shortcut"),
    adds=("shortcut", "out_act", "identity"),
)


def squeeze_excite(*tensors: Tensor | None, **options):
    return _squeeze_excite.call(tensors, options, options["return_map"])
