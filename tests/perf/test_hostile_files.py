"""Files that are not what they seem to be, and numbers without an end: one line each, and nothing is lost."""

import dataclasses
import inspect
import json
import tarfile
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from test_bad_input import refused
from typer.testing import CliRunner

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from made_up import record, write

from segattn_triton import viz
from segattn_triton.perf import log, records
from segattn_triton.perf.commands import main
from segattn_triton.perf.measure import photo
from segattn_triton.perf.models import scenes, training
from segattn_triton.perf.options import Usage
from segattn_triton.perf.prepared import keep
from segattn_triton.perf.report import render
from segattn_triton.perf.report.render import figures

HUGE = str(10**400)


# a folder that holds other things


def foreign_checkpoint(path):
    torch.save({"weights": torch.zeros(3)}, path)


def empty_checkpoint(path):
    path.touch()


def no_checkpoint(path):
    path.write_text("my notes")


def folder_for_checkpoint(path):
    path.mkdir()


def whole_module(path):
    torch.save(torch.nn.Linear(2, 2), path)


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["new", "resumed"])
@pytest.mark.parametrize(
    "place", [foreign_checkpoint, empty_checkpoint, no_checkpoint, folder_for_checkpoint, whole_module]
)
def test_a_training_deletes_no_checkpoint_of_anothers(place, resume, tmp_path):
    path = tmp_path / "training.pt"
    place(path)
    before = path.read_bytes() if path.is_file() else None
    said = refused("report", "--train", "--cpu", "--out", str(tmp_path), *resume)
    assert "training.pt is no checkpoint of a report" in said
    assert path.exists() and (before is None or path.read_bytes() == before)
    assert {p.name for p in tmp_path.iterdir()} == {"training.pt"}


def test_what_a_training_saves_is_its_own(tmp_path):
    training.save(tmp_path / "training.pt", dict(about={"seed": 1}, model={}, optimizer={}, losses=[], seconds=[]))
    assert training.is_checkpoint(tmp_path / "training.pt")


def test_a_page_of_anothers_is_kept(tmp_path):
    write(tmp_path, [record()], {"device": "cpu", "gpu": None})
    (tmp_path / "index.html").write_text("<title>my site</title>")
    for _ in range(2):  # our own is written anew
        assert "segattn_triton" in render.render(tmp_path).read_text()
    assert (tmp_path / "index-1.html").read_text() == "<title>my site</title>"
    assert not (tmp_path / "index-2.html").exists()


# results

WRONG = [None, [], {}, "x", -(10**400), 10**400, float("nan"), float("inf"), True, [1], {"a": 1}]


def test_records_of_wrong_types_are_passed_over(tmp_path):
    """Every value of a record replaced by every kind of another: what is left can be counted with and drawn."""
    good = dataclasses.asdict(record())
    lines = [good]
    for name in (*good, *(f"point.{name}" for name in good["point"])):
        for value in WRONG:
            changed = json.loads(json.dumps(good))
            outer, _, inner = name.rpartition(".")
            (changed[outer] if outer else changed)[inner] = value
            lines.append(changed)
    lines.append(good)
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = list(records.load(tmp_path / "records.jsonl"))
    assert record() in found
    for one in found:
        assert one.ms is None or one.ms + 0.0 < 1e19
        assert all(type(getattr(one.point, side)) is int for side in "NCHW") and isinstance(one.point.op, str)


@pytest.mark.parametrize("name", ["training", "models"])
def test_logs_of_wrong_types_are_passed_over(name, tmp_path):
    good = {key: "x" for key in log.KEYS[name]} | {field: 1.0 for field in log.FIELDS[name]} | {"status": "ok"}
    wrong = [good | {field: value} for field in log.FIELDS[name] for value in ("x", [], {}, True)]
    lines = [good, *wrong, [], 3, "x", None, good | {"status": []}, good | {log.KEYS[name][0]: []}]
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert log.read(tmp_path, name)[0] == good | {"status": log.read(tmp_path, name)[0]["status"]}


@pytest.mark.parametrize("bytes", [0, 1, 100, -10])
def test_maps_that_were_cut(bytes, tmp_path):
    np.savez(tmp_path / "maps.npz", photo=np.zeros((8, 9, 3), np.uint8), spatial_gate=np.eye(8))
    whole = (tmp_path / "maps.npz").read_bytes()
    (tmp_path / "maps.npz").write_bytes(whole[:bytes])
    assert figures.draw_maps(tmp_path / "maps.npz", tmp_path / "plots") is None


@pytest.mark.parametrize("content", ["cut", "empty", "text", "other"])
def test_an_archive_that_is_none(content, tmp_path):
    """The folder of results is as it was."""
    (tmp_path / "records.jsonl").write_text("{}\n" * 10_000)
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as file:
        file.add(tmp_path / "records.jsonl", "records.jsonl")
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    path, out = tmp_path / "results.tar.gz", tmp_path / "out"
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no archive", "other": whole}[content])
    with pytest.raises(Usage, match=r"results\.tar\.gz (is no whole|holds no environment)"):
        keep.keep(path, out)
    assert not out.exists()


# images


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "L"])
def test_values_beyond_a_byte_are_scaled(mode, tmp_path):
    """A ramp stays a ramp, from black to white, in whatever form it is stored."""
    ramp = np.linspace(0, 1, 64)[None].repeat(8, 0)
    values, suffix = {
        "I;16": (np.uint16(ramp * 65535), "png"),
        "I": (np.int32(ramp * 65535), "tif"),
        "F": (np.float32(ramp), "tif"),
        "L": (np.uint8(ramp * 255), "png"),
    }[mode]
    path = tmp_path / f"ramp.{suffix}"
    Image.fromarray(values).save(path)
    got = photo.load(path, 8, 64)
    assert got.dtype == np.uint8 and got.shape == (8, 64, 3)
    assert np.abs(got / 255 - ramp[..., None]).max() <= 1.5 / 255


def test_a_training_reads_them_alike(tmp_path):
    write_pairs(tmp_path, np.uint16(np.linspace(0, 65535, 64))[None].repeat(64, 0), label=1)
    image, _ = scenes.folders(tmp_path)[0][0]
    assert np.ptp(scenes.picture(image)) == 255 and len(np.unique(scenes.picture(image))) == 64


def write_pairs(root, image, label: int) -> None:
    for part in ("train", "val"):
        for name, values in (("images", image), ("labels", np.full(image.shape[:2], label, np.uint8))):
            (root / part / name).mkdir(parents=True)
            Image.fromarray(values).save(root / part / name / "1.png")


def test_labels_that_say_nothing(tmp_path):
    write_pairs(tmp_path, np.zeros((64, 64, 3), np.uint8), label=255)
    said = refused("report", "--train", "--cpu", "--data", str(tmp_path), "--out", str(tmp_path / "out"))
    assert "every pixel of every label is 255, which is ignored" in said
    assert not (tmp_path / "out").exists()


def test_a_batch_without_labels_teaches_nothing():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.full((2, 4, 4), scenes.IGNORE)
    loss = training.loss_of(logits, labels)
    loss.backward()
    assert loss == 0 and not logits.grad.any()
    labels[0] = 1
    known = torch.nn.functional.cross_entropy(logits, labels, ignore_index=scenes.IGNORE)
    torch.testing.assert_close(training.loss_of(logits, labels), known)


# models, and what they are shown


@pytest.fixture
def factories(tmp_path, monkeypatch):
    """Modules beside the caller."""
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "made.py").write_text(
        "import sys, torch\nfrom segattn_triton import SpatialAttention\n"
        "def leaves(): sys.exit('goodbye')\n"
        "def gates(): return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), SpatialAttention(4))\n"
    )
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("spec", ["leaves:x", "made:leaves"])
@pytest.mark.parametrize("command", [["report", "--cpu", "--input", "1x3x8x8"], ["show"]], ids=["report", "show"])
def test_a_factory_that_exits(spec, command, factories, tmp_path):
    assert "SystemExit" in refused(*command, "--model", spec, "--out", str(tmp_path / "out"))


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)], ids=str)
def test_a_line_of_an_image_is_shown(size, factories, tmp_path):
    Image.new("RGB", size).save(tmp_path / "$a_{1$ line.png")
    options = ["--model", "made:gates", "--image", "$a_{1$ line.png", "--side", "64", "--out", "picture.png"]
    done = CliRunner().invoke(main, ["show", *options])
    assert done.exit_code == 0, (done.output, done.exception)
    assert Image.open(tmp_path / "picture.png").size[0] > 100


def test_a_folder_in_the_place_of_the_picture(factories, tmp_path):
    (tmp_path / "folder").mkdir()
    for out in ("folder", "folder/x.nothing"):
        said = refused("show", "--model", "made:gates", "--side", "32", "--out", str(tmp_path / out))
        assert said.startswith("segattn: --out: cannot write")


def test_a_name_with_dollars_is_a_name():
    maps = {"$\\frac{$ a_$": torch.rand(1, 1, 4, 4), "$b": torch.rand(1, 3)}
    viz.plot_gates(maps, np.zeros((4, 4, 3), np.uint8), "$\\x$ {", "caption $\\y{$").canvas.draw()


@pytest.mark.parametrize("size", ["99999999x3x99999999x9", "9999999x9999999", f"1x3x{HUGE}x1", "x" * 5000])
def test_an_input_past_memory(size, factories, tmp_path):
    said = refused("report", "--cpu", "--model", "made:gates", "--input", size, "--out", str(tmp_path / "out"))
    assert said.startswith("segattn: --input: ") and len(said) < 200


# numbers without an end

NUMBERS = {
    "report": [
        "--budget",
        "--train --steps",
        "--train --seeds",
        "--train --side",
        "--train --ignore",
        "--models --budget",
    ],
    "tune": ["--budget"],
    "show": ["--side"],
    "against": ["--side", "--channels"],
}
EACH = [(command, option) for command, options in NUMBERS.items() for option in options]


@pytest.mark.parametrize("value", [HUGE, f"-{HUGE}"], ids=["huge", "low"])
@pytest.mark.parametrize(("command", "option"), EACH, ids=" ".join)
def test_numbers_without_an_end(command, option, value, tmp_path):
    said = refused(command, *["--cpu"] * (command == "report"), *option.split(), value, "--out", str(tmp_path / "out"))
    assert option.split()[-1] in said and len(said) < 300


def test_every_number_is_tried():
    """Each option of every command that takes one."""
    taken = {
        (command.callback.__name__, f"--{name}")
        for command in main.registered_commands
        for name, kind in get_type_hints(inspect.unwrap(command.callback)).items()
        if {int, float} & {kind, *get_args(kind)}
    }
    more_than_all_are_all = {("spaces", option) for option in ("--cases", "--most", "--drawn")}
    assert taken - more_than_all_are_all == {(command, option.split()[-1]) for command, option in EACH}
