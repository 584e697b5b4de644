"""Branches weighted by a softmax over them: of any number, by any logits, and what is no number of branches."""

import pytest
import torch
from probe import faults, probe
from support import DEVICE, assert_right, outputs_and_gradients

from segattn_triton import functional
from segattn_triton.catalog import BY_NAME
from segattn_triton.testing import LAYOUTS, make_inputs, matches
from segattn_triton.tuning.target import planning_for

ROW = BY_NAME["radix_blend"]
RADIXES = (1, 2, 3, 4, 5, 8)
each_radix = pytest.mark.parametrize("radix", RADIXES)


def made(radix: int, C=3, S=(5, 7), N=2, dtype=torch.float32, layout="contiguous") -> list[torch.Tensor]:
    sizes = ROW.complete({"N": N, "C": radix * C, "S": S, "R": radix})
    return make_inputs(ROW, sizes, dtype, layout=layout, device=DEVICE)


@each_radix
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_number_of_branches(radix, layout):
    assert_right(ROW, *made(radix, layout=layout))


@each_radix
def test_several_tiles(radix):
    """And what their plans state of memory."""
    for dtype, layout in ((torch.float32, "contiguous"), (torch.float16, "channels_last")):
        with planning_for(90, 1):
            x, z = made(radix, 20, (19, 23), 1, dtype, layout)
            with probe() as launches:
                assert all(match.ok for match in matches(ROW, x, z, return_map=True))
            assert launches and not faults(launches)


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_gradients_that_are_wanted(wanted):
    for radix in (1, 3):
        assert_right(ROW, *made(radix), needs=wanted)


def test_logits_with_trailing_ones_and_without():
    x, z = made(3)
    for shape in ((2, 3, 3), (2, 3, 3, 1), (2, 3, 3, 1, 1)):
        given = z.reshape(shape)
        got = outputs_and_gradients(functional.radix_blend, [x, given], backend="triton")
        assert got[3].shape == shape
        expected = outputs_and_gradients(functional.radix_blend, [x, z], backend="triton")
        assert all(torch.equal(a, b.reshape(a.shape)) for a, b in zip(got, expected, strict=True))


def test_one_branch_is_a_gate_of_its_channels():
    x, z = (t.double() for t in made(1))
    got = functional.radix_blend(x, z, backend="triton")
    torch.testing.assert_close(got, functional.gate_mul(x, z[:, 0]), rtol=1e-14, atol=0)


@each_radix
def test_logits_far_apart(radix):
    """No overflow: shares of zero and of one; a logit of -inf has none, and where softmax is NaN, all is."""
    x, z = made(radix)
    for factor in (1e2, 1e4, 1e30):
        assert_right(ROW, x, z * factor)
    z[:, 0, 0], z[:, -1, 1], z[:, 0, 2] = float("-inf"), float("inf"), float("nan")
    y, shares = functional.radix_blend(x, z, return_map=True, backend="triton")
    expected, expected_shares = ROW.reference(x, z, return_map=True)
    torch.testing.assert_close(y, expected, equal_nan=True, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shares, expected_shares, equal_nan=True, rtol=1e-5, atol=1e-6)


WRONG = [  # shape of z
    (2, 0, 6),
    (2, 4, 1),
    (2, 2, 6),
    (1, 2, 3),
    (2, 6),
    (2, 2, 3, 5),
]


@pytest.mark.cheap
@pytest.mark.parametrize("shape", WRONG, ids=str)
def test_what_is_no_number_of_branches(shape):
    x, z = made(2)[0], torch.zeros(shape, device=DEVICE)
    said = ", ".join(map(str, shape))
    wanted = rf"z: got shape \({said}\), expected \(2, radix, 6 / radix, ...\), with a radix from 1 on that divides 6"
    for backend in ("triton", "reference", None):
        with pytest.raises(ValueError, match=wanted):
            functional.radix_blend(x, z, backend=backend)
