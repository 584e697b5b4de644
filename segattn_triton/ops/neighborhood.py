"""Neighbourhood attention: every pixel attends to the pixels of the window around it, whole and split in two.

    attention   y_i = sum_j p_ij v_j,   p_i = softmax_j(s_ij)            (Hassani et al. 2023, arXiv:2204.07143)
    qk          s_ij = scale <q_i, k_j> + rel_bias[j - i]
    av          y_i = sum_j a_ij v_j

Attention saves y and lse: with p rebuilt from lse and delta_i = <y_i, dy_i> - dlse_i, ds_ij = p_ij (<dy_i, v_j> -
delta_i); qk and av save nothing but their inputs. From ds: dq_i = scale sum_j ds_ij k_j, dk_j = scale sum_i ds_ij q_i,
drel_bias_o = sum of ds at offset o. Of av: dv_j = sum_i a_ij dy_i, da_ij = <dy_i, v_j>.
Over two axes alike, not causal, a window is a square, with kernels of its own; all others have one family.

Passes: forward 4, backward 13. Of a large map in 16 bits whose W is contiguous (`_turns`) what is loaded in patches is
copied in channels_last first, 4 or 6 passes more forward and 7 backward; results are stored as they lie, but those of
dilated windows, which are copied back, for 2 and 6 more.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..kernels.common.finish import plan_finish
from ..kernels.conv.turn import plan_turn
from ..kernels.neighborhood.backward import plan_neighborhood_bwd
from ..kernels.neighborhood.delta import plan_neighborhood_delta
from ..kernels.neighborhood.forward import plan_neighborhood_fwd
from ..kernels.neighborhood.patch import MOST_BACKWARD, patch_of, takes_products
from ..kernels.neighborhood.patch_backward import plan_neighborhood_dkv, plan_neighborhood_dq
from ..kernels.neighborhood.split import plan_neighborhood_dot, plan_neighborhood_sum
from ..kernels.neighborhood.strip import takes_strips
from ..kernels.neighborhood.strip_backward import plan_neighborhood_strip_dkv, plan_neighborhood_strip_dq
from ..kernels.neighborhood.strip_forward import plan_neighborhood_strip_fwd
from ..kernels.window.backward import plan_window_dkv, plan_window_dq
from ..kernels.window.delta import plan_window_delta
from ..kernels.window.forward import plan_window_fwd
from ..kernels.window.layout import Reach
from ..kernels.window.split import plan_window_dot, plan_window_sum
from ..kernels.window.table import plan_window_table, plan_window_table_of
from ..runtime import schemas
from ..runtime.maps import partials
from ..runtime.operator import DifferentiableOp, needs_grad

TURNED_FROM = 2**20  # elements of a map, for each column of an access


def _empty_in_order_of(t: Tensor, shape: Sequence[int]) -> Tensor:
    """A dense tensor of this shape whose axes lie in memory in the order of t's."""
    order = sorted(range(t.dim()), key=lambda axis: t.stride(axis), reverse=True)
    return t.new_empty([shape[axis] for axis in order]).permute([order.index(axis) for axis in range(t.dim())])


def _finish_bias(run, dbias: Tensor | None, drel_bias: Tensor | None) -> None:
    if drel_bias is not None:
        run.launch(plan_finish(dbias, drel_bias))


def _axes(options, t: Tensor) -> Reach:
    """The window over a map t (N, *S, heads, ...)."""
    return Reach.of(t.dim() - 3, options.kernel_size, options.dilation, options.is_causal, options.border)


def _square(options, t: Tensor) -> tuple[int, int, str] | None:
    """Kernel size, dilation and border of a window over a map (N, H, W, heads, ...); None of one that is no square."""
    axes = _axes(options, t)
    alike = t.dim() == 5 and axes.kernel[1] == axes.kernel[2] and axes.dilation[1] == axes.dilation[2]
    return (axes.kernel[2], axes.dilation[2], axes.border) if alike and not any(axes.causal) else None


def _turns(t: Tensor, kernel_size: int, dilation: int) -> bool:
    """Whether kernels that load a map (N, H, W, heads, D) in patches get it in channels_last: its W is contiguous, D
    fills whole accesses, and what patches save by the account (perf/NOTES.md, "Turned first") is more than launches:
    an access along W of few columns costs them most."""
    W, D = t.shape[2], t.shape[4]
    is_map = t.stride(2) == 1 and t.stride(1) == W and t.stride(3) == D * t.stride(4) and t.stride(4) > 1
    return is_map and D % 16 == 0 and t.numel() >= TURNED_FROM * patch_of(t, kernel_size, dilation).lead


def _map(t: Tensor) -> Tensor:
    """A view (N, H, W, heads, D) as the map (N, heads * D, H, W)."""
    return t.permute(0, 3, 4, 1, 2).flatten(1, 2)


def _turn(run, t: Tensor, made: Tensor) -> None:
    if made is not t:
        run.launch(plan_turn(_map(t), _map(made)))


def _turned(run, views: Sequence[Tensor], kernel_size: int, dilation: int) -> list[Tensor]:
    """The views, in channels_last those that turn."""
    turned = [run.empty(t.new_empty(t.shape)) if _turns(t, kernel_size, dilation) else t for t in views]
    for t, made in zip(views, turned, strict=True):
        _turn(run, t, made)
    return turned


def _stored(run, views: Sequence[Tensor | None], kernel_size: int, dilation: int) -> list[Tensor | None]:
    """Where results are stored: in the views themselves, but where a store would be of single columns."""
    turns = [t is not None and dilation > 1 and _turns(t, kernel_size, dilation) for t in views]
    return [run.empty(t.new_empty(t.shape)) if way else t for t, way in zip(views, turns, strict=True)]


def _by_strips(
    reads: Sequence[Tensor],
    writes: Sequence[Tensor],
    rel_bias: Tensor | None,
    square: tuple[int, int, str],
    scale: float,
) -> bool:
    return takes_strips((*reads, *writes), len(reads), *square, rel_bias, scale)


def _allocate(tensors, options):
    q = tensors.q
    acc = torch.promote_types(q.dtype, torch.float32)
    return torch.empty_like(q), q.new_empty(q.shape[:-1] if options.return_lse else (0,), dtype=acc)


def _forward(run, outputs, tensors, options):
    lse, square = outputs.lse if options.return_lse else None, _square(options, tensors.q)
    if square is None:
        run.launch(plan_window_fwd(*tensors, outputs.y, lse, _axes(options, tensors.q), options.scale))
    else:
        _forward_square(run, outputs.y, lse, tensors, square, options.scale)


def _forward_square(run, y, lse, tensors, square: tuple[int, int, str], scale: float):
    (q, k, v, rel_bias), made = tensors, y
    window = square[:2]
    if takes_products(k, *window, rel_bias, scale):
        (k, v), (made,) = _turned(run, (k, v), *window), _stored(run, (y,), *window)
        if not _by_strips((q, k, v), [made], rel_bias, square, scale):  # which load each vector of q once
            (q,) = _turned(run, (q,), *window)
    if _by_strips((q, k, v), [made], rel_bias, square, scale):
        run.launch(plan_neighborhood_strip_fwd(q, k, v, made, lse, *square, scale))
    else:
        run.launch(plan_neighborhood_fwd(q, k, v, rel_bias, made, lse, *square, scale))
    _turn(run, made, y)


def _backward(run, grads, douts, saved, tensors, options):
    dy, dlse = douts
    square = _square(options, tensors.q)
    delta = run.empty(partials(tensors.q, *tensors.q.shape[:-1]))
    if square is None:
        run.launch(plan_window_delta(saved.y, dy, dlse, delta))
        _backward_axes(run, grads, (dy, *tensors, saved.lse, delta), _axes(options, tensors.q), options.scale)
    else:
        _backward_square(run, grads, (saved.y, dy, dlse), (*tensors, saved.lse, delta), square, options.scale)


def _backward_axes(run, grads, given, axes: Reach, scale: float):
    dq, dk, dv, drel_bias = grads
    if dq is not None:
        run.launch(plan_window_dq(*given, dq, axes, scale))
    if dk is not None or dv is not None:
        run.launch(plan_window_dkv(*given, dk, dv, axes, scale))
    if drel_bias is not None:
        _finish_bias(run, run.launch(plan_window_table(*given, axes, scale)).dbias, drel_bias)


def _backward_square(run, grads, douts, given, square: tuple[int, int, str], scale: float):
    (*vectors, drel_bias), (y, dy, dlse), window = grads, douts, square[:2]
    q, k, v, rel_bias, lse, delta = given
    by_products = takes_products(q, *window, rel_bias, scale, MOST_BACKWARD) and any(t is not None for t in vectors)
    turned = run.empty(dy.new_empty(dy.shape)) if by_products and _turns(dy, *window) else None
    run.launch(plan_neighborhood_delta(y, dy, dlse, delta, turned))
    given = dy if turned is None else turned, *given
    if by_products:
        given = given[0], *_turned(run, (q, k, v), *window), rel_bias, lse, delta
        made = _stored(run, vectors, *window)
        _backward_products(run, made, given, square, scale)
        for t, grad in zip(made, vectors, strict=True):
            _turn(run, t, grad)
        vectors = [None] * 3
    if any(grad is not None for grad in (*vectors, drel_bias)):
        plan = plan_neighborhood_bwd(*given, *vectors, drel_bias is not None, *square, scale)
        _finish_bias(run, run.launch(plan).dbias, drel_bias)


def _backward_products(run, grads, given, square: tuple[int, int, str], scale: float):
    (dq, dk, dv), (*reads, rel_bias, lse, delta) = grads, given
    plan_dq, plan_dkv = plan_neighborhood_dq, plan_neighborhood_dkv
    dy, q, k, v = reads
    if _by_strips((q, k, v, dy), [t for t in grads if t is not None], rel_bias, square, scale):
        plan_dq, plan_dkv, given = plan_neighborhood_strip_dq, plan_neighborhood_strip_dkv, (*reads, lse, delta)
    if dq is not None:
        run.launch(plan_dq(*given, dq, *square, scale))
    if dk is not None or dv is not None:
        run.launch(plan_dkv(*given, dk, dv, *square, scale))


def _qk_allocate(tensors, options):
    q = tensors.q
    return (_empty_in_order_of(q, (*q.shape[:-1], _axes(options, q).taps)),)


def _dot(a: Tensor, b: Tensor, rel_bias: Tensor | None, s: Tensor, options, scale: float, exclude: bool):
    square = _square(options, a)
    if square is None:
        return plan_window_dot(a, b, rel_bias, s, _axes(options, a), scale, exclude)
    return plan_neighborhood_dot(a, b, rel_bias, s, *square, scale, exclude)


def _sum(s: Tensor, b: Tensor, y: Tensor, options, scale: float, to_keys: bool = False):
    square = _square(options, s)
    if square is None:
        return plan_window_sum(s, b, y, _axes(options, s), scale, to_keys)
    return plan_neighborhood_sum(s, b, y, False, *square, scale, to_keys)


def _qk_forward(run, outputs, tensors, options):
    exclude = options.border == "mask" or (options.border == "shift" and any(_axes(options, tensors.q).causal))
    run.launch(_dot(*tensors, outputs.scores, options, options.scale, exclude))


def _qk_backward(run, grads, douts, saved, tensors, options):
    (dq, dk, drel_bias), (ds,), square = grads, douts, _square(options, tensors.q)
    if square is None:
        if dq is not None:
            run.launch(_sum(ds, tensors.k, dq, options, options.scale))
        if drel_bias is not None:
            _finish_bias(run, run.launch(plan_window_table_of(ds, _axes(options, ds))).dbias, drel_bias)
    elif dq is not None or drel_bias is not None:
        plan = plan_neighborhood_sum(ds, tensors.k, dq, drel_bias is not None, *square, options.scale)
        _finish_bias(run, run.launch(plan).dbias, drel_bias)
    if dk is not None:
        run.launch(_sum(ds, tensors.q, dk, options, options.scale, to_keys=True))


def _av_allocate(tensors, options):
    attn, v = tensors
    return (_empty_in_order_of(v, (*attn.shape[:-1], v.shape[-1])),)


def _av_forward(run, outputs, tensors, options):
    run.launch(_sum(*tensors, outputs.y, options, 1.0))


def _av_backward(run, grads, douts, saved, tensors, options):
    (dattn, dv), (dy,) = grads, douts
    if dattn is not None:
        run.launch(_dot(dy, tensors.v, None, dattn, options, 1.0, False))
    if dv is not None:
        run.launch(_sum(tensors.attn, dy, dv, options, 1.0, to_keys=True))


_neighborhood_attention = DifferentiableOp(
    schemas.neighborhood_attention,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    views=3,
)
_neighborhood_qk = DifferentiableOp(
    schemas.neighborhood_qk,
    allocate=_qk_allocate,
    forward=_qk_forward,
    backward=_qk_backward,
    views=2,
)
_neighborhood_av = DifferentiableOp(
    schemas.neighborhood_av,
    allocate=_av_allocate,
    forward=_av_forward,
    backward=_av_backward,
    views=2,
)


def _scaled(options: Mapping, q: Tensor) -> dict:
    """The options with a scale, d^-1/2 where none is given."""
    scale = options["scale"]
    return dict(options, scale=q.shape[-1] ** -0.5 if scale is None else float(scale))


def neighborhood_attention(*tensors: Tensor | None, return_lse: bool, **options):
    how = dict(_scaled(options, tensors[0]), return_lse=return_lse or needs_grad(tensors))
    return _neighborhood_attention.call(tensors, how, return_lse)


def neighborhood_qk(*tensors: Tensor | None, **options):
    return _neighborhood_qk.call(tensors, _scaled(options, tensors[0]))


def neighborhood_av(*tensors: Tensor | None, **options):
    return _neighborhood_av.call(tensors, options)
