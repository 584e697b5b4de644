"""One weight per channel, then one per pixel: CBAM."""

from collections.abc import Callable

from torch import Tensor, nn

from .. import functional as F
from ..functional.values import POOLS, SPATIAL_POOLS
from ..reference.activations import Spec, activate
from ..reference.cbam import pools_of_pixels
from ..runtime import checks as check
from ._children import (
    apply_gate,
    as_it_is,
    call,
    folded,
    is_plain,
    is_untouched,
    rows_of_pools,
    sum_of_pools,
    update,
    uses_batch,
)
from ._gate import GateModule, OrZero, by_rank
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
        hidden: OrZero = None,
        bias: bool = True,
        ties: str = "first",
        spatial_dims: int | None = None,
        backend=None,
        device=None,
        dtype=None,
    ):
        check.choice("pool", pool, POOLS)
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
        pool = self.options["pool"]
        z = call(self.fc1, as_it_is(rows_of_pools, x, pool, self.options["ties"]))
        z = z if self.fc2 is None else call(self.fc2, activate(self.options["act"], z))
        return apply_gate(self.options["gate"], x, sum_of_pools(z, x, pool), return_map)

    def is_plain(self) -> bool:
        return is_plain(self.fc1, *([] if self.fc2 is None else [self.fc2]))

    def layers(self) -> tuple[Tensor | None, ...]:
        """The weights and biases of both layers, as the function takes them."""
        second = (None, None) if self.fc2 is None else (self.fc2.weight, self.fc2.bias)
        return self.fc1.weight, self.fc1.bias, *second


class CBAMSpatialAttention(GateModule):
    """y = x * gate(bn(conv_kxk of (max_c x, mean_c x))) at every pixel: the spatial half of CBAM, Woo et al. 2018.

    x (N, C, H, W), or one image (C, H, W). Keys: conv.weight (1, 2, k, k), conv.bias (1,) with bias=True, and with
    norm=True those of bn, a BatchNorm2d of one channel. pool: the order of the two maps, "max,mean" (the authors) or
    "mean,max" (timm, ultralytics); light=True convolves half their sum, weight (1, 1, k, k) (timm's LightCbam). In eval
    the statistics of bn are folded into weight and bias at every call; in training those of the batch are taken, and
    update bn's as BatchNorm2d does. See `functional.cbam_spatial_gate`.
    """

    def __init__(
        self,
        kernel_size: int = 7,
        pool: str = "max,mean",
        gate: str | Spec = "sigmoid",
        *,
        light: bool = False,
        bias: bool = False,
        norm: bool = True,
        momentum: float | None = 0.01,
        ties: str = "first",
        backend=None,
        device=None,
        dtype=None,
    ):
        check.odd("kernel_size", kernel_size)
        check.choice("pool", pool, SPATIAL_POOLS)
        shown = dict(kernel_size=kernel_size, light=light, norm=norm, momentum=momentum)
        super().__init__(shown, 2, backend, pool=pool, gate=gate, ties=ties)
        factory = dict(device=device, dtype=dtype)
        self.conv = nn.Conv2d(1 if light else 2, 1, kernel_size, padding=kernel_size // 2, bias=bias, **factory)
        self.bn = nn.BatchNorm2d(1, momentum=momentum, **factory) if norm else None

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        if self.is_plain(x):
            return self.run(F.cbam_spatial_gate, x, **self.options, backend=self.backend, return_map=return_map)
        check.feature_map(x, (2,))
        how = self.conv.in_channels, self.options["pool"], self.options["ties"]
        z = call(self.conv, as_it_is(pools_of_pixels, x, *how))
        z = z if self.bn is None else call(self.bn, z)
        return apply_gate(self.options["gate"], x, z, return_map)

    def is_plain(self, x: Tensor) -> bool:
        return is_plain(self.conv) and (self.bn is None or (is_plain(self.bn) and x.shape[0] > 0))

    def run(self, function: Callable, x: Tensor, *tensors: Tensor | None, return_map: bool, **options):
        """The function of x and these tensors, then of the window and its norm."""
        conv, bn = self.conv, self.bn
        if bn is None or not uses_batch(bn):
            window = (conv.weight, conv.bias) if bn is None else folded(conv, bn)
            return function(x, *tensors, *window, **options, return_map=return_map)
        weight = x.new_ones(1) if bn.weight is None else bn.weight
        window = conv.weight, conv.bias, weight, bn.bias
        how = dict(eps=bn.eps, return_map=return_map, return_stats=True)
        *outputs, stats = function(x, *tensors, *window, **options, **how)
        update(bn, stats, x[:, :1].numel())
        return tuple(outputs) if return_map else outputs[0]


class CBAM(GateModule):
    """x' = `CBAMChannelAttention` of x, y = `CBAMSpatialAttention` of x', plus x if residual: Woo et al. 2018.

    x (N, C, H, W), or one image (C, H, W). Children channel and spatial, with the keys channel.fc1, channel.fc2,
    spatial.conv and with norm=True spatial.bn; `convert_state_dict` loads checkpoints of the authors, timm, ultralytics
    and External-Attention. The defaults are the authors' block. timm's CbamModule: rule="timm_cbam", bias=False,
    spatial_pool="mean,max", momentum=0.1, ties="split"; its LightCbamModule: with pool="avgmax" and light=True, too.
    ultralytics': hidden=0, pool="avg", spatial_pool="mean,max", norm=False. External-Attention's: bias=False,
    kernel_size=49, spatial_bias=True, norm=False, residual=True. See `functional.cbam`.
    """

    def __init__(
        self,
        in_channels: int,
        reduction: float = 16,
        kernel_size: int = 7,
        rule: str = "smp",
        pool: str = "avg+max",
        spatial_pool: str = "max,mean",
        act: str | Spec = "relu",
        gate: str | Spec = "sigmoid",
        *,
        hidden: OrZero = None,
        light: bool = False,
        bias: bool = True,
        spatial_bias: bool = False,
        norm: bool = True,
        momentum: float | None = 0.01,
        ties: str = "first",
        residual: bool = False,
        backend=None,
        device=None,
        dtype=None,
    ):
        shared = dict(gate=gate, ties=ties, backend=backend, device=device, dtype=dtype)
        channel = CBAMChannelAttention(
            in_channels, reduction, rule, pool, act, hidden=hidden, bias=bias, spatial_dims=2, **shared
        )
        window = dict(light=light, bias=spatial_bias, norm=norm, momentum=momentum)
        spatial = CBAMSpatialAttention(kernel_size, spatial_pool, **window, **shared)
        options = dict(pool=pool, spatial_pool=spatial_pool, act=act, gate=gate, ties=ties, residual=residual)
        super().__init__({**channel.shown, **spatial.shown}, 2, backend, **options)
        self.channel, self.spatial = channel, spatial

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        halves = self.channel, self.spatial
        if all(map(is_untouched, halves)) and self.channel.is_plain() and self.spatial.is_plain(x):
            tensors, how = (x, *self.channel.layers()), dict(self.options, backend=self.backend)
            return self.spatial.run(F.cbam, *tensors, **how, return_map=return_map)
        y, gate_map = self.spatial(self.channel(x), return_map=True)
        y = y + x if self.options["residual"] else y
        return (y, gate_map) if return_map else y
