"""Attention of every pixel to those around it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import functional as F
from ..reference._precision import rounding_point
from ..runtime import checks as check
from ..runtime.attention_checks import window_options
from ._children import is_plain
from ._gate import GateModule, by_rank


class _Neighborhoods(GateModule):
    axes: int

    def __init__(
        self,
        in_channels: int,
        num_heads: int,
        kernel_size: int | Sequence[int] = 3,
        dilation: int | Sequence[int] = 1,
        border: str = "shift",
        rel_pos_bias: bool = False,
        qkv_bias: bool = True,
        scale: float | None = None,
        *,
        is_causal: bool | Sequence[bool] = False,
        backend=None,
        device=None,
        dtype=None,
    ):
        sizes, window = window_options(self.axes, kernel_size, dilation, is_causal)
        shown = dict(in_channels=in_channels, num_heads=num_heads)
        super().__init__(shown, self.axes, backend, **window, border=border)
        if num_heads < 1 or in_channels % num_heads:
            raise ValueError(f"num_heads: got {num_heads}, expected a divisor of in_channels {in_channels}")
        factory = dict(device=device, dtype=dtype)
        self.num_heads, self.scale = num_heads, scale
        self.qkv = nn.Linear(in_channels, 3 * in_channels, bias=qkv_bias, **factory)
        self.proj = nn.Linear(in_channels, in_channels, **factory)
        table = (num_heads, *(2 * k - 1 for k in sizes))
        self.rpb = nn.Parameter(torch.empty(table, **factory)) if rel_pos_bias else None
        if rel_pos_bias:
            nn.init.trunc_normal_(self.rpb, std=0.02, a=-2.0, b=2.0)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, layout=(N, C, {_FORMS[self.axes]})"

    @by_rank
    def forward(self, x: Tensor, return_map: bool = False):
        check.feature_map(x, (self.axes,))
        if x.shape[1] != self.qkv.in_features:
            raise ValueError(
                f"x: got shape {check.shape(x)}, expected (N, {self.qkv.in_features}, {_FORMS[self.axes]}), channels "
                f"first: pass {_PASS[self.axes]}, or use compat.natten.NeighborhoodAttention{self.axes}D, which takes "
                f"(N, {_FORMS[self.axes]}, C)"
            )
        planar = x.is_contiguous()
        N, _, *S = x.shape  # not unflatten, whose sizes ONNX's older exporter makes constants
        heads, pixels = self.num_heads, range(4, 4 + self.axes)
        qkv = _pixelwise("qkv", self.qkv, x, planar).reshape(N, 3, heads, self.qkv.in_features // heads, *S)
        q, k, v = qkv.permute(1, 0, *pixels, 2, 3).unbind(0)
        scores = dict(self.options, scale=self.scale, backend=self.backend)
        y = F.neighborhood_attention(q, k, v, rel_bias=_beside(q.dtype, self.rpb), **scores)
        y = rounding_point("mid", _channels_first(y).flatten(1, 2))
        y = _pixelwise("proj", self.proj, y, planar)
        if not return_map:
            return y
        wide = torch.promote_types(q.dtype, torch.float32)
        p = F.neighborhood_qk(q.to(wide), k.to(wide), rel_bias=_beside(wide, self.rpb), **scores).softmax(-1)
        return y, _channels_first(p.to(q.dtype))


_FORMS = {1: "L", 2: "H, W", 3: "T, H, W"}
_PASS = {1: "x.permute(0, 2, 1)", 2: "x.permute(0, 3, 1, 2)", 3: "x.permute(0, 4, 1, 2, 3)"}
_DOC = """Every pixel attends to the window around it: qkv projection, neighbourhood attention, output projection.

    x, y (N, C, {S}), channels first, contiguous or channels_last, or one image (C, {S}); map (N, heads, taps, {S}).
    kernel_size (odd), dilation and is_causal: one value, or one for each axis.
    For (N, {S}, C), NATTEN's order of axes, and its names of arguments: `compat.natten.NeighborhoodAttention{axes}D`.
    Keys: qkv.weight (3C, C), split as (3, heads, D), qkv.bias, proj.weight (C, C), proj.bias, with rel_pos_bias rpb
    (heads, {table}): state_dicts go between the two. Follows autocast. See `functional.neighborhood_attention`.
    """


class NeighborhoodAttention1d(_Neighborhoods):
    __doc__ = _DOC.format(axes=1, S="L", table="2k-1")
    axes = 1


class NeighborhoodAttention2d(_Neighborhoods):
    __doc__ = _DOC.format(axes=2, S="H, W", table="2k-1, 2k-1")
    axes = 2


class NeighborhoodAttention3d(_Neighborhoods):
    __doc__ = _DOC.format(axes=3, S="T, H, W", table="2k-1, 2k-1, 2k-1")
    axes = 3


def _channels_first(t: Tensor) -> Tensor:
    """(N, *S, heads, D) as (N, heads, D, *S)."""
    last = t.dim() - 2
    return t.permute(0, last, last + 1, *range(1, last))


def _beside(dtype: torch.dtype, rel_bias: Tensor | None) -> Tensor | None:
    """The table in the queries' dtype or, of any other, in float32, as the function takes it."""
    return rel_bias if rel_bias is None or rel_bias.dtype == dtype else rel_bias.float()


def _pixelwise(name: str, linear: nn.Linear, x: Tensor, planar: bool) -> Tensor:
    """`linear` over the channels of x (N, C, *S). planar: the result is contiguous, else channels_last.
    What it stores in x's dtype is the rounding point `name`."""
    last = x.dim() - 1
    if planar and is_plain(linear):
        N, _, *S = x.shape
        z = rounding_point(name, (linear.weight @ x.flatten(2)).reshape(N, linear.out_features, *S))
        if linear.bias is None:
            return z
        return rounding_point(name, z + linear.bias.to(z.dtype)[(slice(None), *[None] * len(S))])
    y = rounding_point(name, linear(x.permute(0, *range(2, last + 1), 1)).permute(0, last, *range(1, last)))
    return y.contiguous() if planar else y
