"""CBAM: a gate of every channel, then one of every pixel, of what the first has weighted.

    x' = x gc,  gc = gate(zc),  zc = mlp(mean_p x) + mlp(max_p x)        (Woo et al. 2018, arXiv:1807.06521)
    y = x' gp,  gp = gate(z),   z = conv_kxk of mean_c x' and max_c x',  plus x if residual

x' is never in memory: 4 passes over the map, the pool, the pair of maps, and the product that reads x and writes y.
Backward, with dgp_p = sum_c dy x' + dmap, dz = dgp gate'(z) and dmean, dmax of the convolution,

    dx' = dy gp + dmean / C + dmax at the maximum,    dgc_c = sum_p x dx',    dx = dx' gc + what the pools give

5 passes: dy and x for dz and the first part of dgc, x for its second, dy into dx; shared ties read x once more, to know
them. The gate of the pixels alone has 3 passes and 4, with shared ties 5. Saved are what the perceptron saves (see
`channel`), gc, and of every pixel both pools, the place of the maximum, and z.
"""

import torch
from torch import Tensor

from ..kernels.channel.mlp_bwd import plan_mlp_bwd
from ..kernels.channel.mlp_dw import plan_mlp_dw
from ..kernels.channel.mlp_fwd import plan_mlp_fwd
from ..kernels.channel.pool import plan_pool_fwd
from ..kernels.common.activations import Activation, Spec, activation
from ..kernels.common.finish import plan_finish
from ..kernels.pixel.chain import plan_chain_fwd
from ..kernels.pixel.chain_bwd import plan_chain_dx, plan_chain_sums
from ..kernels.pixel.convolve import plan_convolve_bwd, plan_convolve_fwd
from ..kernels.pixel.pair import plan_pair
from ..runtime import schemas
from ..runtime.operator import Call, DifferentiableOp
from ..runtime.run import Run

BOTH = "avg+max"


def _allocate_pixels(x: Tensor, weight: Tensor, ties: str) -> tuple[Tensor, ...]:
    """What the gate of the pixels saves: the pools, their peak where ties are shared, its place or count, and z."""
    N, _, H, W = x.shape
    acc, split = torch.promote_types(x.dtype, torch.float32), ties == "split"
    return (
        x.new_empty((N, weight.shape[1], H, W), dtype=acc),
        x.new_empty((N, H, W) if split else (0,), dtype=acc),
        x.new_empty((N, H, W), dtype=torch.int32),
        x.new_empty((N, H, W), dtype=acc),
    )


def _allocate_y(x: Tensor, return_map: bool) -> tuple[Tensor, Tensor]:
    """y and the map (N, 1, H, W)."""
    return torch.empty_like(x), x.new_empty((x.shape[0], 1, *x.shape[2:]) if return_map else (0,))


def _maps_in(weight: Tensor, pool: str) -> str:
    """Which maps the convolution sees: those that `pool` names in order, or half their sum by a weight of one."""
    return "half" if weight.shape[1] == 1 else pool


def _wanted(t: Tensor) -> Tensor | None:
    return None if t.shape == (0,) else t


def _pixels_forward(
    run: Run, x, zc, logit, gc, weight, bias, saved, y, gate_map, pool: str, residual: bool, gate: Activation
):
    """The gate of the pixels, of x or of what the gate of the channels leaves of it, and the product of all."""
    pools, peak, found, z = saved
    split = peak.dim() == 3
    run.launch(plan_pair(x, zc, logit, gc, pools, _wanted(peak), found, _maps_in(weight, pool), split, gate))
    run.launch(plan_convolve_fwd(pools, weight, bias, z, _wanted(gate_map), gate))
    run.launch(plan_chain_fwd(x, gc, z, y, residual, gate))


def _pixels_backward(run: Run, dy, dmap, x, gc, weight, saved, dweight, dbias, back: bool, pool: str, gate: Activation):
    """(dpools, partial dgc), of which the first and, with gc, the second are there if something goes `back` to them."""
    pools, peak, found, z = saved
    dz, dpools = run.empty(torch.empty_like(z)), run.empty(torch.empty_like(pools)) if back else None
    dpools_of_sums = dpools if gc is not None else None
    how = _maps_in(weight, pool)
    sums, more, dgc = plan_chain_sums(dy, dmap, x, gc, z, dz, dpools_of_sums, _wanted(peak), found, how, gate)
    if dgc is not None:
        run.empty(dgc)
    run.launch(sums)
    with_dparam = dweight is not None or dbias is not None
    convolve = run.launch(plan_convolve_bwd(dz, pools, weight, dpools, with_dparam))
    if with_dparam:
        dweight = run.empty(torch.empty_like(weight)) if dweight is None else dweight
        run.launch(plan_finish(convolve.dparam, dweight, dbias))
    if more is not None:
        run.launch(more)
    return dpools, dgc


def _allocate_spatial(x, weight, bias, pool, ties, gate, gate_a, gate_b, return_map):
    return *_allocate_y(x, return_map), *_allocate_pixels(x, weight, ties)


def _forward_spatial(run, outputs, x, weight, bias, pool, ties, gate, gate_a, gate_b, return_map):
    y, gate_map, *saved = outputs
    gates = activation(gate, gate_a, gate_b)
    _pixels_forward(run, x, None, None, None, weight, bias, saved, y, gate_map, pool, False, gates)


def _backward_spatial(run, grads, douts, saved, x, weight, bias, pool, ties, gate, gate_a, gate_b, return_map):
    (dx, dweight, dbias), (dy, dmap), gates = grads, douts, activation(gate, gate_a, gate_b)
    back = dx is not None
    dpools, _ = _pixels_backward(run, dy, dmap, x, None, weight, saved, dweight, dbias, back, pool, gates)
    if back:
        _, peak, found, z = saved
        channels = None, False, False, None, None
        how = _maps_in(weight, pool)
        run.launch(plan_chain_dx(dy, x, None, z, dpools, _wanted(peak), found, how, *channels, dx, False, gates))


def _allocate(
    x,
    w1,
    b1,
    w2,
    b2,
    weight,
    bias,
    pool,
    spatial_pool,
    act,
    act_a,
    act_b,
    gate,
    gate_a,
    gate_b,
    ties,
    residual,
    return_map,
):
    N, C = x.shape[:2]
    acc, pools = torch.promote_types(x.dtype, torch.float32), 1 + (pool == BOTH)
    split = pool != "avg" and ties == "split"
    return (
        *_allocate_y(x, return_map),
        x.new_empty((N, pools * C), dtype=acc),  # v
        x.new_empty((N, C), dtype=acc),  # zc
        x.new_empty((0,) if w2 is None else (N, pools * w1.shape[0]), dtype=acc),  # z1
        x.new_empty((N, C) if split else (0,), dtype=acc),  # the maximum
        x.new_empty((0,) if pool == "avg" else (N, C), dtype=torch.int32),  # its first pixel, or its count
        x.new_empty((N, C), dtype=acc),  # gc
        *_allocate_pixels(x, weight, ties),
    )


def _forward(
    run,
    outputs,
    x,
    w1,
    b1,
    w2,
    b2,
    weight,
    bias,
    pool,
    spatial_pool,
    act,
    act_a,
    act_b,
    gate,
    gate_a,
    gate_b,
    ties,
    residual,
    return_map,
):
    y, gate_map, pooled, zc, z1, highest, place, gc, *saved = outputs
    split, acts, gates = ties == "split", activation(act, act_a, act_b), activation(gate, gate_a, gate_b)
    z1, highest, place = map(_wanted, (z1, highest, place))
    sums = run.launch(plan_pool_fwd(x, pool != "max", pool != "avg", split))
    partial = sums.total, sums.peak, sums.at
    pixels, layers = x.shape[2:].numel(), (w1, b1, w2, b2)
    mlp = run.launch(plan_mlp_fwd(*partial, pixels, *layers, pooled, highest, place, z1, acts, split, pool == BOTH))
    channels = mlp.z, zc, gc
    _pixels_forward(run, x, *channels, weight, bias, saved, y, gate_map, spatial_pool, residual, gates)


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
    weight,
    bias,
    pool,
    spatial_pool,
    act,
    act_a,
    act_b,
    gate,
    gate_a,
    gate_b,
    ties,
    residual,
    return_map,
):
    (dx, *dlayers, dweight, dbias), (dy, dmap) = grads, douts
    pooled, zc, z1, highest, place, gc, *pixels = saved
    z1, highest, place = map(_wanted, (z1, highest, place))
    acts, gates = activation(act, act_a, act_b), activation(gate, gate_a, gate_b)
    both, back = pool == BOTH, dx is not None or any(d is not None for d in dlayers)
    dpools, dgc = _pixels_backward(run, dy, dmap, x, gc, weight, pixels, dweight, dbias, back, spatial_pool, gates)
    if not back:
        return
    size, layers = x.shape[2:].numel(), (w1, w2)
    mlp = run.launch(plan_mlp_bwd(dgc, size, None, zc, z1, *layers, dx is not None, acts, gates, both))
    if dx is not None:
        _, peak, found, z = pixels
        how, channels = _maps_in(weight, spatial_pool), (mlp.dpooled, pool != "max", both, highest, place)
        run.launch(plan_chain_dx(dy, x, gc, z, dpools, _wanted(peak), found, how, *channels, dx, residual, gates))
    if any(d is not None for d in dlayers):
        run.launch(plan_mlp_dw(mlp.dz, mlp.dz1, z1, pooled, *dlayers, acts, both))


_cbam = DifferentiableOp(schemas.cbam, allocate=_allocate, forward=_forward, backward=_backward)
_cbam_spatial_gate = DifferentiableOp(
    schemas.cbam_spatial_gate,
    allocate=_allocate_spatial,
    forward=_forward_spatial,
    backward=_backward_spatial,
)


def cbam(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    pool: str,
    spatial_pool: str,
    act: Spec,
    gate: Spec,
    ties: str,
    residual: bool,
    return_map: bool,
):
    tensors = x, w1, b1, w2, b2, weight, bias
    options = pool, spatial_pool, *act, *gate, ties, residual, return_map
    return Call(_cbam, (*tensors, *options), return_map)


def cbam_spatial_gate(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, pool: str, gate: Spec, ties: str, return_map: bool
):
    return Call(_cbam_spatial_gate, (x, weight, bias, pool, ties, *gate, return_map), return_map)
