"""One weight per channel, from its neighbours in the order of channels."""

import math

from torch import Tensor, nn

from .. import functional as F
from ..reference.activations import Spec
from ..runtime import checks as check
from ._children import apply_gate, call, is_plain
from ._gate import GateModule, by_rank


class ECA(GateModule):
    """y = x * gate(conv1d(mean(x))), over the channels: Wang et al. 2020; circular=True is CECA.

    x (N, C, *spatial). Keys: conv.weight (1, 1, k), with bias conv.bias (1,). Without kernel_size, k is
    |log2(C) + beta| / gamma, made odd, and at least 3: 3 below 128 channels, 5 from there, 7 from 2048.
    See `functional.eca`.
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int | None = None,
        gamma: float = 2,
        beta: float = 1,
        gate: str | Spec = "sigmoid",
        *,
        circular: bool = False,
        bias: bool = False,
        spatial_dims: int | None = None,
        backend=None,
        device=None,
        dtype=None,
    ):
        if not gamma > 0:
            raise ValueError(f"gamma: got {gamma!r}, expected more than 0")
        k = max(int(abs(math.log2(in_channels) + beta) / gamma) | 1, 3) if kernel_size is None else kernel_size
        check.odd("kernel_size", k)
        super().__init__(
            dict(in_channels=in_channels, kernel_size=k), spatial_dims, backend, circular=circular, gate=gate
        )
        mode = "circular" if circular else "zeros"
        factory = dict(bias=bias, padding_mode=mode, device=device, dtype=dtype)
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, **factory)

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        check.feature_map(x)
        check.channels(x, self.shown["in_channels"])
        if is_plain(self.conv):
            options = dict(self.options, backend=self.backend, return_map=return_map)
            return F.eca(x, self.conv.weight, self.conv.bias, **options)
        return apply_gate(self.options["gate"], x, call(self.conv, x.flatten(2).mean(2)[:, None])[:, 0], return_map)
