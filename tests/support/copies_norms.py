"""Copies of gates with batch norms in their perceptrons, and of light CBAM; and what only looks like them."""

import torch
import torch.nn.functional as F
from copies import C, Flatten, R
from torch import nn


class SENorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.bn, self.fc2 = nn.Conv2d(C, R, 1), nn.BatchNorm2d(R), nn.Conv2d(R, C, 1)

    def forward(self, x):
        v = self.fc2(F.relu(self.bn(self.fc1(self.avg_pool(x))), inplace=True))
        return x * torch.sigmoid(v)


class SENormLinear(nn.Module):
    """A norm of vectors, behind a layer whose bias it makes needless."""

    def __init__(self):
        super().__init__()
        layers = nn.Linear(C, R, bias=False), nn.BatchNorm1d(R), nn.SiLU(), nn.Linear(R, C), nn.Sigmoid()
        self.fc = nn.Sequential(*layers)

    def forward(self, x):
        return x * self.fc(x.mean((2, 3))).view(x.size(0), x.size(1), 1, 1)


class Conv(nn.Module):
    def __init__(self, inputs, outputs, act=True):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class SETwoNorms(nn.Module):
    """LiteHRNet's: two layers, each with its norm."""

    def __init__(self):
        super().__init__()
        self.pool, self.conv1, self.conv2 = nn.AdaptiveAvgPool2d(1), Conv(C, R), Conv(R, C, act=False)

    def forward(self, x):
        return x * torch.sigmoid(self.conv2(self.conv1(self.pool(x))))


class SELastNorm(nn.Module):
    """A norm behind the second layer alone."""

    def __init__(self):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(C, R, 1), nn.Conv2d(R, C, 1)
        self.bn = nn.BatchNorm2d(C, eps=1e-3)

    def forward(self, x):
        h = torch.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))
        return torch.sigmoid(self.bn(self.expand(h))) * x


class SETwoEps(SENormLinear):
    """Norms of two eps, of vectors."""

    def __init__(self):
        super().__init__()
        first, last = nn.BatchNorm1d(R, eps=1e-3), nn.BatchNorm1d(C)
        self.fc = nn.Sequential(nn.Linear(C, R), first, nn.ReLU(), nn.Linear(R, C, bias=False), last, nn.Sigmoid())


class Refinement(nn.Module):
    """BiSeNet's behind its convolution."""

    def __init__(self):
        super().__init__()
        self.conv_atten, self.bn_atten = nn.Conv2d(C, C, kernel_size=1, bias=False), nn.BatchNorm2d(C)

    def forward(self, feat):
        atten = F.avg_pool2d(feat, feat.size()[2:])
        atten = self.bn_atten(self.conv_atten(atten)).sigmoid()
        return torch.mul(feat, atten)


class Fusion(Refinement):
    def forward(self, feat):
        atten = torch.sigmoid(self.bn_atten(self.conv_atten(torch.mean(feat, dim=(2, 3), keepdim=True))))
        return torch.mul(feat, atten) + feat


class NormOfPeak(SENorm):
    def forward(self, x):
        return x * torch.sigmoid(self.fc2(torch.relu(self.bn(self.fc1(x.amax((2, 3), keepdim=True))))))


class NormOfBothPools(nn.Module):
    """CBAM's gate of the channels with a norm, which is of each pool by itself."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(Flatten(), nn.Linear(C, R), nn.BatchNorm1d(R), nn.ReLU(), nn.Linear(R, C))

    def forward(self, x):
        avg, most = self.mlp(F.adaptive_avg_pool2d(x, 1)), self.mlp(F.adaptive_max_pool2d(x, 1))
        return x * torch.sigmoid(avg + most)[:, :, None, None]


class LightChannels(nn.Module):
    """timm's: half the sum of both pools."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(C, R, 1, bias=False), nn.Conv2d(R, C, 1, bias=False)

    def forward(self, x):
        pool = 0.5 * x.mean((2, 3), keepdim=True) + 0.5 * x.amax((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(pool))))


class LightChannelsHalved(LightChannels):
    """The sum first, then half of it; the maximum of a pool."""

    def forward(self, x):
        pool = (F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1)) / 2
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(pool))))


class LightPixels(nn.Module):
    def __init__(self, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1) if norm else nn.Identity()

    def forward(self, x):
        half = 0.5 * x.mean(dim=1, keepdim=True) + 0.5 * x.amax(dim=1, keepdim=True)
        return x * torch.sigmoid(self.bn(self.conv(half)))


class LightPixelsPlain(LightPixels):
    def __init__(self):
        super().__init__(norm=False)

    def forward(self, x):
        mean, (most, _) = torch.mean(x, 1, True), torch.max(x, 1, keepdim=True)
        return x * self.conv((mean + most) * 0.5).sigmoid().expand_as(x)


class LightCBAM(nn.Module):
    def __init__(self):
        super().__init__()
        self.channel, self.spatial = LightChannels(), LightPixels()

    def forward(self, x):
        return self.spatial(self.channel(x))


COPIES = {  # class -> the function that its graph is
    **dict.fromkeys((SENorm, SENormLinear, SETwoNorms, SELastNorm, SETwoEps), "squeeze_excite"),
    **dict.fromkeys((Refinement, Fusion, NormOfPeak), "squeeze_excite"),
    **dict.fromkeys((NormOfBothPools, LightChannels, LightChannelsHalved), "squeeze_excite"),
    **dict.fromkeys((LightPixels, LightPixelsPlain), "cbam_spatial_gate"),
    LightCBAM: "cbam",
}
OWN_IN_TRAINING = (NormOfBothPools,)  # statistics of the batch that no kernel takes there


class NormFirst(SENorm):
    """Of the pool, before any layer."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(C)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(self.bn(self.avg_pool(x))))))


class NormLast(SENorm):
    """Of the gate."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(C)

    def forward(self, x):
        return x * self.bn(torch.sigmoid(self.fc2(F.relu(self.fc1(self.avg_pool(x))))))


class NormOfTheMap(SENorm):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(C)

    def forward(self, x):
        return self.bn(x) * torch.sigmoid(self.fc2(F.relu(self.fc1(self.avg_pool(x)))))


class NormAfterAct(SENorm):
    def forward(self, x):
        return x * torch.sigmoid(self.fc2(self.bn(F.relu(self.fc1(self.avg_pool(x))))))


class NormTwice(SENorm):
    """One norm, whose statistics move twice."""

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(F.relu(self.bn(self.bn(self.fc1(self.avg_pool(x)))))))


class NormOfAnotherKind(SENorm):
    def __init__(self):
        super().__init__()
        self.bn = nn.GroupNorm(1, R)


class NormAsAFunction(SENorm):
    """Which has statistics of its own to move."""

    def forward(self, x):
        h = F.batch_norm(self.fc1(self.avg_pool(x)), self.bn.running_mean, self.bn.running_var, training=True)
        return x * torch.sigmoid(self.fc2(F.relu(h)))


class LightUneven(LightChannels):
    def forward(self, x):
        pool = 0.75 * x.mean((2, 3), keepdim=True) + 0.25 * x.amax((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(pool))))


class LightWhole(LightChannels):
    """The sum of both pools through one perceptron, and not the sum of two."""

    def forward(self, x):
        pool = x.mean((2, 3), keepdim=True) + x.amax((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(pool))))


class LightDifference(LightChannels):
    def forward(self, x):
        pool = 0.5 * x.mean((2, 3), keepdim=True) - 0.5 * x.amax((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(pool))))


class LightPeaks(LightChannels):
    """Two maxima, which share the gradient of a tie in two ways."""

    def forward(self, x):
        pool = 0.5 * F.adaptive_max_pool2d(x, 1) + 0.5 * x.amax((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(pool))))


class LightAcross(LightPixels):
    """The mean over the channels, and the maximum over the pixels."""

    def forward(self, x):
        half = 0.5 * x.mean(dim=1, keepdim=True) + 0.5 * x.amax((2, 3), keepdim=True).mean(1, keepdim=True)
        return x * torch.sigmoid(self.bn(self.conv(half)))


class LightOfTwoMaps(LightCBAM):
    """The maximum is of what the first gate leaves, the mean is not."""

    def forward(self, x):
        y = self.channel(x)
        half = 0.5 * x.mean(1, keepdim=True) + 0.5 * y.amax(1, keepdim=True)
        return y * torch.sigmoid(self.spatial.bn(self.spatial.conv(half)))


LOOKALIKES = (
    NormFirst,
    NormLast,
    NormOfTheMap,
    NormAfterAct,
    NormTwice,
    NormOfAnotherKind,
    NormAsAFunction,
    LightUneven,
) + (LightWhole, LightDifference, LightPeaks, LightAcross, LightOfTwoMaps)
