"""The functions of `functional` on shards. Those of windows run on a shard with its neighbours' rows, by the kernels;
those that pool reduce what they pool between two passes over the shard."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from .. import functional
from ..reference.activations import activate
from ..reference.channel import linear, per_channel, perceptron
from .collectives import Line, line_of, maximum, replicated, sizes_of, total, with_halo, without_halo


def sharded(function: Callable, mesh: DeviceMesh | None = None, *, dim: int = 2) -> Callable:
    """`function`, one of `segattn_triton.functional`, of maps whose axis `dim` is sharded over the ranks of `mesh`.

    It is called as the function is, by every rank, with its part of each map (parts of any sizes, in the order of the
    ranks) and with the same parameters. The result is this rank's part of what the function gives for whole maps; so
    are the gradients of maps; those of parameters are summed over the ranks, on each. Maps may be DTensors with one
    Shard of that axis, whose mesh is used; the results then are, too.
    dim: 2 for H of (N, C, H, W); of neighbourhood attention, whose maps are (N, H, W, heads, D), 1 is H and 2 is W.
    mesh: a DeviceMesh of one axis: `mesh["rows"]` of a larger one.
    Errors: ValueError, on every rank, where ranks disagree, for a shard narrower than half the window (rounded up), and
    for a batch norm of the batch; RuntimeError where a rank does not call within the time limit of its process group.
    """
    name = getattr(function, "__name__", repr(function))
    if getattr(functional, name, None) is not function or name not in GATES:
        raise ValueError(f"function: got {name}, expected one of {', '.join(GATES)} of segattn_triton.functional")
    if mesh is not None and (not isinstance(mesh, DeviceMesh) or mesh.ndim != 1):
        got = f"{mesh.ndim} axes" if isinstance(mesh, DeviceMesh) else type(mesh).__name__
        raise ValueError(f'mesh: got {got}, expected a DeviceMesh of one axis: mesh["rows"] of a larger one')

    @functools.wraps(function)
    def call(x: Tensor, *args, **options):
        tensors = [x, *args]
        given = mesh
        whole = x if isinstance(x, DTensor) else None
        if whole is not None:
            given = _mesh_of(whole, dim)
        if given is None:
            raise ValueError("mesh: got None, expected a DeviceMesh, or x as a DTensor that is sharded")
        local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
        options = {k: v.to_local() if isinstance(v, DTensor) else v for k, v in options.items()}
        line = _agreed(name, given, dim, local, options)
        shared = [_shared(i, t, line, name) for i, t in enumerate(local)]
        named = {k: _shared(k, v, line, name) if isinstance(v, Tensor) else v for k, v in options.items()}
        y = GATES[name](line, dim, *shared, **named)
        if whole is None or not isinstance(y, Tensor):
            return y
        return DTensor.from_local(
            y, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
        )

    return call


MAPS = {"attention_gate": (0, 1, "g"), "neighborhood_attention": (0, 1, 2, "k", "v")}
SECOND = {"squeeze_excite": (0, 5, 6, "source", "shortcut")}


def _shared(place: int | str, t: Tensor | None, line: Line, name: str) -> Tensor | None:
    """A map as it is; a parameter with a gradient that is summed."""
    return t if place in (MAPS | SECOND).get(name, (0,)) else replicated(t, line)


def _mesh_of(x: DTensor, dim: int) -> DeviceMesh:
    found = [i for i, p in enumerate(x.placements) if isinstance(p, Shard)]
    if len(found) != 1 or x.placements[found[0]].dim != dim:
        raise ValueError(f"x: got placements {x.placements}, expected one Shard({dim})")
    mesh = x.device_mesh
    return mesh if mesh.ndim == 1 else mesh[mesh.mesh_dim_names[found[0]]]


def _agreed(name: str, mesh: DeviceMesh, dim: int, tensors: Sequence, options: dict) -> Line:
    """The line of ranks, after what all were called with was compared."""
    x = tensors[0]
    named = [*enumerate(tensors), *sorted(options.items())]
    words = [(k, _said(t, dim) if isinstance(t, Tensor) else t) for k, t in named if k != 0]
    words += [dim, torch.is_grad_enabled(), x.dtype, x.requires_grad]
    beside = [s for axis, s in enumerate(x.shape) if axis != dim]
    line = line_of(mesh, name, words, beside, x.shape[dim] if -1 < dim < x.dim() else 0, x.device)
    least = 1 if name != "neighborhood_attention" else 0
    if not least < dim < x.dim() - 2 * (1 - least) or 0 in line.sizes:
        raise ValueError(
            f"dim: got {dim} for x of {x.dim()} axes with shards of {[*line.sizes]}, expected a spatial axis"
        )
    return line


def _said(t: Tensor, dim: int) -> tuple:
    """Of a tensor beside x, which may be a map with a sharded axis."""
    return t.dtype, t.requires_grad, [s for axis, s in enumerate(t.shape) if axis != dim]


def _halo(name: str, kernel_size: int, dilation: int, line: Line) -> int:
    """The rows that a window reaches beyond a shard."""
    width = kernel_size // 2 * dilation
    if len(line.sizes) > 1 and min(line.sizes) < width + dilation:
        rank = [*line.sizes].index(min(line.sizes))
        raise ValueError(
            f"{name}: rank {rank} has {min(line.sizes)} rows of the sharded axis, and a window of {kernel_size} with "
            f"dilation {dilation} needs at least {width + dilation} on every rank: use fewer ranks"
        )
    return width


def _cropped(outputs, line: Line, dim: int, width: int):
    if isinstance(outputs, tuple):
        return tuple(without_halo(t, dim, width, line) for t in outputs)
    return without_halo(outputs, dim, width, line)


def _by_pixel(function: Callable) -> Callable:
    """No pixel needs another: only the parameters' gradients are summed."""
    return lambda line, dim, *tensors, **options: function(*tensors, **options)


def _local(line: Line, dim: int, x: Tensor, weight: Tensor, bias: Tensor | None = None, **options):
    width = _halo("local_gate", 3, 1, line)
    return _cropped(functional.local_gate(with_halo(x, dim, width, line), weight, bias, **options), line, dim, width)


def _local_pool(line: Line, dim: int, x: Tensor, **options):
    width = _halo("local_pool_gate", 3, 1, line)
    return _cropped(functional.local_pool_gate(with_halo(x, dim, width, line), **options), line, dim, width)


def _neighborhood(line: Line, dim: int, q, k, v, rel_bias=None, *, kernel_size: int = 3, dilation: int = 1, **options):
    """Queries beyond the shard are zeros, whose results are dropped."""
    width = _halo("neighborhood_attention", kernel_size, dilation, line)
    k, v = with_halo(k, dim, width, line), with_halo(v, dim, width, line)
    ends = [width * (line.rank > 0), width * (line.rank + 1 < len(line.sizes))]
    q = torch.nn.functional.pad(q, [0, 0] * (q.dim() - 1 - dim) + ends)
    options |= dict(kernel_size=kernel_size, dilation=dilation)
    return _cropped(functional.neighborhood_attention(q, k, v, rel_bias, **options), line, dim, width)


def _cbam_spatial(line: Line, dim: int, x, weight, bias=None, norm_weight=None, norm_bias=None, **options):
    if norm_weight is not None:
        raise ValueError(
            "norm_weight: got a norm of the batch, which would be of every shard for itself: fold running statistics "
            "into weight and bias"
        )
    width = _halo("cbam_spatial_gate", weight.shape[2], 1, line)
    y = functional.cbam_spatial_gate(with_halo(x, dim, width, line), weight, bias, **options)
    return _cropped(y, line, dim, width)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _widened(x: Tensor, *parameters: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.to(_wide(x)) for t in parameters]


def _mean(x: Tensor, line: Line, dim: int) -> Tensor:
    pixels = x[0, 0].numel() // x.shape[dim] * line.total
    return total(x.flatten(2).sum(2, dtype=_wide(x)), line) / pixels


def _pools(x: Tensor, pool: str, ties: str, line: Line, dim: int) -> list[Tensor]:
    """What the perceptron is applied to, its results added; each (N, C) of the whole map."""
    mean = _mean(x, line, dim) if "avg" in pool else None
    if pool == "avg":
        return [mean]
    peak = maximum(x.to(_wide(x)), dim, ties, line)
    return {"max": [peak], "avgmax": [0.5 * (mean + peak)] if mean is not None else [], "avg+max": [mean, peak]}[pool]


def _gate_of_channels(line: Line, dim: int, x, w1, b1, w2, b2, pool, act, gate, ties) -> Tensor:
    pools = _pools(x, pool, ties, line, dim)
    layers = _widened(x, w1, b1, w2, b2)
    return activate(gate, sum(perceptron(v, *layers, act) for v in pools))


def _squeeze_excite(
    line: Line,
    dim: int,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None = None,
    w2: Tensor | None = None,
    b2: Tensor | None = None,
    source: Tensor | None = None,
    shortcut: Tensor | None = None,
    *,
    pool: str = "avg",
    act="relu",
    gate="sigmoid",
    out_act: str = "identity",
    ties: str = "first",
    backend: str | None = None,
    return_map: bool = False,
):
    if source is None:
        g = _gate_of_channels(line, dim, x, w1, b1, w2, b2, pool, act, gate, ties)
    else:  # whose shards have sizes of their own
        other = line._replace(sizes=sizes_of(source, dim, line))
        g = _gate_of_channels(other, dim, source, w1, b1, w2, b2, pool, act, gate, ties)
    y = x * per_channel(g, x)
    y = activate(out_act, y if shortcut is None else y + shortcut).to(x.dtype)
    return (y, g.to(x.dtype)) if return_map else y


def _channel(line: Line, dim: int, x, w1, b1=None, w2=None, b2=None, **options):
    return _squeeze_excite(line, dim, x, w1, b1, w2, b2, **options)


def _cbam_channel(line: Line, dim: int, x, w1, b1=None, w2=None, b2=None, *, pool: str = "avg+max", **options):
    return _squeeze_excite(line, dim, x, w1, b1, w2, b2, pool=pool, **options)


def _eca(line: Line, dim: int, x, weight, bias=None, *, circular=False, gate="sigmoid", backend=None, return_map=False):
    (w, b), C, k = _widened(x, weight, bias), x.shape[1], weight.shape[2]
    v = torch.nn.functional.pad(_mean(x, line, dim)[:, None], (k // 2, k // 2), "circular" if circular else "constant")
    z = sum(v[:, 0, j : j + C] * w[0, 0, j] for j in range(k))
    g = activate(gate, z if b is None else z + b)
    y = (x * per_channel(g, x)).to(x.dtype)
    return (y, g.to(x.dtype)) if return_map else y


def _scse(
    line: Line,
    dim: int,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    act="relu",
    gate="sigmoid",
    reduce: str = "sum",
    backend: str | None = None,
    return_map: bool = False,
):
    gc = per_channel(_gate_of_channels(line, dim, x, w1, b1, w2, b2, "avg", act, gate, "first"), x)
    weight, bias = _widened(x, weight, bias)
    logits = linear(x.movedim(1, -1).to(_wide(x)), weight.flatten(1), bias)
    gp = activate(gate, logits).movedim(-1, 1)
    y = torch.maximum(x * gc, x * gp) if reduce == "max" else x * (gc + gp)
    return (y.to(x.dtype), gp.to(x.dtype)) if return_map else y.to(x.dtype)


def _cbam(
    line: Line,
    dim: int,
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    pool: str = "avg+max",
    spatial_pool: str = "max,mean",
    act="relu",
    gate="sigmoid",
    ties: str = "first",
    residual: bool = False,
    eps: float = 1e-5,
    backend: str | None = None,
    return_map: bool = False,
    return_stats: bool = False,
):
    """x' is as wide as float32, because the kernels round it nowhere."""
    gated = x * per_channel(_gate_of_channels(line, dim, x, w1, b1, w2, b2, pool, act, gate, ties), x)
    weight, bias = _widened(x, weight, bias)
    options = dict(pool=spatial_pool, gate=gate, ties=ties, backend=backend, return_map=True)
    y, gp = _cbam_spatial(line, dim, gated, weight, bias, norm_weight, norm_bias, **options)
    y = (y + x if residual else y).to(x.dtype)
    return (y, gp.to(x.dtype)) if return_map else y


GATES: dict[str, Callable] = {
    "spatial_gate": _by_pixel(functional.spatial_gate),
    "spatial_pool_gate": _by_pixel(functional.spatial_pool_gate),
    "attention_gate": _by_pixel(functional.attention_gate),
    "channel_gate": _channel,
    "squeeze_excite": _squeeze_excite,
    "cbam_channel_gate": _cbam_channel,
    "eca": _eca,
    "scse": _scse,
    "cbam_spatial_gate": _cbam_spatial,
    "cbam": _cbam,
    "local_gate": _local,
    "local_pool_gate": _local_pool,
    "neighborhood_attention": _neighborhood,
}
