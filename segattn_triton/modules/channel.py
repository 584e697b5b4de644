"""One weight per channel, from what the whole image holds."""

from torch import Tensor, nn

from .. import functional as F
from ..reference.activations import Spec, activate
from ..reference.channel import pooled
from ..runtime import checks as check
from ._children import apply_gate, call, is_plain
from ._gate import GateModule, by_rank
from ._perceptron import run_layers
from .reduction import hidden_channels


class ChannelAttention(GateModule):
    """y = x * gate(W2 act(W1 pool(x) + b1) + b2) for every channel: squeeze and excitation, Hu et al. 2018.

    x (N, C, *spatial) in NCHW, see `spatial_dims` in `segattn_triton.modules`. Keys: fc.0.weight (Cr, C), fc.0.bias,
    fc.2.weight (C, Cr), fc.2.bias, Cr = in_channels // reduction: checkpoints of MONAI's `ChannelSELayer` load.
    pool="avgmax" is the perceptron of half the sum of the mean and the maximum, not CBAM's `CBAMChannelAttention`.
    See `functional.channel_gate`.
    """

    def __init__(
        self,
        in_channels: int,
        reduction: int = 2,
        pool: str = "avg",
        act: str | Spec = "relu",
        gate: str | Spec = "sigmoid",
        *,
        bias: bool = True,
        ties: str = "first",
        spatial_dims: int | None = None,
        backend=None,
        device=None,
        dtype=None,
    ):
        check.choice("pool", pool, ("avg", "max", "avgmax"))
        shown = dict(in_channels=in_channels, reduction=reduction)
        super().__init__(shown, spatial_dims, backend, pool=pool, act=act, gate=gate, ties=ties)
        hidden = hidden_channels(in_channels, reduction, "monai")
        factory = dict(bias=bias, device=device, dtype=dtype)
        self.fc = nn.Sequential(
            nn.Linear(in_channels, hidden, **factory),
            nn.Identity(),  # keeps the keys fc.0 and fc.2 of the usual Sequential
            nn.Linear(hidden, in_channels, **factory),
        )

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        squeeze, _, excite = self.fc
        if is_plain(squeeze, excite):
            weights = squeeze.weight, squeeze.bias, excite.weight, excite.bias
            return F.channel_gate(x, *weights, **self.options, backend=self.backend, return_map=return_map)
        v = pooled(x, self.options["pool"], self.options["ties"])
        z = call(excite, activate(self.options["act"], call(squeeze, v)))
        return apply_gate(self.options["gate"], x, z, return_map)


class EffectiveSE(GateModule):
    """y = x * gate(bn(W pool(x) + b)) + shortcut for every channel: eSE of Lee and Park 2020; with bn, BiSeNet's.

    x (N, C, *spatial), shortcut as x, or none: ARM of BiSeNet; with x itself as the shortcut, FFM of BiSeNet. Keys:
    fc.weight (C, C, 1, 1), fc.bias, and with norm=True those of bn, a BatchNorm2d. In eval its statistics are folded
    into W and b at every call; in training those of the batch are taken, of more than one image, and update bn's as
    BatchNorm2d does. A SyncBatchNorm in its place, whose statistics come from other processes, runs as it is.
    See `functional.squeeze_excite` and `functional.squeeze_excite_norm`.
    """

    def __init__(
        self,
        in_channels: int,
        gate: str | Spec = "hard_sigmoid",
        pool: str = "avg",
        *,
        bias: bool = True,
        norm: bool = False,
        ties: str = "first",
        spatial_dims: int | None = None,
        backend=None,
        device=None,
        dtype=None,
    ):
        check.choice("pool", pool, ("avg", "max", "avgmax"))
        shown = dict(in_channels=in_channels, norm=norm)
        super().__init__(shown, spatial_dims, backend, gate=gate, pool=pool, ties=ties)
        factory = dict(device=device, dtype=dtype)
        self.fc = nn.Conv2d(in_channels, in_channels, 1, bias=bias, **factory)
        self.bn = nn.BatchNorm2d(in_channels, **factory) if norm else None

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False, *, shortcut: Tensor | None = None):
        return run_layers(x, (self.fc, self.bn, None, None), None, shortcut, self.options, self.backend, return_map)
