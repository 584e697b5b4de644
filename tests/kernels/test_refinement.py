"""A mask refined by its image: of the published form, at the border, over steps, and what is wrong with a call."""

import pytest
import torch
from probe import faults, probe
from support import DEVICE, assert_equal, assert_right, each_dtype, outputs_and_gradients

from segattn_triton import functional
from segattn_triton.catalog import BY_NAME
from segattn_triton.kernels.refinement.gather import with_border
from segattn_triton.perf.measure.rivals.refinement import refinement_listing
from segattn_triton.testing import make_map

ROW = BY_NAME["pixel_adaptive_refinement"]
LAYOUTS = ("contiguous", "channels_last")


def maps(S=(6, 7), small=(3, 4), C=3, M=4, N=2, dtype=torch.float32, layout="contiguous") -> list[torch.Tensor]:
    shapes = (N, C, *S), (N, M, *small)
    drawn = (make_map(s, layout, torch.Generator().manual_seed(i), dtype, DEVICE) for i, s in enumerate(shapes))
    return list(drawn)


@pytest.mark.parametrize("layout", LAYOUTS)
@each_dtype
def test_masks_of_other_channels_than_the_image(layout, dtype):
    assert_right(ROW, *maps((4, 5), (3, 3), dtype=dtype, layout=layout), dilations=(2, 1), steps=2)


@pytest.mark.parametrize("dilations", [(9,), (1, 5, 40)], ids=str)
def test_past_the_border_and_the_image(dilations):
    """And more neighbours than a power of two; of float64, so that a pixel that is missing cannot hide."""
    assert_right(ROW, *maps((4, 5), (9, 1), M=2, dtype=torch.float64), dilations=dilations, steps=2)


def test_an_image_that_its_border_makes_too_large():
    """What its pixels get is gathered with a border around it, whose pixels are counted in 32 bits, too."""
    image = torch.empty(1, 1, 16_000, 16_000, device="meta")
    assert with_border(image, (1, 2)).shape == (1, 1, 16_004, 16_004)
    with pytest.raises(ValueError, match=r"dilations: got 16000, which makes 2304000000 pixels of an image of 16000 x"):
        with_border(image, (1, 16_000))


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_as_far_as_numbers_go(backend):
    """From the size of the image on every dilation is one: no number overflows, and nothing is as large as it."""
    near, far = (
        outputs_and_gradients(ROW.op, maps((4, 5), (3, 3), M=2), dilations=(1, d), backend=backend)
        for d in (5, 2**31 - 1)
    )
    for got, expected in zip(far, near, strict=True):
        assert_equal(got, expected)


@pytest.mark.parametrize("S", [(1, 1), (1, 9), (8, 1), (23, 19)], ids=str)
def test_one_row_one_column_and_many_tiles(S):
    assert_right(ROW, *maps(S, M=2, layout="channels_last"), dilations=(3,), steps=2)


@pytest.mark.parametrize("needs", [(True, False), (False, True)], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_gradient_alone(steps, needs):
    for small in ((3, 4), (6, 7)):
        assert_right(ROW, *maps(small=small, M=2), needs=needs, dilations=(2,), steps=steps)


@pytest.mark.parametrize(("layout", "small"), [("contiguous", (3, 4)), ("channels_last", (6, 7))], ids=str)
def test_what_the_plans_state_of_memory(layout, small):
    with probe() as launches:
        assert_right(ROW, *maps(small=small, M=2, layout=layout), dilations=(1, 4), steps=2)
    assert launches and not faults(launches)


def test_the_published_form_and_its_gradients():
    inputs = maps(dtype=torch.float64)
    got = outputs_and_gradients(functional.pixel_adaptive_refinement, inputs, dilations=(1, 3), steps=4)
    leaves = [t.detach().requires_grad_() for t in inputs]
    published = refinement_listing(*leaves, dilations=(1, 3), steps=4)
    torch.testing.assert_close(got[0], published)
    dy = torch.randn(published.shape, generator=torch.Generator().manual_seed(1)).to(published)
    grads = []
    for form in (functional.pixel_adaptive_refinement, refinement_listing):
        y = form(*leaves, dilations=(1, 3), steps=4)
        grads.append(torch.autograd.grad(y, leaves, dy))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_as_its_authors_run_it():
    """48 neighbours and ten steps, of an image smaller than the largest dilation."""
    row = BY_NAME["pixel_adaptive_refinement_voc"]
    assert_right(row, *maps((5, 9), (3, 4), C=1, M=1, N=1))


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_flat_image(backend):
    """All neighbours count alike, and the image's gradient is zero, not what a deviation of zero makes of it."""
    image, mask = maps(small=(6, 7))
    image = torch.full_like(image, 0.3)
    y, a, dimage, _ = outputs_and_gradients(functional.pixel_adaptive_refinement, [image, mask], backend=backend)
    assert_equal(a, torch.full_like(a, 1 / 8))
    assert not dimage.any()
    torch.testing.assert_close(y[:, :, 1, 1], (mask[:, :, :3, :3].sum((2, 3)) - mask[:, :, 1, 1]) / 8)


def test_an_edge_is_not_crossed():
    """Each half of the image keeps the mean of its own mask."""
    image = torch.zeros(1, 3, 8, 12, device=DEVICE)
    image[..., 6:] = 1
    mask = maps((8, 12), (8, 12), N=1, M=1)[1]
    y = functional.pixel_adaptive_refinement(image, mask, dilations=(1, 2), steps=200)
    other = mask.clone()
    other[..., 6:] += 100
    moved = functional.pixel_adaptive_refinement(image, other, dilations=(1, 2), steps=1)
    once = functional.pixel_adaptive_refinement(image, mask, dilations=(1, 2), steps=1)
    assert (moved - once)[..., :6].abs().max() < 0.2 and (moved - once)[..., 8:].min() > 99
    assert y[..., :4].std() < 0.05 and y[..., 8:].std() < 0.05


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_result_lies_as_the_image(layout):
    image, mask = maps(layout=layout)
    y = functional.pixel_adaptive_refinement(image, mask, backend="triton")
    order = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert y.shape == (2, 4, 6, 7) and y.is_contiguous(memory_format=order)


WRONG = [
    ({"dilations": ()}, r"dilations: got \(\), expected a tuple of one int or more"),
    ({"dilations": 3}, "dilations: got 3, expected a tuple"),
    ({"dilations": (1, 0)}, "dilations: got 0, expected an int of at least 1"),
    ({"dilations": (-2,)}, "dilations: got -2, expected an int of at least 1"),
    ({"dilations": (1.5,)}, "dilations: got 1.5, expected an int of at least 1"),
    ({"steps": -1}, "steps: got -1, expected an int of at least 0"),
    ({"steps": 1.0}, "steps: got 1.0, expected an int of at least 0"),
    ({"mask": (3, 4, 3, 4)}, r"mask: got shape \(3, 4, 3, 4\), expected \(2, channels, h, w\) for image of shape"),
    ({"mask": (2, 4, 3)}, r"mask: got shape \(2, 4, 3\), expected \(2, channels, h, w\)"),
    ({"mask": (2, 0, 3, 4)}, r"mask: got shape \(2, 0, 3, 4\), expected"),
    ({"image": (2, 3, 6)}, r"image: got 3 axes, shape \(2, 3, 6\), expected \(N, C, H, W\)"),
    ({"image": (2, 3, 0, 6)}, r"image: got shape \(2, 3, 0, 6\), expected at least one channel and one pixel"),
]


@pytest.mark.cheap
@pytest.mark.parametrize(("changed", "said"), WRONG, ids=str)
def test_calls_that_cannot_be(changed, said):
    image, mask = maps()
    image = torch.zeros(changed["image"], device=DEVICE) if "image" in changed else image
    mask = torch.zeros(changed["mask"], device=DEVICE) if "mask" in changed else mask
    options = {name: value for name, value in changed.items() if name in ("dilations", "steps")}
    for backend in ("triton", "reference", None):
        with pytest.raises(ValueError, match=said):
            functional.pixel_adaptive_refinement(image, mask, backend=backend, **options)


def test_a_mask_of_another_dtype():
    image, mask = maps()
    with pytest.raises(TypeError, match=r"mask: got dtype torch.float64, expected image's torch.float32"):
        functional.pixel_adaptive_refinement(image, mask.double())
