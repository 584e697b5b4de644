"""One weight per pixel."""

from torch import Tensor, nn

from .. import functional as F
from ..reference.activations import Spec
from ..runtime import checks as check
from ._children import apply_gate, call, is_plain
from ._gate import GateModule, by_rank


class SpatialAttention(GateModule):
    """sSE of Roy et al. 2018, not CBAM's spatial attention: y = x * gate(<w, x_p> + b) at every pixel p.

    x (N, C, *spatial) in NCHW, see `spatial_dims` in `segattn_triton.modules`. Keys: conv.weight (1, C, 1, 1),
    conv.bias (1,). See `functional.spatial_gate`.
    """

    def __init__(
        self,
        in_channels: int,
        gate: str | Spec = "sigmoid",
        *,
        bias: bool = True,
        spatial_dims: int | None = None,
        backend=None,
        device=None,
        dtype=None,
    ):
        super().__init__(dict(in_channels=in_channels), spatial_dims, backend, gate=gate)
        self.conv = nn.Conv2d(in_channels, 1, 1, bias=bias, device=device, dtype=dtype)

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        if not is_plain(self.conv):
            pixels = x if x.dim() == 4 else x.flatten(2).unsqueeze(3)  # the child is a Conv2d
            return apply_gate(self.options["gate"], x, call(self.conv, pixels).reshape(x[:, :1].shape), return_map)
        options = dict(self.options, backend=self.backend, return_map=return_map)
        return F.spatial_gate(x, self.conv.weight, self.conv.bias, **options)


class SpatialPoolAttention(GateModule):
    """y = x * gate(pool of x_p over the channels) at every pixel p. No parameters.

    See `functional.spatial_pool_gate`.
    """

    def __init__(
        self,
        pool: str = "mean",
        gate: str | Spec = "sigmoid",
        *,
        ties: str = "first",
        spatial_dims: int | None = None,
        backend=None,
    ):
        check.choice("pool", pool, ("mean", "max", "meanmax"))
        super().__init__({}, spatial_dims, backend, pool=pool, gate=gate, ties=ties)

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        return F.spatial_pool_gate(x, **self.options, backend=self.backend, return_map=return_map)
