"""Channel gates: one weight per channel, from what a whole image holds.

    y = out(x * g + s),   g = gate(z),   z = W2 act(W1 v + b1) + b2,   v = pool over the pixels of x, or of a source
    (squeeze and excitation, Hu et al. 2018, arXiv:1709.01507)         or one layer, z = W1 v + b1
    CBAM's: the sum of the z of the mean and of the maximum            (Woo et al. 2018, arXiv:1807.06521)

With du = dy out'(x * g + s), ds_c = sum_p du_cp x_cp + dg_c and dz = ds gate'(z), the perceptron's backward gives dv
and the gradients of the weights. dx = du g + dv dv/dx: 1/P of a mean, all of it at the first maximum or shared by all
maxima. The shortcut's gradient is du, which the first pass writes for the second to read; out is the identity or
relu, so that du is dy or 0 and rounds no product. With a source, dx = du g is complete in the first pass, and
dv dv/dsource is the source's gradient. Saved are v, z and z1 = W1 v + b1, and of a maximum its pixel, or its value
and count.

With a norm behind the first layer, z1 = norm(W1 v + b1) over the images of the batch, as a BatchNorm in training: the
layers are kernels by themselves, with the norm between them. What is normalised is saved, too. b1 moves the mean of the
statistics and nothing else. A norm behind the second layer, z = norm(W2 act(z1) + b2), adds up that layer's partial
sums; of b2 the same is true.
"""

import torch
from torch import Tensor

from ..kernels.channel.apply import plan_apply_bwd, plan_apply_fwd
from ..kernels.channel.batch_norm import plan_batch_norm_bwd, plan_batch_norm_fwd
from ..kernels.channel.mlp_bwd import plan_mlp_bwd
from ..kernels.channel.mlp_dw import plan_mlp_dw
from ..kernels.channel.mlp_fwd import plan_mlp_fwd
from ..kernels.channel.pool import plan_pool_bwd, plan_pool_fwd
from ..kernels.common.activations import activation
from ..runtime import schemas
from ..runtime.operator import DifferentiableOp

BOTH, IDENTITY = "avg+max", activation("identity", 0.0, 0.0)


def _allocate(tensors, options):
    x, source, pool = tensors.x, tensors.source, options.pool
    N, C = x.shape[:2]
    inputs, pools = C if source is None else source.shape[1], 1 + (pool == BOTH)
    squeezed = (N, inputs)
    acc = torch.promote_types(x.dtype, torch.float32)
    split = pool != "avg" and options.ties == "split"
    return (
        torch.empty_like(x),
        x.new_empty((N, C) if options.return_map else (0,)),
        x.new_empty((N, pools * inputs), dtype=acc),  # v
        x.new_empty((N, C), dtype=acc),  # z
        x.new_empty((0,) if tensors.w2 is None else (N, pools * tensors.w1.shape[0]), dtype=acc),  # z1
        x.new_empty(squeezed if split else (0,), dtype=acc),  # the maximum
        x.new_empty((0,) if pool == "avg" else squeezed, dtype=torch.int32),  # its first pixel, or its count
    )


def _wanted(t: Tensor) -> Tensor | None:
    return t if t.dim() == 2 else None


def _out(name: str):
    return None if name == "identity" else activation(name, 0.0, 0.0)


def _forward(run, outputs, tensors, options):
    x, *layers, source, shortcut = tensors
    y, gate_map, pooled, z, *saved = outputs
    z1, highest, found = map(_wanted, saved)
    source = x if source is None else source
    pool, split, pixels = options.pool, options.ties == "split", source.shape[2:].numel()
    sums = run.launch(plan_pool_fwd(source, pool != "max", pool != "avg", split))
    partial, saved = (sums.total, sums.peak, sums.at), (pooled, highest, found, z1)
    mlp = run.launch(plan_mlp_fwd(*partial, pixels, *layers, *saved, options.act, split, pool == BOTH))
    added = run.native(shortcut, x)
    run.launch(plan_apply_fwd(x, mlp.z, y, z, _wanted(gate_map), options.gate, added, _out(options.out_act)))


def _backward(run, grads, douts, saved, tensors, options):
    (dx, *dparams, dsource, dshortcut), (dy, dmap) = grads, douts
    x, w1, _, w2, _, source, shortcut = tensors
    pooled, z = saved[:2]
    z1, highest, found = map(_wanted, saved[2:])
    pool, acts, gates, out = options.pool, options.act, options.gate, _out(options.out_act)
    dmix = dx if source is None else dsource  # of the map that is pooled
    both = pool == BOTH
    with_sums = dmix is not None or any(d is not None for d in dparams)
    ds, du = _first_pass(run, dy, x, source, shortcut, dx, dshortcut, z, gates, out, with_sums)
    if not with_sums:
        return
    pixels = x.shape[2:].numel()
    mlp = run.launch(plan_mlp_bwd(ds, pixels, dmap, z, z1, w1, w2, dmix is not None, acts, gates, both))
    if dmix is not None:
        how = pool != "max", highest, found
        _last_pass(run, dy, du, x, source, z, mlp.dpooled, *how, dmix, gates, both)
    if any(d is not None for d in dparams):
        run.launch(plan_mlp_dw(mlp.dz, mlp.dz1, z1, pooled, *dparams, acts, both))


def _first_pass(run, dy, x, source, shortcut, dx, dshortcut, z, gate, out, with_sums: bool):
    """Partial sums of x du, if they are wanted, and du where it is not dy; with a source, dx."""
    added, du = run.native(shortcut, x), run.native(dshortcut, x)
    if du is None and out is not None and source is None and dx is not None:
        du = run.empty(torch.empty_like(dy))
    sums = run.launch(plan_pool_bwd(dy, x, z, gate, added, out, du, None if source is None else dx, with_sums))
    if dshortcut is not None and du is not dshortcut:
        run.call(Tensor.copy_, dshortcut, du)
    return sums.total, du


def _last_pass(run, dy, du, x, source, z, dpooled, mean: bool, highest, found, dmix, gate, both: bool) -> None:
    """The gradient of the map that is pooled."""
    first = (dy if du is None else du, x, z) if source is None else (None, source, None)
    run.launch(plan_apply_bwd(*first, dpooled, mean, highest, found, dmix, gate, both=both))


def _normed_layer(run, partial, pixels: int, w1, kept, norm, act, split: bool) -> Tensor:
    """act(norm(W1 v + b1)) (N, 1, R) of the pool's partial sums, which `kept` gets whole."""
    h = run.launch(plan_mlp_fwd(*partial, pixels, w1, None, None, None, *kept, None, IDENTITY, split)).z
    return run.launch(plan_batch_norm_fwd(h, *norm, act)).a


def _layer(run, a, w, b) -> Tensor:
    """W a + b (N, 1, C) of vectors a (N, 1, R)."""
    kept = run.empty(a.new_empty((a.shape[0], a.shape[2]))), None, None, None  # a again
    return run.launch(plan_mlp_fwd(a, None, None, 1, w, b, None, None, *kept, IDENTITY, False)).z


def _d_layer(run, dz, like, w, pixels: int) -> Tensor:
    """W^T dz (N, K, R), partial, of dz (N, C); like: any (N, C). pixels: of what reads it next."""
    return run.launch(plan_mlp_bwd(dz[:, None], pixels, None, like, None, w, None, True, IDENTITY, IDENTITY)).dpooled


def _allocate_norm(tensors, options):
    y, gate_map, pooled, z, z1, *found = _allocate(tensors, options)
    N, R = tensors.x.shape[0], tensors.w1.shape[0]
    return y, gate_map, z.new_empty((2 * R,)), pooled, z, z1, z.new_empty((N, R)), *found


def _forward_norm(run, outputs, tensors, options):
    x, w1, b1, norm_weight, norm_bias, w2, b2, source, shortcut = tensors
    y, gate_map, stats, pooled, z, *saved = outputs
    z1, hhat, highest, found = map(_wanted, saved)
    source, pool, split = x if source is None else source, options.pool, options.ties == "split"
    sums = run.launch(plan_pool_fwd(source, pool != "max", pool != "avg", split))
    given = (sums.total, sums.peak, sums.at), source.shape[2:].numel(), w1, (pooled, highest, found)
    norm = b1, norm_weight, norm_bias, stats, hhat, z1, options.eps
    a = _normed_layer(run, *given, norm, IDENTITY if w2 is None else options.act, split)
    a = a if w2 is None else _layer(run, a, w2, b2)
    added = run.native(shortcut, x)
    run.launch(plan_apply_fwd(x, a, y, z, _wanted(gate_map), options.gate, added, _out(options.out_act)))


def _backward_norm(run, grads, douts, saved, tensors, options):
    x, w1, _, norm_weight, _, w2, _, source, shortcut = tensors
    (dx, dw1, db1, *dnorm, dw2, db2, dsource, dshortcut), (dy, dmap) = grads, douts
    (stats, pooled, z), (z1, hhat, highest, found) = saved[:3], map(_wanted, saved[3:])
    gate, out, dmix, two = options.gate, _out(options.out_act), dx if source is None else dsource, w2 is not None
    if db1 is not None:
        run.call(Tensor.zero_, db1)
    with_dh = dmix is not None or dw1 is not None
    with_norm = with_dh or any(d is not None for d in dnorm)
    with_sums = with_norm or dw2 is not None or db2 is not None
    ds, du = _first_pass(run, dy, x, source, shortcut, dx, dshortcut, z, gate, out, with_sums)
    if not with_sums:
        return
    pixels, dh = x.shape[2:].numel(), None
    last = run.launch(plan_mlp_bwd(ds, pixels, dmap, z, None, w2 if two else w1, None, two, IDENTITY, gate))
    dz = last.dz1
    if with_norm:
        given = last.dpooled if two else dz[:, None], z1, hhat, norm_weight, stats
        dh = run.launch(plan_batch_norm_bwd(*given, with_dh, *dnorm, options.eps, options.act)).dh
    if dmix is not None:
        how = options.pool != "max", highest, found
        _last_pass(run, dy, du, x, source, z, _d_layer(run, dh, hhat, w1, pixels), *how, dmix, gate, False)
    if any(d is not None for d in (dw1, dw2, db2)):
        given = dz if two else None, z1 if dh is None else dh, z1, pooled  # dh is read for dw1 alone
        run.launch(plan_mlp_dw(*given, dw1, None, dw2, db2, options.act))


def _allocate_norms(tensors, options):
    y, gate_map, pooled, z, z1, *found = _allocate(tensors, options)
    (N, C), R, first = z.shape, tensors.w1.shape[0], tensors.norm_weight1 is not None
    stats, hhat = z.new_empty((2 * (R * first + C),)), z.new_empty((N, R) if first else (0,))
    return y, gate_map, stats, pooled, z, z1, hhat, z.new_empty((N, C)), *found


def _forward_norms(run, outputs, tensors, options):
    x, w1, b1, weight1, bias1, w2, b2, weight2, bias2, source, shortcut = tensors
    y, gate_map, stats, pooled, z, *saved = outputs
    z1, hhat, zhat, highest, found = map(_wanted, saved)
    source, pool, split = x if source is None else source, options.pool, options.ties == "split"
    sums = run.launch(plan_pool_fwd(source, pool != "max", pool != "avg", split))
    partial, pixels, kept = (sums.total, sums.peak, sums.at), source.shape[2:].numel(), (pooled, highest, found)
    if weight1 is None:
        h = run.launch(plan_mlp_fwd(*partial, pixels, w1, b1, w2, None, *kept, z1, options.act, split)).z
    else:
        norm = b1, weight1, bias1, stats[: 2 * len(w1)], hhat, z1, options.eps1
        h = _layer(run, _normed_layer(run, partial, pixels, w1, kept, norm, options.act, split), w2, None)
    norm = b2, weight2, bias2, stats[-2 * len(w2) :], zhat, None, options.eps2
    a, added = run.launch(plan_batch_norm_fwd(h, *norm, IDENTITY)).a, run.native(shortcut, x)
    run.launch(plan_apply_fwd(x, a, y, z, _wanted(gate_map), options.gate, added, _out(options.out_act)))


def _backward_norms(run, grads, douts, saved, tensors, options):
    x, w1, _, weight1, _, w2, _, weight2, _, source, shortcut = tensors
    (dx, dw1, db1, *rest, dsource, dshortcut), (dy, dmap) = grads, douts
    dnorm1, (dw2, db2), dnorm2 = rest[:2], rest[2:4], rest[4:]
    (stats, pooled, z), (z1, hhat, zhat, highest, found) = saved[:3], map(_wanted, saved[3:])
    gate, out, dmix = options.gate, _out(options.out_act), dx if source is None else dsource
    first = weight1 is not None
    for d in (db1 if first else None, db2):  # of a bias before a norm
        if d is not None:
            run.call(Tensor.zero_, d)
    db1 = None if first else db1
    with_hidden = any(d is not None for d in (dmix, dw1, db1, *dnorm1))
    with_dz = with_hidden or dw2 is not None
    with_sums = with_dz or any(d is not None for d in dnorm2)
    ds, du = _first_pass(run, dy, x, source, shortcut, dx, dshortcut, z, gate, out, with_sums)
    if not with_sums:
        return
    pixels, dz1, dpooled = x.shape[2:].numel(), None, None
    dz = run.launch(plan_mlp_bwd(ds, pixels, dmap, z, None, w2, None, False, IDENTITY, gate)).dz1
    norm = zhat, weight2, stats[-2 * len(w2) :], with_dz, *dnorm2, options.eps2
    dz = run.launch(plan_batch_norm_bwd(dz[:, None], None, *norm, IDENTITY)).dh
    if with_hidden and first:
        with_dz1 = dmix is not None or dw1 is not None
        norm = z1, hhat, weight1, stats[: 2 * len(w1)], with_dz1, *dnorm1, options.eps1
        dz1 = run.launch(plan_batch_norm_bwd(_d_layer(run, dz, zhat, w2, 1), *norm, options.act)).dh
        dpooled = None if dmix is None else _d_layer(run, dz1, hhat, w1, pixels)
    elif with_hidden:
        given = dz[:, None], pixels, None, zhat, z1, w1, w2, dmix is not None
        back = run.launch(plan_mlp_bwd(*given, options.act, IDENTITY))
        dz1, dpooled = back.dz1, back.dpooled
    if dmix is not None:
        _last_pass(run, dy, du, x, source, z, dpooled, options.pool != "max", highest, found, dmix, gate, False)
    if any(d is not None for d in (dw1, db1, dw2)):
        given = dz, z1 if dz1 is None else dz1, z1, pooled  # dz1 is read for dw1 and db1 alone
        run.launch(plan_mlp_dw(*given, dw1, db1, dw2, None, options.act))


_squeeze_excite = DifferentiableOp(
    schemas.squeeze_excite,
    allocate=_allocate,
    forward=_forward,
    backward=_backward,
    maps=("x", "source", "shortcut"),
    adds=("shortcut", "out_act", "identity"),
)


_squeeze_excite_norm = DifferentiableOp(
    schemas.squeeze_excite_norm,
    allocate=_allocate_norm,
    forward=_forward_norm,
    backward=_backward_norm,
    maps=("x", "source", "shortcut"),
    adds=("shortcut", "out_act", "identity"),
)


_squeeze_excite_norms = DifferentiableOp(
    schemas.squeeze_excite_norms,
    allocate=_allocate_norms,
    forward=_forward_norms,
    backward=_backward_norms,
    maps=("x", "source", "shortcut"),
    adds=("shortcut", "out_act", "identity"),
)


def squeeze_excite(*tensors: Tensor | None, **options):
    return _squeeze_excite.call(tensors, options, options["return_map"])


def squeeze_excite_norm(*tensors: Tensor | None, return_stats: bool, **options):
    return _squeeze_excite_norm.call(tensors, options, _places(options["return_map"], return_stats))


def squeeze_excite_norms(*tensors: Tensor | None, return_stats: bool, **options):
    return _squeeze_excite_norms.call(tensors, options, _places(options["return_map"], return_stats))


def _places(return_map: bool, return_stats: bool) -> tuple[int, ...] | bool:
    """Of the outputs that the caller gets."""
    places = 0, *([1] if return_map else []), *([2] if return_stats else [])
    return places if len(places) > 1 else False
