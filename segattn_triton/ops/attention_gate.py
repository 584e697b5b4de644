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
"""

import torch
from torch import Tensor

from ..kernels.additive.backward import fits_on_chip, plan_additive_bwd
from ..kernels.additive.forward import plan_additive_fwd
from ..kernels.additive.separate import plan_additive_dw, plan_additive_dx, plan_additive_dz
from ..kernels.common.finish import plan_finish
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
    given, gates = (*douts, x, g, wx, wg, b, weight, saved.z), options.gate
    of_logits = dweight is not None or dbias is not None
    maps = dx, dg, dwx is not None, dwg is not None
    products = (_on_chip if fits_on_chip(x, g, wx.shape[0]) else _separate)(run, given, *maps, of_logits, db, gates)
    for partial, out in zip(products, (dwx, dwg, db), strict=False):
        if out is not None:
            run.launch(plan_finish(partial, out))
    if of_logits:
        dweight = run.empty(torch.empty_like(weight)) if dweight is None else dweight
        run.launch(plan_finish(products[3], dweight, dbias))


def _on_chip(run, given, dx, dg, with_dwx, with_dwg, of_logits, db, gates):
    """The partial sums (dwx, dwg, db, dweight with dbias), dx and dg filled, in one kernel."""
    sums = run.launch(plan_additive_bwd(*given, dx, dg, with_dwx, with_dwg, of_logits, db is not None, gates))
    return sums.dwx, sums.dwg, sums.db, sums.dweight


def _separate(run, given, dx, dg, with_dwx, with_dwg, of_logits, db, gates):
    """The same with dz in memory between several kernels."""
    dy, _, x, g, wx, wg, _, _, z = given
    products = dx is not None or dg is not None or with_dwx or with_dwg
    dz = run.empty(x.new_empty((x.shape[0], x.shape[2:].numel(), wx.shape[0]))) if products else None
    sums = run.launch(plan_additive_dz(*given, dz, of_logits, db is not None, gates))
    if dx is not None:
        run.launch(plan_additive_dx(dy, z, dz, wx, dx, gates))
    if dg is not None:
        run.launch(plan_additive_dx(None, None, dz, wg, dg, None))
    dwx = run.launch(plan_additive_dw(dz, x)).dw if with_dwx else None
    dwg = run.launch(plan_additive_dw(dz, g)).dw if with_dwg else None
    return dwx, dwg, sums.db, sums.dweight


_attention_gate = DifferentiableOp(
    schemas.attention_gate, allocate=_allocate, forward=_forward, backward=_backward, maps=("x", "g")
)


def attention_gate(*tensors: Tensor | None, **options):
    return _attention_gate.call(tensors, options, options["return_map"])
