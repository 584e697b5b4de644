"""The examples run as they stand: the notebook top to bottom; the script, also after it was interrupted; the masks."""

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segattn_triton.perf import portrait
from segattn_triton.perf.measure import backends
from segattn_triton.perf.models import training
from segattn_triton.perf.report import job as report

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ("--side", "32", "--batch", "2", "--save-every", "2")


@pytest.fixture(autouse=True)
def _installed():
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        pytest.skip("the models extra is not installed")


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Run examples/train_unet.py with these arguments in a folder of its own; what it leaves in its names."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> dict:
        monkeypatch.setattr(sys, "argv", ["train_unet.py", *SMALL, *arguments])
        return runpy.run_path(str(EXAMPLES / "train_unet.py"), run_name="__main__")

    return run


def write_folder(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("train", "val"):
        for kind in ("images", "labels"):
            (root / name / kind).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(root / name / "images" / f"{i}.jpg")
            Image.fromarray(rng.integers(0, 4, (40, 50), np.uint8)).save(root / name / "labels" / f"{i}.png")


def test_script_interrupted_goes_on_as_if_it_had_not_been(script, monkeypatch, tmp_path, capsys):
    whole = script("--steps", "4", "--checkpoint", "whole.pt")["model"].state_dict()
    assert "mIoU" in capsys.readouterr().out
    own, calls = training.loss_of, []

    def interrupted(logits, labels):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return own(logits, labels)

    monkeypatch.setattr(training, "loss_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script("--steps", "4")
    monkeypatch.setattr(training, "loss_of", own)
    assert torch.load("unet.pt")["step"] == 2
    finished = script("--steps", "4")["model"].state_dict()
    assert all(torch.equal(finished[name], whole[name]) for name in whole)


def test_script_on_a_folder(script, tmp_path, capsys):
    """Accelerated, under autocast; then what is wrong is said in one line."""
    write_folder(tmp_path / "data")
    script("--data", "data", "--steps", "1", "--accelerate", "--bf16", "--ignore", "3")
    assert "10 of 10 gates accelerated" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        script("--data", "data", "--steps", "2", "--ignore", "3")
    assert "unet.pt: a checkpoint of another training: steps 1, here 2" in capsys.readouterr().err
    (tmp_path / "data" / "val" / "labels" / "1.png").unlink()
    with pytest.raises(SystemExit, match="2"):
        script("--data", "data")
    assert "1.png: missing, the label of 1.jpg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--side", "50"], "--side: got 50, expected a multiple of 32"),
        (["--encoder", "resnet19"], "Wrong encoder name `resnet19`"),
        (["--checkpoint", "train_unet.log/unet.pt"], "train_unet.log"),
        (["--data", "nowhere"], "nowhere/train/images: no such folder"),
    ],
)
def test_script_says_what_is_wrong_before_it_trains(script, capsys, arguments, said):
    Path("train_unet.log").write_text("a file where a folder is wanted")
    with pytest.raises(SystemExit, match="2"):
        script("--steps", "1", *arguments)
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert list(Path().iterdir()) == [Path("train_unet.log")]


def test_notebook_top_to_bottom(monkeypatch, tmp_path, capsys):
    """With a shorter training, and no compiler in its report."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(portrait, "TRAINING_STEPS", 3)
    monkeypatch.setattr(backends.Cpu, "compile", lambda self, fn: fn)
    monkeypatch.setattr(backends.Cpu, "sizes", lambda self, *sizes: tuple(min(size, 64) for size in sizes))
    monkeypatch.setattr(report.predict, "records", lambda points, seconds: [])
    namespace: dict = {}
    for number, cell in enumerate(json.loads((EXAMPLES / "quickstart.ipynb").read_text())["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
    assert "10 of 10 gates accelerated" in capsys.readouterr().out
    assert Path("attention.png").stat().st_size > 10_000 and namespace["page"].exists()
    assert len(namespace["maps"]) == 5


def test_a_mask_from_labels_alone(monkeypatch, tmp_path, capsys):
    """With its own settings: the refined mask is nearer to the outline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["refine_cam.py"])
    ran = runpy.run_path(str(EXAMPLES / "refine_cam.py"), run_name="__main__")
    assert "refined: IoU with the outline 0." in capsys.readouterr().out
    overlaps = {name: ran["overlap"](mask) for name, mask in ran["masks"].items()}
    assert overlaps["refined"] > overlaps["Grad-CAM"] > 0.5
    assert Path("refined.png").stat().st_size > 10_000
