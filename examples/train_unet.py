"""Train smp's U-Net with scSE gates on a folder of images and masks, or on made-up shapes.

    python examples/train_unet.py --data DIR --accelerate

DIR holds train/ and val/, each with images/NAME.jpg and labels/NAME.png of class numbers. Where --checkpoint exists,
the training goes on from it. Needs `pip install ".[perf,models]"`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from segattn_triton import accelerate
from segattn_triton.perf import torchvision_cpu
from segattn_triton.perf.models import scenes, training

torchvision_cpu.install()  # changes nothing where torchvision loads as it is
import segmentation_models_pytorch as smp  # noqa: E402

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, help="folder with train/ and val/; shapes are made without")
parser.add_argument("--ignore", type=int, default=scenes.IGNORE, help="the value of a label that says nothing")
parser.add_argument("--encoder", default="resnet18", help="any encoder of segmentation_models_pytorch")
parser.add_argument("--accelerate", action="store_true", help="run the gates on the kernels")
parser.add_argument("--bf16", action="store_true", help="under bfloat16 autocast")
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--side", type=int, default=64, help="of the square crops, a multiple of 32")
parser.add_argument("--rate", type=float, default=2e-3, help="largest learning rate")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--save-every", type=int, default=50, help="steps")
parser.add_argument("--checkpoint", type=Path, default=Path("unet.pt"))
args = parser.parse_args()

try:
    if args.side < 32 or args.side % 32:
        raise ValueError(f"--side: got {args.side}, expected a multiple of 32")
    if args.data is None:
        train, val = scenes.Shapes(10_000, args.side, seed=1), scenes.Shapes(64, args.side, seed=2)
    else:
        train, val = scenes.folders(args.data, args.ignore)
    about = {"encoder": args.encoder, "classes": train.classes, "data": str(args.data), "steps": args.steps}
    state = training.load(args.checkpoint, about)
    torch.manual_seed(args.seed)
    model = smp.Unet(args.encoder, encoder_weights=None, decoder_attention_type="scse", classes=train.classes)
    args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
except (ValueError, KeyError, OSError) as problem:
    parser.error(str(problem))

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model.to(device)
if args.accelerate:
    accelerate(model)
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
start = 0
if state:
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    start = state["step"]

bar = tqdm(range(start, args.steps), initial=start, total=args.steps)
for step in bar:
    rng = np.random.default_rng((args.seed, step))  # a resumed training sees what an uninterrupted one would
    images, labels = scenes.batch(train, rng.integers(len(train), size=args.batch), args.side, rng)
    optimizer.param_groups[0]["lr"] = training.rate(step, args.steps, args.rate)
    optimizer.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
        loss = training.loss_of(model(images.to(device)), labels.to(device))
    loss.backward()
    optimizer.step()
    bar.set_postfix(loss=f"{loss.item():.3f}")
    if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
        parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
        training.save(args.checkpoint, {"about": about, **parts})

scores = training.evaluate(model, val, "bfloat16" if args.bf16 else "float32")
print(f"validation loss {scores.loss:.4f}, mIoU {scores.miou:.4f}")
