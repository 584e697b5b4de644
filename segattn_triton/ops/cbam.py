"""CBAM: a gate of every channel, then one of every pixel, of what the first has weighted.

    x' = x gc,  gc = gate(zc),  zc = mlp(mean_p x) + mlp(max_p x)        (Woo et al. 2018, arXiv:1807.06521)
    y = x' gp,  gp = gate(z),   z = conv_kxk of mean_c x' and max_c x',  plus x if residual

With a norm, gp = gate((z - mean) / sqrt(var + eps) norm_weight + norm_bias), of the batch. x' is never in memory: 4
passes over the map, the pool, the pair of maps, and the product that reads x and writes y.
Backward, with dgp_p = sum_c dy x' + dmap, dz = dgp gate'(z) and dmean, dmax of the convolution,

    dx' = dy gp + dmean / C + dmax at the maximum,    dgc_c = sum_p x dx',    dx = dx' gc + what the pools give

5 passes: dy and x for dz and the first part of dgc, x for its second, dy into dx; shared ties read x once more, to know
them. The gate of the pixels alone has 3 passes and 4, with shared ties 5. Saved are what the perceptron saves (see
`channel`), gc, and of every pixel both pools, the place of the maximum, and z, before a norm and after it.
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
from ..kernels.pixel.norm import (
    plan_norm_apply,
    plan_norm_bwd,
    plan_norm_merge,
    plan_norm_moments,
    plan_norm_sums,
)
from ..kernels.pixel.pair import plan_pair
from ..runtime import schemas
from ..runtime.operator import Call, DifferentiableOp
from ..runtime.run import Run

BOTH = "avg+max"


def _allocate_pixels(x: Tensor, weight: Tensor, norm_weight: Tensor | None, ties: str) -> tuple[Tensor, ...]:
    """What the gate of the pixels saves: the pools, their peak where ties are shared, its place or count, z, and z
    before a norm."""
    N, _, H, W = x.shape
    acc, split = torch.promote_types(x.dtype, torch.float32), ties == "split"
    return (
        x.new_empty((N, weight.shape[1], H * W), dtype=acc),  # never of x's shape, whose strides it would get
        x.new_empty((N, H, W) if split else (0,), dtype=acc),
        x.new_empty((N, H, W), dtype=torch.int32),
        x.new_empty((N, H, W), dtype=acc),
        x.new_empty((0,) if norm_weight is None else (N, H, W), dtype=acc),
    )


def _allocate_y(x: Tensor, norm_weight: Tensor | None, return_map: bool) -> tuple[Tensor, Tensor, Tensor]:
    """y, the map (N, 1, H, W), and the mean and variance of a norm (2,)."""
    return (
        torch.empty_like(x),
        x.new_empty((x.shape[0], 1, *x.shape[2:]) if return_map else (0,)),
        x.new_empty((0,) if norm_weight is None else (2,), dtype=torch.promote_types(x.dtype, torch.float32)),
    )


def _maps_in(weight: Tensor, pool: str) -> str:
    """Which maps the convolution sees: those that `pool` names in order, or half their sum by a weight of one."""
    return "half" if weight.shape[1] == 1 else pool


def _wanted(t: Tensor) -> Tensor | None:
    return None if t.shape == (0,) else t


def _pixels_forward(
    run: Run, x, zc, logit, gc, window, outputs, pool: str, eps: float, residual: bool, gate: Activation
):
    """The gate of the pixels, of x or of what the gate of the channels leaves of it, and the product of all."""
    weight, bias, norm_weight, norm_bias = window
    y, gate_map, stats, pools, peak, found, z, raw = outputs
    split, gate_map = peak.dim() == 3, _wanted(gate_map)
    run.launch(plan_pair(x, zc, logit, gc, pools, _wanted(peak), found, _maps_in(weight, pool), split, gate))
    if norm_weight is None:
        run.launch(plan_convolve_fwd(pools, weight, bias, z, gate_map, gate))
    else:
        run.launch(plan_convolve_fwd(pools, weight, bias, raw, None, gate))
        moments = run.launch(plan_norm_moments(raw))
        run.launch(plan_norm_merge(moments.partial, stats))
        run.launch(plan_norm_apply(raw, stats, norm_weight, norm_bias, z, gate_map, eps, gate))
    run.launch(plan_chain_fwd(x, gc, z, y, residual, gate))


def _norm_backward(run: Run, du: Tensor, raw: Tensor, stats: Tensor, norm_weight: Tensor, dnorm, eps: float) -> Tensor:
    """dz of the convolution, and the gradients of the norm's parameters where they are wanted."""
    sums = run.launch(plan_norm_sums(du, raw, stats, eps))
    both, dz = run.empty(torch.empty_like(stats)), run.empty(torch.empty_like(raw))
    run.launch(plan_finish(sums.partial, both))
    run.launch(plan_norm_bwd(du, raw, stats, norm_weight, both, dz, eps))
    if any(d is not None for d in dnorm):
        dweight, dbias = dnorm
        dweight = run.empty(torch.empty_like(norm_weight)) if dweight is None else dweight
        run.launch(plan_finish(sums.partial, dweight, dbias))
    return dz


def _pixels_backward(
    run: Run, douts, x, gc, window, saved, dwindow, back: bool, pool: str, eps: float, gate: Activation
):
    """(dpools, partial dgc), of which the first and, with gc, the second are there if something goes `back` to them."""
    weight, _, norm_weight, _ = window
    dweight, dbias, *dnorm = dwindow
    stats, pools, peak, found, z, raw = saved
    dy, dmap = douts
    dz, dpools = run.empty(torch.empty_like(z)), run.empty(torch.empty_like(pools)) if back else None
    dpools_of_sums = dpools if gc is not None else None
    how = _maps_in(weight, pool)
    sums, more, dgc = plan_chain_sums(dy, dmap, x, gc, z, dz, dpools_of_sums, _wanted(peak), found, how, gate)
    if dgc is not None:
        run.empty(dgc)
    run.launch(sums)
    if norm_weight is not None:
        dz = _norm_backward(run, dz, raw, stats, norm_weight, dnorm, eps)
    with_dparam = dweight is not None or dbias is not None
    convolve = run.launch(plan_convolve_bwd(dz, pools, weight, dpools, with_dparam))
    if with_dparam:
        dweight = run.empty(torch.empty_like(weight)) if dweight is None else dweight
        run.launch(plan_finish(convolve.dparam, dweight, dbias))
    if more is not None:
        run.launch(more)
    return dpools, dgc


def _allocate_spatial(x, weight, bias, norm_weight, norm_bias, pool, ties, gate, gate_a, gate_b, eps, return_map):
    return *_allocate_y(x, norm_weight, return_map), *_allocate_pixels(x, weight, norm_weight, ties)


def _forward_spatial(
    run, outputs, x, weight, bias, norm_weight, norm_bias, pool, ties, gate, gate_a, gate_b, eps, return_map
):
    window, channels = (weight, bias, norm_weight, norm_bias), (None, None, None)
    _pixels_forward(run, x, *channels, window, outputs, pool, eps, False, activation(gate, gate_a, gate_b))


def _backward_spatial(
    run,
    grads,
    douts,
    saved,
    x,
    weight,
    bias,
    norm_weight,
    norm_bias,
    pool,
    ties,
    gate,
    gate_a,
    gate_b,
    eps,
    return_map,
):
    (dx, *dwindow), gates = grads, activation(gate, gate_a, gate_b)
    window, back = (weight, bias, norm_weight, norm_bias), dx is not None
    dpools, _ = _pixels_backward(run, douts, x, None, window, saved, dwindow, back, pool, eps, gates)
    if back:
        _, _, peak, found, z, _ = saved
        how, channels = _maps_in(weight, pool), (None, False, False, None, None)
        run.launch(plan_chain_dx(douts[0], x, None, z, dpools, _wanted(peak), found, how, *channels, dx, False, gates))


def _allocate(
    x,
    w1,
    b1,
    w2,
    b2,
    weight,
    bias,
    norm_weight,
    norm_bias,
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
    eps,
    return_map,
):
    N, C = x.shape[:2]
    acc, pools = torch.promote_types(x.dtype, torch.float32), 1 + (pool == BOTH)
    split = pool != "avg" and ties == "split"
    return (
        *_allocate_y(x, norm_weight, return_map),
        x.new_empty((N, pools * C), dtype=acc),  # v
        x.new_empty((N, C), dtype=acc),  # zc
        x.new_empty((0,) if w2 is None else (N, pools * w1.shape[0]), dtype=acc),  # z1
        x.new_empty((N, C) if split else (0,), dtype=acc),  # the maximum
        x.new_empty((0,) if pool == "avg" else (N, C), dtype=torch.int32),  # its first pixel, or its count
        x.new_empty((N, C), dtype=acc),  # gc
        *_allocate_pixels(x, weight, norm_weight, ties),
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
    norm_weight,
    norm_bias,
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
    eps,
    return_map,
):
    *first, pooled, zc, z1, highest, place, gc = outputs[:9]
    of_pixels, window = (*first, *outputs[9:]), (weight, bias, norm_weight, norm_bias)
    split, acts, gates = ties == "split", activation(act, act_a, act_b), activation(gate, gate_a, gate_b)
    z1, highest, place = map(_wanted, (z1, highest, place))
    sums = run.launch(plan_pool_fwd(x, pool != "max", pool != "avg", split))
    partial = sums.total, sums.peak, sums.at
    pixels, layers = x.shape[2:].numel(), (w1, b1, w2, b2)
    mlp = run.launch(plan_mlp_fwd(*partial, pixels, *layers, pooled, highest, place, z1, acts, split, pool == BOTH))
    channels = mlp.z, zc, gc
    _pixels_forward(run, x, *channels, window, of_pixels, spatial_pool, eps, residual, gates)


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
    norm_weight,
    norm_bias,
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
    eps,
    return_map,
):
    (dx, *dlayers), dwindow, window = grads[:5], grads[5:], (weight, bias, norm_weight, norm_bias)
    stats, pooled, zc, z1, highest, place, gc, *pixels = saved
    z1, highest, place = map(_wanted, (z1, highest, place))
    acts, gates = activation(act, act_a, act_b), activation(gate, gate_a, gate_b)
    both, back = pool == BOTH, dx is not None or any(d is not None for d in dlayers)
    of_pixels = window, (stats, *pixels), dwindow
    dpools, dgc = _pixels_backward(run, douts, x, gc, *of_pixels, back, spatial_pool, eps, gates)
    if not back:
        return
    size, layers = x.shape[2:].numel(), (w1, w2)
    mlp = run.launch(plan_mlp_bwd(dgc, size, None, zc, z1, *layers, dx is not None, acts, gates, both))
    if dx is not None:
        _, peak, found, z, _ = pixels
        how, channels = _maps_in(weight, spatial_pool), (mlp.dpooled, pool != "max", both, highest, place)
        run.launch(plan_chain_dx(douts[0], x, gc, z, dpools, _wanted(peak), found, how, *channels, dx, residual, gates))
    if any(d is not None for d in dlayers):
        run.launch(plan_mlp_dw(mlp.dz, mlp.dz1, z1, pooled, *dlayers, acts, both))


_cbam = DifferentiableOp(schemas.cbam, allocate=_allocate, forward=_forward, backward=_backward)
_cbam_spatial_gate = DifferentiableOp(
    schemas.cbam_spatial_gate,
    allocate=_allocate_spatial,
    forward=_forward_spatial,
    backward=_backward_spatial,
)


def _asked(return_map: bool, return_stats: bool) -> bool | tuple[int, ...]:
    """The places of what is returned; False of y alone."""
    places = 0, *([1] if return_map else []), *([2] if return_stats else [])
    return places if len(places) > 1 else False


def cbam(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    *,
    pool: str,
    spatial_pool: str,
    act: Spec,
    gate: Spec,
    ties: str,
    residual: bool,
    eps: float,
    return_map: bool,
    return_stats: bool,
):
    tensors = x, w1, b1, w2, b2, weight, bias, norm_weight, norm_bias
    options = pool, spatial_pool, *act, *gate, ties, residual, eps, return_map
    return Call(_cbam, (*tensors, *options), _asked(return_map, return_stats))


def cbam_spatial_gate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    *,
    pool: str,
    gate: Spec,
    ties: str,
    eps: float,
    return_map: bool,
    return_stats: bool,
):
    tensors, options = (x, weight, bias, norm_weight, norm_bias), (pool, ties, *gate, eps, return_map)
    return Call(_cbam_spatial_gate, (*tensors, *options), _asked(return_map, return_stats))
