"""Gates as people copy them, which are known by their graph; and look-alikes, which compute something else."""

import math
import random

import torch
import torch.nn.functional as F
from torch import nn

C, R = 8, 2


class Gate(nn.Module):
    """Layers that the forwards below use: two convolutions, two linear layers, activations, a pool."""

    def __init__(self, bias=True):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(C, R, 1, bias=bias), nn.Conv2d(R, C, 1, bias=bias)
        self.avg_pool, self.relu, self.sigmoid = nn.AdaptiveAvgPool2d(1), nn.ReLU(inplace=True), nn.Sigmoid()


class Linears(nn.Module):
    def __init__(self, bias=False, act=nn.ReLU):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(C, R, bias=bias), act(), nn.Linear(R, C, bias=bias), nn.Sigmoid())


class Moskomule(Linears):
    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


class Reshaped(Linears):
    def forward(self, feature):
        y = self.fc(torch.flatten(self.avg_pool(feature), 1))
        return feature * y.unsqueeze(2).unsqueeze(3)


class Indexed(Linears):
    def forward(self, x):
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class MeanOfPixels(Linears):
    def forward(self, x):
        b, c = x.shape[0], x.shape[1]
        y = self.fc(x.view(b, c, -1).mean(dim=2)).reshape(b, c, 1, 1)
        return torch.mul(y, x)


class Squeezed(Linears):
    def forward(self, x):
        y = self.fc(self.avg_pool(x).squeeze(-1).squeeze(-1))
        return x.mul(y.view(x.size(0), x.size(1), 1, 1))


class Convolved(Gate):
    def forward(self, x):
        return x * self.sigmoid(self.conv2(self.relu(self.conv1(self.avg_pool(x)))))


class Functional(Gate):
    def forward(self, x):
        y = F.adaptive_avg_pool2d(x, 1)
        y = F.relu(self.conv1(y), inplace=True)
        return torch.sigmoid(self.conv2(y)) * x


class Methods(Gate):
    def forward(self, x):
        return x * self.conv2(self.conv1(x.mean(dim=[-2, -1], keepdim=True)).relu()).sigmoid()


class Window(Gate):
    """A window as large as the map."""

    def forward(self, x):
        y = F.avg_pool2d(x, x.size()[2:])
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(y))))


class WindowOfTwo(Gate):
    def forward(self, x):
        y = F.avg_pool2d(x, (x.size(2), x.size(3)), stride=(x.size(2), x.size(3)))
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(y))))


class HardSigmoid(Gate):
    def forward(self, x):
        return F.hardsigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), 0.2))) * x


class h_sigmoid(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU6(inplace=True)

    def forward(self, x):
        return self.relu(x + 3) / 6


class MobileNetV3(nn.Module):
    def __init__(self):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(C, R), nn.ReLU(inplace=True), nn.Linear(R, C), h_sigmoid())

    forward = Moskomule.forward


class HardSigmoidWritten(Gate):
    def forward(self, x):
        return x * (F.relu6(self.conv2(F.relu(self.conv1(self.avg_pool(x)))) + 3.0, inplace=True) / 6.0)


class Silu(Gate):
    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.silu(self.conv1(self.avg_pool(x)))))


class Maximum(Gate):
    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(x.amax((2, 3), keepdim=True)))))


class OneLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Conv2d(C, C, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class Residual(Gate):
    def forward(self, x):
        y = x * self.sigmoid(self.conv2(self.relu(self.conv1(self.avg_pool(x)))))
        return y + x


class Option(Gate):
    """Attributes that decide: known as long as they stay."""

    def __init__(self):
        super().__init__()
        self.use_se, self.slope = True, 0.2

    def forward(self, x):
        if not self.use_se:
            return x
        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), self.slope)))


class ECALayer(nn.Module):
    def __init__(self, k=3):
        super().__init__()
        self.avg_pool, self.sigmoid = nn.AdaptiveAvgPool2d(1), nn.Sigmoid()
        self.conv = nn.Conv1d(1, 1, kernel_size=k, padding=(k - 1) // 2, bias=False)

    def forward(self, x):
        y = self.avg_pool(x)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        y = self.sigmoid(y)
        return x * y.expand_as(x)


class ECAPermuted(ECALayer):
    def forward(self, x):
        y = self.avg_pool(x).squeeze(-1).permute(0, 2, 1)
        return x * self.sigmoid(self.conv(y)).permute(0, 2, 1).unsqueeze(-1)


class SSE(nn.Module):
    def __init__(self, bias=False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(C, 1, kernel_size=1, bias=bias), nn.Sigmoid()

    def forward(self, U):
        q = self.norm(self.conv(U))
        return U * q


class SSEFunction(SSE):
    def forward(self, x):
        return torch.mul(x, torch.sigmoid(self.conv(x)).expand_as(x))


class SCSE(nn.Module):
    """Of two modules of their own."""

    def __init__(self):
        super().__init__()
        self.cSE, self.sSE = Convolved(), SSE(bias=True)

    def forward(self, U):
        return self.cSE(U) + self.sSE(U)


class SCSEMax(SCSE):
    def forward(self, U):
        return torch.max(self.cSE(U), self.sSE(U))


class SCSEInOne(Gate):
    def __init__(self):
        super().__init__()
        self.spatial = nn.Conv2d(C, 1, 1)

    def forward(self, x):
        channels = torch.sigmoid(self.conv2(F.relu(self.conv1(self.avg_pool(x)))))
        return x * torch.sigmoid(self.spatial(x)) + x * channels


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.fc1, self.fc2 = nn.AdaptiveAvgPool3d(1), nn.Linear(C, R), nn.Linear(R, C)

    def forward(self, x):
        v = torch.sigmoid(self.fc2(torch.relu(self.fc1(self.pool(x).flatten(1)))))
        return x * v.view(x.size(0), x.size(1), 1, 1, 1)


class BothPools(nn.Module):
    """CBAM's gate of the channels, as most repositories write it: its weights alone."""

    def __init__(self):
        super().__init__()
        self.avg_pool, self.max_pool = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Sequential(nn.Conv2d(C, R, 1, bias=False), nn.ReLU(), nn.Conv2d(R, C, 1, bias=False))
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        avg_out, max_out = self.fc(self.avg_pool(x)), self.fc(self.max_pool(x))
        return self.sigmoid(avg_out + max_out)


class BothPoolsOfPixels(nn.Module):
    """CBAM's gate of the pixels: its weights alone."""

    def __init__(self, k=7, bias=False):
        super().__init__()
        self.conv1, self.sigmoid = nn.Conv2d(2, 1, k, padding=k // 2, bias=bias), nn.Sigmoid()

    def forward(self, x):
        avg_out = torch.mean(x, dim=1, keepdim=True)
        max_out, _ = torch.max(x, dim=1, keepdim=True)
        return self.sigmoid(self.conv1(torch.cat([avg_out, max_out], dim=1)))


class CBAM(nn.Module):
    def __init__(self, k=7, bias=False):
        super().__init__()
        self.ca, self.sa = BothPools(), BothPoolsOfPixels(k, bias)

    def forward(self, x):
        out = self.ca(x) * x
        return self.sa(out) * out


class CBAMResidual(CBAM):
    """As External-Attention's."""

    def __init__(self):
        super().__init__(k=3, bias=True)

    def forward(self, x):
        residual = x
        out = x * self.ca(x)
        out = out * self.sa(out)
        return out + residual


class Flatten(nn.Module):
    def forward(self, x):
        return x.view(x.size(0), -1)


class CBAMLinears(nn.Module):
    """As the authors', the maximum first, without the norm."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(Flatten(), nn.Linear(C, R), nn.ReLU(), nn.Linear(R, C))
        self.conv = nn.Conv2d(2, 1, 5, padding=2, bias=False)

    def forward(self, x):
        avg = self.mlp(F.avg_pool2d(x, (x.size(2), x.size(3)), stride=(x.size(2), x.size(3))))
        most = self.mlp(x.amax((2, 3)))
        scale = torch.sigmoid(avg + most).unsqueeze(2).unsqueeze(3).expand_as(x)
        x = x * scale
        pooled = torch.cat((x.amax(1).unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.conv(pooled))


class CBAMOfTheMean(nn.Module):
    """As ultralytics': one layer of the mean."""

    def __init__(self):
        super().__init__()
        self.pool, self.fc, self.act = nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, C, 1), nn.Sigmoid()
        self.cv1 = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x):
        x = x * self.act(self.fc(self.pool(x)))
        return x * self.act(self.cv1(torch.cat([torch.mean(x, 1, keepdim=True), torch.max(x, 1, keepdim=True)[0]], 1)))


class CBAMChannels(BothPools):
    def forward(self, x):
        return x * self.sigmoid(self.fc(self.max_pool(x)) + self.fc(self.avg_pool(x)))


class CBAMChannelsFlat(nn.Module):
    """Of all pixels in one axis."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(C, R), nn.ReLU(), nn.Linear(R, C), nn.Unflatten(1, (C, 1, 1)))

    def forward(self, x):
        pixels = x.flatten(2)
        return x * torch.sigmoid(self.mlp(pixels.mean(-1)) + self.mlp(pixels.max(-1)[0]))


class CBAMPixels(BothPoolsOfPixels):
    def forward(self, x):
        mean, most = x.mean(1, keepdim=True), x.max(1, keepdim=True).values
        return x * torch.sigmoid(self.conv1(torch.cat([most, mean], 1))).expand_as(x)


class BasicConv(nn.Module):
    def __init__(self, k=7, bn=True):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size=k, padding=(k - 1) // 2, bias=False)
        self.bn = nn.BatchNorm2d(1, eps=1e-5, momentum=0.01, affine=True) if bn else None
        self.relu = None

    def forward(self, x):
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        if self.relu is not None:
            x = self.relu(x)
        return x


class ChannelPool(nn.Module):
    def forward(self, x):
        return torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)


class SpatialGate(nn.Module):
    """The authors' gate of the pixels, with a batch norm."""

    def __init__(self):
        super().__init__()
        self.compress, self.spatial = ChannelPool(), BasicConv()

    def forward(self, x):
        x_out = self.spatial(self.compress(x))
        scale = torch.sigmoid(x_out)
        return x * scale


class ChannelGate(nn.Module):
    """The authors' gate of the channels, which reads a list of pools."""

    def __init__(self, pool_types=("avg", "max")):
        super().__init__()
        self.mlp = nn.Sequential(Flatten(), nn.Linear(C, R), nn.ReLU(), nn.Linear(R, C))
        self.pool_types = list(pool_types)

    def forward(self, x):
        channel_att_sum = None
        for pool_type in self.pool_types:
            if pool_type == "avg":
                avg_pool = F.avg_pool2d(x, (x.size(2), x.size(3)), stride=(x.size(2), x.size(3)))
                channel_att_raw = self.mlp(avg_pool)
            elif pool_type == "max":
                max_pool = F.max_pool2d(x, (x.size(2), x.size(3)), stride=(x.size(2), x.size(3)))
                channel_att_raw = self.mlp(max_pool)
            channel_att_sum = channel_att_raw if channel_att_sum is None else channel_att_sum + channel_att_raw
        scale = torch.sigmoid(channel_att_sum).unsqueeze(2).unsqueeze(3).expand_as(x)
        return x * scale


class CBAMAuthors(nn.Module):
    def __init__(self, no_spatial=False):
        super().__init__()
        self.ChannelGate, self.no_spatial, self.SpatialGate = ChannelGate(), no_spatial, SpatialGate()

    def forward(self, x):
        x_out = self.ChannelGate(x)
        if not self.no_spatial:
            x_out = self.SpatialGate(x_out)
        return x_out


COPIES = {  # class -> the function that its graph is
    **dict.fromkeys((Moskomule, Reshaped, Indexed, MeanOfPixels, Squeezed, Convolved), "squeeze_excite"),
    **dict.fromkeys((Functional, Methods, Window, WindowOfTwo, HardSigmoid, Silu, Maximum), "squeeze_excite"),
    **dict.fromkeys((OneLayer, Residual, Option, Volume, MobileNetV3, HardSigmoidWritten), "squeeze_excite"),
    **dict.fromkeys((ECALayer, ECAPermuted), "eca"),
    **dict.fromkeys((SSE, SSEFunction), "spatial_gate"),
    **dict.fromkeys((SCSE, SCSEMax, SCSEInOne), "scse"),
    **dict.fromkeys((CBAM, CBAMResidual, CBAMLinears, CBAMOfTheMean, CBAMAuthors), "cbam"),
    **dict.fromkeys((CBAMChannels, CBAMChannelsFlat, ChannelGate), "squeeze_excite"),
    **dict.fromkeys((CBAMPixels, SpatialGate), "cbam_spatial_gate"),
}


class AttentionGate(nn.Module):
    """As LeeJunHyun's Attention U-Net has it."""

    def __init__(self, F_g=6, F_l=C, F_int=4):
        super().__init__()
        self.W_g = nn.Sequential(nn.Conv2d(F_g, F_int, 1, stride=1, padding=0, bias=True), nn.BatchNorm2d(F_int))
        self.W_x = nn.Sequential(nn.Conv2d(F_l, F_int, 1, stride=1, padding=0, bias=True), nn.BatchNorm2d(F_int))
        self.psi = nn.Sequential(nn.Conv2d(F_int, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())
        self.relu = nn.ReLU(inplace=True)

    def forward(self, g, x):
        g1 = self.W_g(g)
        x1 = self.W_x(x)
        psi = self.relu(g1 + x1)
        psi = self.psi(psi)
        return x * psi


class AttentionGatePlain(nn.Module):
    """Without norms, the map first, functions."""

    def __init__(self):
        super().__init__()
        self.theta, self.phi = nn.Conv2d(C, 4, 1, bias=False), nn.Conv2d(6, 4, 1)
        self.psi = nn.Conv2d(4, 1, 1)

    def forward(self, x, g):
        return torch.sigmoid(self.psi(F.relu(self.theta(x) + self.phi(g), inplace=True))) * x


class AttentionGateExpanded(AttentionGate):
    """The gate repeated to the map's shape."""

    def forward(self, g, x):
        psi = self.psi(F.relu(torch.add(self.W_g(g), self.W_x(x))))
        return torch.mul(x, psi.expand_as(x))


ATTENTION = (AttentionGate, AttentionGatePlain, AttentionGateExpanded)


class AttentionOfG(AttentionGate):
    """It is the other map that is weighted, which a graph tells apart."""

    def __init__(self):
        super().__init__(F_g=C)

    def forward(self, g, x):
        return g * self.psi(self.relu(self.W_g(g) + self.W_x(x)))


class AttentionTwice(AttentionGatePlain):
    """Both projections are of one map."""

    def forward(self, x, g):
        return x * torch.sigmoid(self.psi(F.relu(self.theta(x) + self.theta(x))))


class AttentionMore(AttentionGatePlain):
    def forward(self, x, g):
        return x * torch.sigmoid(self.psi(F.relu(self.theta(x) + self.phi(g)))) + x


class AttentionStrided(AttentionGatePlain):
    def __init__(self):
        super().__init__()
        self.theta = nn.Conv2d(C, 4, 1, stride=2)


class AttentionTanh(AttentionGatePlain):
    def forward(self, x, g):
        return x * torch.sigmoid(self.psi(torch.tanh(self.theta(x) + self.phi(g))))


class AttentionDetached(AttentionGatePlain):
    def forward(self, x, g):
        return x * torch.sigmoid(self.psi(F.relu(self.theta(x) + self.phi(g.detach()))))


class AttentionTwoPsi(AttentionGatePlain):
    def forward(self, x, g):
        psi = torch.sigmoid(self.psi(F.relu(self.theta(x) + self.phi(g))))
        return x * (psi * psi)


class AttentionOfChannels(AttentionGatePlain):
    """A value for each channel of each pixel."""

    def __init__(self):
        super().__init__()
        self.psi = nn.Conv2d(4, C, 1)


class AttentionExpandedToG(AttentionGate):
    """Repeated to the shape of another map."""

    def forward(self, g, x):
        return x * self.psi(self.relu(self.W_g(g) + self.W_x(x))).expand_as(g[:, :1])


class AttentionOfOneNorm(AttentionGatePlain):
    """Whose statistics move twice, those of g first."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x, g):
        return x * torch.sigmoid(self.psi(F.relu(self.norm(self.phi(g)) + self.norm(self.theta(x)))))


NO_ATTENTION = (AttentionOfChannels, AttentionExpandedToG, AttentionOfOneNorm)
NO_ATTENTION += (AttentionTwice, AttentionMore, AttentionStrided, AttentionTanh, AttentionDetached, AttentionTwoPsi)


class Dropout(Linears):
    def __init__(self):
        super().__init__()
        self.fc.insert(1, nn.Dropout(0.5))

    forward = Moskomule.forward


class DropoutOfNothing(Dropout):
    def __init__(self):
        super().__init__()
        self.fc[1].p = 0.0

    forward = Indexed.forward


class Twice(Convolved):
    """A gate that is used twice."""

    def forward(self, x):
        g = self.sigmoid(self.conv2(self.relu(self.conv1(self.avg_pool(x)))))
        return x * g + x * g


class Squared(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x * g * g


class FixedPool(Gate):
    def __init__(self):
        super().__init__()
        self.avg_pool = nn.AvgPool2d((5, 4))  # the whole of a map of 5 x 4

    forward = Convolved.forward


class FixedWindow(Gate):
    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(F.avg_pool2d(x, (5, 7))))))


class Corner(Gate):
    """Not of all pixels."""

    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(x[:, :, :2, :2].mean((2, 3), keepdim=True)))))


class Training(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        if self.training:
            return x * g
        return g * x


class Shuffled(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x.flip(1) * g


class ShuffledGate(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x * g.view(-1, 2, C // 2, 1, 1).transpose(1, 2).reshape(-1, C, 1, 1)


class State(Gate):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class Remembers(State):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(1)
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class Counts(State):
    """State inside of a list."""

    def __init__(self):
        super().__init__()
        self.seen = [0]

    def forward(self, x):
        self.seen[0] += 1
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class Random(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x * g * torch.rand(())


class RandomInPython(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x * g if random.random() > 0 else x


class BranchOnValues(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x * g if x.sum() > 0 else x


class BranchOnSizes(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x * g if x.size(2) < 100 else x


class MeanOfBatch(Gate):
    def forward(self, x):
        v = x.mean((0, 2, 3), keepdim=True).expand(x.size(0), -1, -1, -1)
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(v))))


class NoGrad(Gate):
    def forward(self, x):
        with torch.no_grad():
            v = self.avg_pool(x)
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(v))))


class NoGradDecorated(Gate):
    @torch.no_grad()
    def forward(self, x):
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class GradSetInC(Gate):
    def forward(self, x):
        torch._C._set_grad_enabled(False)
        v = self.avg_pool(x)
        torch._C._set_grad_enabled(True)
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(v))))


class Detached(Gate):
    def forward(self, x):
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x).detach()))))


class Autocast(Gate):
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class InPlace(Gate):
    def forward(self, x):
        return x.mul_(torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x))))))


class InPlaceOperator(Gate):
    def forward(self, x):
        x *= torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x


class InPlaceSum(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        x += x * g
        return x


class InPlaceAct(Gate):
    """The ReLU of the map is written into it."""

    def forward(self, x):
        x = F.relu(x, inplace=True)
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class TwoOutputs(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x * g, g


class OnlyTheGate(Gate):
    def forward(self, x):
        return torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class TheMapItself(Gate):
    def forward(self, x):
        torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x


class Scaled(Gate):
    def forward(self, x):
        return 2.0 * x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class SumWithAlpha(Gate):
    def forward(self, x):
        y = x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return torch.add(y, x, alpha=2)


class Residue(Gate):
    """The slope is a value of the map."""

    def forward(self, x):
        h = F.leaky_relu(self.conv1(self.avg_pool(x)), x.mean().item())
        return x * torch.sigmoid(self.conv2(h))


class OwnFunction(Gate):
    def squash(self, z):
        return torch.sigmoid(z)

    def forward(self, x):
        return x * self.squash(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class Rounded(Gate):
    def forward(self, x):
        v = x.mean((2, 3), keepdim=True, dtype=torch.float32).to(x.dtype)
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(v))))


class WrongAxis(nn.Module):
    """The gate lies along the rows: of as many as there are channels."""

    def __init__(self):
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(5, 5), nn.Sigmoid())

    def forward(self, x):
        return x * self.fc(self.pool(x).flatten(1)).view(x.size(0), 1, -1, 1)


class ThreeLayers(Gate):
    def __init__(self):
        super().__init__()
        self.conv3 = nn.Conv2d(C, C, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.conv3(torch.relu(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))))


class Unscaled(Gate):
    """Another activation."""

    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.mish(self.conv1(self.avg_pool(x)))) / math.pi)


class HardSigmoidAlmost(Gate):
    """Another shift."""

    def forward(self, x):
        return x * (F.relu6(self.conv2(F.relu(self.conv1(self.avg_pool(x)))) + 2.0) / 6.0)


class HardSigmoidShared(Gate):
    """The clip is divided by another number."""

    def forward(self, x):
        return x * (F.relu6(self.conv2(F.relu(self.conv1(self.avg_pool(x)))) + 3.0) / 3.0)


class Flag(Gate):
    def forward(self, x, gated: bool = True):
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x))))) if gated else x


class Parameter(Gate):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.gain * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class Cast(Gate):
    def forward(self, x):
        return (x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))).float()


class CBAMBeside(CBAM):
    """The gate of the pixels sees the map before that of the channels."""

    def forward(self, x):
        return self.sa(x) * (self.ca(x) * x)


class CBAMPixelsFirst(CBAM):
    def forward(self, x):
        out = self.sa(x) * x
        return self.ca(out) * out


class CBAMTwoPerceptrons(CBAM):
    def __init__(self):
        super().__init__()
        self.fc2 = nn.Conv2d(C, C, 1)

    def forward(self, x):
        out = x * torch.sigmoid(self.ca.fc(x.mean((2, 3), keepdim=True)) + self.fc2(x.amax((2, 3), keepdim=True)))
        return self.sa(out) * out


class CBAMOneMean(CBAM):
    """The mean and the mean."""

    def forward(self, x):
        out = self.ca(x) * x
        mean = out.mean(1, keepdim=True)
        return out * torch.sigmoid(self.sa.conv1(torch.cat([mean, mean], 1)))


class CBAMRows(CBAM):
    """Beside each other, and not two channels."""

    def forward(self, x):
        out = self.ca(x) * x
        pooled = torch.cat([out.mean(1, keepdim=True), out.amax(1, keepdim=True)], 0)
        return out * torch.sigmoid(self.sa.conv1(pooled.view(-1, 2, *x.shape[2:])))


class CBAMIndices(CBAM):
    """The place of the maximum in place of it."""

    def forward(self, x):
        out = self.ca(x) * x
        _, at = out.max(1, keepdim=True)
        return out * torch.sigmoid(self.sa.conv1(torch.cat([out.mean(1, keepdim=True), at.to(x.dtype)], 1)))


class CBAMDilated(CBAM):
    def __init__(self):
        super().__init__()
        self.sa.conv1 = nn.Conv2d(2, 1, 3, padding=2, dilation=2)


class CBAMNoMap(BothPools):
    """Its weights alone."""


class CBAMTies(CBAM):
    """The maximum of the channels shares a gradient, that of the pixels does not."""

    def forward(self, x):
        out = x * torch.sigmoid(self.ca.fc(x.mean((2, 3), keepdim=True)) + self.ca.fc(x.amax((2, 3), keepdim=True)))
        return self.sa(out) * out


LOOKALIKES = (
    (Dropout, DropoutOfNothing, Twice, Squared, FixedPool, FixedWindow, Corner, Training, Shuffled, ShuffledGate, State)
    + (Remembers, Random, RandomInPython, BranchOnValues, BranchOnSizes, MeanOfBatch, NoGrad, NoGradDecorated, Detached)
    + (GradSetInC, Autocast, InPlace, InPlaceOperator, InPlaceSum, InPlaceAct, TwoOutputs, OnlyTheGate, TheMapItself)
    + (Scaled, SumWithAlpha, Residue, OwnFunction, Rounded, WrongAxis, ThreeLayers, Unscaled, Flag, Parameter, Cast)
    + (HardSigmoidAlmost, HardSigmoidShared, CBAMBeside, CBAMPixelsFirst, CBAMTwoPerceptrons, CBAMOneMean, CBAMRows)
    + (CBAMIndices, CBAMDilated, CBAMNoMap, CBAMTies, Counts)
)
