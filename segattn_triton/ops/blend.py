"""A gate of every value from logits that are given, and two maps blended by it.

    y = out(x g + s),    y = g a + (1 - g) b,    g = gate(z), z of the map's shape or 1 along any axes

With du = dy out'(x g + s): dx = du g, ds = du and dz = gate'(z) (sum of du x + dmap), over the axes that z lacks; of
the blend da = dy g, db = dy (1 - g), and a - b in place of x. All in one pass; saved are the inputs. Logits that
stand for rows or for columns of pixels alone are spread over the pixels first, and their gradient summed after.
"""

import torch
from torch import Tensor

from ..kernels.blend.backward import plan_blend_bwd
from ..kernels.blend.forward import plan_blend_fwd
from ..kernels.blend.sums import plan_blend_dz, plan_blend_sum
from ..kernels.common.activations import activation
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp


def _in_strips(z: Tensor, x: Tensor) -> bool:
    """Whether z has some of the axes of x's pixels, and one value along others."""
    return z.shape[2:] != x.shape[2:] and z.shape[2:].numel() > 1


def _spread(z: Tensor, x: Tensor) -> Tensor:
    return z.expand(*z.shape[:2], *x.shape[2:]).contiguous()


def _first(strip: Tensor, shape: torch.Size) -> Tensor:
    return strip[tuple(slice(0, size) for size in shape)]


def _at_first(strip: Tensor, t: Tensor) -> Tensor:
    """Zeros of the shape of t, but for the first of what each value of the strip stands for."""
    placed = torch.zeros_like(t)
    _first(placed, strip.shape).copy_(strip)
    return placed


def _sum_into(strip: Tensor, t: Tensor) -> Tensor:
    return strip.copy_(t.sum_to_size(strip.shape))


def _logits(run, z: Tensor, x: Tensor) -> Tensor:
    """As kernels read them: with all pixels or one, in the memory order of x where they are a map as x is."""
    z = run.call(_spread, z, x) if _in_strips(z, x) else z
    return run.native(z, x) if z.shape[1:] == x.shape[1:] else run.laid(Tensor.contiguous, z)


def _allocate(tensors, options):
    x, z = tensors[0], tensors.z
    if not options.return_map:
        return torch.empty_like(x), x.new_empty((0,))
    as_x = z.shape[1:] == x.shape[1:]
    gate_map = torch.empty_like(x[: z.shape[0]]) if as_x and z.shape[0] <= x.shape[0] else x.new_empty(z.shape)
    return torch.empty_like(x), gate_map


def _run_forward(run, y, gate_map, x, z, s, blend: bool, gate, out=None) -> None:
    logits, strips = _logits(run, z, x), _in_strips(z, x)
    if x.shape[0] < z.shape[0]:  # no image, one gate of all images: of the gate alone
        x, y, s, z = logits, run.empty(torch.empty_like(logits)), None, logits
    made = run.empty(torch.empty_like(logits)) if strips and gate_map is not None else gate_map
    run.launch(plan_blend_fwd(x, logits, run.native(s, x), y, made, blend, gate, out))
    if made is not gate_map:
        run.call(Tensor.copy_, gate_map, _first(made, gate_map.shape))


def _run_backward(run, dy, dmap, x, z, s, dx, dz, ds, blend: bool, gate, out=None) -> None:
    """dz is the last of the three to be whole: of strips and of one value for all pixels it takes a sum more."""
    given, logits, strips = dz, _logits(run, z, x), _in_strips(z, x)
    if x.shape[0] < z.shape[0]:
        dx = ds = s = None
        x, dy = logits, run.call(torch.zeros_like, logits)
    if dz is not None and strips:
        acc = torch.promote_types(z.dtype, torch.float32)
        dz = run.empty(torch.empty_like(logits, dtype=acc))
    elif dz is not None:
        dz = run.native(dz, x) if logits.shape[1:] == x.shape[1:] else run.laid(Tensor.contiguous, dz)
    if dmap is not None and strips:
        dmap = run.call(_at_first, dmap, logits)
    elif logits.shape[1:] == x.shape[1:]:
        dmap = run.native(dmap, x)
    made, s = run.native(ds, x), run.native(s, x)
    how = blend, gate, out
    if dz is None or logits.shape[2:] == x.shape[2:]:
        run.launch(plan_blend_bwd(dy, dmap, x, logits, s, dx, dz, made, *how))
    else:
        total = run.launch(plan_blend_sum(dy, x, logits, s, dx, made, *how)).total
        run.launch(plan_blend_dz(total, dmap, logits, dz, gate))
    if made is not ds:
        run.call(Tensor.copy_, ds, made)
    if dz is not given:
        run.call(_sum_into, given, dz)


def _out(name: str):
    return None if name == "identity" else activation(name, 0.0, 0.0)


def _forward_mul(run, outputs, tensors, options):
    gate_map = outputs.map if options.return_map else None
    _run_forward(run, outputs.y, gate_map, *tensors, False, options.gate, _out(options.out_act))


def _backward_mul(run, grads, douts, saved, tensors, options):
    _run_backward(run, *douts, *tensors, *grads, False, options.gate, _out(options.out_act))


def _forward_blend(run, outputs, tensors, options):
    gate_map = outputs.map if options.return_map else None
    _run_forward(run, outputs.y, gate_map, tensors.a, tensors.z, tensors.b, True, options.gate)


def _backward_blend(run, grads, douts, saved, tensors, options):
    (a, b, z), (da, db, dz) = tensors, grads
    _run_backward(run, *douts, a, z, b, da, dz, db, True, options.gate)


_gate_mul = DifferentiableOp(
    schemas.gate_mul,
    allocate=_allocate,
    forward=_forward_mul,
    backward=_backward_mul,
    maps=("x", "z", "shortcut"),
    adds=("shortcut", "out_act", "identity"),
)
_gate_blend = DifferentiableOp(
    schemas.gate_blend,
    allocate=_allocate,
    forward=_forward_blend,
    backward=_backward_blend,
    maps=("a", "b", "z"),
)


def gate_mul(*tensors: Tensor | None, **options):
    return _gate_mul.call(tensors, options, options["return_map"])


def gate_blend(*tensors: Tensor, **options):
    return _gate_blend.call(tensors, options, options["return_map"])
