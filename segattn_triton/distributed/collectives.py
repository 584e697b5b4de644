"""What ranks exchange, and its gradients: sums, maxima, the rows beyond a shard's ends, and what each was called with.

Every rank has a part of the map, and the same parameters. Its loss is its own: the loss is the sum over the ranks.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh


class Line(NamedTuple):
    """The ranks of a mesh of one axis in order, and the sizes of their shards."""

    group: dist.ProcessGroup
    rank: int
    sizes: Sequence[int]

    @property
    def start(self) -> int:
        return sum(self.sizes[: self.rank])

    @property
    def total(self) -> int:
        return sum(self.sizes)


def line_of(mesh: DeviceMesh, name: str, words: Sequence, beside: Sequence[int], size: int, device) -> Line:
    """The line of this rank, after all ranks have said what they call; a ValueError on each where they disagree.

    words: what has to be the same everywhere; beside: the sizes of x without that of this rank's shard, `size`.
    """
    group = mesh.get_group()
    said = [zlib.crc32(repr((name, len(beside), *words)).encode()), size, *beside, *[0] * (MOST_AXES - len(beside))]
    try:
        found = [t.tolist() for t in gathered(torch.tensor(said, device=device), group)]
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        raise RuntimeError(f"{name}: a rank of the mesh did not make this call in time: {reason}") from None
    different = [i for i, other in enumerate(found) if (other[0], other[2:]) != (found[0][0], found[0][2:])]
    if different:
        sizes = ", ".join(f"{tuple(other[2 : 2 + len(beside)])} on rank {i}" for i, other in enumerate(found))
        raise ValueError(
            f"{name}: rank {different[0]} disagrees with rank 0, expected one function, with the same options, "
            f"parameters' shapes, dtypes and needs of gradients; sizes of x beside the sharded axis: {sizes}"
        )
    return Line(group, dist.get_rank(group), [other[1] for other in found])


MOST_AXES = 6


def sizes_of(t: Tensor, axis: int, line: Line) -> list[int]:
    """Those of another map's shards."""
    return [int(size) for size in gathered(torch.tensor(t.shape[axis], device=t.device), line.group)]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, t: Tensor, group) -> Tensor:
        ctx.group = group
        return summed(t, group)

    @staticmethod
    def backward(ctx, dt: Tensor):
        return summed(dt, ctx.group), None


class _Replicated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, t: Tensor, group) -> Tensor:
        ctx.group = group
        return t.view_as(t)

    @staticmethod
    def backward(ctx, dt: Tensor):
        return summed(dt, ctx.group), None


def summed(t: Tensor, group) -> Tensor:
    """The sum over the ranks, in their order on each."""
    return torch.stack(gathered(t, group)).sum(0)


def gathered(t: Tensor, group) -> list[Tensor]:
    """The tensors of all ranks, which have one shape."""
    t = t.contiguous()
    parts = [torch.empty_like(t) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, t, group=group)
    return parts


def total(t: Tensor, line: Line) -> Tensor:
    """t summed over the ranks; its gradient is the sum of theirs."""
    return _Sum.apply(t, line.group)


def replicated(t: Tensor | None, line: Line) -> Tensor | None:
    """A parameter that every rank has: its gradient is the sum of theirs."""
    return None if t is None else _Replicated.apply(t, line.group)


class _First(torch.autograd.Function):
    """(N, C) of pixels (N, C, P): the maximum over all ranks, whose gradient goes to the first pixel in `order` (P)."""

    @staticmethod
    def forward(ctx, pixels: Tensor, order: Tensor, line: Line) -> Tensor:
        peak, place = pixels.max(2)
        highest = torch.stack(gathered(peak, line.group)).amax(0)
        is_highest = (peak == highest) | peak.isnan()  # a NaN is the maximum
        own = order[place].masked_fill(~is_highest, torch.iinfo(order.dtype).max)
        first = torch.stack(gathered(own, line.group)).amin(0)
        ctx.save_for_backward(place, own == first)
        ctx.shape, ctx.group = pixels.shape, line.group
        return highest

    @staticmethod
    def backward(ctx, dpeak: Tensor):
        place, mine = ctx.saved_tensors
        dpeak = summed(dpeak, ctx.group) * mine
        return dpeak.new_zeros(ctx.shape).scatter_(2, place[..., None], dpeak[..., None]), None, None


class _Split(torch.autograd.Function):
    """The same, whose gradient is shared by all pixels that are as high."""

    @staticmethod
    def forward(ctx, pixels: Tensor, line: Line) -> Tensor:
        highest = torch.stack(gathered(pixels.amax(2), line.group)).amax(0)
        ctx.save_for_backward(pixels == highest[..., None])
        ctx.group = line.group
        return highest

    @staticmethod
    def backward(ctx, dpeak: Tensor):
        (at,) = ctx.saved_tensors
        return at * (summed(dpeak, ctx.group) / summed(at.sum(2), ctx.group))[..., None], None


def maximum(x: Tensor, axis: int, ties: str, line: Line) -> Tensor:
    """(N, C) of x (N, C, *S): of equal maxima the first in the order of the whole map, or all."""
    if ties == "split":
        return _Split.apply(x.flatten(2), line)
    order = torch.zeros((), dtype=torch.int64, device=x.device)
    for a, size in enumerate(x.shape[2:], 2):
        place = torch.arange(size, device=x.device) + (line.start if a == axis else 0)
        order = order[..., None] * (line.total if a == axis else size) + place
    return _First.apply(x.flatten(2), order.flatten(), line)


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(ctx, t: Tensor, axis: int, width: int, line: Line) -> Tensor:
        ctx.axis, ctx.width, ctx.line = axis, width, line
        ends = t.narrow(axis, 0, width), t.narrow(axis, t.shape[axis] - width, width)
        before, after = _swapped(*ends, line)
        return torch.cat([part for part in (before, t, after) if part is not None], axis)

    @staticmethod
    def backward(ctx, dt: Tensor):
        axis, width, line = ctx.axis, ctx.width, ctx.line
        first, last = width * (line.rank > 0), width * (line.rank + 1 < len(line.sizes))
        size = dt.shape[axis] - first - last
        dx = dt.narrow(axis, first, size).clone()
        before, after = _swapped(dt.narrow(axis, 0, width), dt.narrow(axis, dt.shape[axis] - width, width), line)
        if before is not None:
            dx.narrow(axis, 0, width).add_(before)
        if after is not None:
            dx.narrow(axis, size - width, width).add_(after)
        return dx, None, None, None


def _swapped(first: Tensor, last: Tensor, line: Line) -> tuple[Tensor | None, Tensor | None]:
    """What the rank before sends as its last, and the rank after as its first; None where there is none."""
    operations, found = [], []
    for neighbour, part in ((line.rank - 1, first), (line.rank + 1, last)):
        if not 0 <= neighbour < len(line.sizes):
            found.append(None)
            continue
        found.append(torch.empty_like(part, memory_format=torch.contiguous_format))
        peer = dist.get_global_rank(line.group, neighbour)
        operations.append(dist.P2POp(dist.isend, part.contiguous(), peer, line.group))
        operations.append(dist.P2POp(dist.irecv, found[-1], peer, line.group))
    for work in dist.batch_isend_irecv(operations) if operations else ():
        work.wait()
    return found[0], found[1]


def with_halo(t: Tensor, axis: int, width: int, line: Line) -> Tensor:
    """t with `width` rows of its neighbours at the ends that have one. Their gradients go back to them."""
    return _Halo.apply(t, axis, width, line) if width else t


def without_halo(t: Tensor, axis: int, width: int, line: Line) -> Tensor:
    return t.narrow(axis, width * (line.rank > 0), line.sizes[line.rank])
