"""One weight per value, from its surroundings."""

from torch import Tensor, nn

from .. import functional as F
from ..reference.activations import Spec
from ..runtime import checks as check
from ._children import apply_gate, call, is_plain
from ._gate import GateModule, by_rank


class LocalAttention(GateModule):
    """y = x * gate(conv3x3(x, padding 1) + b) for every value, the convolution full or depthwise.

    A depthwise one may be wider, `kernel_size` 3, 5, 7, 9 or 11, and its taps `dilation` pixels apart: of VAN's large
    kernel attention 5, then 7 with dilation 3. ValueError for another window.

    x (N, C, H, W), or one image (C, H, W). Keys: conv.weight (C, C, 3, 3), or (C, 1, K, K) of a depthwise one,
    conv.bias (C,). See `functional.local_gate`.
    """

    def __init__(
        self,
        in_channels: int,
        depthwise: bool = False,
        gate: str | Spec = "sigmoid",
        *,
        kernel_size: int = 3,
        dilation: int = 1,
        bias: bool = True,
        backend=None,
        device=None,
        dtype=None,
    ):
        check.local_window(kernel_size, dilation, depthwise)
        shown = dict(in_channels=in_channels, depthwise=depthwise, kernel_size=kernel_size)
        super().__init__(shown, 2, backend, gate=gate, dilation=dilation)
        factory = dict(bias=bias, groups=in_channels if depthwise else 1, device=device, dtype=dtype)
        window = dict(padding=dilation * (kernel_size // 2), dilation=dilation)
        self.conv = nn.Conv2d(in_channels, in_channels, kernel_size, **window, **factory)

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
