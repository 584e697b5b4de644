"""Training whole models and timing them: data are checked first, an interrupted run goes on, tables say what is."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import standins
import torch
from PIL import Image
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from segattn_triton.perf.commands import main
from segattn_triton.perf.log import read
from segattn_triton.perf.measure import backends
from segattn_triton.perf.measure.rehearsal import Rehearsal
from segattn_triton.perf.models import known as known_models
from segattn_triton.perf.models import scenes, train, training
from segattn_triton.perf.options import Failure, Usage
from segattn_triton.perf.report.render import readme, whole

SIZE = (40, 50)  # height, width


class Tiny(nn.Module):
    """A convolution or two, with scSE of a library or without."""

    def __init__(self, classes: int, gates: bool = True):
        super().__init__()
        gate = standins.SCSEModule(8) if gates else nn.Identity()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), gate, nn.Conv2d(8, classes, 1))

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """`segattn report --train` on tiny models without a page's figures; its options are optional."""
    monkeypatch.setattr(train, "models_or_usage", lambda: None)
    monkeypatch.setattr(known_models, "models_or_usage", lambda: None)
    monkeypatch.setattr(training, "unet", lambda encoder, classes, gates, depth: Tiny(classes, gates))
    monkeypatch.setattr(train, "SHAPES", (20, 3))
    monkeypatch.setattr(scenes, "LISTED", 3)

    def run(out=tmp_path / "out", **options):
        options = dict(steps=3, seeds=2, side=32, cpu=True, out=out, console=Console(quiet=True)) | options
        return train.run(**options)

    return run


def write_folder(root, images=(2, 1), top=4):
    """train/ and val/ of so many images."""
    rng = np.random.default_rng(0)
    for name, count in zip(("train", "val"), images, strict=True):
        for kind in ("images", "labels"):
            (root / name / kind).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(root / name / "images" / f"{i}.jpg")
            Image.fromarray(rng.integers(0, top, SIZE, np.uint8)).save(root / name / "labels" / f"{i}.png")
    return root


# data


def test_shapes_repeat_and_differ():
    shapes = scenes.Shapes(30, 48, seed=1)
    for (image, label), (again, same) in zip(shapes, scenes.Shapes(30, 48, seed=1), strict=True):
        assert torch.equal(image, again) and torch.equal(label, same)
        assert image.shape == (3, 48, 48) and label.shape == (48, 48) and label.dtype == torch.int64
    assert {int(v) for _, label in shapes for v in label.unique()} == {0, 1, 2, 3}
    assert not torch.equal(shapes[0][0], shapes[1][0]) and not torch.equal(shapes[0][0], scenes.Shapes(1, 48, 2)[0][0])


def test_a_folder_is_read_as_it_is(tmp_path):
    train_set, val = scenes.folders(write_folder(tmp_path), ignore=2)
    assert (len(train_set), len(val), train_set.classes, val.classes) == (2, 1, 4, 4)
    image, label = train_set[1]
    values = np.array(Image.open(tmp_path / "train" / "labels" / "1.png")).astype(int)
    assert torch.equal(label, torch.from_numpy(np.where(values == 2, scenes.IGNORE, values)))
    assert image.shape == (3, *SIZE) and abs(float(image.mean())) < 1


def broken(root, kind: str) -> None:
    label = root / "train" / "labels" / "1.png"
    if kind == "missing":
        label.unlink()
    elif kind == "unreadable":
        label.write_bytes(b"no image")
    elif kind == "cut":
        label.write_bytes(label.read_bytes()[:200])
    elif kind == "size":
        Image.new("L", (50, 41)).save(label)
    elif kind == "colour":
        Image.new("RGB", (50, 40)).save(label)
    elif kind == "values":
        Image.fromarray(np.full(SIZE, 3000, np.uint16)).save(label)
    elif kind == "other":
        Image.new("RGB", (60, 40)).save(root / "train" / "images" / "1.jpg")
        Image.new("L", (60, 40)).save(label)
    elif kind == "image":
        (root / "val" / "images" / "0.jpg").write_bytes(b"")
    elif kind == "empty":
        (root / "val" / "images" / "0.jpg").unlink()
    else:
        label.unlink()
        (root / "train" / "labels" / "0.png").unlink()
        (root / "train" / "labels").rmdir()


@pytest.mark.parametrize(
    "kind, message",
    [
        ("missing", r"train/labels/1\.png: missing, the label of 1\.jpg"),
        ("unreadable", r"train/labels/1\.png: unreadable: cannot identify"),
        ("cut", r"train/labels/1\.png: unreadable: "),
        ("size", r"train/labels/1\.png: 50 x 41, expected 50 x 40 as of its image"),
        ("colour", r"train/labels/1\.png: a colour image \(RGB\), expected one class number a pixel"),
        ("values", r"train/labels/1\.png: values from 3000 to 3000, expected classes from 0 to 254"),
        ("other", r"train/images/1\.jpg: 60 x 40, expected 50 x 40 as of the others"),
        ("image", r"val/images/0\.jpg: unreadable: "),
        ("empty", r"val/images: no images, expected files such as"),
        ("folder", r"train/labels: no such folder, expected .*/train and .*/val, each with images/ and labels/"),
    ],
)
def test_a_bad_folder_is_named_before_training(kind, message, tiny, tmp_path):
    root = write_folder(tmp_path / "data")
    broken(root, kind)
    with pytest.raises(Usage, match=f"--data: .*{message}"):
        tiny(data=root)
    assert not (tmp_path / "out").exists()


def test_many_problems_are_counted(tiny, tmp_path):
    root = write_folder(tmp_path / "data", (7, 1))
    for i in range(5):
        (root / "train" / "labels" / f"{i}.png").write_bytes(b"")
    with pytest.raises(Usage, match=r"0\.png: .*1\.png: .*2\.png: .*; and 2 more"):
        tiny(data=root)


def test_crops_and_padding():
    item = torch.rand(3, *SIZE) + 1, torch.randint(3, SIZE)
    image, label = scenes.padded(item, 32)
    assert image.shape == (3, 64, 64) and bool((label[40:] == scenes.IGNORE).all() and (image[:, :, 50:] == 0).all())
    images, labels = scenes.batch([item], [0] * 6, 32, np.random.default_rng(0))
    assert images.shape == (6, 3, 32, 32) and bool((labels < 3).all())
    values = set(item[0].flatten().tolist())
    assert all(v in values for v in images.flatten().tolist())
    images, labels = scenes.batch([item], [0], 64, np.random.default_rng(0))  # larger than the image
    assert labels.shape == (1, 64, 64) and int((labels != scenes.IGNORE).sum()) == SIZE[0] * SIZE[1]


# training


class Reads(nn.Module):
    """Predicts the class that the first channel says; of class 1 it sees none."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        seen = torch.where(x[:, 0].round() == 1, 0.0, x[:, 0].round())
        return 20 * nn.functional.one_hot(seen.long(), 4).permute(0, 3, 1, 2).float()


def test_evaluate_counts_what_is_known():
    label = torch.tensor([[0, 0, 1, scenes.IGNORE], [2, 2, 2, 2]])
    item = torch.stack([torch.where(label == scenes.IGNORE, 0, label).float()] * 3), label

    class Data(list):
        classes = 4

    scores = training.evaluate(Reads(), Data([item] * 11))
    assert scores.ious == pytest.approx([2 / 3, 0, 1])  # class 3 is nowhere
    assert scores.miou == pytest.approx(5 / 9) and scores.loss == pytest.approx(20 / 7, rel=1e-3)


def test_the_records_and_the_table(tiny, tmp_path):
    page = tiny()
    records = read(tmp_path / "out", "training")
    wanted = set(itertools.product(train.VARIANTS, whole.TRAINED_DTYPES, range(2)))
    assert {(r["variant"], r["dtype"], r["seed"]) for r in records} == wanted and len(records) == len(wanted)
    runs = {(r["variant"], r["dtype"], r["seed"]): r for r in records}
    for dtype, seed in itertools.product(whole.TRAINED_DTYPES, range(2)):  # at the same seed the same training
        plain, fast = runs["plain", dtype, seed], runs["accelerated", dtype, seed]
        assert fast["losses"] == pytest.approx(plain["losses"], rel=1e-4 if dtype == "float32" else 2e-2)
        assert runs["without", dtype, seed]["losses"] != plain["losses"]
    lines = whole.training_lines(records)
    assert [line.gates for line in lines] == ["none", "scSE", "scSE, accelerated"] * 2
    assert [line.inside for line in lines] == [None, None, True] * 2
    assert "Training with the gates" in page.read_text() and "pure torch" in page.read_text()
    assert "What the gates of a trained model look at" in page.read_text() and ">layers.2<" in page.read_text()
    assert not (tmp_path / "out" / "training.pt").exists()


def test_interrupted_within_a_run_resume_finishes(tiny, tmp_path, monkeypatch):
    tiny(out=tmp_path / "whole")
    own, calls = scenes.batch, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3 + 2:  # in the second run
            raise KeyboardInterrupt
        return own(*args)

    monkeypatch.setattr(scenes, "batch", interrupted)
    with pytest.raises(Failure, match="interrupted; --resume continues"):
        tiny()
    path = tmp_path / "out" / "training.jsonl"
    assert len(read(tmp_path / "out", "training")) == 1 and (tmp_path / "out" / "training.pt").exists()
    path.write_text(path.read_text() + '{"variant": "pl')  # a line cut short
    tiny(resume=True)
    assert len(calls) == 5 + 12 * 3 - 4  # nothing is trained twice

    def values(folder):
        return {(r["variant"], r["dtype"], r["seed"]): (r["losses"], r["miou"]) for r in read(folder, "training")}

    assert values(tmp_path / "out") == values(tmp_path / "whole")


def test_resume_refuses_other_settings_and_an_earlier_one_is_kept(tiny, tmp_path):
    tiny()
    with pytest.raises(Usage, match=r"training\.jsonl was measured with steps 3, here it is 4; choose another --out"):
        tiny(steps=4, resume=True)
    tiny(steps=4)
    assert (
        len((tmp_path / "out" / "training-1.jsonl").read_text().splitlines())
        == len(read(tmp_path / "out", "training"))
        == 12
    )
    (tmp_path / "out" / "training.json").write_text("[]")
    with pytest.raises(Usage, match="does not describe a report"):
        tiny(steps=4, resume=True)


def test_outside_the_band_is_a_failure(tiny, tmp_path, monkeypatch):
    def wrong(model, **options):
        nn.init.zeros_(model.layers[0].weight)  # sees nothing
        nn.init.constant_(model.layers[3].bias, 3.0)
        model.layers[3].bias.data[0] = -30.0
        return model

    monkeypatch.setattr(train, "accelerate", wrong)
    monkeypatch.setattr(train, "draw_maps", lambda *args: None)
    with pytest.raises(Failure, match="outside the seed-to-seed band: fp32, bf16"):
        tiny()
    assert "**no**" in [line.cells[-1] for line in whole.training_lines(read(tmp_path / "out", "training"))]


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    path = tmp_path / "unet.pt"
    assert training.load(path, {"encoder": "a"}) is None
    training.save(path, {"about": {"encoder": "a", "steps": 3}})
    assert training.load(path, {"encoder": "a", "steps": 3})
    with pytest.raises(ValueError, match=r"of another training: encoder 'a', here 'b'$"):
        training.load(path, {"encoder": "b", "steps": 3})
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a checkpoint of this training"):
        training.load(path, {})


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--train", "--seeds", "1"], "--seeds: got 1, expected at least 2"),
        (["--train", "--side", "40"], "--side: got 40, expected at least 32 and a multiple of 32"),
        (["--train", "--preset", "long"], "--preset: got 'long', expected one of quick, full"),
        (["--models", "--preset", "long"], "--preset: got 'long', expected one of quick, full"),
        (["--models", "--budget", "3"], "--budget: got 3, expected more than 15 seconds"),
        (["--train", "--data", "/nowhere"], "--data: /nowhere/train/images: no such folder"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message, tiny):
    done = CliRunner().invoke(main, ["report", "--cpu", *arguments])
    assert done.exit_code == 2 and done.stderr.startswith("segattn: " + message), done.stderr


def test_what_gates_change_is_told_from_chance():
    """Five seeds that all gain have one chance in sixteen; six that do, one in 32."""

    def records(gains):
        values = [
            (v, seed, 0.5 + 0.1 * seed + (v != "without") * g)
            for seed, g in enumerate(gains)
            for v in whole.VARIANT_LABELS
        ]
        return [{"variant": v, "seed": seed, "miou": miou, "status": "ok"} for v, seed, miou in values]

    (five,) = whole.bought(records([0.01, 0.02, 0.03, 0.02, 0.02]))
    assert "by +0.020 (+0.010 to +0.030 over 5 seeds, above zero in 5;" in five and "no more than chance" in five
    assert "p = 0.062" in five
    (six,) = whole.bought(records([0.01, 0.02, 0.03, 0.02, 0.02, 0.01]))
    assert ": more than chance would do (p = 0.031" in six
    (mixed,) = whole.bought(records([0.3, -0.2, 0.1, -0.15, 0.01, 0.02, -0.1, 0.05]))
    assert "above zero in 5;" in mixed and "no more than chance" in mixed
    assert whole.bought(records([0.3])) == []
    assert whole.bought([r for r in records([0.3, 0.2]) if r["variant"] != "without"]) == []


# whole models


SETTINGS = known_models.TimingSettings(("tiny", "plain"), ((2, 8, 8),), "float32", "channels_last", calls=100, steps=5)


@pytest.fixture
def timed(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(known_models, "MODELS", {"tiny": lambda: Tiny(19), "plain": lambda: Tiny(19, gates=False)})
    monkeypatch.setattr(backends.Cpu, "compile_model", lambda self, model: model)

    def run(**options):
        known_models.run(out=tmp_path, console=Console(quiet=True), **{"settings": SETTINGS, "cpu": True, **options})
        return read(tmp_path, "models")

    return run


def test_models_are_timed_in_every_way(timed, tmp_path):
    """One without gates cannot be accelerated: that is said, and costs the others nothing."""
    records = timed()
    assert len(records) == 2 * 3 * 4
    for r in records:
        bad = r["model"] == "plain" and r["provider"] in ("accelerated", "both")
        assert r["status"].startswith("failed: RuntimeError: strict: there is nothing") if bad else r["status"] == "ok"
        if not bad:
            assert r["calls"] == (100 if r["mode"] == "latency" else 5 * known_models.TOGETHER)
            assert 0 < r["p50_ms"] <= (r["p99_ms"] or r["p50_ms"]) and (r["p99_ms"] is None) == (r["mode"] != "latency")
            assert r["N"] == (1 if r["mode"] == "latency" else 2)
            assert r["images_per_second"] == pytest.approx(1e3 * r["N"] / r["p50_ms"])
    text = (tmp_path / "index.html").read_text()
    assert "no GPU result" in text and "eager, accelerated" in text and "there is nothing to accelerate" in text
    again = timed(resume=True)  # what failed is tried again
    assert [r for r in again if r["model"] == "tiny"] == [r for r in records if r["model"] == "tiny"]
    assert len(again) == len(records)


class Slow(backends.Cpu):
    """Every look at the clock takes a second, every compilation a hundred."""

    at = 0.0

    def now(self):
        self.at += 1.0
        return self.at

    def compile_model(self, model):
        self.at += 100.0
        return model


def test_models_stop_in_time_and_resume_finishes(timed, tmp_path):
    assert 0 < len(timed(backend=Slow(), budget=30.0)) < 24
    assert len(timed(resume=True)) == 24


def test_models_leave_out_what_there_is_no_time_to_compile(timed):
    """Within a group, too: what needs no compiler is timed, in as many rounds as there is time for."""
    settings = dataclasses.replace(SETTINGS, models=("tiny",), steps=1000)
    records = timed(backend=Slow(), settings=settings, budget=known_models.RESERVE + 40.0)
    assert [(r["mode"], r["provider"]) for r in records] == [("training", "eager"), ("training", "accelerated")]
    assert all(r["status"] == "ok" and r["calls"] < 60 * known_models.TOGETHER for r in records)


@pytest.mark.parametrize("when", ["prepared", "timed"])
def test_a_model_out_of_memory_costs_the_others_nothing(timed, monkeypatch, when):
    own, calls, recovered = known_models.prepared, [], []

    def prepared(name, mode, provider, *args):
        call = own(name, mode, provider, *args)
        if (name, mode, provider) != ("tiny", "training", "compiled"):
            return call

        def full():
            calls.append(1)
            if when == "prepared" or len(calls) > known_models.WARM_UPS + 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return call()

        return dataclasses.replace(call, run=full)

    monkeypatch.setattr(known_models, "prepared", prepared)
    monkeypatch.setattr(backends.Cpu, "recover", lambda self: recovered.append(1))
    settings = dataclasses.replace(SETTINGS, models=("tiny",))
    records = {(r["mode"], r["provider"]): r for r in timed(settings=settings)}
    assert len(records) == 12 and recovered
    failed = records.pop(("training", "compiled"))
    assert failed["status"].startswith("failed: OutOfMemoryError: CUDA out of memory") and "p50_ms" not in failed
    assert all(r["status"] == "ok" for r in records.values())


def test_a_lost_device_is_known_on_resume_and_its_group_comes_last(timed, tmp_path, monkeypatch):
    own, order = known_models.prepared, []

    def prepared(name, mode, *args):
        order.append((name, mode))
        if (name, mode) == ("tiny", "training"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return own(name, mode, *args)

    def lost(self):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(known_models, "prepared", prepared)
    settings = dataclasses.replace(SETTINGS, models=("tiny",))
    with monkeypatch.context() as broken, pytest.raises(Failure, match=r"the device is lost.*--resume goes on"):
        broken.setattr(backends.Cpu, "recover", lost)
        timed(settings=settings)
    assert [r["status"][:27] for r in read(tmp_path, "models")] == ["failed: RuntimeError: CUDA "[:27]]
    order.clear()
    assert len(timed(settings=settings, resume=True)) == 12
    assert order[-4:] == [("tiny", "training")] * 4 and ("tiny", "training") not in order[:-4]


def test_a_rehearsal_writes_the_files(timed, tmp_path):
    """Of both sizes, in bfloat16, with peak memory: what a GPU would write."""
    sizes = ((2, 8, 8), (1, 8, 16))
    settings = dataclasses.replace(SETTINGS, models=("tiny",), sizes=sizes, dtype="bfloat16")
    records = timed(settings=settings, backend=Rehearsal())
    assert len(records) == 2 * 3 * 4 and all(r["status"] == "ok" and r["peak_memory"] > 0 for r in records)
    latencies = [r for r in records if r["mode"] == "latency"]
    assert {(r["N"], r["H"], r["W"]) for r in latencies} == {(1, 8, 8), (1, 8, 16)}
    assert all(r["p99_ms"] >= r["p50_ms"] > 0 for r in latencies)
    assert json.loads((tmp_path / "models.json").read_text())["settings"]["dtype"] == "bfloat16"
    assert "Whole models" in (tmp_path / "index.html").read_text()


def test_what_a_gpu_times(timed):
    """The sizes and settings that the targets speak of."""
    for preset in known_models.GPU_PRESETS.values():
        assert [(H, W) for _, H, W in preset.sizes] == [(512, 512), (1024, 2048)]
        assert (preset.dtype, preset.layout) == (
            "bfloat16",
            "channels_last",
        ) and preset.calls >= known_models.LEAST_TAIL


def test_models_interrupted_resume_finishes(timed, tmp_path, monkeypatch):
    own, groups = known_models._Timing.run, []

    def interrupted(timing):
        groups.append(timing.group)
        if len(groups) == 3:
            raise KeyboardInterrupt
        return own(timing)

    settings = dataclasses.replace(SETTINGS, models=("tiny",))
    monkeypatch.setattr(known_models._Timing, "run", interrupted)
    with pytest.raises(Failure, match="interrupted; --resume continues"):
        timed(settings=settings)
    assert len(read(tmp_path, "models")) == 8
    assert len(timed(settings=settings, resume=True)) == 12 and len(groups) == 4


def test_tables_compare_with_eager(tmp_path):
    point = {"model": "m", "mode": "training", "N": 8, "H": 512, "W": 512, "status": "ok", "images_per_second": 100.0}
    eager = {**point, "provider": "eager", "p50_ms": 80.0, "p99_ms": 90.0, "peak_memory": 2**30}
    ours = {**point, "provider": "accelerated", "p50_ms": 64.0, "p99_ms": 70.0, "peak_memory": 2**29}
    assert whole.models_lines([eager, ours])[1] == (
        "m", "training", "8×512×512", "eager, accelerated", "100", "1.25×", "64.0", "70.0", "512 MiB", "50 %",
    )  # fmt: skip
    tail = {**eager, "mode": "latency", "N": 1, "p50_ms": 4.0, "p99_ms": 5.0}
    assert whole.headline([eager, ours, tail]) == [
        "m, 512×512: training eager, accelerated 1.25× as fast as eager in 50 % of its peak memory; "
        "one image eager: p50 4.00 ms, p99 5.00 ms"
    ]
    folder = tmp_path / "perf" / "results" / "gpu"
    folder.mkdir(parents=True)
    (folder / "models.jsonl").write_text("\n".join(map(json.dumps, [eager, ours])))
    assert readme.whole_part(tmp_path, "models") == "No GPU numbers yet."
    about = {"gpu": {"name": "H200"}, "device": "H200", "settings": {"dtype": "bfloat16", "layout": "channels_last"}}
    (folder / "models.json").write_text(json.dumps(about))
    text = readme.whole_part(tmp_path, "models")
    assert text.startswith("Measured on H200") and "| 1.25× |" in text and "CPU" not in text
    assert "\n- m, 512×512: training eager, accelerated 1.25× as fast as eager in 50 %" in text
