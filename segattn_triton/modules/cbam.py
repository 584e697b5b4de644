"""One weight per channel, then one per pixel: CBAM."""

import torch
from torch import Tensor, nn

from .. import functional as F
from ..reference.activations import Spec, activate
from ..reference.channel import pools
from ..runtime import checks as check
from ._children import apply_gate, call, is_plain
from ._gate import GateModule, by_rank
from .reduction import hidden_channels


class CBAMChannelAttention(GateModule):
    """y = x * gate(mlp(mean of x) + mlp(maximum of x)) for every channel: the channel half of CBAM, Woo et al. 2018.

    x (N, C, *spatial). Keys: fc1.weight (Cr, C, 1, 1), fc1.bias, fc2.weight (C, Cr, 1, 1), fc2.bias, as of timm. Cr is
    `hidden`, or `hidden_channels(in_channels, reduction, rule)`: the authors' rule is "smp", timm's "timm_cbam".
    hidden=0 leaves out fc2: one layer, ultralytics' with pool="avg". See `functional.cbam_channel_gate`.
    """

    def __init__(
        self,
        in_channels: int,
        reduction: float = 16,
        rule: str = "smp",
        pool: str = "avg+max",
        act: str | Spec = "relu",
        gate: str | Spec = "sigmoid",
        *,
        hidden: int | None = None,
        bias: bool = True,
        ties: str = "first",
        spatial_dims: int | None = None,
        backend=None,
        device=None,
        dtype=None,
    ):
        check.choice("pool", pool, F.POOLS)
        hidden = hidden_channels(in_channels, reduction, rule) if hidden is None else hidden
        shown = dict(in_channels=in_channels, hidden=hidden)
        super().__init__(shown, spatial_dims, backend, pool=pool, act=act, gate=gate, ties=ties)
        factory = dict(bias=bias, device=device, dtype=dtype)
        self.fc1 = nn.Conv2d(in_channels, hidden or in_channels, 1, **factory)
        self.fc2 = nn.Conv2d(hidden, in_channels, 1, **factory) if hidden else None

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        if self.is_plain():
            return F.cbam_channel_gate(x, *self.layers(), **self.options, backend=self.backend, return_map=return_map)
        v = torch.cat(pools(x, self.options["pool"], self.options["ties"]))[:, :, None, None]
        z = call(self.fc1, v)
        z = z if self.fc2 is None else call(self.fc2, activate(self.options["act"], z))
        return apply_gate(self.options["gate"], x, sum(z.flatten(1).split(len(x))), return_map)

    def is_plain(self) -> bool:
        return is_plain(self.fc1, *([] if self.fc2 is None else [self.fc2]))

    def layers(self) -> tuple[Tensor | None, ...]:
        """The weights and biases of both layers, as the function takes them."""
        second = (None, None) if self.fc2 is None else (self.fc2.weight, self.fc2.bias)
        return self.fc1.weight, self.fc1.bias, *second
