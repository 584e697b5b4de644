"""The network that `segattn show` shows by itself: five gates, trained in seconds on the photograph it comes with.

Nothing is pretrained: from random weights, it learns to tell the person of that one photograph from the flag and the
wall, by an outline drawn by hand. Its gates show what that takes, on this photograph, and no more.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from .. import SCSE, LocalAttention, NeighborhoodAttention2d, SpatialAttention, SqueezeExcite
from .measure import photo
from .models.scenes import normalised
from .terminal import Progress

SIZE = 256, 224  # height, width of the photograph in training
TRAINING_STEPS = 120
OUTLINE = (  # of the person, (x, y) on a photograph of 256 x 300
    (5, 300), (12, 240), (20, 205), (40, 188), (75, 178), (98, 165), (97, 150), (88, 125), (78, 110), (76, 65),
    (88, 42), (105, 18), (130, 10), (160, 18), (172, 38), (186, 48), (187, 95), (185, 115), (175, 135), (165, 155),
    (164, 170), (200, 178), (235, 195), (248, 215), (254, 260), (256, 300),
)  # fmt: skip


def _block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Portrait(nn.Module):
    """Image (N, 3, H, W) -> logit of a person (N, 1, H, W)."""

    def __init__(self):
        super().__init__()
        self.stem = _block(3, 16, stride=2)
        self.quarter = _block(16, 32, stride=2)
        self.channels = SqueezeExcite(32, 2)
        self.context = nn.Sequential(_block(32, 48, stride=2), _block(48, 48, dilation=2), _block(48, 48, dilation=4))
        self.neighbours = NeighborhoodAttention2d(48, 4)
        self.skip = SCSE(32, 4)
        self.merge = _block(32 + 48, 32)
        self.values = LocalAttention(32, depthwise=True)
        self.pixels = SpatialAttention(32)
        self.head = nn.Conv2d(32, 1, 1)
        nn.init.constant_(self.head.bias, -3.0)  # background, unless a gate lets something through

    def forward(self, image: Tensor) -> Tensor:
        fine = self.channels(self.quarter(self.stem(image)))
        coarse = self.context(fine)
        coarse = coarse + self.neighbours(coarse)
        coarse = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
        y = self.pixels(self.values(self.merge(torch.cat([self.skip(fine), coarse], 1))))
        return F.interpolate(self.head(y), size=image.shape[2:], mode="bilinear", align_corners=False)


def outline(height: int, width: int) -> Tensor:
    """(H, W): 1 inside the person's outline, 0 outside."""
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).polygon([(x * width / 256, y * height / 300) for x, y in OUTLINE], fill=1)
    return torch.from_numpy(np.array(canvas)).float()


def model() -> Portrait:
    """Trained on the photograph and its mirror image, from a fixed seed; some seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Portrait()
    image = normalised(photo.load(None, *SIZE))
    images = torch.stack([image, image.flip(2)])
    label = outline(*SIZE)
    labels = torch.stack([label, label.flip(1)])
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=TRAINING_STEPS)
    for _ in Progress("training the network of the portrait, steps", TRAINING_STEPS).of(range(TRAINING_STEPS)):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(net(images)[:, 0], labels).backward()
        optimizer.step()
        schedule.step()
    return net.eval()
