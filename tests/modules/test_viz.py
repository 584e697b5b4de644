"""Pictures of maps: what is bright is where the map is large, and what cannot be drawn is said."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import segattn_triton as sat
from segattn_triton import viz
from segattn_triton.perf import portrait
from segattn_triton.perf.commands import main
from segattn_triton.perf.models import show as command


def photo(height=24, width=20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def neighbourhood(heads=2, k2=9, side=5) -> torch.Tensor:
    scores = torch.randn(1, heads, k2, side, side, generator=torch.Generator().manual_seed(0))
    scores[..., 0, 0] = 0  # looks at all alike
    scores[:, :, 3, 2, 2] = 50  # at one
    return scores.softmax(2)


def test_overlay_follows_the_map():
    grey = np.full((16, 12), 0.5)
    gate = np.zeros((4, 3))
    gate[:2] = 1.0
    rgb = viz.overlay(grey, gate)
    assert rgb.shape == (16, 12, 3) and rgb.dtype == np.uint8
    np.testing.assert_allclose(rgb[2, 5], 0.55 * np.array([253, 231, 37]) + 0.45 * 127.5, atol=1)  # viridis' end
    assert rgb[2, 5].sum() > rgb[14, 5].sum()
    np.testing.assert_allclose(viz.overlay(grey, gate, alpha=0.0), 127.5, atol=1)
    middle = viz.overlay(grey, gate, limits=(0.0, 2.0))
    assert middle[14, 5].tolist() == rgb[14, 5].tolist() and middle[2, 5].tolist() != rgb[2, 5].tolist()


def test_images_and_maps_of_every_form():
    image, gate = photo(), torch.rand(2, 1, 6, 5)
    expected = viz.overlay(image, gate[0, 0])
    forms = [image / 255, torch.from_numpy(image).permute(2, 0, 1), np.dstack([image, image[..., :1]])]
    for form in [*forms, torch.from_numpy(image)[None].permute(0, 3, 1, 2)]:
        assert abs(viz.overlay(form, gate).astype(int) - expected).max() <= 1
    by_value = torch.rand(2, 3, 6, 5)
    np.testing.assert_array_equal(viz.overlay(image, by_value), viz.overlay(image, by_value[0].mean(0)))
    np.testing.assert_array_equal(viz.overlay(image, gate.bfloat16()), viz.overlay(image, gate.bfloat16().float()))


def test_focus_is_zero_of_all_alike_and_one_of_one():
    seen = viz.focus(neighbourhood())
    assert seen.shape == (5, 5)
    assert seen[0, 0] == pytest.approx(0, abs=1e-6) and seen[2, 2] == pytest.approx(1, abs=1e-6)
    assert 0 < seen[1, 1] < 1


def test_plot_gates_has_a_panel_for_each():
    maps = {
        "pixels": torch.rand(1, 1, 6, 5),
        "values": torch.rand(1, 7, 6, 5),
        "channels": torch.rand(1, 7),
        "neighbours": neighbourhood(),
    }
    figure = viz.plot_gates(maps, photo())
    panels = {ax.get_title(loc="left").strip(): ax for ax in figure.axes if ax.get_title(loc="left")}
    assert list(panels) == ["image", *maps]
    heights = [bar.get_height() for bar in panels["channels"].patches]
    assert heights == pytest.approx(sorted(maps["channels"][0].tolist(), reverse=True))
    low, high = np.percentile(maps["pixels"], [1, 99])
    np.testing.assert_array_equal(
        panels["pixels"].images[0].get_array(), viz.overlay(photo(), maps["pixels"], limits=(low, high))
    )
    figure.canvas.draw()
    assert not figure.get_suptitle() and viz.plot_gates(maps, photo(), "above", "below").get_suptitle() == "above"
    assert {ax.get_ylabel() for ax in figure.axes} == {"", "gate", "focus"}


def test_the_caption_is_the_command():
    assert command.caption(command.MODEL, None, ()) == "segattn show"
    image = Path("/somewhere/photo.jpg")
    wanted = "segattn show --model a.b:c --image photo.jpg --names 'decoder.*'"
    assert command.caption("a.b:c", image, ("decoder.*",)) == wanted


@pytest.mark.parametrize(
    "image, gate, message",
    [
        (np.zeros((5, 4, 2)), np.zeros((1, 1, 2, 2)), r"image: got shape \(5, 4, 2\), expected"),
        (np.full((4, 4), 3.0), np.zeros((1, 1, 2, 2)), "image: got values from 3 to 3, expected bytes or 0 to 1"),
        (np.zeros((4, 4)), np.zeros((1, 2, 3, 4, 5)), r"map: got shape \(1, 2, 3, 4, 5\), expected"),
        (np.zeros((4, 4)), np.zeros((2, 2, 2)), r"map: got shape \(2, 2, 2\), expected"),
    ],
)
def test_what_cannot_be_drawn(image, gate, message):
    with pytest.raises(ValueError, match=message):
        viz.plot_gates({"gate": gate}, image)
    with pytest.raises(ValueError, match="maps: got none"):
        viz.plot_gates({}, np.zeros((4, 4)))


# segattn show


def gated() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), sat.SpatialAttention(4))


def ungated() -> nn.Module:
    return nn.Conv2d(3, 4, 1)


def failing() -> nn.Module:
    return nn.Sequential(sat.SpatialAttention(4))


def no_model() -> int:
    return 3


def show(*arguments: str):
    return CliRunner().invoke(main, ["show", "--side", "32", *arguments])


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_show_writes_a_picture(tmp_path, suffix):
    out = tmp_path / "new" / f"gates.{suffix}"
    done = show("--model", f"{__name__}:gated", "--out", str(out))
    assert done.exit_code == 0 and done.stdout.splitlines()[-1] == str(out)
    assert out.stat().st_size > 10_000


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--model", "nothing"], 2, "--model: got 'nothing', expected package.module:factory"),
        (["--model", "nothing:at_all"], 2, "--model: cannot import nothing:at_all: "),
        (
            ["--model", f"{__name__}:no_model"],
            2,
            f"--model: {__name__}:no_model() returned a int, expected a torch.nn.Module",
        ),
        (["--model", f"{__name__}:ungated"], 2, f"--model {__name__}:ungated: model: got Conv2d without a gate"),
        (["--model", f"{__name__}:gated", "--names", "decoder.*"], 2, f"--model {__name__}:gated: names: 'decoder.*'"),
        (["--model", f"{__name__}:gated", "--image", "none.jpg"], 2, "--image: cannot read none.jpg"),
        (["--model", f"{__name__}:gated", "--out", "/dev/null/x.png"], 2, "--out: cannot write /dev/null/x.png"),
        (["--model", f"{__name__}:gated", "--out", "x.nothing"], 2, "--out: cannot write x.nothing: Format"),
        (["--side", "8"], 2, "--side: got 8, expected at least 32"),
        (["--model", f"{__name__}:failing"], 1, f"{__name__}:failing failed on an image (32, 32, 3): "),
    ],
)
def test_show_says_what_is_wrong(arguments, code, message):
    done = show(*arguments)
    assert done.exit_code == code
    assert done.stderr.splitlines()[-1].startswith("segattn: " + message), done.stderr


def test_the_portrait_learns_its_outline(monkeypatch):
    """A few steps on a small photograph: repeatable, gates of every kind, and the loss falls."""
    monkeypatch.setattr(portrait, "SIZE", (64, 56))
    monkeypatch.setattr(portrait, "TRAINING_STEPS", 40)
    inside = portrait.outline(*portrait.SIZE)
    assert 0.4 < inside.mean() < 0.6 and inside[60, 28] == 1 and inside[5, 2] == 0
    first, second = portrait.model(), portrait.model()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    x = portrait.normalised(portrait.photo.load(None, *portrait.SIZE))[None]
    with sat.capture_attention(first) as maps, torch.no_grad():
        z = first(x)[0, 0]
    assert list(maps) == ["channels", "neighbours", "skip", "values", "pixels"]
    assert z[inside == 1].mean() > z[inside == 0].mean() + 0.3
