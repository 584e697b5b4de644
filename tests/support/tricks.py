"""Gates whose forward depends on more than its graph holds: on what is outside of the module, or on what it does
beside.

Each computes a gate's values on the day that it is looked at.
"""

import math
import types

import torch
import torch.nn.functional as F
from copies import Gate
from torch import nn

OPTIONS = {"slope": 0.2}
CONFIG = types.SimpleNamespace(slope=0.2)
COUNT = 0
LOG: list[str] = []


def gate(self, x, slope=0.0):
    return torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), slope)))


class GlobalDictionary(Gate):
    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), OPTIONS["slope"])))


class GlobalNamespace(Gate):
    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), CONFIG.slope)))


class OfItsClass(Gate):
    """An attribute of the class, read by the name of the class."""

    slope = 0.2

    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), OfItsClass.slope)))


class CountsInAGlobal(Gate):
    def forward(self, x):
        global COUNT
        COUNT += 1
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class Imports(Gate):
    def forward(self, x):
        from tricks import CONFIG as config

        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), config.slope)))


class Prints(Gate):
    def forward(self, x):
        print("a map")
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))


class OfAChild(Gate):
    """An attribute of a layer of torch's, which is no layer of the gate."""

    def __init__(self):
        super().__init__()
        self.relu = nn.LeakyReLU(0.2)

    def forward(self, x):
        slope = self.relu.negative_slope
        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), slope)))


class ModeOfAChild(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x * g if self.relu.training else g * x


class InItsDictionary(Gate):
    def __init__(self):
        super().__init__()
        self.slope = 0.2

    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), self.__dict__["slope"])))


class InItsVariables(InItsDictionary):
    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), vars(self)["slope"])))


class AsksForGradients(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x * g if torch.is_grad_enabled() else g * x


class AsksForInference(Gate):
    """What no trial sees."""

    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x if torch.is_inference_mode_enabled() else x * g


class AsksForTheDefault(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x if torch.get_default_dtype() == torch.float64 else x * g


class AsksForThreads(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x if torch.get_num_threads() > 10**6 else x * g


class ReadsASwitch(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x if torch.backends.cudnn.benchmark_limit == 7 else x * g


class ReadsASeed(Gate):
    def forward(self, x):
        g = torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))
        return x if torch.initial_seed() == 7 else x * g


class OfItsData(Gate):
    """No gradient goes through `data`."""

    def forward(self, x):
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x.data)))))


class CallsItself(Gate):
    """What is around the forward is not in it."""

    def forward(self, x):
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))

    def __call__(self, x):
        return 2 * super().__call__(x)


class AWalrus(Gate):
    """A value that is kept beside."""

    def forward(self, x):
        return x * (g := torch.sigmoid(self.conv2(torch.relu(self.conv1(self.avg_pool(x)))))) + 0 * g


class AConstant(Gate):
    """Which is a global that nobody changes: known, and watched."""

    def forward(self, x):
        return x * torch.sigmoid(self.conv2(F.leaky_relu(self.conv1(self.avg_pool(x)), SLOPE * math.pi)))


SLOPE = 0.2 / math.pi

LEFT = (
    (GlobalDictionary, GlobalNamespace, OfItsClass, CountsInAGlobal, Imports, Prints, InItsDictionary, InItsVariables)
    + (AsksForGradients, AsksForInference, AsksForTheDefault, AsksForThreads, ReadsASwitch, ReadsASeed, OfItsData)
    + (AWalrus, ModeOfAChild)
)
