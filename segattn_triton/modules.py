"""The operations as modules: parameters plus one call.

Parameters live in ordinary `nn.Conv2d` and `nn.Linear` children, with torch's initialisation and key names. A child
that carries hooks (pruning, parametrizations, spectral_norm) is called as a module, so that its hooks run.
"""

import torch
from torch import Tensor, nn

from segattn_triton import _checks as check
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


class NeighborhoodAttention2d(nn.Module):
    """Every pixel attends to the k x k pixels around it: qkv projection, neighbourhood attention, output projection.

    x, y (N, C, H, W), contiguous or channels_last; map (N, heads, k*k, H, W). Keys: qkv.weight (3C, C), split as
    (3, heads, D), qkv.bias, proj.weight (C, C), proj.bias, with rel_pos_bias rpb (heads, 2k-1, 2k-1): a state_dict
    of NATTEN's `NeighborhoodAttention2D` loads. Follows autocast. See `functional.neighborhood_attention`.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int,
        kernel_size: int = 3,
        dilation: int = 1,
        border: str = "shift",
        rel_pos_bias: bool = False,
        qkv_bias: bool = True,
        scale: float | None = None,
        *,
        backend=None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if num_heads < 1 or in_channels % num_heads:
            raise ValueError(f"num_heads: got {num_heads}, expected a divisor of in_channels {in_channels}")
        factory = dict(device=device, dtype=dtype)
        self.num_heads, self.scale, self.backend = num_heads, scale, backend
        self.options = dict(kernel_size=kernel_size, dilation=dilation, border=border)
        self.qkv = nn.Linear(in_channels, 3 * in_channels, bias=qkv_bias, **factory)
        self.proj = nn.Linear(in_channels, in_channels, **factory)
        table = (num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1)
        self.rpb = nn.Parameter(torch.empty(table, **factory)) if rel_pos_bias else None
        if rel_pos_bias:
            nn.init.trunc_normal_(self.rpb, std=0.02, a=-2.0, b=2.0)

    def forward(self, x: Tensor, return_map: bool = False):
        check.feature_map(x, (2,))
        check.channels(x, self.qkv.in_features)
        planar = x.is_contiguous()
        qkv = _pixelwise(self.qkv, x, planar).unflatten(1, (3, self.num_heads, -1))  # [N, 3, heads, D, H, W]
        q, k, v = qkv.permute(1, 0, 4, 5, 2, 3).unbind(0)
        scores = dict(self.options, rel_bias=self.rpb, scale=self.scale, backend=self.backend)
        y = F.neighborhood_attention(q, k, v, **scores)
        y = _pixelwise(self.proj, y.permute(0, 3, 4, 1, 2).flatten(1, 2), planar)
        if not return_map:
            return y
        wide = torch.promote_types(q.dtype, torch.float32)
        p = F.neighborhood_qk(q.to(wide), k.to(wide), **scores).softmax(-1)
        return y, p.to(q.dtype).permute(0, 3, 4, 1, 2)


def _pixelwise(linear: nn.Linear, x: Tensor, planar: bool) -> Tensor:
    """`linear` over the channels of x (N, C, H, W). planar: the result is contiguous, else channels_last."""
    if planar and _is_plain(linear):
        z = (linear.weight @ x.flatten(2)).unflatten(2, x.shape[2:])
        return z if linear.bias is None else z + linear.bias.to(z.dtype)[:, None, None]
    y = linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return y.contiguous() if planar else y
