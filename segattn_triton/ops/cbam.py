"""CBAM: a gate of every channel, then one of every pixel, of what the first has weighted.

    x' = x gc,  gc = gate(zc),  zc = mlp(mean_p x) + mlp(max_p x)        (Woo et al. 2018, arXiv:1807.06521)
    y = x' gp,  gp = gate(z),   z = conv_kxk of mean_c x' and max_c x',  plus x if residual

With a norm, gp = gate((z - mean) / sqrt(var + eps) norm_weight + norm_bias), of the batch; bias moves the mean and
nothing else. x' is never in memory: 4 passes over the map, the pool, the pair of maps, and the product that reads x and
writes y.
Backward, with dgp_p = sum_c dy x' + dmap, dz = dgp gate'(z) and dmean, dmax of the convolution,

    dx' = dy gp + dmean / C + dmax at the maximum,    dgc_c = sum_p x dx',    dx = dx' gc + what the pools give

5 passes: dy and x for dz and the first part of dgc, x for its second, dy into dx; shared ties read x once more, to know
them. The gate of the pixels alone has 3 passes and 4, with shared ties 5. Saved are what the perceptron saves (see
`channel`), gc, and of every pixel both pools, the place of the maximum, and z, before a norm and after it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..kernels.channel.mlp_bwd import plan_mlp_bwd
from ..kernels.channel.mlp_dw import plan_mlp_dw
from ..kernels.channel.mlp_fwd import plan_mlp_fwd
from ..kernels.channel.pool import plan_pool_fwd
from ..kernels.common.finish import plan_finish
from ..kernels.pixel.chain import plan_chain_fwd
from ..kernels.pixel.chain_bwd import plan_chain_sums
from ..kernels.pixel.chain_dx import plan_chain_dx
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
from ..runtime.operator import DifferentiableOp

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


def _pixels_forward(run, x, zc, logit, gc, window, outputs, pool: str, residual: bool, options):
    """The gate of the pixels, of x or of what the gate of the channels leaves of it, and the product of all."""
    weight, bias, norm_weight, norm_bias = window
    y, gate_map, stats, pools, peak, found, z, raw = outputs
    split, gate_map, gate, eps = peak.dim() == 3, _wanted(gate_map), options.gate, options.eps
    run.launch(plan_pair(x, zc, logit, gc, pools, _wanted(peak), found, _maps_in(weight, pool), split, gate))
    if norm_weight is None:
        run.launch(plan_convolve_fwd(pools, weight, bias, z, gate_map, gate))
    else:
        run.launch(plan_convolve_fwd(pools, weight, bias, raw, None, gate))
        moments = run.launch(plan_norm_moments(raw))
        run.launch(plan_norm_merge(moments.partial, stats))
        run.launch(plan_norm_apply(raw, stats, norm_weight, norm_bias, z, gate_map, eps, gate))
    run.launch(plan_chain_fwd(x, gc, z, y, residual, gate))


def _norm_backward(run, du: Tensor, raw: Tensor, stats: Tensor, norm_weight: Tensor, dnorm, eps: float) -> Tensor:
    """dz of the convolution, and the gradients of the norm's parameters where they are wanted."""
    sums = run.launch(plan_norm_sums(du, raw, stats, eps))
    dz = run.empty(torch.empty_like(raw))
    run.launch(plan_norm_bwd(du, raw, stats, norm_weight, sums.partial, dz, *dnorm, eps))
    return dz


def _pixels_backward(run, douts, x, gc, window, saved, dwindow, back: bool, pool: str, options):
    """(dpools, partial dgc, what is left to finish): the first and, with gc, the second are there if something goes
    `back` to them; the third is a partial sum, if the gradients of the convolution are wanted, and where it goes."""
    weight, _, norm_weight, _ = window
    dweight, dbias, *dnorm = dwindow
    stats, pools, peak, found, z, raw = saved
    if norm_weight is not None and dbias is not None:
        run.call(Tensor.zero_, dbias)
        dbias = None
    dy, dmap = douts
    dz, dpools = run.empty(torch.empty_like(z)), run.empty(torch.empty_like(pools)) if back else None
    dpools_of_sums = dpools if gc is not None else None
    how = _maps_in(weight, pool)
    sums, more, dgc = plan_chain_sums(dy, dmap, x, gc, z, dz, dpools_of_sums, _wanted(peak), found, how, options.gate)
    if dgc is not None:
        run.empty(dgc)
    run.launch(sums)
    if norm_weight is not None:
        dz = _norm_backward(run, dz, raw, stats, norm_weight, dnorm, options.eps)
    with_dparam = dweight is not None or dbias is not None
    convolve = run.launch(plan_convolve_bwd(dz, pools, weight, dpools, with_dparam))
    if with_dparam and dweight is None:
        dweight = run.empty(torch.empty_like(weight))
    if more is not None:
        run.launch(more)
    return dpools, dgc, dict(partial=convolve.dparam, sums=(dweight, dbias))


def _finish(run, partial: Tensor | None, sums: tuple[Tensor | None, Tensor | None]) -> None:
    if partial is not None:
        run.launch(plan_finish(partial, *sums))


def _allocate_spatial(tensors, options):
    x, weight, _, norm_weight, _ = tensors
    return *_allocate_y(x, norm_weight, options.return_map), *_allocate_pixels(x, weight, norm_weight, options.ties)


def _forward_spatial(run, outputs, tensors, options):
    x, *window = tensors
    _pixels_forward(run, x, None, None, None, window, outputs, options.pool, False, options)


def _backward_spatial(run, grads, douts, saved, tensors, options):
    (dx, *dwindow), (x, *window), back = grads, tensors, grads.x is not None
    dpools, _, left = _pixels_backward(run, douts, x, None, window, saved, dwindow, back, options.pool, options)
    _finish(run, **left)
    if back:
        (_, _, peak, found, z, _), gates = saved, options.gate
        how, channels = _maps_in(tensors.weight, options.pool), (None, False, False, None, None)
        run.launch(plan_chain_dx(douts[0], x, None, z, dpools, _wanted(peak), found, how, *channels, dx, False, gates))


def _allocate(tensors, options):
    x, norm_weight, pool = tensors.x, tensors.norm_weight, options.pool
    N, C = x.shape[:2]
    acc, pools = torch.promote_types(x.dtype, torch.float32), 1 + (pool == BOTH)
    split = pool != "avg" and options.ties == "split"
    return (
        *_allocate_y(x, norm_weight, options.return_map),
        x.new_empty((N, pools * C), dtype=acc),  # v
        x.new_empty((N, C), dtype=acc),  # zc
        x.new_empty((0,) if tensors.w2 is None else (N, pools * tensors.w1.shape[0]), dtype=acc),  # z1
        x.new_empty((N, C) if split else (0,), dtype=acc),  # the maximum
        x.new_empty((0,) if pool == "avg" else (N, C), dtype=torch.int32),  # its first pixel, or its count
        x.new_empty((N, C), dtype=acc),  # gc
        *_allocate_pixels(x, tensors.weight, norm_weight, options.ties),
    )


def _forward(run, outputs, tensors, options):
    x, layers, window, pool = tensors.x, tensors[1:5], tensors[5:], options.pool
    *first, pooled, zc, z1, highest, place, gc = outputs[:9]
    of_pixels, split = (*first, *outputs[9:]), options.ties == "split"
    z1, highest, place = map(_wanted, (z1, highest, place))
    sums = run.launch(plan_pool_fwd(x, pool != "max", pool != "avg", split))
    partial = sums.total, sums.peak, sums.at
    size, made = x.shape[2:].numel(), (pooled, highest, place, z1)
    mlp = run.launch(plan_mlp_fwd(*partial, size, *layers, *made, options.act, split, pool == BOTH))
    channels, how = (mlp.z, zc, gc), (options.spatial_pool, options.residual)
    _pixels_forward(run, x, *channels, window, of_pixels, *how, options)


def _backward(run, grads, douts, saved, tensors, options):
    (dx, *dlayers), dwindow = grads[:5], grads[5:]
    x, w1, _, w2, _, *window = tensors
    stats, pooled, zc, z1, highest, place, gc, *pixels = saved
    z1, highest, place = map(_wanted, (z1, highest, place))
    acts, gates, pool, spatial_pool = options.act, options.gate, options.pool, options.spatial_pool
    both, back = pool == BOTH, dx is not None or any(d is not None for d in dlayers)
    of_pixels = window, (stats, *pixels), dwindow
    dpools, dgc, left = _pixels_backward(run, douts, x, gc, *of_pixels, back, spatial_pool, options)
    if not back:
        _finish(run, **left)
        return
    size, layers = x.shape[2:].numel(), (w1, w2)
    mlp = run.launch(plan_mlp_bwd(dgc, size, None, zc, z1, *layers, dx is not None, acts, gates, both, **left))
    if dx is not None:
        _, peak, found, z, _ = pixels
        how, channels = _maps_in(tensors.weight, spatial_pool), (mlp.dpooled, pool != "max", both, highest, place)
        of_pixels, made = (z, dpools, _wanted(peak), found), (dx, options.residual)
        run.launch(plan_chain_dx(douts[0], x, gc, *of_pixels, how, *channels, *made, gates))
    if any(d is not None for d in dlayers):
        run.launch(plan_mlp_dw(mlp.dz, mlp.dz1, z1, pooled, *dlayers, acts, both))


_cbam = DifferentiableOp(schemas.cbam, allocate=_allocate, forward=_forward, backward=_backward)
_cbam_spatial_gate = DifferentiableOp(
    schemas.cbam_spatial_gate,
    allocate=_allocate_spatial,
    forward=_forward_spatial,
    backward=_backward_spatial,
)


def _asked(options: Mapping) -> bool | tuple[int, ...]:
    """The places of what is returned; False of y alone."""
    places = 0, *([1] if options["return_map"] else []), *([2] if options["return_stats"] else [])
    return places if len(places) > 1 else False


def _without_stats(options: Mapping) -> dict:
    """The operator always gives the statistics of a norm."""
    return {name: value for name, value in options.items() if name != "return_stats"}


def cbam(*tensors: Tensor | None, **options):
    return _cbam.call(tensors, _without_stats(options), _asked(options))


def cbam_spatial_gate(*tensors: Tensor | None, **options):
    return _cbam_spatial_gate.call(tensors, _without_stats(options), _asked(options))
