"""Attention of every pixel to those around it."""

import torch
from torch import Tensor, nn

from .. import functional as F
from ..reference._precision import rounding_point
from ..runtime import checks as check
from ._children import is_plain
from ._gate import GateModule, by_rank


class NeighborhoodAttention2d(GateModule):
    """Every pixel attends to the k x k pixels around it: qkv projection, neighbourhood attention, output projection.

    x, y (N, C, H, W), channels first, contiguous or channels_last, or one image (C, H, W); map (N, heads, k*k, H, W).
    For (N, H, W, C), NATTEN's order of axes, and its names of arguments: `compat.natten.NeighborhoodAttention2D`. Keys:
    qkv.weight (3C, C), split as (3, heads, D), qkv.bias, proj.weight (C, C), proj.bias, with rel_pos_bias rpb
    (heads, 2k-1, 2k-1): state_dicts go between the two. Follows autocast. See `functional.neighborhood_attention`.
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
        check.odd("kernel_size", kernel_size)
        shown = dict(in_channels=in_channels, num_heads=num_heads)
        super().__init__(shown, 2, backend, kernel_size=kernel_size, dilation=dilation, border=border)
        if num_heads < 1 or in_channels % num_heads:
            raise ValueError(f"num_heads: got {num_heads}, expected a divisor of in_channels {in_channels}")
        factory = dict(device=device, dtype=dtype)
        self.num_heads, self.scale = num_heads, scale
        self.qkv = nn.Linear(in_channels, 3 * in_channels, bias=qkv_bias, **factory)
        self.proj = nn.Linear(in_channels, in_channels, **factory)
        table = (num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1)
        self.rpb = nn.Parameter(torch.empty(table, **factory)) if rel_pos_bias else None
        if rel_pos_bias:
            nn.init.trunc_normal_(self.rpb, std=0.02, a=-2.0, b=2.0)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, layout=(N, C, H, W)"

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        check.feature_map(x, (2,))
        if x.shape[1] != self.qkv.in_features:
            raise ValueError(
                f"x: got shape {check.shape(x)}, expected (N, {self.qkv.in_features}, H, W), channels first: pass "
                "x.permute(0, 3, 1, 2), or use compat.natten.NeighborhoodAttention2D, which takes (N, H, W, C)"
            )
        planar = x.is_contiguous()
        N, _, H, W = x.shape  # not unflatten, whose sizes ONNX's older exporter makes constants
        heads = self.num_heads
        qkv = _pixelwise("qkv", self.qkv, x, planar).reshape(N, 3, heads, self.qkv.in_features // heads, H, W)
        q, k, v = qkv.permute(1, 0, 4, 5, 2, 3).unbind(0)
        scores = dict(self.options, scale=self.scale, backend=self.backend)
        y = F.neighborhood_attention(q, k, v, rel_bias=_beside(q.dtype, self.rpb), **scores)
        y = rounding_point("mid", y.permute(0, 3, 4, 1, 2).flatten(1, 2))
        y = _pixelwise("proj", self.proj, y, planar)
        if not return_map:
            return y
        wide = torch.promote_types(q.dtype, torch.float32)
        p = F.neighborhood_qk(q.to(wide), k.to(wide), rel_bias=_beside(wide, self.rpb), **scores).softmax(-1)
        return y, p.to(q.dtype).permute(0, 3, 4, 1, 2)


def _beside(dtype: torch.dtype, rel_bias: Tensor | None) -> Tensor | None:
    """The table in the queries' dtype or, of any other, in float32, as the function takes it."""
    return rel_bias if rel_bias is None or rel_bias.dtype == dtype else rel_bias.float()


def _pixelwise(name: str, linear: nn.Linear, x: Tensor, planar: bool) -> Tensor:
    """`linear` over the channels of x (N, C, H, W). planar: the result is contiguous, else channels_last.
    What it stores in x's dtype is the rounding point `name`."""
    if planar and is_plain(linear):
        N, _, H, W = x.shape
        z = rounding_point(name, (linear.weight @ x.flatten(2)).reshape(N, linear.out_features, H, W))
        return z if linear.bias is None else rounding_point(name, z + linear.bias.to(z.dtype)[:, None, None])
    y = rounding_point(name, linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    return y.contiguous() if planar else y
