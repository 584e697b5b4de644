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
from ..kernels.common.activations import Spec, activation
from ..runtime import schemas
from ..runtime.operator import Call, DifferentiableOp

BOTH = "avg+max"


def _allocate(
    x, w1, b1, w2, b2, source, shortcut, pool, act, act_a, act_b, gate, gate_a, gate_b, out_act, ties, return_map
):
    N, C = x.shape[:2]
    inputs, pools = C if source is None else source.shape[1], 1 + (pool == BOTH)
    squeezed = (N, inputs)
    acc = torch.promote_types(x.dtype, torch.float32)
    split = pool != "avg" and ties == "split"
    return (
        torch.empty_like(x),
        x.new_empty((N, C) if return_map else (0,)),
        x.new_empty((N, pools * inputs), dtype=acc),  # v
        x.new_empty((N, C), dtype=acc),  # z
        x.new_empty((0,) if w2 is None else (N, pools * w1.shape[0]), dtype=acc),  # z1
        x.new_empty(squeezed if split else (0,), dtype=acc),  # the maximum
        x.new_empty((0,) if pool == "avg" else squeezed, dtype=torch.int32),  # its first pixel, or its count
    )


def _wanted(t: Tensor) -> Tensor | None:
    return t if t.dim() == 2 else None


def _out(name: str):
    return None if name == "identity" else activation(name, 0.0, 0.0)


def _forward(
    run,
    outputs,
    x,
    w1,
    b1,
    w2,
    b2,
    source,
    shortcut,
    pool,
    act,
    act_a,
    act_b,
    gate,
    gate_a,
    gate_b,
    out_act,
    ties,
    return_map,
):
    y, gate_map, pooled, z, *saved = outputs
    z1, highest, found = map(_wanted, saved)
    source = x if source is None else source
    split, pixels, layers = ties == "split", source.shape[2:].numel(), (w1, b1, w2, b2)
    sums, acts = run.launch(plan_pool_fwd(source, pool != "max", pool != "avg", split)), activation(act, act_a, act_b)
    partial, saved = (sums.total, sums.peak, sums.at), (pooled, highest, found, z1)
    mlp = run.launch(plan_mlp_fwd(*partial, pixels, *layers, *saved, acts, split, pool == BOTH))
    gates = activation(gate, gate_a, gate_b)
    added = run.native(shortcut, x)
    run.launch(plan_apply_fwd(x, mlp.z, y, z, _wanted(gate_map), gates, added, _out(out_act)))


def _backward(
    run,
    grads,
    douts,
    saved,
    x,
    w1,
    b1,
    w2,
    b2,
    source,
    shortcut,
    pool,
    act,
    act_a,
    act_b,
    gate,
    gate_a,
    gate_b,
    out_act,
    ties,
    return_map,
):
    (dx, *dparams, dsource, dshortcut), (dy, dmap) = grads, douts
    pooled, z = saved[:2]
    z1, highest, found = map(_wanted, saved[2:])
    acts, gates, out = activation(act, act_a, act_b), activation(gate, gate_a, gate_b), _out(out_act)
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


def _adds(pool, act, act_a, act_b, gate, gate_a, gate_b, out_act, ties, return_map) -> str | None:
    """The shortcut, where no activation follows the sum."""
    return "shortcut" if out_act == "identity" else None


_squeeze_excite = DifferentiableOp(
    schemas.squeeze_excite,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    maps=("x", "source", "shortcut"),
    adds=_adds,
)


def squeeze_excite(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    source: Tensor | None,
    shortcut: Tensor | None,
    *,
    pool: str,
    act: Spec,
    gate: Spec,
    out_act: str,
    ties: str,
    return_map: bool,
):
    tensors = x, w1, b1, w2, b2, source, shortcut
    return Call(_squeeze_excite, (*tensors, pool, *act, *gate, out_act, ties, return_map), return_map)
