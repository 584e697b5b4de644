"""One weight per pixel of a skip connection, from it and from the map of the decoder: the attention gate."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .. import functional as F
from ..reference.activations import Spec
from ..runtime import checks as check
from ._children import (
    BATCH_NORMS,
    CONVOLUTIONS,
    apply_gate,
    call,
    folded,
    is_plain,
    is_untouched,
    update,
    uses_batch,
)
from ._gate import GateModule, by_rank

NORM_PLACES = ("g", "x", "psi")


class AttentionGate(GateModule):
    """y = x * gate(bn(<w, relu(bn(Wg g) + bn(Wx x))>)) at every pixel: the gate of Attention U-Net, Oktay et al. 2018.

    x (N, in_channels, *spatial) is the skip connection, g (N, gating_channels, *spatial) the decoder's map brought to
    its size; spatial_dims=1, 2 or 3 axes, or one image of each without the batch. g goes by name, because libraries
    disagree on the order. inter_channels are those of both projections, half of in_channels without a number.
    Keys: W_g.0, W_x.0 and psi.0, 1x1 convolutions, and W_g.1, W_x.1 and psi.1, batch norms, of which `norms` are there,
    as of LeeJunHyun's Attention U-Net; `convert_state_dict` loads MONAI's AttentionBlock and PaddleSeg's. bias_x=False
    leaves out that of W_x, bias=False all three.
    In eval the running statistics are folded into weights and biases at every call. Of a norm in training the
    statistics are those of the batch, and update its own as the BatchNorm itself does; one value per channel raises
    torch's ValueError. A SyncBatchNorm, whose statistics are those of other processes, too, norms of different eps, and
    children with hooks run as children, in plain torch, with the projections in memory.
    Errors: ValueError for fewer than one channel, and for g of another batch, rank, size or device than x.
    See `functional.attention_gate` and `functional.attention_gate_norm`.
    """

    def __init__(
        self,
        in_channels: int,
        gating_channels: int | None = None,
        inter_channels: int | None = None,
        gate: str | Spec = "sigmoid",
        *,
        norms: Sequence[str] = NORM_PLACES,
        bias: bool = True,
        bias_x: bool | None = None,
        spatial_dims: int = 2,
        backend=None,
        device=None,
        dtype=None,
    ):
        if isinstance(norms, str) or not isinstance(norms, Sequence):
            raise ValueError(f"norms: got {norms!r}, expected a sequence of {', '.join(map(repr, NORM_PLACES))}")
        for norm in norms:
            check.choice("norms", norm, NORM_PLACES)
        gating_channels = in_channels if gating_channels is None else gating_channels
        inter_channels = max(1, in_channels // 2) if inter_channels is None else inter_channels
        sizes = dict(in_channels=in_channels, gating_channels=gating_channels, inter_channels=inter_channels)
        for name, size in sizes.items():
            check.at_least_one(name, size)
        check.choice("spatial_dims", spatial_dims, (1, 2, 3))
        super().__init__({**sizes, "norms": tuple(norms)}, spatial_dims, backend, gate=gate)
        factory = dict(device=device, dtype=dtype)

        def layer(name: str, channels: int, out: int, bias: bool) -> nn.Sequential:
            conv = CONVOLUTIONS[spatial_dims](channels, out, 1, bias=bias, **factory)
            return nn.Sequential(conv, *([BATCH_NORMS[spatial_dims](out, **factory)] if name in norms else []))

        self.W_g = layer("g", gating_channels, inter_channels, bias)
        self.W_x = layer("x", in_channels, inter_channels, bias if bias_x is None else bias_x)
        self.psi = layer("psi", inter_channels, 1, bias)

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False, *, g: Tensor):
        layers = self.W_x, self.W_g, self.psi
        norms = [_norm_of_batch(layer) for layer in layers] if all(map(_is_plain, layers)) else []
        eps = {bn.eps for bn in norms if bn is not None}
        if not norms or len(eps) > 1 or (eps and x.shape[0] == 0):
            return self._as_children(x, g, return_map)
        how = dict(self.options, backend=self.backend, return_map=return_map)
        if not eps:
            return F.attention_gate(x, g, *self.tensors(), **how)
        gains = [bn and _gain(bn, layer[0]) for bn, layer in zip(norms, layers, strict=True)]
        how |= dict(eps=eps.pop(), return_stats=True)
        *outputs, stats = F.attention_gate_norm(x, g, *self.tensors(), *gains, **how)
        _update(layers, norms, stats, x[:, :1].numel())
        return tuple(outputs) if return_map else outputs[0]

    def tensors(self) -> tuple[Tensor | None, ...]:
        """The parameters as the function takes them, norms of running statistics folded into them; of those of the
        batch what they add."""
        (wg, bg), (wx, bx), (weight, bias) = (_weight_and_bias(*layer) for layer in (self.W_g, self.W_x, self.psi))
        b = bg if bx is None else bx if bg is None else bg + bx
        return wx, wg, b, weight, bias

    def _as_children(self, x: Tensor, g: Tensor, return_map: bool):
        check.feature_map(x)
        check.beside("g", g, x)
        h = (_call(self.W_g, g) + _call(self.W_x, x)).relu()
        return apply_gate(self.options["gate"], x, _call(self.psi, h), return_map)


def _is_plain(layer: nn.Sequential) -> bool:
    """Whether using the parameters is the same as calling the layer."""
    return is_untouched(layer) and is_plain(*layer)


def _norm_of_batch(layer: nn.Sequential) -> nn.Module | None:
    return next((bn for bn in layer[1:] if uses_batch(bn)), None)


def _gain(bn: nn.Module, conv: nn.Module) -> Tensor:
    return conv.weight.new_ones(bn.num_features) if bn.weight is None else bn.weight


def _weight_and_bias(conv: nn.Module, bn: nn.Module | None = None) -> tuple[Tensor, Tensor | None]:
    """Of a layer without a norm; with the running statistics of one; of one of the batch, before which a bias counts
    for nothing, its gradient zeros."""
    if bn is None:
        return conv.weight, conv.bias
    if not uses_batch(bn):
        return folded(conv, bn)
    nothing = None if conv.bias is None else conv.bias - conv.bias
    return conv.weight, nothing if bn.bias is None else bn.bias if nothing is None else bn.bias + nothing


def _update(layers: Sequence[nn.Sequential], norms: Sequence[nn.Module | None], stats: Tensor, count: int) -> None:
    """The running statistics of the norms; the biases that the operation left out are in the means."""
    sizes = [2 * bn.num_features for bn in norms if bn is not None]
    parts = iter(stats.split(sizes))
    for (conv, *_), bn in zip(layers, norms, strict=True):
        if bn is not None:
            mean, var = next(parts).chunk(2)
            mean = mean if conv.bias is None else mean + conv.bias
            update(bn, torch.cat([mean, var]), count)


def _call(layer: nn.Sequential, x: Tensor) -> Tensor:
    if not is_untouched(layer):
        return call(layer, x)
    for child in layer:
        x = call(child, x)
    return x


class GridAttentionGate(GateModule):
    """y = x * up(sigmoid(<w, relu(theta x + up(phi g))>)): the gate as published, on the grid of a coarser map g.

    x (N, in_channels, *spatial), g (N, gating_channels, *coarser); spatial_dims=2 or 3 axes, or one image of each
    without the batch. theta, a convolution whose kernel and stride are `sub_sample`, no bias; phi and psi, 1x1
    convolutions with biases; up, bilinear or trilinear. map (N, 1, *spatial).
    Keys: theta.weight, phi.weight, phi.bias, psi.weight, psi.bias, as of Oktay's GridAttentionBlock in its mode
    concatenation, without the convolution W and the norm behind it. The three convolutions are torch's; the products
    are `functional.gate_mul_resized`, which writes nothing that it has brought to the pixels, in 3D `gate_mul`.
    Errors: ValueError for sizes below 1, for g of another batch or rank than x, and for x of fewer pixels than
    sub_sample along an axis. Source: Oktay et al. 2018, arXiv:1804.03999.
    """

    def __init__(
        self,
        in_channels: int,
        gating_channels: int | None = None,
        inter_channels: int | None = None,
        *,
        sub_sample: int = 2,
        spatial_dims: int = 2,
        backend=None,
        device=None,
        dtype=None,
    ):
        gating_channels = in_channels if gating_channels is None else gating_channels
        inter_channels = max(1, in_channels // 2) if inter_channels is None else inter_channels
        sizes = dict(in_channels=in_channels, gating_channels=gating_channels, inter_channels=inter_channels)
        check.choice("spatial_dims", spatial_dims, (2, 3))
        super().__init__({**sizes, "sub_sample": sub_sample}, spatial_dims, backend)
        conv, factory = CONVOLUTIONS[spatial_dims], dict(device=device, dtype=dtype)
        self.theta = conv(in_channels, inter_channels, sub_sample, sub_sample, bias=False, **factory)
        self.phi = conv(gating_channels, inter_channels, 1, **factory)
        self.psi = conv(inter_channels, 1, 1, **factory)

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False, *, g: Tensor):
        check.feature_map(x, (self.spatial_dims,))
        check.second_map("g", g, x)
        if g.dim() != x.dim():
            raise ValueError(f"g: got {g.dim()} axes, expected {x.dim()}, as many as of x")
        check.channels(x, self.shown["in_channels"])
        check.channels(g, self.shown["gating_channels"], "g")
        if min(x.shape[2:]) < (least := self.shown["sub_sample"]):
            raise ValueError(f"x: got {tuple(x.shape[2:])} pixels, expected at least {least} along each axis")
        psi = torch.sigmoid(call(self.psi, self._hidden(call(self.theta, x), call(self.phi, g)))).to(x.dtype)
        how = dict(gate="identity", backend=self.backend, return_map=return_map)
        if x.dim() == 4:
            return F.gate_mul_resized(x, psi, **how)
        return F.gate_mul(x, interpolate(psi, x.shape[2:], mode="trilinear"), **how)

    def _hidden(self, theta: Tensor, phi: Tensor) -> Tensor:
        """relu(theta + up(phi)): the gradient of phi is gathered, in one order."""
        if theta.dim() == 4:
            how = dict(gate="identity", out_act="relu", backend=self.backend)
            return F.gate_mul_resized(torch.ones_like(theta), phi, theta, **how)
        return torch.relu(theta + interpolate(phi, theta.shape[2:], mode="trilinear"))
