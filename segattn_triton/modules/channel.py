"""One weight per channel, from what the whole image holds."""

import math

import torch
from torch import Tensor, nn

from segattn_triton import _checks as check
from segattn_triton import functional as F
from segattn_triton.modules._children import apply_gate, call, is_plain
from segattn_triton.reference.activations import Spec, activate
from segattn_triton.reference.channel import pooled


def _divisible(value: float, least: float) -> int:
    """The multiple of 8 nearest to the value, at least 8 and at least this share of the value."""
    nearest = max(8, int(value + 4) // 8 * 8)
    return nearest + 8 if nearest < least * value else nearest


RULES = {
    "timm": lambda C, reduction: _divisible(C / reduction, 0.0),  # SEModule
    "timm_efficientnet": lambda C, reduction: round(C / reduction),
    "torchvision": lambda C, reduction: _divisible(C // reduction, 0.9),  # MobileNetV3
    "torchvision_efficientnet": lambda C, reduction: max(1, C // reduction),
    "smp": lambda C, reduction: C // reduction,
    "smp_efficientnet": lambda C, reduction: max(1, int(C / reduction)),
    "monai": lambda C, reduction: C // reduction,
    "mmseg": lambda C, reduction: _divisible(C // reduction, 0.9),
}


def hidden_channels(in_channels: int, reduction: float, rule: str) -> int:
    """The hidden channels of a gate of in_channels as a library chooses them: its checkpoints have as many.

    EfficientNets reduce the channels that enter the block: give those as in_channels.
    """
    check.choice("rule", rule, tuple(RULES))
    hidden = RULES[rule](in_channels, reduction) if reduction > 0 else 0
    if hidden < 1:
        raise ValueError(
            f"reduction: got {reduction} for in_channels {in_channels}, expected more than 0 and at most in_channels: "
            f'by the rule "{rule}" this gate has {hidden} hidden channels'
        )
    return hidden


class ChannelAttention(nn.Module):
    """y = x * gate(W2 act(W1 pool(x) + b1) + b2) for every channel: squeeze and excitation, Hu et al. 2018.

    x (N, C, *spatial) with 1, 2 or 3 spatial axes. Keys: fc.0.weight (Cr, C), fc.0.bias, fc.2.weight (C, Cr),
    fc.2.bias, Cr = in_channels // reduction: checkpoints of MONAI's `ChannelSELayer` load.
    See `functional.channel_gate`.
    """

    def __init__(
        self,
        in_channels: int,
        reduction: int = 2,
        pool: str = "avg",
        act: str | Spec = "relu",
        gate: str | Spec = "sigmoid",
        *,
        ties: str = "first",
        backend=None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        hidden = hidden_channels(in_channels, reduction, "monai")
        factory = dict(device=device, dtype=dtype)
        self.fc = nn.Sequential(
            nn.Linear(in_channels, hidden, **factory),
            nn.Identity(),  # keeps the keys fc.0 and fc.2 of the usual Sequential
            nn.Linear(hidden, in_channels, **factory),
        )
        self.options = dict(pool=pool, act=act, gate=gate, ties=ties)
        self.backend = backend

    def forward(self, x: Tensor, return_map: bool = False):
        squeeze, _, excite = self.fc
        if is_plain(squeeze, excite):
            weights = squeeze.weight, squeeze.bias, excite.weight, excite.bias
            return F.channel_gate(x, *weights, **self.options, backend=self.backend, return_map=return_map)
        v = pooled(x, self.options["pool"], self.options["ties"])
        z = call(excite, activate(self.options["act"], call(squeeze, v)))
        return apply_gate(self.options["gate"], x, z, return_map)


class SqueezeExcite(nn.Module):
    """y = out_act(x * gate(W2 act(W1 pool(source) + b1) + b2) + shortcut): Hu et al. 2018, and its kin.

    x (N, C, *spatial) with 1, 2 or 3 spatial axes; source (N, source_channels, *any), x itself without it; shortcut as
    x. Keys: fc1.weight (Cr, source_channels, 1, 1), fc1.bias, fc2.weight (C, Cr, 1, 1), fc2.bias, as of timm's SEModule
    and torchvision's SqueezeExcitation. Cr is `hidden`, or `hidden_channels(in_channels, reduction, rule)`.
    slices=True: of a map with three spatial axes every slice along the last is pooled, and weighted, by itself, as in
    nnU-Net, whose gate is (N, C, 1, 1, W); its map here is (N, C, W). See `functional.squeeze_excite`.
    """

    def __init__(
        self,
        in_channels: int,
        reduction: float = 16,
        rule: str = "timm",
        pool: str = "avg",
        act: str | Spec = "relu",
        gate: str | Spec = "sigmoid",
        *,
        out_act: str = "identity",
        hidden: int | None = None,
        source_channels: int | None = None,
        bias: bool = True,
        slices: bool = False,
        ties: str = "first",
        backend=None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        hidden = hidden_channels(in_channels, reduction, rule) if hidden is None else hidden
        factory = dict(bias=bias, device=device, dtype=dtype)
        self.fc1 = nn.Conv2d(source_channels or in_channels, hidden, 1, **factory)
        self.fc2 = nn.Conv2d(hidden, in_channels, 1, **factory)
        self.options = dict(pool=pool, act=act, gate=gate, out_act=out_act, ties=ties)
        self.slices, self.backend = slices, backend

    def forward(
        self, x: Tensor, source: Tensor | None = None, shortcut: Tensor | None = None, return_map: bool = False
    ):
        if self.slices and x.dim() == 5:
            return _by_slice(self._gate, x, source, shortcut, return_map)
        return self._gate(x, source, shortcut, return_map)

    def _gate(self, x: Tensor, source: Tensor | None, shortcut: Tensor | None, return_map: bool):
        if is_plain(self.fc1, self.fc2):
            tensors = x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias, source, shortcut
            return F.squeeze_excite(*tensors, **self.options, backend=self.backend, return_map=return_map)
        options = self.options
        v = pooled(x if source is None else source, options["pool"], options["ties"])
        z = call(self.fc2, activate(options["act"], call(self.fc1, v[:, :, None, None])))
        y, g = apply_gate(options["gate"], x, z.flatten(1), True)
        y = activate(options["out_act"], y if shortcut is None else y + shortcut)
        return (y, g) if return_map else y


def _by_slice(gate, x: Tensor, source: Tensor | None, shortcut: Tensor | None, return_map: bool):
    """`gate` on the slices along the last axis of x (N, C, D, H, W) as on images; y lies as x, the map is (N, C, W)."""
    if source is not None:
        raise ValueError("source: given with slices=True, expected None: every slice is weighted by its own pool")
    sliced = [t if t is None else t.movedim(-1, 1).flatten(0, 1) for t in (x, shortcut)]  # [N * W, C, D, H]
    y, g = (t.unflatten(0, (x.shape[0], x.shape[-1])).movedim(1, -1) for t in gate(sliced[0], None, sliced[1], True))
    y = torch.empty_like(x).copy_(y)
    return (y, g) if return_map else y


class EffectiveSE(nn.Module):
    """y = x * gate(bn(W pool(x) + b)) for every channel: eSE of Lee and Park 2020; with bn, ARM's of BiSeNet.

    x (N, C, *spatial). Keys: fc.weight (C, C, 1, 1), fc.bias, and with norm=True those of bn, a BatchNorm2d. In eval
    its statistics are folded into W and b at every call; in training the children run in plain torch, and bn wants more
    than one image, as ever. See `functional.channel_gate`.
    """

    def __init__(
        self,
        in_channels: int,
        gate: str | Spec = "hard_sigmoid",
        pool: str = "avg",
        *,
        bias: bool = True,
        norm: bool = False,
        ties: str = "first",
        backend=None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        factory = dict(device=device, dtype=dtype)
        self.fc = nn.Conv2d(in_channels, in_channels, 1, bias=bias, **factory)
        self.bn = nn.BatchNorm2d(in_channels, **factory) if norm else None
        self.options = dict(pool=pool, gate=gate, ties=ties)
        self.backend = backend

    def forward(self, x: Tensor, return_map: bool = False):
        if is_plain(self.fc) and (self.bn is None or (is_plain(self.bn) and not self.bn.training)):
            weights = (self.fc.weight, self.fc.bias) if self.bn is None else _folded(self.fc, self.bn)
            return F.channel_gate(x, *weights, **self.options, backend=self.backend, return_map=return_map)
        z = call(self.fc, pooled(x, self.options["pool"], self.options["ties"])[:, :, None, None])
        z = z if self.bn is None else call(self.bn, z)
        return apply_gate(self.options["gate"], x, z.flatten(1), return_map)


def _folded(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The weight and bias of bn(conv(x)) by the running statistics."""
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    bias = -bn.running_mean if conv.bias is None else conv.bias - bn.running_mean
    return conv.weight * scale[:, None, None, None], bias * scale + bn.bias


class ECA(nn.Module):
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
        backend=None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        k = int(abs(math.log2(in_channels) + beta) / gamma) if kernel_size is None else kernel_size
        k = max(k | 1, 3) if kernel_size is None else k
        mode = "circular" if circular else "zeros"
        factory = dict(bias=bias, padding_mode=mode, device=device, dtype=dtype)
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, **factory)
        self.gate, self.circular, self.backend = gate, circular, backend

    def forward(self, x: Tensor, return_map: bool = False):
        if is_plain(self.conv):
            options = dict(circular=self.circular, gate=self.gate, backend=self.backend, return_map=return_map)
            return F.eca(x, self.conv.weight, self.conv.bias, **options)
        return apply_gate(self.gate, x, call(self.conv, x.flatten(2).mean(2)[:, None])[:, 0], return_map)
