"""Gates of rows and columns as other libraries have them: see `standins`."""

import torch
from standins import stands_for
from torch import nn


def _means(x):
    return x.mean(3, keepdim=True), x.mean(2, keepdim=True)


@stands_for("timm.layers.coord_attn.CoordAttn")
class CoordAttn(nn.Module):
    def __init__(self, C=8, R=3, bias=False, norm=True, has_skip=False):
        super().__init__()
        self.has_skip, self.act, self.gate = has_skip, nn.Hardswish(), nn.Sigmoid()
        self.conv1, self.bn1 = nn.Conv2d(C, R, 1, bias=bias), nn.BatchNorm2d(R) if norm else nn.Identity()
        self.conv_h, self.conv_w = nn.Conv2d(R, C, 1, bias=bias), nn.Conv2d(R, C, 1, bias=bias)

    def forward(self, x):
        v_h, v_w = _means(x)
        a = self.act(self.bn1(self.conv1(torch.cat([v_h, v_w.transpose(2, 3)], 2))))
        a_h, a_w = a.split(x.shape[2:], 2)
        y = x * self.gate(self.conv_w(a_w.transpose(2, 3))) * self.gate(self.conv_h(a_h))
        return y + x if self.has_skip else y


@stands_for("coordatt.h_swish")
class HSwish(nn.Module):
    def forward(self, x):
        return x * nn.functional.relu6(x + 3) / 6


@stands_for("coordatt.CoordAtt")
class CoordAtt(nn.Module):
    def __init__(self, C=8, R=3, rows=(None, 1)):
        super().__init__()
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d(rows), nn.AdaptiveAvgPool2d((1, None))
        self.conv1, self.bn1, self.act = nn.Conv2d(C, R, 1), nn.BatchNorm2d(R), HSwish()
        self.conv_h, self.conv_w = nn.Conv2d(R, C, 1), nn.Conv2d(R, C, 1)

    def forward(self, x):
        v = torch.cat([self.pool_h(x), self.pool_w(x).permute(0, 1, 3, 2)], 2)
        a_h, a_w = self.act(self.bn1(self.conv1(v))).split(x.shape[2:], 2)
        return x * self.conv_w(a_w.permute(0, 1, 3, 2)).sigmoid() * self.conv_h(a_h).sigmoid()


@stands_for("timm.layers.coord_attn.SimpleCoordAttn")
class SimpleCoordAttn(nn.Module):
    def __init__(self, C=8, R=3, has_skip=False):
        super().__init__()
        self.has_skip, self.act, self.gate = has_skip, nn.SiLU(), nn.Sigmoid()
        self.fc1, self.fc_h, self.fc_w = nn.Linear(C, R), nn.Linear(R, C), nn.Linear(R, C)

    def forward(self, x):
        a_h, a_w = (self.act(self.fc1(x.mean(axis).transpose(1, 2))) for axis in (3, 2))
        z_h, z_w = self.fc_h(a_h).transpose(1, 2).unsqueeze(3), self.fc_w(a_w).transpose(1, 2).unsqueeze(2)
        y = x * self.gate(z_h + z_w)
        return y + x if self.has_skip else y


class _Convolved(nn.Module):
    def __init__(self, C, k, has_skip):
        super().__init__()
        self.has_skip, self.gate = has_skip, nn.Sigmoid()
        self.conv_h = nn.Conv2d(C, C, (k, 1), padding=(k // 2, 0), groups=C, bias=False)
        self.conv_w = nn.Conv2d(C, C, (1, k), padding=(0, k // 2), groups=C, bias=False)


@stands_for("timm.layers.coord_attn.EfficientLocalAttn")
class EfficientLocalAttn(_Convolved):
    def __init__(self, C=8, has_skip=False):
        super().__init__(C, 7, has_skip)
        self.norm_h, self.norm_w, self.act = nn.GroupNorm(1, C), nn.GroupNorm(1, C), nn.SiLU()

    def forward(self, x):
        v_h, v_w = _means(x)
        g_h = self.gate(self.act(self.norm_h(self.conv_h(v_h))))
        y = x * g_h * self.gate(self.act(self.norm_w(self.conv_w(v_w))))
        return y + x if self.has_skip else y


@stands_for("timm.layers.coord_attn.StripAttn")
class StripAttn(_Convolved):
    def __init__(self, C=8, has_skip=False, use_conv=True):
        super().__init__(C, 3, has_skip)
        self.use_conv = use_conv
        if not use_conv:
            self.conv_h, self.conv_w = nn.Identity(), nn.Identity()

    def forward(self, x):
        v_h, v_w = _means(x)
        y = x * self.gate(self.conv_h(v_h) + self.conv_w(v_w))
        return y + x if self.has_skip else y


@stands_for("EMA_attention_module.EMA")
class EMA(nn.Module):
    def __init__(self, channels=8, factor=2):
        super().__init__()
        self.groups, C = factor, channels // factor
        self.softmax, self.agp = nn.Softmax(-1), nn.AdaptiveAvgPool2d((1, 1))
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.gn, self.conv1x1, self.conv3x3 = nn.GroupNorm(C, C), nn.Conv2d(C, C, 1), nn.Conv2d(C, C, 3, padding=1)

    def forward(self, x):
        b, c, h, w = x.size()
        grouped = x.reshape(b * self.groups, -1, h, w)
        x_h, x_w = self.pool_h(grouped), self.pool_w(grouped).permute(0, 1, 3, 2)
        x_h, x_w = self.conv1x1(torch.cat([x_h, x_w], dim=2)).split([h, w], dim=2)
        x1 = self.gn(grouped * x_h.sigmoid() * x_w.permute(0, 1, 3, 2).sigmoid())
        x2 = self.conv3x3(grouped)
        a1, a2 = (self.softmax(self.agp(t).reshape(b * self.groups, -1, 1).permute(0, 2, 1)) for t in (x1, x2))
        z = torch.matmul(a1, x2.flatten(2)) + torch.matmul(a2, x1.flatten(2))
        return (grouped * z.reshape(b * self.groups, 1, h, w).sigmoid()).reshape(b, c, h, w)
