"""Squeeze-and-excitation and the attention gate as they may be written: a spelling of each of their steps, and one more
line, which changes what they compute."""

import random
from collections.abc import Callable
from types import FunctionType

import torch
import torch.nn.functional as F
from copies import C, R
from torch import nn

G = 6  # channels of the second map
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
self.linear1(self.flatten(v))
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
self.unflatten(self.linear2(self.flatten(h)))
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
        self.flatten, self.unflatten = nn.Flatten(), nn.Unflatten(1, (C, 1, 1))


def forward(steps: dict[str, str], maps: str, change: str | None) -> tuple[FunctionType, str]:
    """The steps in order, each of which has a name, and behind one of them a line more; and its source."""
    where, _, line = (change or "").partition(": ")
    source = [f"def forward(self, {maps}):"]
    for name in (*maps.split(", "), *steps):
        if name in steps:
            source.append(f"    {'h' if name == 'a' else name} = {steps[name]}")
        if name == where:
            source.append(f"    {line}")
    names = dict(torch=torch, F=F)
    exec("\n".join([*source, "    return y"]), names)
    return names["forward"], "\n".join(source)


def chosen_by(seed: int, steps: dict[str, str]) -> dict[str, str]:
    chosen = random.Random(seed)
    return {name: chosen.choice(lines(text)) for name, text in steps.items()}


def made_of(layers: dict[str, Callable[[], nn.Module]], steps: dict[str, str], maps: str, change: str | None) -> type:
    """A class of Written with the layers that its steps name."""
    function, source = forward(steps, maps, change)

    def __init__(self):
        Written.__init__(self)
        for name, make in layers.items():
            if f"self.{name}(" in source:
                self.add_module(name, make())

    about = {"__init__": __init__, "forward": function, "__doc__": source, "__module__": __name__}
    return type("Spelled", (Written,), about)


def written(seed: int, change: str | None = None) -> type:
    """With a spelling of each step of squeeze-and-excitation that the seed chooses; change: a line behind a step."""
    layers = dict(
        conv1=lambda: nn.Conv2d(C, R, 1),
        conv2=lambda: nn.Conv2d(R, C, 1),
        linear1=lambda: nn.Linear(C, R),
        linear2=lambda: nn.Linear(R, C),
    )
    return made_of(layers, chosen_by(seed, STEPS), "x", change)


PROJECTED_X = """
self.project_x(x)
self.norm_x(self.project_x(x))
self.both_x(x)
"""
PROJECTED_G = """
self.project_g(g)
self.norm_g(self.project_g(g))
self.both_g(g)
"""
SUMS = """
u + w
w + u
torch.add(u, w)
u.add(w)
"""
LOGITS = """
torch.sigmoid(self.psi(r))
self.psi(r).sigmoid()
self.gate(r)
self.sigmoid(self.norm_psi(self.psi(r)))
"""
PAIR = dict(u=PROJECTED_X, w=PROJECTED_G, h=SUMS, r="self.relu(h)\nF.relu(h)\nh.relu()\nF.relu(h, inplace=True)")
PAIR |= dict(p=LOGITS, y="x * p\np * x\ntorch.mul(x, p)\nx.mul(p)\nx * p.expand_as(x)")
CHANGES_OF_TWO = """
x: x = x.flip(1)
x: x = x.detach()
g: g = g.abs()
g: g = g.detach()
g: g = g.roll(1, 0)
u: u = u * 2
u: u = u.flip(1)
w: w = w.mean((2, 3), keepdim=True)
w: w = u
h: h = h - u
h: h = h + x.mean()
r: r = r * r
r: r = r.detach()
r: r = F.dropout(r, 0.5)
p: p = p * p
p: p = 1 - p
p: p = p.detach()
p: p = p.flip(2)
p: p = p.mean(0, keepdim=True)
p: p = p.round()
y: y = y + x
y: y = y * p
y: y = y + g.mean()
y: y = torch.where(x > 0, y, x)
y: y = y.detach()
"""


def written_of_two(seed: int, change: str | None = None) -> type:
    """The attention gate of x and g, likewise."""

    def both(inputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, 4, 1, bias=False), nn.BatchNorm2d(4))

    layers = dict(
        norm_x=lambda: nn.BatchNorm2d(4),
        project_g=lambda: nn.Conv2d(G, 4, 1),
        both_g=lambda: both(G),
        norm_g=lambda: nn.BatchNorm2d(4),
        project_x=lambda: nn.Conv2d(C, 4, 1),
        both_x=lambda: both(C),
        psi=lambda: nn.Conv2d(4, 1, 1),
        norm_psi=lambda: nn.BatchNorm2d(1),
        gate=lambda: nn.Sequential(nn.Conv2d(4, 1, 1), nn.Sigmoid()),
    )
    maps = random.Random(seed).choice(("x, g", "g, x"))
    return made_of(layers, chosen_by(seed, PAIR), maps, change)
