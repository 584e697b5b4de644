"""NATTEN's modules, of every release: projections, attention of every pixel to those around it, dropout."""

import logging

import torch
from torch import Tensor, nn

from ...runtime import checks as check
from . import _run as run
from ._window import AXES, window

log = logging.getLogger("segattn_triton")


class _NeighborhoodAttention(nn.Module):
    axes: int

    def __init__(
        self,
        dim: int | None = None,
        num_heads: int | None = None,
        kernel_size=None,
        *positional,
        embed_dim: int | None = None,
        dilation=None,
        stride=1,
        is_causal=False,
        rel_pos_bias: bool | None = None,
        bias: bool | None = None,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        use_experimental_ops: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if positional:
            raise ValueError(
                f"{type(self).__name__}: got {positional[0]!r} as the fourth positional argument, which is the "
                "dilation in NATTEN 0.17 and the stride in 0.21: name the arguments after kernel_size"
            )
        self.dim = _one_of("dim", dim, "embed_dim", embed_dim)
        rel_pos_bias = _one_of("rel_pos_bias", rel_pos_bias, "bias", bias, optional=True)
        for name, value in (("dim", self.dim), ("num_heads", num_heads)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}, expected an int of at least 1")
        if self.dim % num_heads:
            raise ValueError(f"num_heads: got {num_heads}, expected a divisor of dim {self.dim}")
        self.window = window(self.axes, kernel_size, dilation, is_causal, stride)
        self.kernel_size, self.dilation, self.is_causal = self.window
        if rel_pos_bias and any(self.is_causal):
            raise ValueError(f"rel_pos_bias: got True with is_causal={self.is_causal}: use rel_pos_bias=False")
        factory = dict(device=device, dtype=dtype)
        self.num_heads, self.head_dim = num_heads, self.dim // num_heads
        self.scale = self.head_dim**-0.5 if qk_scale is None else qk_scale
        self.qkv = nn.Linear(self.dim, 3 * self.dim, bias=qkv_bias, **factory)
        self.rpb = nn.Parameter(self._table(**factory)) if rel_pos_bias else None
        self.takes_a_table = rel_pos_bias is None
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(self.dim, self.dim, **factory)
        self.proj_drop = nn.Dropout(proj_drop)

    def _table(self, **factory) -> Tensor:
        table = torch.empty(self.num_heads, *(2 * k - 1 for k in self.kernel_size), **factory)
        return nn.init.trunc_normal_(table, std=0.02, a=-2.0, b=2.0)

    def forward(self, x: Tensor) -> Tensor:
        check.tensor("x", x)
        if x.dim() != self.axes + 2 or x.shape[-1] != self.dim or 0 in x.shape[1:]:
            raise ValueError(f"x: got shape {check.shape(x)}, expected {self._form()}{self._hint(x)}")
        size = x.shape[1:-1]
        q, k, v = self.qkv(self._padded(x)).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        if self.training and self.attn_drop.p > 0:
            p = self.attn_drop(run.scores(q, k, self.rpb, self.window, self.scale).softmax(-1))
            y = run.weighted(p.to(v.dtype), v, self.window)
        else:
            y = run.attention(q, k, v, self.rpb, self.window, self.scale)
        for axis, length in enumerate(size, 1):
            y = y.narrow(axis, 0, length)
        return self.proj_drop(self.proj(y.flatten(-2)))

    def _padded(self, x: Tensor) -> Tensor:
        """x with zeros at the end of the axes that are shorter than the window, which attention then looks at: NATTEN's
        rule before 0.17."""
        missing = [max(need - length, 0) for length, need in zip(x.shape[1:], self.window.needs, strict=False)]
        pairs = [amount for m in reversed(missing) for amount in (0, m)]
        return nn.functional.pad(x, [0, 0, *pairs]) if any(missing) else x

    def _form(self) -> str:
        return f"(N, {AXES[self.axes]}, {self.dim}), channels last"

    def _hint(self, x: Tensor) -> str:
        if x.dim() != self.axes + 2 or x.shape[1] != self.dim:
            return ""
        ours = f"segattn_triton.NeighborhoodAttention{self.axes}d for (N, C, {AXES[self.axes]})"
        return f": pass x.movedim(1, -1), or use {ours}"

    def extra_repr(self) -> str:
        shown = dict(dim=self.dim, num_heads=self.num_heads, **self.window._asdict())
        shown |= dict(rel_pos_bias=self.rpb is not None, layout=f"(N, {AXES[self.axes]}, C)")
        return ", ".join(f"{name}={value}" for name, value in shown.items())

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """A checkpoint of before NATTEN 0.17 has a table, which its modules had unless told otherwise."""
        if self.takes_a_table and self.rpb is None and f"{prefix}rpb" in state_dict:
            log.warning(
                "%srpb: a table in the state_dict of a module made without rel_pos_bias, which has it now. An "
                "optimizer made before does not know it: make the module with rel_pos_bias=True",
                prefix,
            )
            self.rpb = nn.Parameter(self._table(device=self.qkv.weight.device, dtype=self.qkv.weight.dtype))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _one_of(name: str, value, other_name: str, other, optional: bool = False):
    """An argument with two names."""
    if value is not None and other is not None:
        raise ValueError(f"{other_name}: got {other!r} beside {name}={value!r}: it is another name of it, give one")
    value = other if value is None else value
    if value is None and not optional:
        raise ValueError(f"{name}: got None, expected it, or {other_name}")
    return value


_DOC = """y = proj(attention(qkv(x))), where every pixel attends to those around it. NATTEN's `{name}`.

    x, y (N, {sizes}, dim), channels last. kernel_size (odd), dilation and is_causal: one value, or one for each axis.
    Argument names of every NATTEN release: `dim` or `embed_dim`, `rel_pos_bias` or `bias`; `dilation=None` is 1; name
    all after kernel_size. Keys: qkv.weight (3 dim, dim), qkv.bias, proj.weight, proj.bias, with rel_pos_bias rpb
    (heads, {table}); a state_dict with rpb gives a module made without rel_pos_bias its table.
    Maps smaller than the window are padded with zeros at the end, which are attended to, as in NATTEN before 0.17.
    attn_drop drops weights in training, on the split pair; a seed repeats it. Runs on kernels.
    Errors: ValueError for even windows, a stride other than 1, rel_pos_bias with a causal axis, any other shape.
    Source: Hassani et al. 2023, arXiv:2204.07143.
    """


class NeighborhoodAttention1D(_NeighborhoodAttention):
    __doc__ = _DOC.format(name="NeighborhoodAttention1D", sizes="L", table="2k-1")
    axes = 1


class NeighborhoodAttention2D(_NeighborhoodAttention):
    __doc__ = _DOC.format(name="NeighborhoodAttention2D", sizes="H, W", table="2k-1, 2k-1")
    axes = 2


class NeighborhoodAttention3D(_NeighborhoodAttention):
    __doc__ = _DOC.format(name="NeighborhoodAttention3D", sizes="T, H, W", table="2k-1, 2k-1, 2k-1")
    axes = 3
