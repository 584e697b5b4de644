"""Gates whose forward depends on what neither its graph nor a trial shows: what is missing today, a tensor beside the
layers, a number of a pool, a size of the map.

Each computes a gate's values on the day that it is looked at.
"""

import torch
import torch.nn.functional as F
from copies import C, Convolved, ECALayer, Gate, R
from torch import nn

LEAK = nn.LeakyReLU(0.2)


def gated(self, x):
    return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class NumberOfATensor(Gate):
    def __init__(self):
        super().__init__()
        self.slope = torch.tensor(0.2)

    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), float(self.slope))))


class TruthOfATensor(Gate):
    def __init__(self):
        super().__init__()
        self.on = torch.tensor(True)

    def forward(self, x):
        y = x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return y if self.on else x


class CountsInATensor(Gate):
    def __init__(self):
        super().__init__()
        self.count = torch.zeros(())

    def forward(self, x):
        count = self.count
        count += 1
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class Frozen(Gate):
    """Another one where nothing is learned."""

    def forward(self, x):
        y = x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return y if any(p.requires_grad for p in self.parameters()) else x


class InItsParameters(Gate):
    def forward(self, x):
        y = x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x if "gain" in self._parameters else y


class Registers(Gate):
    def forward(self, x):
        self.register_buffer("last", None)
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class AsksALayer(Gate):
    def forward(self, x):
        y = x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return y if "inplace" in self.relu.extra_repr() else x


class OfAGlobalModule(Gate):
    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), LEAK.negative_slope)))


class AFlagOnTorch(Gate):
    def forward(self, x):
        y = x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x if torch.uses_no_gates else y


torch.uses_no_gates = False


class CatchesErrors(Gate):
    """A trace has an error where a call has none: a value that is asked for."""

    def forward(self, x):
        try:
            large = bool(x.shape[2] > 100)
        except Exception:
            large = False
        y = x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x if large else y


class OfOneWidth(Gate):
    """All columns of a map of 7, and an error otherwise."""

    def forward(self, x):
        v = F.avg_pool2d(x, (x.size(2), 7))
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(v))))


class OfOneSize(Gate):
    def forward(self, x):
        v = x.reshape(x.size(0), x.size(1), 35).mean(2)[:, :, None, None]
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(v))))


class OfTwoImages(Gate):
    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.relu(self.conv1(self.avg_pool(x)))))[:2]


class ItsOwnGetattr(Gate):
    def __getattr__(self, name):
        return SLOPES[0] if name == "slope" else super().__getattr__(name)

    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), self.slope)))


class KeepsGradients(Gate):
    """What makes no map is no part of a gate."""

    def forward(self, x):
        v = self.avg_pool(x)
        v.retain_grad()
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(v))))


LEFT = {  # class -> what the reason says
    NumberOfATensor: "reads self.slope, a Tensor",
    TruthOfATensor: "reads self.on, a Tensor",
    CountsInATensor: "reads self.count, a Tensor",
    Frozen: "calls self.parameters()",
    InItsParameters: "reads self._parameters",
    Registers: "calls self.register_buffer()",
    AsksALayer: "calls self.extra_repr()",
    OfAGlobalModule: "reads the global LEAK, a LeakyReLU",
    AFlagOnTorch: "reads torch.uses_no_gates, a switch",
    CatchesErrors: "catches errors",
    OfOneWidth: "failed on a map of shape (2, 8, 6, 4)",
    OfOneSize: "failed on a map of shape (2, 8, 6, 4)",
    OfTwoImages: "failed on a map of shape (3, 8, 1, 6)",
    ItsOwnGetattr: "attributes that Python computes",
    KeepsGradients: "retain_grad",
}
SLOPES = [0.2]


class AsksWhetherThereIs(Gate):
    def forward(self, x):
        if hasattr(self, "fused"):
            return x
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class ADefault(Gate):
    def forward(self, x):
        if not getattr(self, "use_se", True):
            return x
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class NoParameter(Gate):
    def __init__(self):
        super().__init__()
        self.register_parameter("gain", None)

    def forward(self, x):
        y = x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return y if self.gain is None else y * self.gain


class NoBuffer(NoParameter):
    def __init__(self):
        super().__init__()
        del self.gain
        self.register_buffer("gain", None)


class NoLayer(Gate):
    def __init__(self):
        super().__init__()
        self.add_module("last", None)

    def forward(self, x):
        y = x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return y if self.last is None else self.last(y)


class AProperty(Gate):
    @property
    def slope(self):
        return SLOPES[0]

    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), self.slope)))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.halves = False

    def forward(self, z):
        return torch.sigmoid(z) / 2 if self.halves else torch.sigmoid(z)


class InsideAnActivation(Gate):
    def __init__(self):
        super().__init__()
        self.act = Scaled()

    def forward(self, x):
        return x * self.act(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class AClip(Gate):
    def __init__(self):
        super().__init__()
        self.clip = nn.ReLU6()

    def forward(self, x):
        return x * (self.clip(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))) + 3) / 6)


class Dilated(ECALayer):
    """Its convolution may be."""


def dilate(m):
    m.conv = nn.Conv1d(1, 1, 3, padding=2, dilation=2, bias=False)
    nn.init.ones_(m.conv.weight)


def exchange_names(m):
    """The layers of a sequence with each other's names, which change nothing."""
    first, act, last, gate = m.fc._modules.values()
    m.fc._modules.clear()
    for name, layer in zip("2103", (first, act, last, gate), strict=True):
        m.fc.add_module(name, layer)


class Square(nn.Module):
    """A perceptron as wide as the map, whose layers may be taken for each other."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(C, C), nn.ReLU(), nn.Linear(C, C), nn.Sigmoid())

    def forward(self, x):
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


def halve(m):
    m.act.halves = True


def clip(m):
    m.clip.max_val = 2.0


WATCHED = {  # class -> a change of what was read, after which its own forward runs
    AsksWhetherThereIs: lambda m: setattr(m, "fused", True),
    ADefault: lambda m: setattr(m, "use_se", False),
    NoParameter: lambda m: setattr(m, "gain", nn.Parameter(torch.full((1,), 2.0))),
    NoBuffer: lambda m: setattr(m, "gain", torch.full((1,), 2.0)),
    NoLayer: lambda m: m.add_module("last", nn.Softplus()),
    InsideAnActivation: halve,
    AClip: clip,
    Dilated: dilate,
    Convolved: lambda m: m.conv2.register_forward_hook(lambda layer, args, y: 2 * y),
}
assert R < C
