"""Backbones that import NATTEN, written here in the structure of the originals: their calls, layouts and keys.

What they import, `natten`, is an argument. Small: every kind of stage is there, with few channels.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class _Tokenizer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(3, dim // 2, 3, 2, 1), nn.Conv2d(dim // 2, dim, 3, 2, 1))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class _Downsampler(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.reduction = nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x):
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class _Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class _Layer(nn.Module):
    def __init__(self, attention, dim, layer_scale=None):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = nn.LayerNorm(dim), attention, nn.LayerNorm(dim), _Mlp(dim)
        self.layer_scale = layer_scale is not None
        if self.layer_scale:
            self.gamma1, self.gamma2 = (nn.Parameter(layer_scale * torch.ones(dim)) for _ in range(2))

    def forward(self, x):
        gamma1, gamma2 = (self.gamma1, self.gamma2) if self.layer_scale else (1.0, 1.0)
        x = x + gamma1 * self.attn(self.norm1(x))
        return x + gamma2 * self.mlp(self.norm2(x))


class _Level(nn.Module):
    def __init__(self, layers, dim, downsample):
        super().__init__()
        self.blocks = nn.ModuleList(layers)
        self.downsample = _Downsampler(dim) if downsample else None

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return (x if self.downsample is None else self.downsample(x)), x


class NAT(nn.Module):
    """Channels last throughout, an image classifier; since NATTEN 0.17 it asks for its table by another name."""

    def __init__(self, natten, dilations=((None,), (None,)), kernel_size=7, layer_scale=None, dim=8):
        super().__init__()
        table = {"rel_pos_bias": True} if hasattr(natten, "context") else {"bias": True}
        self.patch_embed = _Tokenizer(dim)
        self.levels = nn.ModuleList()
        for i, steps in enumerate(dilations):
            wide = dim * 2**i
            layers = [
                _Layer(
                    natten.NeighborhoodAttention2D(
                        wide, kernel_size=kernel_size, dilation=d, num_heads=wide // 4, qkv_bias=True, qk_scale=None,
                        attn_drop=0.0, proj_drop=0.0, **table,
                    ),
                    wide,
                    layer_scale,
                )
                for d in steps
            ]  # fmt: skip
            self.levels.append(_Level(layers, wide, i + 1 < len(dilations)))
        self.norm, self.head = nn.LayerNorm(wide), nn.Linear(wide, 5)

    def forward(self, x):
        x = self.patch_embed(x)
        for level in self.levels:
            x, _ = level(x)
        return self.head(self.norm(x).flatten(1, 2).mean(1))


def dinat(natten):
    """NAT with dilations: at this size its maps are smaller than its windows and padded, as in detection."""
    return NAT(natten, dilations=((1, 4), (1, 2)), kernel_size=3, layer_scale=0.5)


class OneFormerDiNAT(nn.Module):
    """The backbone of a segmentation model, written for NATTEN 0.14: it has tables without asking for them."""

    def __init__(self, natten, dim=8):
        super().__init__()
        self.patch_embed = _Tokenizer(dim)
        self.levels = nn.ModuleList()
        for i, steps in enumerate(((1, 2), (1, 1))):
            wide = dim * 2**i
            attention = [
                natten.NeighborhoodAttention2D(
                    wide, kernel_size=3, dilation=d, num_heads=2, qkv_bias=True, qk_scale=None, attn_drop=0.0,
                    proj_drop=0.0,
                )
                for d in steps
            ]  # fmt: skip
            self.levels.append(_Level([_Layer(each, wide) for each in attention], wide, i == 0))
            self.add_module(f"norm{i}", nn.LayerNorm(wide))

    def forward(self, x):
        x, outs = self.patch_embed(x), {}
        for i, level in enumerate(self.levels):
            x, before = level(x)
            outs[f"res{i + 2}"] = getattr(self, f"norm{i}")(before).permute(0, 3, 1, 2).contiguous()
        return outs


def _rotate(x, cos, sin):
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


class _RotaryInPlace(torch.autograd.Function):
    """It overwrites its input, whose old values nothing keeps."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return x.copy_(_rotate(x, cos, sin))

    @staticmethod
    def backward(ctx, dx):
        cos, sin = ctx.saved_tensors
        return _rotate(dx, cos, -sin), None, None


class HDiT(nn.Module):
    """A diffusion transformer. With fused attention heads last and the whole, else heads first and the split pair."""

    def __init__(self, natten, dim=16, d_head=8, kernel_size=5, fused=None):
        super().__init__()
        self.natten, self.d_head, self.kernel_size = natten, d_head, kernel_size
        self.fused = natten.has_fused_na() if fused is None else fused
        self.patch_in = nn.Conv2d(3, dim, 4, 4)
        self.norm = nn.LayerNorm(dim)
        self.qkv_proj = nn.Linear(dim, 3 * dim, bias=False)
        self.scale = nn.Parameter(torch.full([dim // d_head], 10.0))
        self.register_buffer(
            "freqs", torch.linspace(math.log(math.pi), math.log(10 * math.pi), d_head // 8 + 1)[:-1].exp()
        )
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def _angles(self, size, like):
        axes = [torch.linspace(-1, 1, length, dtype=like.dtype) for length in size]
        y, x = torch.meshgrid(*axes, indexing="ij")
        theta = torch.cat([y[..., None] * self.freqs, x[..., None] * self.freqs], -1)
        return theta.cos(), theta.sin()

    def _normed(self, t, scale):
        return t * (scale.sqrt() * torch.rsqrt((t * t).sum(-1, keepdim=True) + 1e-6))

    def forward(self, x):
        x = self.patch_in(x).permute(0, 2, 3, 1)
        qkv = self.qkv_proj(self.norm(x)).unflatten(-1, (3, -1, self.d_head))
        cos, sin = self._angles(x.shape[1:3], x)
        natten = self.natten.functional
        if self.fused:
            q, k, v = qkv.unbind(-3)
            q, k = (self._normed(t, self.scale[:, None]) for t in (q, k))
            q, k = (_RotaryInPlace.apply(t, cos[:, :, None], sin[:, :, None]) for t in (q, k))
            y = natten.na2d(q, k, v, self.kernel_size, scale=1.0)
        else:
            q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).unbind(0)
            q, k = (self._normed(t, self.scale[:, None, None, None]) for t in (q, k))
            q, k = (_RotaryInPlace.apply(t, cos, sin) for t in (q, k))
            p = torch.softmax(natten.natten2dqk(q, k, self.kernel_size, 1), dim=-1).to(v.dtype)
            y = natten.natten2dav(p, v, self.kernel_size, 1).permute(0, 2, 3, 1, 4)
        return x + self.out_proj(y.flatten(-2))


class SegMAN(nn.Module):
    """A segmentation backbone, NCHW: local attention, then a scan of the whole image, for which a mean stands here."""

    def __init__(self, natten, dim=8, heads=2, window=7, fused=False):
        super().__init__()
        self.natten, self.heads, self.fused = natten, heads, fused
        self.window, self.dilation = (window, window), (1, 1)
        self.scale = (dim // heads) ** -0.5
        self.patch_embed = nn.Conv2d(3, dim, 4, 4)
        self.qkv, self.proj = nn.Conv2d(dim, 3 * dim, 1), nn.Conv2d(dim, dim, 1)
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.rpb = nn.ParameterList([nn.Parameter(torch.randn(heads, 2 * window - 1, 2 * window - 1))])
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x):
        x = self.patch_embed(x)
        qkv, natten = self.qkv(x), self.natten.functional
        lepe = self.lepe(qkv[:, -x.shape[1] :])
        q, k, v = qkv.unflatten(1, (3, self.heads, -1)).permute(1, 0, 2, 4, 5, 3).unbind(0)
        q = q * self.scale
        if self.fused:
            q, k, v = (t.permute(0, 2, 3, 1, 4) for t in (q, k, v))
            y = natten.na2d(q, k, v, kernel_size=self.window, dilation=self.dilation, scale=float(q.size(-1) ** 0.5))
            y = y.permute(0, 3, 1, 2, 4)
        else:
            s = natten.na2d_qk(q, k, kernel_size=self.window, dilation=self.dilation, rpb=self.rpb[0])
            y = natten.na2d_av(torch.softmax(s, -1), v, kernel_size=self.window, dilation=self.dilation)
        y = y.permute(0, 1, 4, 2, 3).flatten(1, 2)
        scanned = F.silu(self.dwconv(y)).mean((2, 3), keepdim=True)
        return self.proj(y + scanned + lepe)


class DATPlusPlus2023(nn.Module):
    """A backbone with a neighbourhood attention of its own, NCHW, of what NATTEN 0.14's functions were made of."""

    def __init__(self, natten, dim=8, heads=2, kernel_size=7, dilation=2):
        super().__init__()
        self.natten, self.heads, self.sizes = natten, heads, (kernel_size, dilation)
        self.scale = (dim // heads) ** -0.5
        self.patch_proj = nn.Conv2d(3, dim, 4, 4)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.rpb = nn.Parameter(torch.randn(heads, 2 * kernel_size - 1, 2 * kernel_size - 1))

    def forward(self, x):
        x = self.patch_proj(x)
        skip, x, need = x, x.permute(0, 2, 3, 1), math.prod(self.sizes)
        _, H, W, _ = x.shape
        x = F.pad(x, (0, 0, 0, max(0, need - W), 0, max(0, need - H)))
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 4, 1, 2, 5)
        s = self.natten.functional.NATTEN2DQKRPBFunction.apply(q * self.scale, k, self.rpb, *self.sizes)
        y = self.natten.functional.NATTEN2DAVFunction.apply(s.softmax(-1), v, *self.sizes)
        y = y.permute(0, 2, 3, 1, 4).flatten(-2)[:, :H, :W]
        return skip + self.proj(y).permute(0, 3, 1, 2)


class DATPlusPlus(nn.Module):
    """The same, later: it asks which functions to call."""

    def __init__(self, natten, dim=8, heads=2, kernel_size=3, fused=False):
        super().__init__()
        self.natten, self.heads, self.kernel_size, self.fused = natten, heads, (kernel_size,) * 2, fused
        self.scale = (dim // heads) ** -0.5
        self.patch_proj = nn.Conv2d(3, dim, 4, 4)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.register_parameter("rpb", None)
        self.attn_drop = nn.Dropout(0.0)

    def forward(self, x):
        x = self.patch_proj(x)
        skip, x = x, x.permute(0, 2, 3, 1).contiguous()
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        natten = self.natten.functional
        options = dict(kernel_size=self.kernel_size, dilation=(1, 1), is_causal=(False, False))
        if self.fused or natten.is_fna_enabled():
            y = natten.na2d(*qkv.permute(3, 0, 1, 2, 4, 5), rpb=self.rpb, scale=self.scale, **options)
        else:
            q, k, v = qkv.permute(3, 0, 4, 1, 2, 5)
            p = self.attn_drop(natten.na2d_qk(q * self.scale, k, rpb=self.rpb, **options).softmax(dim=-1))
            y = natten.na2d_av(p, v, **options).permute(0, 2, 3, 1, 4)
        return skip + self.proj(y.flatten(-2)).permute(0, 3, 1, 2).contiguous()


class _DinatSelf(nn.Module):
    def __init__(self, natten, dim, heads, kernel_size, dilation, sizes):
        super().__init__()
        self.natten, self.heads, self.sizes = natten, heads, sizes
        self.rpb = nn.Parameter(torch.randn(heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.dropout = nn.Dropout(0.0)

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).permute(0, 3, 1, 2, 4)
            for layer in (self.query, self.key, self.value)
        )
        s = self.natten.functional.natten2dqkrpb(q / math.sqrt(q.shape[-1]), k, self.rpb, *self.sizes)
        p = self.dropout(nn.functional.softmax(s, dim=-1))
        y = self.natten.functional.natten2dav(p, v, *self.sizes)
        return y.permute(0, 2, 3, 1, 4).contiguous().flatten(-2)


class HuggingFaceDinat(nn.Module):
    """Separate projections; the layer pads maps smaller than the window. The first releases gave the dilation alone,
    later ones the window before it."""

    def __init__(self, natten, dim=8, kernel_size=7, dilation=2, window_is_given=True):
        super().__init__()
        sizes = (kernel_size, dilation) if window_is_given else (dilation,)
        self.window = kernel_size * dilation
        self.embeddings = _Tokenizer(dim)
        self.layernorm_before = nn.LayerNorm(dim)
        self.attention = nn.ModuleDict({"self": _DinatSelf(natten, dim, 2, kernel_size, dilation, sizes)})
        self.output = nn.Linear(dim, dim)

    def forward(self, x):
        x = self.embeddings(x)
        _, H, W, _ = x.shape
        padded = F.pad(self.layernorm_before(x), (0, 0, 0, max(0, self.window - W), 0, max(0, self.window - H)))
        return x + self.output(self.attention["self"](padded)[:, :H, :W])


BACKBONES = {
    "NAT": NAT,
    "DiNAT": dinat,
    "OneFormer": OneFormerDiNAT,
    "HDiT": lambda natten: HDiT(natten, fused=True),
    "HDiT split": lambda natten: HDiT(natten, fused=False),
    "SegMAN": SegMAN,
    "SegMAN fused": lambda natten: SegMAN(natten, fused=True),
    "DAT++ 2023": DATPlusPlus2023,
    "DAT++": DATPlusPlus,
    "DAT++ fused": lambda natten: DATPlusPlus(natten, fused=True),
    "HF DiNAT": HuggingFaceDinat,
    "HF DiNAT 4.26": lambda natten: HuggingFaceDinat(natten, window_is_given=False),
}
