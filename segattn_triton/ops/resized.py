"""A gate from logits at another resolution than the map: they are brought to its pixels where they are read.

    y = out(x g + s),   g = gate(up(z)),   up bilinear or nearest, as of torch's interpolate

up(z) is not in memory. Backward dx = du g and ds = du in one kernel, as of `blend`; dz is the gather of
gate'(up(z)) (du x + dmap) from the pixels that took from each logit, computed there again; of logits of one channel the
first kernel has summed it over the channels, in a map of one channel. No atomics. Saved are the inputs.
"""

import torch
from torch import Tensor

from ..kernels.blend.backward import plan_blend_bwd
from ..kernels.blend.forward import plan_blend_fwd
from ..kernels.blend.gather import plan_blend_gather
from ..kernels.blend.resize import rule_of
from ..kernels.common.activations import activation
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp


def _allocate(tensors, options):
    x, z = tensors.x, tensors.z
    if not options.return_map:
        return torch.empty_like(x), x.new_empty((0,))
    whole = z.shape[1] == x.shape[1]
    return torch.empty_like(x), torch.empty_like(x) if whole else x.new_empty((x.shape[0], 1, *x.shape[2:]))


def _read(run, tensors, options):
    """x, z and the shortcut in one memory order, the rule, and the activation of the sum."""
    x, z, shortcut = tensors
    z = run.native(z, x) if z.shape[1] == x.shape[1] else run.laid(Tensor.contiguous, z)
    rule = rule_of(options.resize, options.align_corners, options.scale_factor, z, x)
    out = None if options.out_act == "identity" else activation(options.out_act, 0.0, 0.0)
    return x, z, run.native(shortcut, x), rule, out


def _forward(run, outputs, tensors, options):
    x, z, shortcut, rule, out = _read(run, tensors, options)
    gate_map = outputs.map if options.return_map else None
    run.launch(plan_blend_fwd(x, z, shortcut, outputs.y, gate_map, False, options.gate, out, rule))


def _backward(run, grads, douts, saved, tensors, options):
    (dx, dz, dshortcut), (dy, dmap) = grads, douts
    x, z, shortcut, rule, out = _read(run, tensors, options)
    ds, fine, gate = run.native(dshortcut, x), None, options.gate
    if rule.layout is not None:
        dmap = run.native(dmap, x)
    elif dz is not None:
        acc = torch.promote_types(x.dtype, torch.float32)
        fine = run.empty(x.new_empty((x.shape[0], 1, *x.shape[2:]), dtype=acc))
    if dx is not None or ds is not None or fine is not None:
        run.launch(plan_blend_bwd(dy, dmap, x, z, shortcut, dx, fine, ds, False, gate, out, rule))
    if ds is not dshortcut:
        run.call(Tensor.copy_, dshortcut, ds)
    if dz is not None:
        made = run.native(dz, x) if rule.layout is not None else run.laid(Tensor.contiguous, dz)
        run.launch(plan_blend_gather(fine, dy, dmap, x, z, shortcut, made, gate, out, rule))
        if made is not dz:
            run.call(Tensor.copy_, dz, made)


_gate_mul_resized = DifferentiableOp(
    schemas.gate_mul_resized,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    maps=("x", "z", "shortcut"),
    adds=("shortcut", "out_act", "identity"),
)


def gate_mul_resized(*tensors: Tensor | None, **options):
    return _gate_mul_resized.call(tensors, options, options["return_map"])
