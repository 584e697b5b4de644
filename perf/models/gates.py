"""Do gates help? One U-Net without gates, with scSE, CBAM and attention gates, seed by seed, on a folder of scenes.

    python -m segattn_triton.perf.models.gates --data DIR --ignore 11 --out FOLDER

DIR holds train/ and val/, each with images/NAME.jpg and labels/NAME.png of class numbers. A seed's four networks start
from the same weights where they share them, and see the same crops. FOLDER/gates.jsonl gets a line a run; started
again, what is missing is run, and what a kill cut short goes on from its checkpoint. Prints the tables in the end, or
of what is there with --tables. Needs `pip install ".[perf,models]"`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ... import CBAM, SCSE, AttentionGate
from .. import torchvision_cpu
from ..measure import env
from ..report.render.gates import GATE_LABELS, read, told
from ..store import append_line
from . import scenes, training


class GatedSkip(nn.Module):
    """What a decoder block concatenates, with the skip connection gated by the map from below."""

    def __init__(self, below: int, skip: int):
        super().__init__()
        self.sizes = below, skip
        self.gate = AttentionGate(skip, below)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        below, skip = x.split(self.sizes, dim=1)
        return torch.cat([below, self.gate(skip, g=below)], dim=1)


def unet(encoder: str, classes: int, gates: str, depth: int, seed: int) -> nn.Module:
    """smp's U-Net from random weights, with gates where smp has those of its decoder."""
    torch.manual_seed(seed)
    model = training.unet(encoder, classes, gates=False, depth=depth)
    below = model.encoder.out_channels[-1]
    for block, skip in zip(model.decoder.blocks, [*model.encoder.out_channels[-2:0:-1], 0], strict=True):
        if gates == "attention" and skip:
            block.attention1 = GatedSkip(below, skip)
        elif gates in ("scse", "cbam"):
            gate = SCSE if gates == "scse" else CBAM
            block.attention1 = gate(below + skip) if skip else nn.Identity()
            block.attention2 = gate(block.conv2[0].out_channels)
        below = block.conv2[0].out_channels
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--ignore", type=int, default=scenes.IGNORE, help="the value of a label that says nothing")
    parser.add_argument("--names", default="", help="of the classes, with commas")
    parser.add_argument("--encoder", default="resnet18", help="any encoder of segmentation_models_pytorch")
    parser.add_argument("--depth", type=int, default=4, choices=sorted(training.DEPTHS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=96, help="of the square crops, a multiple of 32")
    parser.add_argument("--rate", type=float, default=3e-3, help="largest learning rate")
    parser.add_argument("--seeds", type=int, default=8, help="from --first-seed on, for a process beside this one")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("gates"))
    parser.add_argument("--tables", action="store_true", help="of the runs that are there, and run nothing")
    args = parser.parse_args(arguments)
    log = args.out / "gates.jsonl"
    try:
        train, val = scenes.folders(args.data, args.ignore)
        args.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as problem:
        parser.error(str(problem))
    names = args.names.split(",") if args.names else [str(i) for i in range(train.classes)]
    if len(names) != train.classes:
        parser.error(f"--names: got {len(names)}, expected {train.classes}, as many as the labels' classes")
    settings = {name: getattr(args, name) for name in ("encoder", "depth", "steps", "batch", "side", "rate")}
    settings |= {"data": args.data.resolve().name, "names": names, "images": [len(train), len(val)]}
    records = read(log)
    if foreign := [r for r in records if {name: r.get(name) for name in settings} != settings]:
        parser.error(f"--out: {log} holds runs with other settings: {foreign[0]}")
    torchvision_cpu.install()  # changes nothing where torchvision loads as it is
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else env.cpu_name()
    done = {(r["seed"], r["gates"]) for r in records}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    todo = [(seed, gates) for seed in seeds for gates in GATE_LABELS if (seed, gates) not in done]
    for seed, gates in [] if args.tables else todo:
        model = unet(args.encoder, train.classes, gates, args.depth, seed).to(device)
        about = {**settings, "seed": seed, "gates": gates}
        checkpoint = args.out / f"{gates}-{seed}.pt"
        options = dict(seed=seed, steps=args.steps, batch=args.batch, side=args.side, peak_rate=args.rate)
        losses, seconds = training.train(model, train, about=about, dtype="float32", checkpoint=checkpoint, **options)
        scores = training.evaluate(model, val)
        found = {"miou": scores.miou, "ious": scores.ious, "val_loss": scores.loss, "seconds": sum(seconds)}
        found |= {"where": where, "torch": torch.__version__}
        append_line(log, {**about, "loss": float(np.mean(losses[-max(1, args.steps // 10) :])), **found})
        checkpoint.unlink(missing_ok=True)
        print(f"seed {seed}, {GATE_LABELS[gates]}: mIoU {scores.miou:.4f} after {sum(seconds):.0f} s", flush=True)
    print(told(read(log)))


if __name__ == "__main__":
    main()
