"""One weight per value, from its 3x3 surroundings."""

from torch import Tensor, nn

from .. import functional as F
from ..reference.activations import Spec
from ..runtime import checks as check
from ._children import apply_gate, call, is_plain
from ._gate import GateModule, by_rank


class LocalAttention(GateModule):
    """y = x * gate(conv3x3(x, padding 1) + b) for every value, the convolution full or depthwise.

    x (N, C, H, W), or one image (C, H, W). Keys: conv.weight (C, C, 3, 3) or (C, 1, 3, 3), conv.bias (C,).
    See `functional.local_gate`.
    """

    def __init__(
        self,
        in_channels: int,
        depthwise: bool = False,
        gate: str | Spec = "sigmoid",
        *,
        bias: bool = True,
        backend=None,
        device=None,
        dtype=None,
    ):
        super().__init__(dict(in_channels=in_channels, depthwise=depthwise), 2, backend, gate=gate)
        factory = dict(bias=bias, groups=in_channels if depthwise else 1, device=device, dtype=dtype)
        self.conv = nn.Conv2d(in_channels, in_channels, 3, padding=1, **factory)

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        if not is_plain(self.conv):
            return apply_gate(self.options["gate"], x, call(self.conv, x), return_map)
        options = dict(self.options, backend=self.backend, return_map=return_map)
        return F.local_gate(x, self.conv.weight, self.conv.bias, **options)


class LocalPoolAttention(GateModule):
    """y = x * gate(pool of the 3x3 neighbours) for every value. No parameters. See `functional.local_pool_gate`.

    x (N, C, H, W), or one image (C, H, W).
    """

    def __init__(self, pool: str = "avg", gate: str | Spec = "sigmoid", *, ties: str = "first", backend=None):
        check.choice("pool", pool, ("avg", "max"))
        super().__init__({}, 2, backend, pool=pool, gate=gate, ties=ties)

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        return F.local_pool_gate(x, **self.options, backend=self.backend, return_map=return_map)
