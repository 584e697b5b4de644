"""Local gate, dense: one weight per value, from a full 3x3 convolution.

    y = x * gate(z + b),   z = conv3x3(x, padding 1)

With dg = dy x + dmap and dz = dg gate'(z + b): dx = dy gate(z + b) + conv3x3^T(dz), db_c = sum_np dz, and dw the
correlation of x with dz. z is saved, in x's dtype, when a gradient is needed.

Passes: forward 2 (3 saving z), as an implicit GEMM with gate and product fused. The variant "library" runs the
library's convolution and one fused kernel: 5, saving z or not. Backward 12: one fused kernel (5), the library's
dgrad (2), the sum (3) and the library's wgrad (2). These two follow torch's flags of determinism; ours are
deterministic. An NCHW map in 16 bits may be turned for the library's convolutions (`_turns`), which costs 2 passes
forward and 1 backward: z and dz are channels_last then, and turn in the fused kernels, whose backward writes the turned
x, too.

Roundings between: z, dz, the direct term of dx and dgrad are in x's dtype. The library and the tensor cores take one
dtype, so a float32 weight beside a 16-bit x is rounded to x's for the convolution, and its gradient comes back
through that dtype.
"""

import torch
from torch import Tensor

from ..kernels.common.finish import plan_finish
from ..kernels.conv.descriptors import plan_conv_descriptors_fwd, takes_descriptors
from ..kernels.conv.pointers import plan_conv_pointers_fwd
from ..kernels.conv.pointwise import plan_conv_bwd, plan_conv_library_fwd
from ..kernels.conv.turn import plan_turn
from ..runtime import schemas
from ..runtime.maps import is_channels_last, is_channels_last_natively, native
from ..runtime.operator import DifferentiableOp, needs_grad
from ..tuning.target import capability

VARIANTS = ("pointers", "descriptors", "library")
# up to which the implicit GEMM has more to gain from the fusion than to lose to the library
FUSED_CHANNELS = 128


def choose_variant(x: Tensor, variant: str = "auto") -> str:
    """The named variant, if it can run on x; for "auto", a function of dtype, layout, sizes and GPU."""
    if variant not in ("auto", *VARIANTS):
        raise ValueError(f"variant: got {variant!r}, expected auto, {', '.join(VARIANTS)}")
    if variant == "descriptors" and not takes_descriptors(x):
        raise ValueError('variant: "descriptors" needs x in 16 bits, channels_last, all strides multiples of 16 bytes')
    if variant != "auto":
        return variant
    W, target = x.shape[3], capability(x.device)
    if x.element_size() > 2 or x.shape[1] > FUSED_CHANNELS or not is_channels_last_natively(x) or target < 80:
        return "library"
    rows_fit = -(-W // 64) * 64 <= 1.25 * W  # a tile of descriptors does not reach into the next row
    return "descriptors" if target >= 90 and rows_fit and takes_descriptors(x) else "pointers"


def _turns(x: Tensor, variant: str) -> bool:
    """Whether the library gets the map, which is NCHW, in channels_last.

    On an H200 (bfloat16, C = 64, sides 512 and 256) the library's convolution takes 2.5 times as long in NCHW, its
    gradients 2.4 times: 8 passes more forward and 15 backward. That grows with the map, as the 2 and 1 of turning do,
    and not with C. Where C fills no rows of 16 bytes, and of float32, nothing was measured: the map stays as it is.
    """
    if x.element_size() != 2 or capability(x.device) < 80 or x.shape[1] % 8 or is_channels_last_natively(x):
        return False
    return choose_variant(x, variant) == "library"  # last: it may ask where the values of x are, which a fake has not


def _allocate(tensors, options):
    x = tensors.x
    turned = _turns(x, options.variant)
    z = x.new_empty(x.shape[0], x.shape[2] * x.shape[3], x.shape[1]) if turned else torch.empty_like(x)
    return (
        torch.empty_like(x),
        torch.empty_like(x) if options.return_map else x.new_empty((0,)),
        z if options.save else x.new_empty((0,)),
    )


def _library_conv(x: Tensor, weight: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast("cuda" if x.is_cuda else "cpu", enabled=False):
        return native(torch.nn.functional.conv2d(x, _library_weight(x, weight), padding=1), like=x)


def _library_conv_bwd(dz: Tensor, x: Tensor, weight: Tensor, *needs: bool) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x and of the weight, those that are needed."""
    with torch.no_grad():
        return torch.ops.aten.convolution_backward(
            dz, x, _library_weight(dz, weight), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [*needs, False]
        )[:2]


def _library_weight(x: Tensor, weight: Tensor) -> Tensor:
    memory_format = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return weight.to(x.dtype, memory_format=memory_format)


def _empty_turned(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _set_turned(z: Tensor, conv: Tensor) -> None:
    z.set_(conv.movedim(1, -1).flatten(1, 2))


def _taps(x: Tensor, weight: Tensor) -> Tensor:
    """The weight (C, C, 3, 3) as (9, C_out, C_in) in x's dtype."""
    taps = torch.empty((3, 3, *weight.shape[:2]), dtype=x.dtype, device=x.device)
    return taps.copy_(weight.permute(2, 3, 0, 1)).flatten(0, 1)


def _forward(run, outputs, tensors, options):
    (x, weight, bias), (y, gate_map, z) = tensors, outputs
    if x.numel() == 0:
        return
    gate_map = gate_map if options.return_map else None
    variant = choose_variant(x, options.variant)
    if variant == "library":
        turns = _turns(x, variant)
        given = run.empty(_empty_turned(x)) if turns else x
        if turns:
            run.launch(plan_turn(x, given))
        conv = run.call(_library_conv, given, weight)
        like = given if turns else y
        if conv.stride() != like.stride():  # an unusual batch stride
            conv = run.call(Tensor.copy_, run.empty(torch.empty_like(like)), conv)
        run.launch(plan_conv_library_fwd(x, conv, bias, y, gate_map, options.gate))
        if options.save:  # no copy of the library's result
            run.call(_set_turned if turns else Tensor.set_, z, conv)
        return
    plan = plan_conv_descriptors_fwd if variant == "descriptors" else plan_conv_pointers_fwd
    run.launch(plan(x, run.call(_taps, x, weight), bias, y, gate_map, z if options.save else None, options.gate))


def _backward(run, grads, douts, saved, tensors, options):
    (dx, dweight, dbias), (dy, dmap), (x, weight, bias) = grads, douts, tensors
    if x.numel() == 0:
        for grad in grads:
            if grad is not None:
                run.call(Tensor.zero_, grad)
        return
    dmap = run.native(dmap, x)
    with_conv = dx is not None or dweight is not None
    turns = saved.z.dim() == 3  # (N, P, C)
    z = saved.z.unflatten(1, x.shape[2:]).movedim(-1, 1) if turns else run.native(saved.z, x)
    dz = run.empty(torch.empty_like(z)) if with_conv else None
    turned = run.empty(_empty_turned(x)) if turns and dweight is not None else None
    both = dict(with_db=dbias is not None, gate=options.gate)
    sums = run.launch(plan_conv_bwd(dy, dmap, x, z, bias, dz, dx, turned, **both))
    if dbias is not None:
        run.launch(plan_finish(sums.db, dbias))
    if with_conv:
        given = x if turned is None else turned  # whose values only the gradient of the weight wants
        dgrad, wgrad = run.call(_library_conv_bwd, dz, given, weight, dx is not None, dweight is not None)
        if dx is not None and turns:
            run.launch(plan_turn(dgrad, dx, adds=True))
        elif dx is not None:
            run.call(Tensor.add_, dx, dgrad)
        if dweight is not None:
            run.call(Tensor.copy_, dweight, wgrad)


_local_gate = DifferentiableOp(
    schemas.local_gate,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
)


def _saves(*tensors: Tensor | None) -> bool:
    """Whether a backward may follow. The compiler hides who requires a gradient."""
    return (torch.is_grad_enabled() and torch.compiler.is_compiling()) or needs_grad(tensors)


def local_gate_dense(*tensors: Tensor | None, variant: str = "auto", **options):
    """`variant` names the forward, for tests and measurements; "descriptors" only where `takes_descriptors`."""
    how = dict(options, variant=variant, save=_saves(*tensors))
    return _local_gate.call(tensors, how, options["return_map"])
