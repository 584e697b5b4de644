"""Squeeze-and-excitation as it may be written: a spelling of each of its steps, and one more line, which changes what
it computes."""

import random

import torch
import torch.nn.functional as F
from copies import C, R
from torch import nn

POOLS = """
self.mean(x)
x.mean((2, 3), keepdim=True)
torch.mean(x, dim=[-1, -2], keepdim=True)
F.adaptive_avg_pool2d(x, (1, 1))
F.avg_pool2d(x, x.shape[2:])
x.flatten(2).mean(-1)[..., None, None]
self.most(x)
x.amax((-2, -1), keepdim=True)
x.flatten(2).max(2)[0].unsqueeze(2).unsqueeze(3)
F.max_pool2d(x, kernel_size=x.size()[2:])
0.5 * x.mean((2, 3), keepdim=True) + 0.5 * x.amax((2, 3), keepdim=True)
"""
FIRST = """
self.conv1(v)
self.linear1(v.flatten(1))
self.linear1(v.squeeze(-1).squeeze(-1))
self.linear1(v.view(x.size(0), x.size(1)))
"""
ACTS = """
F.relu(h)
h.relu()
self.relu(h)
F.silu(h)
F.leaky_relu(h, self.slope)
F.relu(h, inplace=True)
"""
LAST = """
self.conv2(h.view(h.size(0), -1, 1, 1))
self.linear2(h.flatten(1))[:, :, None, None]
self.linear2(h.flatten(1)).reshape(x.size(0), x.size(1), 1, 1)
"""
GATES = """
torch.sigmoid(z)
z.sigmoid()
self.sigmoid(z)
torch.tanh(z)
"""
PRODUCTS = """
x * g
g * x
torch.mul(x, g)
x * g.expand_as(x)
x.mul(g.expand(-1, -1, x.size(2), x.size(3)))
x * g + x
x + torch.multiply(g, x)
"""
STEPS = dict(v=POOLS, h=FIRST, a=ACTS, z=LAST, g=GATES, y=PRODUCTS)
CHANGES = """
x: x = x[:, :, 1:]
x: x = x.flip(2)
x: x = x.abs()
x: x = x.detach()
x: x = x - x.mean((2, 3), keepdim=True)
v: v = v * 2
v: v = v.detach()
v: v = v.flip(1)
v: v = v.roll(1, 0)
v: v = v + 1
v: v = v.mean(1, keepdim=True).expand(-1, x.size(1), -1, -1)
v: v = v.mean(0, keepdim=True).expand(x.size(0), -1, -1, -1)
v: v = v / v.amax()
h: h = F.dropout(h, 0.5)
h: h = h - h.mean(1, keepdim=True)
a: h = h * h
z: z = z.clamp(-0.1, 0.1)
z: z = z / 2
z: z = z.roll(1, 1)
z: z = z - z.mean(0, keepdim=True)
z: z = z.flip(0)
g: g = g * g
g: g = 1 - g
g: g = g.detach()
g: g = g[:1]
g: g = g[:, :1]
g: g = g + 1
g: g = g.round()
y: y = y * g
y: y = y + x.mean()
y: y = torch.where(x > 0, y, x)
y: y = y.clone().detach()
y: y = y.flip(1)
y: y = y.float().to(y.dtype) * 2
"""


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


class Written(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.most, self.slope = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), 0.2
        self.relu, self.sigmoid = nn.ReLU(inplace=True), nn.Sigmoid()


def written(seed: int, change: str | None = None) -> type:
    """A class of Written, with a spelling of each step that the seed chooses; change: a line behind a step."""
    chosen = random.Random(seed)
    steps = {name: chosen.choice(lines(text)) for name, text in STEPS.items()}
    where, _, line = (change or "").partition(": ")
    source = ["def forward(self, x):"]
    for name in ("x", *steps):
        if name in steps:
            source.append(f"    {'h' if name == 'a' else name} = {steps[name]}")
        if name == where:
            source.append(f"    {line}")
    names = dict(torch=torch, F=F)
    exec("\n".join([*source, "    return y"]), names)

    def __init__(self):
        Written.__init__(self)
        layers = dict(conv1=nn.Conv2d(C, R, 1), conv2=nn.Conv2d(R, C, 1), linear1=nn.Linear(C, R))
        layers["linear2"] = nn.Linear(R, C)
        for layer in layers:
            if any(f"self.{layer}(" in step for step in steps.values()):
                self.add_module(layer, layers[layer])

    about = {"__init__": __init__, "forward": names["forward"], "__doc__": "\n".join(source)}
    return type("Spelled", (Written,), {**about, "__module__": __name__})
