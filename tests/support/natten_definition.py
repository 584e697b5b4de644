"""NATTEN by its words, under its names: for every pixel a list of its neighbours, made by loops.

Along an axis the pixels i mod d apart are a class of their own; the window of k is centred on i in its class, and moved
to where it lies inside; on a causal axis it ends at i.
"""

import itertools
import math
from types import SimpleNamespace

import torch
from torch import nn


def _neighbours(length: int, k: int, d: int, causal: bool) -> list[list[int | None]]:
    """The k keys of every i; None where there is none."""
    found = []
    for i in range(length):
        mates = list(range(i % d, length, d))
        at = mates.index(i)
        start = max(at - k + 1, 0) if causal else min(max(at - k // 2, 0), len(mates) - k)
        keys = mates[start : at + 1] if causal else mates[start : start + k]
        found.append(keys + [None] * (k - len(keys)))
    return found


def _per_axis(value, axes: int) -> tuple:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * axes


def _table(size, kernel_size, dilation, causal):
    """keys [P, taps] and their entries in the table of biases [P, taps]; the key -1 does not exist."""
    axes = len(size)
    k, d, c = (_per_axis(value, axes) for value in (kernel_size, dilation or 1, causal))
    near = [_neighbours(*of_axis) for of_axis in zip(size, k, d, c, strict=True)]
    keys, entries = [], []
    for pixel in itertools.product(*map(range, size)):
        around = list(itertools.product(*(near[a][i] for a, i in enumerate(pixel))))
        flat, entry = [], []
        for key in around:
            index, place = 0, 0
            for a, j in enumerate(key):
                index = index if j is None or index < 0 else index * size[a] + j
                index = -1 if j is None else index
                offset = 0 if j is None else (j - pixel[a]) // d[a] + k[a] - 1
                place = place * (2 * k[a] - 1) + offset
            flat.append(index)
            entry.append(place)
        keys.append(flat)
        entries.append(entry)
    return torch.tensor(keys), torch.tensor(entries)


def _qk(q, k, rpb, kernel_size, dilation, causal):
    """Heads first, (N, heads, *S, D)."""
    size = q.shape[2:-1]
    keys, entries = _table(size, kernel_size, dilation, causal)
    q, k = q.flatten(2, -2), k.flatten(2, -2)
    s = torch.einsum("nhpd,nhptd->nhpt", q, k[:, :, keys.clamp(min=0)])
    s = s if rpb is None else s + rpb.flatten(1)[:, entries]
    return s.masked_fill(keys < 0, -math.inf).unflatten(2, size)


def _av(p, v, kernel_size, dilation, causal):
    size = v.shape[2:-1]
    keys, _ = _table(size, kernel_size, dilation, causal)
    y = torch.einsum("nhpt,nhptd->nhpd", p.flatten(2, -2), v.flatten(2, -2)[:, :, keys.clamp(min=0)])
    return y.unflatten(2, size)


def na2d_qk(query, key, kernel_size, dilation=1, is_causal=False, rpb=None):
    return _qk(query, key, rpb, kernel_size, dilation, is_causal)


def na2d_av(attn, value, kernel_size, dilation=1, is_causal=False):
    return _av(attn, value, kernel_size, dilation, is_causal)


def na2d(query, key, value, kernel_size, dilation=1, is_causal=False, rpb=None, scale=None):
    q, k, v = (t.movedim(-2, 1) for t in (query, key, value))
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    p = _qk(q, k, rpb, kernel_size, dilation, is_causal).softmax(-1)
    return _av(p, v, kernel_size, dilation, is_causal).movedim(1, -2)


def natten2dqkrpb(query, key, rpb, *sizes):
    """(kernel_size, dilation), or the dilation as before 0.14.5."""
    kernel_size, dilation = sizes if len(sizes) == 2 else ((rpb.shape[-1] + 1) // 2, *sizes)
    return na2d_qk(query, key, kernel_size, dilation, rpb=rpb)


def natten2dav(attn, value, *sizes):
    kernel_size, dilation = sizes if len(sizes) == 2 else (math.isqrt(attn.shape[-1]), *sizes)
    return na2d_av(attn, value, kernel_size, dilation)


class _Attention(nn.Module):
    axes: int
    has_table = False  # without being asked, as before 0.17

    def __init__(
        self,
        dim,
        num_heads,
        kernel_size,
        dilation=1,
        is_causal=False,
        rel_pos_bias=None,
        bias=None,
        qkv_bias=True,
        qk_scale=None,
        attn_drop=0.0,
        proj_drop=0.0,
    ):
        super().__init__()
        self.heads, self.options = num_heads, (kernel_size, dilation or 1, is_causal)
        self.window = [
            k * d for k, d in zip(*(_per_axis(v, self.axes) for v in (kernel_size, dilation or 1)), strict=True)
        ]
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        asked = rel_pos_bias if bias is None else bias
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        if self.has_table if asked is None else asked:
            self.rpb = nn.Parameter(torch.randn(num_heads, *(2 * k - 1 for k in _per_axis(kernel_size, self.axes))))
        else:
            self.rpb = None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        size = x.shape[1:-1]
        for axis, need in enumerate(self.window, 1):
            more = max(need - x.shape[axis], 0)
            x = torch.cat([x, x.new_zeros(*x.shape[:axis], more, *x.shape[axis + 1 :])], axis)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).movedim(-2, 2).unbind(0)
        y = _av(_qk(q * self.scale, k, self.rpb, *self.options).softmax(-1), v, *self.options)
        y = y.movedim(1, -2).flatten(-2)
        return self.proj(y[(slice(None), *(slice(length) for length in size))])


def _modules(**attributes):
    names = {f"NeighborhoodAttention{axes}D": axes for axes in (1, 2, 3)}
    return {name: type(name, (_Attention,), {"axes": axes, **attributes}) for name, axes in names.items()}


FUNCTIONS = SimpleNamespace(
    na2d=na2d,
    na2d_qk=na2d_qk,
    na2d_av=na2d_av,
    natten2dqkrpb=natten2dqkrpb,
    natten2dqk=na2d_qk,
    natten2dav=natten2dav,
    NATTEN2DQKRPBFunction=SimpleNamespace(apply=natten2dqkrpb),
    NATTEN2DAVFunction=SimpleNamespace(apply=natten2dav),
    is_fna_enabled=lambda: False,
)
NATTEN = SimpleNamespace(**_modules(), context=None, functional=FUNCTIONS, has_fused_na=lambda: False)
NATTEN_014 = SimpleNamespace(**_modules(has_table=True), functional=FUNCTIONS)
