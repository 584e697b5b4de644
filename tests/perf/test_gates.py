"""`python -m segattn_triton.perf.models.gates`: U-Nets with and without gates, seed by seed."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from segattn_triton.perf.models import training
from segattn_triton.perf.report.render.gates import GATE_LABELS, tables

SMALL = ("--data", "data", "--ignore", "3", "--steps", "2", "--batch", "2", "--side", "32", "--out", "out")


def _write_folder(root) -> None:
    rng = np.random.default_rng(0)
    for name in ("train", "val"):
        for kind in ("images", "labels"):
            (root / name / kind).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8)).save(root / name / "images" / f"{i}.png")
            Image.fromarray(rng.integers(0, 4, (32, 40), np.uint8)).save(root / name / "labels" / f"{i}.png")


def _record(gates: str, seed: int, miou: float) -> dict:
    return {"gates": gates, "seed": seed, "miou": miou, "ious": [miou, miou], "names": ["road", "sky"]}


def test_tables_tell_a_gain_from_chance():
    """Better with each of eight seeds is more than chance; the interval is of the seeds, and absent runs are."""
    records = [_record("none", s, 0.5 + 0.01 * s) for s in range(8)]
    records += [_record("scse", s, 0.52 + 0.01 * s) for s in range(8)]
    records += [_record("cbam", s, 0.5 + 0.01 * s + (0.1 if s % 2 else -0.1)) for s in range(8)]
    lines = tables(records).splitlines()
    assert "| scSE | 8 | 0.5550 | +0.0200 (+0.0200 to +0.0200) | 8 of 8 | p = 0.0078 |" in lines
    assert next(line for line in lines if line.startswith("| CBAM")).endswith("| 4 of 8 | p = 1 |")
    assert "| attention gate | 0 | nan |  | | |" in lines
    assert "| scSE | 0.555 | 0.555 |" in lines


def test_runs_go_on_where_they_stopped(tmp_path, monkeypatch, capsys):
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        pytest.skip("the models extra is not installed")
    from segattn_triton.perf.models import gates

    monkeypatch.chdir(tmp_path)
    _write_folder(tmp_path / "data")
    own, calls = training.loss_of, []

    def interrupted(logits, labels):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return own(logits, labels)

    monkeypatch.setattr(training, "loss_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gates.main([*SMALL, "--seeds", "1", "--names", "a,b,c"])
    assert (tmp_path / "out" / "scse-0.pt").exists()
    monkeypatch.setattr(training, "loss_of", own)
    gates.main([*SMALL, "--seeds", "1", "--names", "a,b,c"])
    records = [json.loads(line) for line in (tmp_path / "out" / "gates.jsonl").read_text().splitlines()]
    assert [r["gates"] for r in records] == list(GATE_LABELS)
    assert not list(tmp_path.glob("out/*.pt"))
    printed = capsys.readouterr().out
    assert "| gates | a | b | c |" in printed and "data, 2 images to train and 2 to judge by: 2 steps" in printed
    gates.main([*SMALL, "--seeds", "1", "--names", "a,b,c"])
    assert "after" not in capsys.readouterr().out, "nothing is run twice"
    with pytest.raises(SystemExit, match="2"):
        gates.main([*SMALL[:-2], "--rate", "1", "--out", "out"])
    assert "holds runs with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [name for name in GATE_LABELS if name != "none"])
def test_networks_of_a_seed_start_alike(kind):
    """What the networks share has the same first weights, and each gate is where it is meant to be."""
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        pytest.skip("the models extra is not installed")
    from segattn_triton.perf.models import gates

    plain, gated = (gates.unet("resnet18", 3, name, 3, 0).state_dict() for name in ("none", kind))
    added = [name for name in gated if name not in plain]
    assert added and all("attention" in name for name in added)
    assert all(gated[name].equal(value) for name, value in plain.items())
