"""From a label to a mask: Grad-CAM of a small classifier, drawn to the edges of the image by its affinities.

    python examples/refine_cam.py --out refined.png

The classifier is trained there and then, some seconds on a CPU, on crops of the photograph that comes with matplotlib,
each with a label and no more: whether the person is in the middle of it. Needs `pip install ".[perf]"`.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from segattn_triton import viz
from segattn_triton.functional import pixel_adaptive_refinement
from segattn_triton.perf.measure import photo
from segattn_triton.perf.portrait import outline

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", type=Path, default=Path("refined.png"), help="the picture")
parser.add_argument("--training", type=int, default=60, help="steps of the classifier's training")
parser.add_argument("--steps", type=int, default=10, help="steps of the refinement")
parser.add_argument("--threshold", type=float, default=0.2, help="of the mask, a share of the largest Grad-CAM")
args = parser.parse_args()

HEIGHT, WIDTH, SIDE, CROPS = 256, 224, 48, 48
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
photograph = photo.load(None, HEIGHT, WIDTH)
image = torch.tensor(photograph, device=device).permute(2, 0, 1)[None] / 255
person = outline(HEIGHT, WIDTH)  # by hand: whose middle a crop's label is, and what the masks are measured by


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


torch.manual_seed(0)
features = nn.Sequential(block(3, 16, 2), block(16, 32, 2), block(32, 32, 1), block(32, 48, 2)).to(device)
head = nn.Linear(48, 1).to(device)
optimizer = torch.optim.AdamW([*features.parameters(), *head.parameters()], lr=3e-3, weight_decay=1e-3)
for _ in range(args.training):
    tops, lefts = (torch.randint(0, size - SIDE, (CROPS,)) for size in (HEIGHT, WIDTH))
    places = list(zip(tops.tolist(), lefts.tolist(), strict=True))
    crops = torch.cat([image[:, :, top : top + SIDE, left : left + SIDE] for top, left in places])
    labels = torch.stack([person[top + SIDE // 2, left + SIDE // 2] for top, left in places]).to(device)
    optimizer.zero_grad()
    F.binary_cross_entropy_with_logits(head(features(crops).mean((2, 3)))[:, 0], labels).backward()
    optimizer.step()

# Grad-CAM: the last features, each weighted by the mean of the logit's gradient, what speaks for the person alone
maps = features.eval()(image)
(gradient,) = torch.autograd.grad(head(maps.mean((2, 3))).sum(), maps)
cam = F.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True)).detach()
cam = cam / cam.max()  # (1, 1, H / 8, W / 8)

refined = pixel_adaptive_refinement(image, cam, dilations=(1, 2, 4, 8, 12, 24), steps=args.steps)
coarse = F.interpolate(cam, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=True)


def overlap(found: torch.Tensor) -> float:
    """Intersection over union of a mask and the outline."""
    found, wanted = found[0, 0].cpu() > 0, person > 0
    return float((found & wanted).sum() / (found | wanted).sum())


masks = {name: (t > args.threshold).float() for name, t in (("Grad-CAM", coarse), ("refined", refined))}
shown = {"Grad-CAM": coarse, "refined": refined}
shown |= {f"mask: {name}, IoU {overlap(mask):.2f}": mask for name, mask in masks.items()}
viz.plot_gates(shown, photograph).savefig(args.out)
print(*(f"{name}: IoU with the outline {overlap(mask):.3f}" for name, mask in masks.items()), args.out, sep="\n")
