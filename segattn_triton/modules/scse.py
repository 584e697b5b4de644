"""One weight per channel beside one per pixel."""

import torch
from torch import Tensor, nn

from .. import functional as F
from ..reference.activations import Spec, activate
from ._children import apply_gate, call, is_plain
from ._gate import GateModule, by_rank
from .reduction import hidden_channels


class SCSE(GateModule):
    """y = x * gate(W2 act(W1 mean(x) + b1) + b2) + x * gate(<w, x_p> + b), or the larger of both: Roy et al. 2018.

    x (N, C, *spatial). Keys: cSE.1.weight (Cr, C, 1, 1), cSE.1.bias, cSE.3.weight (C, Cr, 1, 1), cSE.3.bias,
    sSE.0.weight (1, C, 1, 1), sSE.0.bias, Cr = in_channels // reduction, as of smp's SCSEModule. See `functional.scse`.
    """

    def __init__(
        self,
        in_channels: int,
        reduction: int = 16,
        act: str | Spec = "relu",
        gate: str | Spec = "sigmoid",
        reduce: str = "sum",
        *,
        bias: bool = True,
        spatial_dims: int | None = None,
        backend=None,
        device=None,
        dtype=None,
    ):
        shown = dict(in_channels=in_channels, reduction=reduction)
        super().__init__(shown, spatial_dims, backend, act=act, gate=gate, reduce=reduce)
        hidden, factory = hidden_channels(in_channels, reduction, "smp"), dict(bias=bias, device=device, dtype=dtype)
        squeeze, excite = nn.Conv2d(in_channels, hidden, 1, **factory), nn.Conv2d(hidden, in_channels, 1, **factory)
        self.cSE = nn.Sequential(nn.Identity(), squeeze, nn.Identity(), excite)  # the places of the pool and the act
        self.sSE = nn.Sequential(nn.Conv2d(in_channels, 1, 1, **factory))

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        squeeze, excite, pixel = self.cSE[1], self.cSE[3], self.sSE[0]
        if is_plain(squeeze, excite, pixel):
            tensors = squeeze.weight, squeeze.bias, excite.weight, excite.bias, pixel.weight, pixel.bias
            return F.scse(x, *tensors, **self.options, backend=self.backend, return_map=return_map)
        act, gate, reduce = self.options.values()
        v = x.flatten(2).mean(2)[:, :, None, None]
        by_channel = apply_gate(gate, x, call(excite, activate(act, call(squeeze, v))).flatten(1), False)
        pixels = x if x.dim() == 4 else x.flatten(2).unsqueeze(3)  # the child is a Conv2d
        by_pixel, g = apply_gate(gate, x, call(pixel, pixels).reshape(x[:, :1].shape), True)
        y = torch.maximum(by_channel, by_pixel) if reduce == "max" else by_channel + by_pixel
        return (y, g) if return_map else y
