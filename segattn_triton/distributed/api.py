"""The functions of `functional` as functions of parts of a map."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from .. import functional
from ..runtime import dispatch
from .collectives import Line, line_of, replicated
from .gates import MAPS, SHARDING_RULES


def sharded(function: Callable, mesh: DeviceMesh | None = None, *, dim: int | None = None) -> Callable:
    """`function`, one of `segattn_triton.functional`, of maps whose axis `dim` is sharded over the ranks of `mesh`.

    It is called as the function is, by every rank, with its part of each map (parts of any sizes, in the order of the
    ranks) and with the same parameters. The result is this rank's part of what the function gives for whole maps; so
    are the gradients of maps; those of parameters are summed over the ranks, on each. Statistics of a norm, and gates
    of channels (N, C), are those of the whole map, on every rank.
    Maps may be DTensors with one Shard of a spatial axis: mesh and dim are theirs, and the results' pixels come as
    DTensors. After `import segattn_triton.distributed` the functions and the modules take such maps by themselves.
    dim: 2, without a number, for H of (N, C, H, W); of neighbourhood attention, whose maps are (N, H, W, heads, D), 1
    is H and 2 is W.
    mesh: a DeviceMesh of one axis: `mesh["rows"]` of a larger one.
    Errors: ValueError, on every rank, where ranks disagree, and for a shard narrower than half the window (rounded up);
    RuntimeError where a rank does not call within the time limit of its process group, and for backend="triton" of a
    function that pools.
    """
    name = getattr(function, "__name__", repr(function))
    if getattr(functional, name, None) is not function or name not in SHARDING_RULES:
        raise ValueError(
            f"function: got {name}, expected one of {', '.join(SHARDING_RULES)} of segattn_triton.functional"
        )
    if mesh is not None and (not isinstance(mesh, DeviceMesh) or mesh.ndim != 1):
        got = f"{mesh.ndim} axes" if isinstance(mesh, DeviceMesh) else type(mesh).__name__
        raise ValueError(f'mesh: got {got}, expected a DeviceMesh of one axis: mesh["rows"] of a larger one')

    @functools.wraps(function)
    def call(x: Tensor, *args, **options):
        whole = x if isinstance(x, DTensor) else None
        along, axis = (mesh, 2 if dim is None else dim) if whole is None else _of(whole, mesh, dim)
        if along is None:
            raise ValueError("mesh: got None, expected a DeviceMesh, or x as a DTensor that is sharded")
        tensors = [_part(i, t, whole) for i, t in enumerate((x, *args))]
        options = {key: _part(key, value, whole) for key, value in options.items()}
        line = _agreed(name, along, axis, tensors, options)
        given = inspect.signature(function).bind(*tensors, **options).arguments
        outputs = SHARDING_RULES[name](
            function, line, axis, {key: _shared(key, value, x, line) for key, value in given.items()}
        )
        if whole is None:
            return outputs
        listed = [_whole(t, whole, line, axis) for t in (outputs if isinstance(outputs, tuple) else (outputs,))]
        return tuple(listed) if isinstance(outputs, tuple) else listed[0]

    return call


def _shared(name: str, value: Any, x: Tensor, line: Line) -> Any:
    """A parameter with a gradient that is summed over the ranks, and rounded once."""
    if not isinstance(value, Tensor) or name in MAPS:
        return value
    return replicated(value.to(torch.promote_types(x.dtype, torch.float32)), line)


def _of(x: DTensor, mesh: DeviceMesh | None, dim: int | None) -> tuple[DeviceMesh, int]:
    """The mesh and the axis along which it is sharded."""
    found = [i for i, p in enumerate(x.placements) if isinstance(p, Shard)]
    axis = x.placements[found[0]].dim if len(found) == 1 else None
    if axis is None or dim not in (None, axis):
        wanted = "a spatial axis" if dim is None else str(dim)
        raise ValueError(f"x: got placements {x.placements}, expected one Shard of {wanted}")
    along = x.device_mesh if x.device_mesh.ndim == 1 else x.device_mesh[x.device_mesh.mesh_dim_names[found[0]]]
    if mesh is not None and mesh != along:
        raise ValueError(f"mesh: got {mesh}, expected that of x, {along}, or None")
    return along, axis


def _part(name: str | int, value: Any, x: DTensor | None) -> Any:
    """What this rank has of a DTensor: a map is sharded as x is, a parameter is replicated."""
    if not isinstance(value, DTensor):
        return value
    if x is None or (value.placements != x.placements and any(not isinstance(p, Replicate) for p in value.placements)):
        wanted = "tensors as x is" if x is None else f"{x.placements} as of x, or Replicate()"
        raise ValueError(f"argument {name}: got a DTensor with placements {value.placements}, expected {wanted}")
    return value.to_local()


def _whole(t: Tensor, x: DTensor, line: Line, dim: int) -> Tensor:
    """Pixels as x has them; what every rank has of the whole map stays as it is."""
    if t.dim() < 3:
        return t
    shape = torch.Size([line.total if axis == dim else size for axis, size in enumerate(t.shape)])
    stride = x.stride() if shape == x.shape else torch.empty(shape, device="meta").stride()
    return DTensor.from_local(t, x.device_mesh, x.placements, run_check=False, shape=shape, stride=stride)


def _agreed(name: str, mesh: DeviceMesh, dim: int, tensors: Sequence, options: dict) -> Line:
    """The line of ranks, after what all were called with was compared."""
    x = tensors[0]
    if mesh.get_coordinate() is None:
        raise ValueError(f"mesh: got {mesh}, expected one that this rank is in")
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


def _of_dtensors(function: Callable, *args, **options):
    return sharded(function)(*args, **options)


dispatch.BEYOND[DTensor] = _of_dtensors
