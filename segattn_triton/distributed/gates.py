"""How each function of `functional` runs on a shard.

by pixel   the function, by the kernels: no pixel needs another
windowed   the function, by the kernels, on a shard with the rows of its neighbours that a window reaches
pooled     the definition, in torch, which asks the ranks for what it takes of all pixels: `WholeMap`

A new function is a line of SHARDING_RULES. One that pools is `_pooled`, as long as its definition takes what it needs
of all pixels from `reference._pixels`; what is missing there is a method of `Pixels` and one of `WholeMap`.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..reference._pixels import Pixels, answered_by
from .collectives import Line, gathered, maximum, sizes_of, total, with_halo, without_halo

MAPS = ("x", "g", "q", "k", "v", "source", "shortcut")  # the arguments that are sharded


class WholeMap(Pixels):
    """What a definition takes of all pixels, of a map whose axis `dim` is sharded along `line`."""

    def __init__(self, line: Line, dim: int):
        self.line, self.dim = line, dim

    def mean(self, x: Tensor) -> Tensor:
        others = x[0, 0].numel() // x.shape[self.dim]
        return total(x.flatten(2).sum(2), self.line) / (others * self.line.total)

    def norm(self, x: Tensor) -> Tensor:
        squares = total(x.flatten(2).square().sum(2), self.line)
        return torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)

    def spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.mean(x)
        squares = total((x.flatten(2) - mean[:, :, None]).square().sum(2), self.line)
        return mean, squares / (x[0, 0].numel() // x.shape[self.dim] * self.line.total - 1)

    def attended(self, x: Tensor, weight: Tensor) -> Tensor:
        x = x.flatten(2)
        s = (x * weight[:, None]).sum(1)  # [N, P], of this rank's pixels
        highest = torch.stack(gathered(s.detach().amax(1), self.line.group)).amax(0)
        a = torch.exp(s - highest[:, None])
        return total((x * a[:, None]).sum(2), self.line) / total(a.sum(1), self.line)[:, None]

    def max(self, x: Tensor, ties: str) -> Tensor:
        return maximum(x, self.dim, ties, self.line)

    def moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        count = z.numel() // z.shape[self.dim] * self.line.total
        mean = total(z.sum(), self.line) / count
        return total((z - mean).square().sum(), self.line) / count, mean

    def moments_by_channel(self, h: Tensor) -> tuple[Tensor, Tensor]:
        count = h.shape[0] * h.shape[2] // self.line.sizes[self.line.rank] * self.line.total
        mean = total(h.sum((0, 2)), self.line) / count
        return total((h - mean[:, None]).square().sum((0, 2)), self.line) / count, mean

    def convolve(self, t: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        width = reach(weight.shape[2], 1, self.line)
        z = F.conv2d(with_halo(t, self.dim, width, self.line), weight, bias, padding=weight.shape[2] // 2)
        return without_halo(z, self.dim, width, self.line)


def reach(kernel_size: int, dilation: int, line: Line, is_causal: bool = False) -> int:
    """The rows that a window reaches beyond a shard."""
    width = (kernel_size - 1 if is_causal else kernel_size // 2) * dilation
    if len(line.sizes) > 1 and min(line.sizes) < width + dilation:
        rank = [*line.sizes].index(min(line.sizes))
        raise ValueError(
            f"dim: rank {rank} has {min(line.sizes)} rows of the sharded axis, and a window of {kernel_size} with "
            f"dilation {dilation} needs at least {width + dilation} on every rank: use fewer ranks"
        )
    return width


def _by_pixel(function: Callable, line: Line, dim: int, given: dict):
    return function(**given)


def _pooled(function: Callable, line: Line, dim: int, given: dict):
    if given.get("backend") == "triton":
        raise RuntimeError(
            'backend: "triton" cannot run here: what is pooled over ranks is computed by torch between two exchanges'
        )
    if (source := given.get("source")) is not None:  # its shards have sizes of their own
        line = line._replace(sizes=sizes_of(source, dim, line))
    with answered_by(WholeMap(line, dim)):
        return function(**{**given, "backend": given.get("backend") or "reference"})


def _local(function: Callable, line: Line, dim: int, given: dict):
    size = 3 if given.get("weight") is None else given["weight"].shape[2]
    return _windowed(function, line, dim, given, reach(size, given.get("dilation", 1), line))


def _cbam_spatial(function: Callable, line: Line, dim: int, given: dict):
    """With a norm the statistics of all pixels stand between the window and the gate."""
    if given.get("norm_weight") is not None:
        return _pooled(function, line, dim, given)
    return _windowed(function, line, dim, given, reach(given["weight"].shape[2], 1, line))


def _windowed(function: Callable, line: Line, dim: int, given: dict, width: int):
    x = given["x"]
    y = function(**{**given, "x": with_halo(_summable(x), dim, width, line)})
    found = [without_halo(t, dim, width, line).to(x.dtype) for t in (y if isinstance(y, tuple) else (y,))]
    return tuple(found) if isinstance(y, tuple) else found[0]


def _neighborhood(function: Callable, line: Line, dim: int, given: dict):
    """Queries beyond the shard are zeros, whose results are dropped."""
    window = (given.get(name, default) for name, default in (("kernel_size", 3), ("dilation", 1), ("is_causal", False)))
    kernel_size, dilation, is_causal = (v[dim - 1] if isinstance(v, Sequence) else v for v in window)
    width = reach(kernel_size, dilation, line, is_causal)
    q, k, v = _summable(*(given[name] for name in "qkv"))
    ends = [width * (line.rank > 0), width * (line.rank + 1 < len(line.sizes))]
    wide = dict(q=F.pad(q, [0, 0] * (q.dim() - 1 - dim) + ends))
    wide |= dict(k=with_halo(k, dim, width, line), v=with_halo(v, dim, width, line))
    outputs = function(**{**given, **wide})
    if not isinstance(outputs, tuple):
        return without_halo(outputs, dim, width, line).to(given["q"].dtype)
    y, lse = (without_halo(t, dim, width, line) for t in outputs)
    return y.to(given["q"].dtype), lse


def _summable(*maps: Tensor):
    """Maps whose gradients are sums over two ranks: in float32 before they are rounded."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in maps):
        maps = tuple(t.to(torch.promote_types(t.dtype, torch.float32)) for t in maps)
    return maps if len(maps) > 1 else maps[0]


# function of `functional` -> how it runs on a shard: (function, line, dim, its arguments by name) -> its results
SHARDING_RULES: dict[str, Callable] = {
    "spatial_gate": _by_pixel,
    "spatial_pool_gate": _by_pixel,
    "attention_gate": _by_pixel,
    "attention_gate_norm": _pooled,
    "channel_gate": _pooled,
    "squeeze_excite": _pooled,
    "squeeze_excite_norm": _pooled,
    "squeeze_excite_norms": _pooled,
    "cbam_channel_gate": _pooled,
    "eca": _pooled,
    "scse": _pooled,
    "cbam": _pooled,
    "global_response_norm": _pooled,
    "simam": _pooled,
    "global_context": _pooled,
    "global_context_add": _pooled,
    "cbam_spatial_gate": _cbam_spatial,
    "local_gate": _local,
    "local_pool_gate": _local,
    "neighborhood_attention": _neighborhood,
}
