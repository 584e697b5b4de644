"""The attention gate: one weight per pixel of x, from x and from a coarser map g brought to its size.

    h_f = relu(<wx_f, x_p> + <wg_f, g_p> + b_f)                     (Oktay et al. 2018, arXiv:1804.03999)
    y = x * gate(z),  z = <weight, h> + bias

The forward has 3 passes over the map: x, g, y; no projection is in memory. With ds_p = sum_c dy x + dmap,
dz_f = ds gate'(z) weight_f where h_f > 0, and dz a matrix of F rows,

    dx = dy gate(z) + wx^T dz,   dg = wg^T dz,   dwx = dz x^T,   dwg = dz g^T,   db = sum_p dz,   dweight = sum_p ds' h

h is computed again; z, one value per pixel, is saved. Where channels and projections are few enough for the registers
(C + G of 128 with F of 32 in 16 bits, half the product in float32, see `fits_on_chip`) one kernel does it in 5 passes:
dy, x, g into dx, dg. Beyond, dz is in memory, F channels wide: with F = C / 2 that makes 10.5 passes, 7.5 of them for
dx and dg alone.

With norms over the batch, h_f = relu(norm(<wx_f, x_p>) + norm(<wg_f, g_p>) + b_f), z = norm(<weight, h>) + bias, any of
the three left out, norm(v) = (v - mean) / sqrt(var + eps) gain. Forward 6 passes: x and g for the statistics of the
projections, x and g into the logits, whose statistics are a C-th of a map, x into y. Backward 8: dy, x and g for all
sums over the batch (see `sums`), then as above. Left out, the norms of x and g save a pass forward each, that of the
logits one more. Saved are the logits, before and after their norm, and mean and scale of the projections.
"""

import torch
from torch import Tensor

from ..kernels.additive.backward import fits_on_chip, plan_additive_bwd
from ..kernels.additive.forward import plan_additive_fwd
from ..kernels.additive.moments import plan_additive_merge, plan_additive_moments
from ..kernels.additive.products import plan_additive_dw, plan_additive_dx
from ..kernels.additive.separate import plan_additive_dz
from ..kernels.additive.settle import plan_additive_settle
from ..kernels.additive.shared import Given
from ..kernels.additive.sums import plan_additive_sums
from ..kernels.common.finish import plan_finish_several
from ..kernels.pixel.chain import plan_chain_fwd
from ..kernels.pixel.norm import plan_norm_apply, plan_norm_merge, plan_norm_moments
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp


def _allocate(tensors, options):
    x = tensors.x
    pixels = x.shape[0], *x.shape[2:]
    return (
        torch.empty_like(x),
        x.new_empty((x.shape[0], 1, *x.shape[2:]) if options.return_map else (0,)),
        x.new_empty(pixels, dtype=torch.promote_types(x.dtype, torch.float32)),  # z
    )


def _forward(run, outputs, tensors, options):
    gate_map = outputs.map if options.return_map else None
    run.launch(plan_additive_fwd(*tensors, outputs.y, gate_map, outputs.z, options.gate))


def _backward(run, grads, douts, saved, tensors, options):
    dx, dg, dwx, dwg, db, dweight, dbias = grads
    x, g, wx, wg, b, weight, _ = tensors
    if dbias is not None and dweight is None:
        dweight = run.empty(torch.empty_like(weight))
    given, wanted = Given(*douts, x, g, wx, wg, b, weight, saved.z), dict(dwx=dwx, dwg=dwg, db=db, dweight=dweight)
    products = _products(run, given, dx, dg, _names(wanted), options.gate)
    _finish(run, zip(products, wanted.values(), (None, None, None, dbias), strict=True))


def _names(wanted) -> set[str]:
    return {name for name, grad in wanted.items() if grad is not None}


def _products(run, given, dx, dg, makes, gate, split=False):
    """The partial sums dwx, dwg, db, and dweight with dbias, those that `makes` names; dx and dg filled. `split`: norms
    give the maps gradients of their projections each of its own."""
    on_chip = fits_on_chip(given.x, given.g, len(given.wx))
    return (_on_chip if on_chip else _separate)(run, given, dx, dg, makes, gate, split)


def _finish(run, parts) -> None:
    """Those of (partial, out, tail) whose out is wanted, in one launch."""
    if wanted := [part for part in parts if part[1] is not None]:
        run.launch(plan_finish_several(wanted))


def _on_chip(run, given, dx, dg, makes, gate, split):
    """In one kernel."""
    sums = run.launch(plan_additive_bwd(given, dx, dg, makes, gate))
    return sums.dwx, sums.dwg, sums.db, sums.dweight


def _separate(run, given, dx, dg, makes, gate, split):
    """With dz in memory between several kernels, two of them where norms `split` the gradients of the maps."""
    x = given.x
    of_x, of_g = dx is not None or "dwx" in makes, dg is not None or "dwg" in makes
    shape = x.shape[0], x.shape[2:].numel(), len(given.wx)
    dz = run.empty(x.new_empty(shape)) if of_x or (of_g and not split) else None
    dzg = run.empty(x.new_empty(shape)) if of_g and split else None
    sums = run.launch(plan_additive_dz(given, dz, dzg, makes, gate))
    dzg = dzg if split else dz
    if dx is not None:
        run.launch(plan_additive_dx(given.dy, given.z, dz, given.wx, dx, gate))
    if dg is not None:
        run.launch(plan_additive_dx(None, None, dzg, given.wg, dg, None))
    dwx = run.launch(plan_additive_dw(dz, x)).dw if "dwx" in makes else None
    dwg = run.launch(plan_additive_dw(dzg, given.g)).dw if "dwg" in makes else None
    return dwx, dwg, sums.db, sums.dweight


def _allocate_norm(tensors, options):
    *made, z = _allocate(tensors, options)
    F, gains = len(tensors.wx), tensors[7:]
    sizes = [0 if gain is None else size for gain, size in zip(gains, (2 * F, 2 * F, 2), strict=True)]
    affine = z.new_empty((4, F) if any(sizes) else (0,))
    return *made, z.new_empty((sum(sizes),)), affine, z, z.new_empty(z.shape if sizes[2] else (0,))


def _of_each(stats: Tensor, tensors) -> list[Tensor | None]:
    """The statistics of x, of g and of the logits, None without a norm: parts of one vector."""
    F, first, found = len(tensors.wx), 0, []
    for gain, size in zip(tensors[7:], (2 * F, 2 * F, 2), strict=True):
        found.append(None if gain is None else stats[first : first + size])
        first += 0 if gain is None else size
    return found


def _wanted(t: Tensor) -> Tensor | None:
    return None if t.shape == (0,) else t


def _forward_norm(run, outputs, tensors, options):
    x, g, wx, wg, b, weight, bias, *gains = tensors
    affine, raw, gate, eps = _wanted(outputs.affine), _wanted(outputs.raw), options.gate, options.eps
    gate_map, stats = outputs.map if options.return_map else None, _of_each(outputs.stats, tensors)
    if affine is not None:
        of_x, of_g = None, None
        if gains[0] is not None or gains[1] is not None:
            made = run.launch(plan_additive_moments(x, g, wx, wg, gains[0] is not None, gains[1] is not None))
            of_x, of_g = made.of_x, made.of_g
        run.launch(plan_additive_merge(of_x, of_g, *gains[:2], *stats[:2], affine, eps))
    maps = x, g, wx, wg, b, weight
    if raw is None:
        run.launch(plan_additive_fwd(*maps, bias, outputs.y, gate_map, outputs.z, gate, affine))
        return
    run.launch(plan_additive_fwd(*maps, None, None, None, raw, gate, affine))
    run.launch(plan_norm_merge(run.launch(plan_norm_moments(raw)).partial, stats[2]))
    run.launch(plan_norm_apply(raw, stats[2], gains[2], bias, outputs.z, gate_map, eps, gate))
    run.launch(plan_chain_fwd(x, None, outputs.z, outputs.y, False, gate))


def _backward_norm(run, grads, douts, saved, tensors, options):
    dx, dg, dwx, dwg, db, dweight, dbias, *dgains = grads
    x, g, wx, wg, b, weight, _, *gains = tensors
    affine, raw, stats = _wanted(saved.affine), _wanted(saved.raw), _of_each(saved.stats, tensors)
    if affine is None:
        _backward(run, grads[:7], douts, saved, tensors[:7], options)
        return
    maps, gate = (*douts, x, g, wx, wg, b), options.gate
    sums = run.launch(plan_additive_sums(*maps, affine, saved.z, raw, stats[2], gate)).partial
    made, count = (db, dweight, dbias, *dgains), max(1, len(x) * x.shape[2:].numel())  # of no image sums are zero
    settled = plan_additive_settle(sums, affine, stats, b, weight, gains[2], made, count, options.eps)
    coef = run.launch(settled).coef
    if any(d is not None for d in (dx, dg, dwx, dwg)):
        given, split = Given(*maps, weight, saved.z, affine, coef, raw), any(gain is not None for gain in gains[:2])
        products = _products(run, given, dx, dg, _names(dict(dwx=dwx, dwg=dwg)), gate, split)
        _finish(run, zip(products[:2], (dwx, dwg), (None, None), strict=True))


_attention_gate = DifferentiableOp(
    schemas.attention_gate, allocate=_allocate, forward=_forward, backward=_backward, maps=("x", "g")
)


_attention_gate_norm = DifferentiableOp(
    schemas.attention_gate_norm,
    allocate=_allocate_norm,
    forward=_forward_norm,
    backward=_backward_norm,
    maps=("x", "g"),
)


def attention_gate(*tensors: Tensor | None, **options):
    return _attention_gate.call(tensors, options, options["return_map"])


def attention_gate_norm(*tensors: Tensor | None, return_stats: bool, **options):
    places = 0, *([1] if options["return_map"] else []), *([2] if return_stats else [])
    return _attention_gate_norm.call(tensors, options, places if len(places) > 1 else False)
