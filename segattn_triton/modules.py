"""The operations as modules: parameters plus one call.

Parameters live in ordinary `nn.Conv2d` and `nn.Linear` children, with torch's initialisation and key names. A child
that carries hooks (pruning, parametrizations, spectral_norm) is called as a module, so that its hooks run.
"""

import torch
from torch import Tensor, nn

from segattn_triton import functional as F
from segattn_triton.reference.activations import Spec, activate


def _is_plain(*children: nn.Module) -> bool:
    """No hooks, no parametrization, no subclass: using the children's parameters is the same as calling them."""
    return all(
        type(m) in (nn.Conv2d, nn.Linear)
        and not (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks)
        and "forward" not in vars(m)
        for m in children
    )


class SpatialAttention(nn.Module):
    """sSE of Roy et al. 2018, not CBAM's spatial attention: y = x * gate(<w, x_p> + b) at every pixel p.

    x (N, C, *spatial) with 1, 2 or 3 spatial axes. Keys: conv.weight (1, C, 1, 1), conv.bias (1,).
    See `functional.spatial_gate`.
    """

    def __init__(self, in_channels: int, gate: str | Spec = "sigmoid", *, backend=None, device=None, dtype=None):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 1, 1, device=device, dtype=dtype)
        self.gate, self.backend = gate, backend

    def forward(self, x: Tensor, return_map: bool = False):
        if not _is_plain(self.conv):
            pixels = x if x.dim() == 4 else x.flatten(2).unsqueeze(3)  # the child is a Conv2d
            return _apply(self.gate, x, _call(self.conv, pixels).reshape(x[:, :1].shape), return_map)
        options = dict(gate=self.gate, backend=self.backend, return_map=return_map)
        return F.spatial_gate(x, self.conv.weight, self.conv.bias, **options)


class SpatialPoolAttention(nn.Module):
    """y = x * gate(pool of x_p over the channels) at every pixel p. No parameters.

    See `functional.spatial_pool_gate`.
    """

    def __init__(self, pool: str = "mean", gate: str | Spec = "sigmoid", *, ties: str = "first", backend=None):
        super().__init__()
        self.options = dict(pool=pool, gate=gate, ties=ties, backend=backend)

    def forward(self, x: Tensor, return_map: bool = False):
        return F.spatial_pool_gate(x, **self.options, return_map=return_map)


class ChannelAttention(nn.Module):
    """y = x * gate(W2 act(W1 pool(x) + b1) + b2) for every channel: squeeze and excitation, Hu et al. 2018.

    x (N, C, *spatial) with 1, 2 or 3 spatial axes. Keys: fc.0.weight (Cr, C), fc.0.bias, fc.2.weight (C, Cr),
    fc.2.bias, Cr = in_channels // reduction: checkpoints of MONAI's `ChannelSELayer` load.
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
        ties: str = "first",
        backend=None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        hidden = in_channels // reduction if reduction > 0 else 0
        if hidden < 1:
            raise ValueError(
                f"reduction: got {reduction} for in_channels {in_channels}, expected 1 to in_channels: "
                "in_channels // reduction is the number of hidden channels"
            )
        factory = dict(device=device, dtype=dtype)
        self.fc = nn.Sequential(
            nn.Linear(in_channels, hidden, **factory),
            nn.Identity(),  # keeps the keys fc.0 and fc.2 of the usual Sequential
            nn.Linear(hidden, in_channels, **factory),
        )
        self.options = dict(pool=pool, act=act, gate=gate, ties=ties)
        self.backend = backend

    def forward(self, x: Tensor, return_map: bool = False):
        squeeze, _, excite = self.fc
        if _is_plain(squeeze, excite):
            weights = squeeze.weight, squeeze.bias, excite.weight, excite.bias
            return F.channel_gate(x, *weights, **self.options, backend=self.backend, return_map=return_map)
        pixels, options = x.flatten(2), self.options
        mean = pixels.mean(2)
        peak = pixels.amax(2) if options["ties"] == "split" else pixels.max(2).values
        pooled = {"avg": mean, "max": peak, "avgmax": 0.5 * (mean + peak)}[options["pool"]]
        z = _call(excite, activate(options["act"], _call(squeeze, pooled)))
        return _apply(self.options["gate"], x, z, return_map)


class LocalAttention(nn.Module):
    """y = x * gate(conv3x3(x, padding 1) + b) for every value, the convolution full or depthwise.

    x (N, C, H, W). Keys: conv.weight (C, C, 3, 3) or (C, 1, 3, 3), conv.bias (C,). See `functional.local_gate`.
    """

    def __init__(
        self,
        in_channels: int,
        depthwise: bool = False,
        gate: str | Spec = "sigmoid",
        *,
        backend=None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        groups = in_channels if depthwise else 1
        self.conv = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=groups, device=device, dtype=dtype)
        self.gate, self.backend = gate, backend

    def forward(self, x: Tensor, return_map: bool = False):
        if not _is_plain(self.conv):
            return _apply(self.gate, x, _call(self.conv, x), return_map)
        options = dict(gate=self.gate, backend=self.backend, return_map=return_map)
        return F.local_gate(x, self.conv.weight, self.conv.bias, **options)


class LocalPoolAttention(nn.Module):
    """y = x * gate(pool of the 3x3 neighbours) for every value. No parameters. See `functional.local_pool_gate`."""

    def __init__(self, pool: str = "avg", gate: str | Spec = "sigmoid", *, ties: str = "first", backend=None):
        super().__init__()
        self.options = dict(pool=pool, gate=gate, ties=ties, backend=backend)

    def forward(self, x: Tensor, return_map: bool = False):
        return F.local_pool_gate(x, **self.options, return_map=return_map)


def _call(child: nn.Module, x: Tensor) -> Tensor:
    """The child, hooks and all, in its own dtype."""
    return child(x if torch.is_autocast_enabled(x.device.type) else x.to(next(child.parameters(), x).dtype))


def _apply(gate: str | Spec, x: Tensor, z: Tensor, return_map: bool):
    """x * gate(z) in plain torch, z (N, C or 1, ...), in x's dtype."""
    g = activate(gate, z)
    y = (x * g.reshape(*g.shape, *[1] * (x.dim() - g.dim()))).to(x.dtype)
    return (y, g.to(x.dtype)) if return_map else y
