"""One weight per row and per column of every channel, from what rows and columns hold."""

import torch
from torch import Tensor, nn

from .. import functional as F
from ..functional.values import COMBINES
from ..reference.activations import Spec, activate
from ..runtime import checks as check
from ._children import as_it_is, call, folded, is_plain, update, uses_batch
from ._gate import GateModule, by_rank


class CoordinateAttention(GateModule):
    """y = x * gate(conv_h(a_h)) * gate(conv_w(a_w)), (a_h, a_w) = act(bn1(conv1(v_h, v_w))): Hou et al. 2021.

    v_h and v_w are the means of rows and columns. x (N, C, H, W), or one image (C, H, W). Keys, the authors' and timm's
    CoordAttn's: conv1.weight (Cr, C, 1, 1), conv_h.weight and conv_w.weight (C, Cr, 1, 1), with bias=True those of
    their biases, and with norm=True those of bn1, a BatchNorm2d. Cr is `hidden`, or C // reduction, at least `least`.
    The defaults are the authors'. In eval the statistics of bn1 are folded into conv1 at every call; in training those
    of the batch are taken, and update bn1's as BatchNorm2d does. See `functional.coordinate_attention`.
    """

    def __init__(
        self,
        in_channels: int,
        reduction: float = 32,
        act: str | Spec = "hardswish",
        gate: str | Spec = "sigmoid",
        *,
        hidden: int | None = None,
        least: int = 8,
        combine: str = "product",
        bias: bool = True,
        norm: bool = True,
        momentum: float | None = 0.1,
        backend=None,
        device=None,
        dtype=None,
    ):
        if hidden is None and not reduction > in_channels / 2**31:
            raise ValueError(f"reduction: got {reduction!r}, expected more than 0, for fewer than 2^31 hidden channels")
        check.choice("combine", combine, COMBINES)
        hidden = max(least, int(in_channels // reduction)) if hidden is None else hidden
        shown = dict(in_channels=in_channels, hidden=hidden, norm=norm, momentum=momentum)
        super().__init__(shown, 2, backend, combine=combine, act=act, gate=gate)
        factory = dict(device=device, dtype=dtype)
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=bias, **factory)
        self.bn1 = nn.BatchNorm2d(hidden, momentum=momentum, **factory) if norm else None
        self.conv_h = nn.Conv2d(hidden, in_channels, 1, bias=bias, **factory)
        self.conv_w = nn.Conv2d(hidden, in_channels, 1, bias=bias, **factory)

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        bn, last = self.bn1, (self.conv_h, self.conv_w)
        if not is_plain(self.conv1, *last, *([] if bn is None else [bn])) or (bn is not None and x.shape[0] == 0):
            return self._as_children(x, return_map)
        tensors = [t for layer in last for t in (layer.weight, layer.bias)]
        how = dict(self.options, backend=self.backend, return_map=return_map)
        if bn is None or not uses_batch(bn):
            first = (self.conv1.weight, self.conv1.bias) if bn is None else folded(self.conv1, bn)
            return F.coordinate_attention(x, *first, *tensors, **how)
        weight = x.new_ones(bn.num_features) if bn.weight is None else bn.weight
        first = self.conv1.weight, self.conv1.bias
        *outputs, stats = F.coordinate_attention(
            x, *first, *tensors, weight, bn.bias, **how, eps=bn.eps, return_stats=True
        )
        update(bn, stats, x.shape[0] * sum(x.shape[2:]))
        return tuple(outputs) if return_map else outputs[0]

    def _as_children(self, x: Tensor, return_map: bool):
        check.feature_map(x, (2,))
        v_h, v_w = F.strip_means(x, backend=self.backend)
        h = call(self.conv1, as_it_is(_beside, v_h, v_w))
        a = activate(self.options["act"], h if self.bn1 is None else call(self.bn1, h))
        a_h, a_w = a.split([x.shape[2], x.shape[3]], 2)
        z = call(self.conv_h, a_h), call(self.conv_w, a_w.transpose(2, 3))
        how = dict(combine=self.options["combine"], gate=self.options["gate"], backend=self.backend)
        return F.strip_gate(x, *(t.to(x.dtype) for t in z), **how, return_map=return_map)


def _beside(v_h: Tensor, v_w: Tensor) -> Tensor:
    """(N, C, H + W, 1)"""
    return torch.cat([v_h, v_w.transpose(2, 3)], 2)
