"""Coordinate attention: every row and every column of every channel weighted, by what its strip and all others hold.

    y = x g,  g = gate(z_h) gate(z_w) or gate(z_h + z_w),   z_h = w_h a_h + b_h,  z_w = w_w a_w + b_w
    (a_h, a_w) = act(norm(w1 (v_h, v_w) + b1)),   v_h = mean_w x,  v_w = mean_h x    (Hou et al. 2021, arXiv:2103.02907)

norm, if there is one, is of the batch: u = (h - mean) / sqrt(var + eps) norm_weight + norm_bias over all images, rows
and columns; b1 moves the mean and nothing else. 3 passes over the map forward. Backward dz_h and dz_w are sums of
(dy x + dmap) dg/dz, of one read of dy and x, the layers give dv_h and dv_w, and
    dx = dy g + dv_h / W + dv_w / H
reads dy and writes dx: 4 passes. Saved are both strips (N, C, H + W), the hidden channels before and behind norm and
activation, and the logits. The layers see (H + W) / (H W) of the map, in float32, and are matrix products of torch's.
"""

import torch
from torch import Tensor

from ..kernels.coordinate.apply import plan_coordinate_apply
from ..kernels.coordinate.finish import plan_coordinate_finish
from ..kernels.coordinate.hidden import plan_coordinate_hidden
from ..kernels.coordinate.mean import plan_coordinate_mean
from ..kernels.coordinate.sums import plan_coordinate_sums
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp

NOTHING = None, None


def _allocate(tensors, options):
    x, R, normed = tensors.x, tensors.w1.shape[0], tensors.norm_weight is not None
    N, C, H, W = x.shape
    acc = torch.promote_types(x.dtype, torch.float32)
    sizes = (N, C, H + W), (N, R, H + W), (N, R, H + W), (N, C, H), (N, C, W)  # strips, h, a, z_h, z_w
    return (
        torch.empty_like(x),
        torch.empty_like(x) if options.return_map else x.new_empty((0,)),
        x.new_empty((2 * R if normed else 0,), dtype=acc),  # means, variances
        x.new_empty((R if normed else 0,), dtype=acc),  # norm_weight / sqrt(var + eps)
        *(x.new_empty(size, dtype=acc) for size in sizes),
    )


def _product(out: Tensor, weight: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """weight v + bias of every image."""
    weight = weight.detach().flatten(1).to(v.dtype).expand(len(v), -1, -1)
    if bias is None:
        return torch.bmm(weight, v, out=out)
    return torch.baddbmm(bias.detach().to(v.dtype)[:, None], weight, v, out=out)


def _centred(stats: Tensor, scale: Tensor, h: Tensor, bias: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """h less the mean of its channel, in place; the statistics of h + bias, of no image zeros, and the norm's scale,
    which is not finite where the bias is not."""
    count = max(len(h) * h.shape[2], 1)
    mean = h.sum((0, 2)) / count
    var = h.sub_(mean[:, None]).square().sum((0, 2)) / count
    torch.mul(torch.rsqrt(var + eps), weight.detach(), out=scale)
    if bias is not None:
        scale.add_((bias - bias).detach())
        mean = mean + bias.detach()
    torch.cat([mean, var], out=stats)
    return h


def _forward(run, outputs, tensors, options):
    x, w1, b1, w_h, b_h, w_w, b_w, norm_weight, norm_bias = tensors
    y, gate_map, stats, scale, strips, h, a, z_h, z_w = outputs
    H, normed = x.shape[2], norm_weight is not None
    sums = run.launch(plan_coordinate_mean(x))
    run.launch(plan_coordinate_finish(sums.rows, sums.cols, strips[:, :, :H], strips[:, :, H:]))
    run.call(_product, h, w1, strips, None)
    if normed:
        run.call(_centred, stats, scale, h, b1, norm_weight, options.eps)
    of_norm = (scale, norm_bias) if normed else (None, b1)
    run.launch(plan_coordinate_hidden(h, *of_norm, a, options.act))
    run.call(_product, z_h, w_h, a[:, :, :H], b_h)
    run.call(_product, z_w, w_w, a[:, :, H:], b_w)
    gate_map = gate_map if options.return_map else None
    run.launch(plan_coordinate_apply(x, (z_h, z_w), NOTHING, y, gate_map, options.combine == "product", options.gate))


def _pulled(out: Tensor, weight: Tensor, dz: Tensor) -> Tensor:
    """What a layer gives back: weight^T dz of every image."""
    return torch.bmm(weight.detach().flatten(1).to(dz.dtype).t().expand(len(dz), -1, -1), dz, out=out)


def _into_weight(out: Tensor, dz: Tensor, v: Tensor) -> Tensor:
    """The sum of dz v^T over the images; in what they are in, under autocast, too, which lets `out` alone."""
    of_images = torch.bmm(dz, v.transpose(1, 2), out=dz.new_empty(len(dz), dz.shape[1], v.shape[1]))
    return out.copy_(of_images.sum(0).reshape(out.shape))


def _into_bias(out: Tensor, dz: Tensor) -> Tensor:
    return out.copy_(dz.sum((0, 2)))


def _into_norm_weight(out: Tensor, du: Tensor, d: Tensor, var: Tensor, eps: float) -> Tensor:
    return out.copy_((du * (d * torch.rsqrt(var + eps)[:, None])).sum((0, 2)))


def _through_norm(du: Tensor, d: Tensor, scale: Tensor, var: Tensor, eps: float) -> Tensor:
    """dh of u = d scale + shift, d = h - mean: du less its mean and its share along d."""
    along = (du * d).mean((0, 2)) / (var + eps)
    return (du - du.mean((0, 2))[:, None] - d * along[:, None]) * scale[:, None]


def _backward(run, grads, douts, saved, tensors, options):
    x, w1, b1, w_h, _, w_w, _, norm_weight, norm_bias = tensors
    dx, dw1, db1, dw_h, db_h, dw_w, db_w, dnorm_weight, dnorm_bias = grads
    (dy, dmap), (stats, scale, strips, h, a, z_h, z_w) = douts, saved
    H, normed, how = x.shape[2], norm_weight is not None, (options.combine == "product", options.gate)
    sums = run.launch(plan_coordinate_sums(dy, x, run.native(dmap, x), z_h, z_w, None, *how))
    dz_h, dz_w = run.empty(torch.empty_like(z_h)), run.empty(torch.empty_like(z_w))
    run.launch(plan_coordinate_finish(sums.rows, sums.cols, dz_h, dz_w))
    a_h, a_w = a[:, :, :H], a[:, :, H:]
    for dz, part, dweight, dbias in ((dz_h, a_h, dw_h, db_h), (dz_w, a_w, dw_w, db_w)):
        if dweight is not None:
            run.call(_into_weight, dweight, dz, part)
        if dbias is not None:
            run.call(_into_bias, dbias, dz)
    if all(d is None for d in (dx, dw1, db1, dnorm_weight, dnorm_bias)):
        return
    da = run.empty(torch.empty_like(a))
    run.call(_pulled, da[:, :, :H], w_h, dz_h)
    run.call(_pulled, da[:, :, H:], w_w, dz_w)
    of_norm = (scale, norm_bias) if normed else (None, b1)
    dh = du = run.empty(torch.empty_like(a))
    run.launch(plan_coordinate_hidden(h, *of_norm, du, options.act, da))
    if normed:
        var = stats[len(scale) :]
        if dnorm_weight is not None:
            run.call(_into_norm_weight, dnorm_weight, du, h, var, options.eps)
        if dnorm_bias is not None:
            run.call(_into_bias, dnorm_bias, du)
        if db1 is not None:
            run.call(Tensor.zero_, db1)
        dh = run.call(_through_norm, du, h, scale, var, options.eps)
    elif db1 is not None:
        run.call(_into_bias, db1, du)
    if dw1 is not None:
        run.call(_into_weight, dw1, dh, strips)
    if dx is not None:
        dv = run.empty(torch.empty_like(strips))
        run.call(_pulled, dv, w1, dh)
        run.launch(plan_coordinate_apply(dy, (z_h, z_w), (dv[:, :, :H], dv[:, :, H:]), dx, None, *how))


_coordinate_attention = DifferentiableOp(
    schemas.coordinate_attention, allocate=_allocate, forward=_forward, backward=_backward
)


def coordinate_attention(*tensors: Tensor | None, **options):
    asked = dict(options)
    stats = asked.pop("return_stats")
    places = 0, *([1] if options["return_map"] else []), *([2] if stats else [])
    return _coordinate_attention.call(tensors, asked, places if len(places) > 1 else False)
