"""Do gates help? The tables of `segattn_triton.perf.models.gates`, from FOLDER/gates.jsonl."""

import math
from pathlib import Path

import numpy as np

from ...store import lines

GATE_LABELS = {"none": "none", "scse": "scSE", "cbam": "CBAM", "attention": "attention gate"}
RESAMPLES = 10_000  # of the seeds, for the interval


def read(path: Path) -> list[dict]:
    """The finished runs; a line that a kill cut short is none."""
    return [*lines(path)]


def told(records: list[dict]) -> str:
    """Where and how it was measured, and the tables."""
    if not records:
        return "Nothing has been trained yet."
    about, minutes = records[0], sum(r["seconds"] for r in records) / 60
    train, val = about["images"]
    return (
        f"Measured on {about['where']}, torch {about['torch']}, float32. U-Net with {about['encoder']}, depth "
        f"{about['depth']}, from random weights on {about['data']}, {train} images to train and {val} to judge by: "
        f"{about['steps']} steps of {about['batch']} crops of {about['side']} x {about['side']}, largest learning rate "
        f"{about['rate']:g}. {len(records)} runs, {minutes:.0f} minutes of training.\n\n{tables(records)}"
    )


def tables(records: list[dict]) -> str:
    """mIoU of each kind of gate against none, seed by seed; IoU of each class."""
    names = records[0]["names"]
    runs = {gates: {r["seed"]: r for r in records if r["gates"] == gates} for gates in GATE_LABELS}
    head = "| gates | seeds | mIoU | minus none, 95 % interval | better in | sign test |"
    rows = [head, "|---|--:|--:|--:|--:|--:|"]
    for gates, own in runs.items():
        mean = np.mean([r["miou"] for r in own.values()]) if own else math.nan
        both = sorted(own.keys() & runs["none"].keys())
        gains = np.array([own[s]["miou"] - runs["none"][s]["miou"] for s in both])
        compared = " | | |" if gates == "none" or len(both) < 2 else _compared(gains)
        rows.append(f"| {GATE_LABELS[gates]} | {len(own)} | {mean:.4f} | {compared}")
    rows += ["", "| gates | " + " | ".join(names) + " |", "|---|" + "--:|" * len(names)]
    for gates, own in runs.items():
        if own:
            ious = np.mean([r["ious"] for r in own.values()], axis=0)
            rows.append(f"| {GATE_LABELS[gates]} | " + " | ".join(f"{iou:.3f}" for iou in ious) + " |")
    return "\n".join(rows)


def _compared(gains: np.ndarray) -> str:
    """Mean difference with the interval of seeds drawn anew, and the two-sided sign test."""
    drawn = np.random.default_rng(0).choice(gains, (RESAMPLES, len(gains))).mean(1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    better, decided = int((gains > 0).sum()), int((gains != 0).sum())
    tail = sum(math.comb(decided, k) for k in range(max(better, decided - better), decided + 1)) / 2**decided
    p = min(1.0, 2 * tail)
    return f"{gains.mean():+.4f} ({low:+.4f} to {high:+.4f}) | {better} of {len(gains)} | p = {p:.2g} |"
