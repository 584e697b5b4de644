"""Gates of coarser maps and of the pools of two maps as other libraries have them: see `standins`."""

import torch
import torch.nn.functional as F
from standins import ConvMlp, ConvModule, stands_for
from torch import nn


@stands_for("tensor_fusion.UAFM")
class _UAFMOfChannels(nn.Module):
    pools = 4

    def __init__(self, x_ch=6, y_ch=8, out_ch=5):
        super().__init__()
        self.conv_x, self.conv_out = ConvModule(x_ch, y_ch, nn.ReLU(), k=3), ConvModule(y_ch, out_ch, nn.SiLU(), k=3)
        self.resize_mode = "bilinear"
        layers = ConvModule(self.pools * y_ch, y_ch // 2, nn.LeakyReLU()), ConvModule(y_ch // 2, y_ch, None)
        self.conv_xy_atten = nn.Sequential(*layers)

    def check(self, x, y):
        assert x.ndim == y.ndim == 4 and all(s >= t for s, t in zip(x.shape[2:], y.shape[2:], strict=True))

    def prepare(self, x, y):
        x = self.conv_x(x)
        return x, F.interpolate(y, x.shape[2:], mode=self.resize_mode)

    def forward(self, x, y):
        self.check(x, y)
        x, y = self.prepare(x, y)
        means, peaks = ([pool(t, 1) for t in (x, y)] for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d))
        a = torch.sigmoid(self.conv_xy_atten(torch.cat([*means, *(peaks if self.pools == 4 else [])], 1)))
        return self.conv_out(x * a + y * (1 - a))


@stands_for("tensor_fusion.UAFM_ChAtten")
class UAFMOfChannels(_UAFMOfChannels):
    pass


@stands_for("tensor_fusion.UAFM_ChAtten_S")
class UAFMOfMeans(_UAFMOfChannels):
    pools = 2


@stands_for("tensor_fusion.UAFM_SpAtten")
class UAFMOfPixels(_UAFMOfChannels):
    def __init__(self, x_ch=6, y_ch=8, out_ch=5):
        super().__init__(x_ch, y_ch, out_ch)
        layers = ConvModule(self.pools, 2, nn.ReLU(), norm=True, k=3), ConvModule(2, 1, None, norm=True, k=3)
        self.conv_xy_atten = nn.Sequential(*layers)

    def forward(self, x, y):
        self.check(x, y)
        x, y = self.prepare(x, y)
        means, peaks = [t.mean(1, keepdim=True) for t in (x, y)], [torch.max(t, 1, keepdim=True)[0] for t in (x, y)]
        pools = means if self.pools == 2 else [means[0], peaks[0], means[1], peaks[1]]
        a = torch.sigmoid(self.conv_xy_atten(torch.cat(pools, 1)))
        return self.conv_out(x * a + y * (1 - a))


@stands_for("tensor_fusion.UAFM_SpAtten_S")
class UAFMOfPixelMeans(UAFMOfPixels):
    pools = 2


@stands_for("timm.layers.gather_excite.GatherExcite")
class GatherExcite(nn.Module):
    def __init__(self, C=8, feat_size=None, extent=0, use_mlp=True, add_maxpool=False):
        super().__init__()
        self.add_maxpool, self.extent, self.gather = add_maxpool, extent, None
        if feat_size is not None:
            k = feat_size if isinstance(feat_size, tuple) else (feat_size, feat_size)
            conv = nn.Conv2d(C, C, k, padding=tuple((s - 1) // 2 for s in k), groups=C, bias=False)
            self.gather = nn.Sequential()
            self.gather.add_module("conv1", conv)
            self.gather.add_module("norm1", nn.BatchNorm2d(C))
        else:
            self.gk, self.gs = (2 * extent - 1, extent) if extent else (0, 0)
        self.mlp, self.gate = ConvMlp(C, 3, norm=False) if use_mlp else nn.Identity(), nn.Sigmoid()

    def forward(self, x):
        if self.gather is not None:
            z = self.gather(x)
        elif self.extent:
            z = F.avg_pool2d(x, self.gk, self.gs, self.gk // 2, count_include_pad=False)
        else:
            z = x.mean(dim=(2, 3), keepdim=True)
            z = 0.5 * z + 0.5 * x.amax((2, 3), keepdim=True) if self.add_maxpool else z
        z = self.mlp(z)
        return x * self.gate(z if z.shape[2:] == (1, 1) else F.interpolate(z, size=x.shape[2:]))
