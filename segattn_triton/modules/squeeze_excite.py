"""One weight per channel, from what the whole image, another map or a slice holds, with the end of a residual block."""

import torch
from torch import Tensor, nn

from ..functional.values import POOLS
from ..reference.activations import Spec
from ..runtime import checks as check
from ._gate import GateModule, by_rank
from ._perceptron import run_layers
from .reduction import hidden_channels


class SqueezeExcite(GateModule):
    """y = out_act(x * gate(W2 act(W1 pool(source) + b1) + b2) + shortcut): Hu et al. 2018, and its kin.

    x (N, C, *spatial) with 1, 2 or 3 spatial axes; source (N, source_channels, *any), x itself without it; shortcut as
    x. Keys: fc1.weight (Cr, source_channels, 1, 1), fc1.bias, fc2.weight (C, Cr, 1, 1), fc2.bias, as of timm's SEModule
    and torchvision's SqueezeExcitation. Cr is `hidden`, or `hidden_channels(in_channels, reduction, rule)`. With
    norm=True a BatchNorm2d bn stands behind fc1, as in ReXNet, with last_norm=True bn2 behind fc2, both in PaddleSeg's
    Lite-HRNet: in eval their statistics are folded into the layers at every call, in training those of the batch are
    taken, and update theirs as BatchNorm2d does.
    slices=True: of a map with three spatial axes every slice along the last is pooled, and weighted, by itself, as in
    nnU-Net, whose gate is (N, C, 1, 1, W); its map here is (N, C, W). See `functional.squeeze_excite`.
    """

    def __init__(
        self,
        in_channels: int,
        reduction: float = 16,
        rule: str = "timm",
        pool: str = "avg",
        act: str | Spec = "relu",
        gate: str | Spec = "sigmoid",
        *,
        out_act: str = "identity",
        hidden: int | None = None,
        source_channels: int | None = None,
        bias: bool = True,
        norm: bool = False,
        last_norm: bool = False,
        slices: bool = False,
        ties: str = "first",
        spatial_dims: int | None = None,
        backend=None,
        device=None,
        dtype=None,
    ):
        check.choice("pool", pool, POOLS[:3] if norm or last_norm else POOLS)
        hidden = hidden_channels(in_channels, reduction, rule) if hidden is None else hidden
        shown = dict(in_channels=in_channels, hidden=hidden, norm=norm, last_norm=last_norm)
        super().__init__(shown, spatial_dims, backend, pool=pool, act=act, gate=gate, out_act=out_act, ties=ties)
        factory = dict(bias=bias, device=device, dtype=dtype)
        self.fc1 = nn.Conv2d(source_channels or in_channels, hidden, 1, **factory)
        self.fc2 = nn.Conv2d(hidden, in_channels, 1, **factory)
        self.bn = nn.BatchNorm2d(hidden, device=device, dtype=dtype) if norm else None
        self.bn2 = nn.BatchNorm2d(in_channels, device=device, dtype=dtype) if last_norm else None
        self.slices = slices

    @by_rank
    def forward(
        self, x: Tensor, source: Tensor | None = None, shortcut: Tensor | None = None, return_map: bool = False
    ):
        if self.slices and x.dim() == 5:
            return _by_slice(self._gate, x, source, shortcut, return_map)
        return self._gate(x, source, shortcut, return_map)

    def _gate(self, x: Tensor, source: Tensor | None, shortcut: Tensor | None, return_map: bool):
        layers = self.fc1, self.bn, self.fc2, self.bn2
        return run_layers(x, layers, source, shortcut, self.options, self.backend, return_map)


def _by_slice(gate, x: Tensor, source: Tensor | None, shortcut: Tensor | None, return_map: bool):
    """`gate` on the slices along the last axis of x (N, C, D, H, W) as on images; y lies as x, the map is (N, C, W)."""
    if source is not None:
        raise ValueError("source: given with slices=True, expected None: every slice is weighted by its own pool")
    sliced = [t if t is None else t.movedim(-1, 1).flatten(0, 1) for t in (x, shortcut)]  # [N * W, C, D, H]
    y, g = (t.unflatten(0, (x.shape[0], x.shape[-1])).movedim(1, -1) for t in gate(sliced[0], None, sliced[1], True))
    y = torch.empty_like(x).copy_(y)
    return (y, g) if return_map else y
