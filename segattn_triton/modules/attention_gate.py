"""One weight per pixel of a skip connection, from it and from the map of the decoder: the attention gate."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .. import functional as F
from ..reference.activations import Spec
from ..runtime import checks as check
from ._children import BATCH_NORMS, CONVOLUTIONS, apply_gate, call, folded, is_plain, is_untouched, uses_batch
from ._gate import GateModule, by_rank, of_checked_numbers

NORMS = ("g", "x", "psi")


class AttentionGate(GateModule):
    """y = x * gate(bn(<w, relu(bn(Wg g) + bn(Wx x))>)) at every pixel: the gate of Attention U-Net, Oktay et al. 2018.

    x (N, in_channels, *spatial) is the skip connection, g (N, gating_channels, *spatial) the decoder's map brought to
    its size; spatial_dims=1, 2 or 3 axes, or one image of each without the batch. g goes by name, because libraries
    disagree on the order. inter_channels are those of both projections, half of in_channels without a number.
    Keys: W_g.0, W_x.0 and psi.0, 1x1 convolutions, and W_g.1, W_x.1 and psi.1, batch norms, of which `norms` are there,
    as of LeeJunHyun's Attention U-Net; `convert_state_dict` loads MONAI's AttentionBlock and PaddleSeg's. bias_x=False
    leaves out that of W_x, bias=False all three.
    In eval the running statistics are folded into weights and biases at every call. A norm in training, which needs the
    statistics of the projections first, runs as the children themselves, in plain torch, with the projections in
    memory; one value per channel raises torch's ValueError there.
    Errors: ValueError for fewer than one channel, and for g of another batch, rank, size or device than x.
    See `functional.attention_gate`.
    """

    def __init__(
        self,
        in_channels: int,
        gating_channels: int | None = None,
        inter_channels: int | None = None,
        gate: str | Spec = "sigmoid",
        *,
        norms: Sequence[str] = NORMS,
        bias: bool = True,
        bias_x: bool | None = None,
        spatial_dims: int = 2,
        backend=None,
        device=None,
        dtype=None,
    ):
        for norm in norms:
            check.choice("norms", norm, NORMS)
        gating_channels = in_channels if gating_channels is None else gating_channels
        inter_channels = max(1, in_channels // 2) if inter_channels is None else inter_channels
        sizes = dict(in_channels=in_channels, gating_channels=gating_channels, inter_channels=inter_channels)
        for name, size in sizes.items():
            check.at_least_one(name, size)
        super().__init__({**sizes, "norms": tuple(norms)}, spatial_dims, backend, gate=gate)
        check.choice("spatial_dims", spatial_dims, (1, 2, 3))
        factory = dict(device=device, dtype=dtype)

        def layer(name: str, channels: int, out: int, bias: bool) -> nn.Sequential:
            conv = CONVOLUTIONS[spatial_dims](channels, out, 1, bias=bias, **factory)
            return nn.Sequential(conv, *([BATCH_NORMS[spatial_dims](out, **factory)] if name in norms else []))

        self.W_g = layer("g", gating_channels, inter_channels, bias)
        self.W_x = layer("x", in_channels, inter_channels, bias if bias_x is None else bias_x)
        self.psi = layer("psi", inter_channels, 1, bias)

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False, *, g: Tensor):
        if all(map(_folds, (self.W_g, self.W_x, self.psi))):
            return F.attention_gate(x, g, *self.tensors(), **self.options, backend=self.backend, return_map=return_map)
        check.feature_map(x)
        check.beside("g", g, x)
        h = (_call(self.W_g, g) + _call(self.W_x, x)).relu()
        return apply_gate(self.options["gate"], x, _call(self.psi, h), return_map)

    def tensors(self) -> tuple[Tensor | None, ...]:
        """The parameters as the function takes them, the norms folded into them."""
        (wg, bg), (wx, bx), (weight, bias) = (
            folded(*layer) if len(layer) > 1 else (layer[0].weight, layer[0].bias)
            for layer in (self.W_g, self.W_x, self.psi)
        )
        b = bg if bx is None else bx if bg is None else bg + bx
        return wx, wg, b, weight, bias


def _folds(layer: nn.Sequential) -> bool:
    """Whether using the parameters, the running statistics among them, is the same as calling the layer."""
    return is_untouched(layer) and is_plain(*layer) and not any(uses_batch(bn) for bn in layer[1:])


def _call(layer: nn.Sequential, x: Tensor) -> Tensor:
    if not is_untouched(layer):
        return call(layer, x)
    for child in layer:
        x = call(child, x)
    return x


class GridAttentionGate(nn.Module):
    """y = x * up(gate(<w, relu(theta x + up(phi g))>)): the gate as published, on the grid of a coarser map g.

    x (N, in_channels, *spatial), g (N, gating_channels, *coarser); spatial_dims=2 or 3. theta, a convolution whose
    kernel and stride are `sub_sample`, no bias; phi and psi, 1x1 convolutions with biases; up, bilinear or trilinear.
    Keys: theta.weight, phi.weight, phi.bias, psi.weight, psi.bias, as of Oktay's GridAttentionBlock in its mode
    concatenation, without the convolution W and the norm behind it. All of it is plain torch: no kernel of this package
    computes it. Errors: ValueError for sizes below 1, and for g of another batch or rank than x.
    Source: Oktay et al. 2018, arXiv:1804.03999.
    """

    @of_checked_numbers
    def __init__(
        self,
        in_channels: int,
        gating_channels: int,
        inter_channels: int | None = None,
        *,
        sub_sample: int = 2,
        spatial_dims: int = 2,
        device=None,
        dtype=None,
    ):
        super().__init__()
        check.choice("spatial_dims", spatial_dims, (2, 3))
        inter_channels = max(1, in_channels // 2) if inter_channels is None else inter_channels
        sizes = dict(in_channels=in_channels, gating_channels=gating_channels, inter_channels=inter_channels)
        for name, size in {**sizes, "sub_sample": sub_sample}.items():
            check.at_least_one(name, size)
        conv, factory = CONVOLUTIONS[spatial_dims], dict(device=device, dtype=dtype)
        self.theta = conv(in_channels, inter_channels, sub_sample, sub_sample, bias=False, **factory)
        self.phi = conv(gating_channels, inter_channels, 1, **factory)
        self.psi = conv(inter_channels, 1, 1, **factory)

    def forward(self, x: Tensor, return_map: bool = False, *, g: Tensor):
        check.feature_map(x, (self.theta.weight.dim() - 2,))
        check.second_map("g", g, x)
        if g.dim() != x.dim():
            raise ValueError(f"g: got {g.dim()} axes, expected {x.dim()}, as many as of x")
        how = dict(mode="bilinear" if x.dim() == 4 else "trilinear", align_corners=False)
        theta = self.theta(x)
        h = torch.relu(theta + interpolate(self.phi(g), theta.shape[2:], **how))
        psi = interpolate(torch.sigmoid(self.psi(h)), x.shape[2:], **how)
        y = (x * psi).to(x.dtype)
        return (y, psi.to(x.dtype)) if return_map else y
