"""Small networks around the gates of libraries that need not be installed, and around gates as people copy them."""

import copies
import standins
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


def layer(inputs: int, outputs: int, stride=1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Mmseg(nn.Sequential):
    """SELayer of MobileNetV3 and the global context of CGNet."""

    def __init__(self):
        gates = standins.SELayer(8, 2), standins.SELayer(8, 4, nn.ReLU(), standins.HSigmoid(1.0, 2.0))
        super().__init__(layer(3, 8, 2), gates[0], layer(8, 8), gates[1], layer(8, 8))
        self.context, self.head = standins.GlobalContextExtractor(8, 2), nn.Conv2d(8, 2, 1)


class Ultralytics(nn.Sequential):
    def __init__(self):
        super().__init__(layer(3, 8, 2), standins.CBAM(8), layer(8, 16, 2), standins.CBAM(16, 3), nn.Conv2d(16, 2, 1))


class BiSeNet(nn.Module):
    """CoinCheung's: two refinements of a context path, fused with a spatial path."""

    def __init__(self):
        super().__init__()
        self.spatial, self.eighth = layer(3, 4, 2), nn.Sequential(layer(3, 8, 2), layer(8, 8, 2))
        self.sixteenth = layer(8, 8, 2)
        self.arm16, self.arm32 = standins.CoinRefinement(8, 4), standins.CoinRefinement(8, 4, first=True)
        self.ffm, self.head = standins.CoinFusion(8, 6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        eighth = self.eighth(x)
        context = interpolate(self.arm32(self.sixteenth(eighth)), scale_factor=2.0) + self.arm16(eighth)
        return self.head(self.ffm(self.spatial(x), interpolate(context, scale_factor=2.0)))


class AttentionUNet(nn.Module):
    """LeeJunHyun's and PaddleSeg's gate, called by names, behind encoders with copies of CBAM and SE."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(layer(3, copies.C), copies.CBAM())
        self.two = nn.Sequential(layer(copies.C, copies.C, 2), copies.Moskomule())
        self.three = layer(copies.C, 6, 2)
        self.gate2, self.gate1 = copies.AttentionGate(F_g=6), copies.AttentionGate(F_g=6)
        self.up2, self.up1 = layer(copies.C + 6, 6), layer(copies.C + 6, 6)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        two = self.two(one)
        g = interpolate(self.three(two), scale_factor=2.0)
        g = self.up2(torch.cat([self.gate2(g=g, x=two), g], 1))
        g = interpolate(g, scale_factor=2.0)
        return self.head(self.up1(torch.cat([self.gate1(g=g, x=one), g], 1)))
