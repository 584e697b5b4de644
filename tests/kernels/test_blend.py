"""Gates from logits that are given: of any axes, of another resolution by every rule, and of blocks that meet."""

import itertools

import pytest
import torch
from probe import faults, probe
from support import DEVICE, assert_equal, assert_right, outputs_and_gradients

from segattn_triton import functional
from segattn_triton.catalog import BY_NAME
from segattn_triton.testing import matches
from segattn_triton.tuning.target import planning_for

MUL, BLEND, RESIZED = (BY_NAME[name] for name in ("gate_mul", "gate_blend", "gate_mul_resized"))
AXES = [kept for kept in itertools.product((False, True), repeat=4) if not all(kept)]
each_layout = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


def randn(*shape: int, seed=0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def logits(shape, kept, **how) -> torch.Tensor:
    return randn(*[size if k else 1 for size, k in zip(shape, kept, strict=True)], seed=2, **how)


def shape_of(kept) -> str:
    return " ".join(name if k else "1" for name, k in zip("NCHW", kept, strict=True))


each_axes = pytest.mark.parametrize("kept", AXES, ids=shape_of)


@each_layout
@each_axes
def test_logits_of_some_axes(kept, layout):
    """And what their plans state of memory, where programs take one tile and where they take several."""
    for dtype, sms in ((torch.float32, 132), (torch.bfloat16, 1)):
        x, s = (randn(2, 5, 6, 8, seed=i, dtype=dtype).to(memory_format=layout) for i in range(2))
        z = logits(x.shape, kept, dtype=dtype)
        with planning_for(90, sms):
            for row, inputs, options in ((MUL, (x, z, s), {"out_act": "relu"}), (BLEND, (x, s, z), {})):
                assert_right(row, *inputs, **options)
                with probe() as launches:
                    assert all(match.ok for match in matches(row, *inputs, return_map=True, **options))
                assert launches and not faults(launches)


@each_axes
def test_logits_beside_no_image(kept):
    x, z = randn(0, 3, 4, 5), logits((0, 3, 4, 5), kept)
    got = outputs_and_gradients(functional.gate_mul, [x, z], backend="triton")
    expected = outputs_and_gradients(MUL.reference, [x, z])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("wanted", range(3))
def test_gradients_that_are_wanted(wanted):
    x, s, z = randn(2, 5, 6, 8), randn(2, 5, 6, 8, seed=1), randn(2, 5, 1, 1, seed=2)
    needs = [i == wanted for i in range(3)]
    assert_right(MUL, x, z, s, needs=needs, out_act="relu")
    assert_right(BLEND, x, s, z, needs=needs)
    assert_right(BLEND, x, s, z[:, :1], needs=needs)
    assert_right(RESIZED, x, randn(2, 5, 3, 4, seed=3), s, needs=needs, out_act="relu")


RULES = [  # size of the logits, mode, align_corners, whether they are of one channel
    ((2, 3), "bilinear", False, False),
    ((2, 3), "bilinear", True, True),
    ((2, 2), "nearest", False, False),
    ((5, 1), "bilinear", False, True),
    ((5, 4), "bilinear", True, False),
    ((7, 6), "bilinear", False, False),
    ((7, 6), "nearest", False, True),
]


@each_layout
@pytest.mark.parametrize(("size", "mode", "corners", "single"), RULES)
def test_rules_of_a_resize(size, mode, corners, single, layout):
    """To a size: coarser and finer logits, and some of the map's own size; of all channels, and of one."""
    x, s = (randn(2, 3, 5, 4, seed=i).to(memory_format=layout) for i in range(2))
    z = randn(2, 1 if single else 3, *size, seed=2)
    how = dict(resize=mode, align_corners=corners, out_act="relu")
    with probe() as launches:
        assert_right(RESIZED, x, z, s, **how)
    assert launches and not faults(launches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    ("factor", "small", "large"), [(2, (2, 3), (4, 6)), (1.5, (3, 2), (4, 3)), (0.5, (4, 5), (2, 2))]
)
def test_scale_factors(factor, small, large, mode, dtype):
    """Torch's rule by a factor is not that by sizes where the factor leaves a rest."""
    x, z = randn(1, 2, *large, dtype=dtype), randn(1, 2, *small, seed=1, dtype=dtype)
    assert_right(RESIZED, x, z, None, resize=mode, scale_factor=float(factor))


def test_a_resize_to_the_same_size_is_none():
    x, z = randn(2, 3, 4, 5), randn(2, 3, 4, 5, seed=1)
    for mode in ("bilinear", "nearest"):
        assert_equal(functional.gate_mul_resized(x, z, resize=mode), functional.gate_mul(x, z))


WRONG = [
    (
        functional.gate_mul,
        (2, 4, 6, 8),
        {},
        r"z: got shape \(2, 4, 6, 8\), expected \(2, 5, 6, 8\), or 1 along any axis",
    ),
    (functional.gate_mul, (2, 5), {}, r"z: got shape \(2, 5\), expected \(2, 5, 6, 8\), or 1"),
    (functional.gate_mul_resized, (2, 4, 3, 4), {}, r"z: got shape \(2, 4, 3, 4\), expected \(2, 5 or 1, h, w\)"),
    (functional.gate_mul_resized, (1, 5, 3, 4), {}, r"z: got shape \(1, 5, 3, 4\), expected \(2, 5 or 1, h, w\)"),
    (functional.gate_mul_resized, (2, 5, 3, 4), {"scale_factor": 3.0}, "scale_factor: got 3.0, which makes z 9 x 12"),
    (functional.gate_mul_resized, (2, 5, 3, 4), {"scale_factor": -1.0}, "scale_factor: got -1.0, expected"),
    (functional.gate_mul_resized, (2, 5, 3, 4), {"resize": "area"}, "resize: got 'area', expected one of"),
]


@pytest.mark.parametrize(("op", "shape", "options", "said"), WRONG)
def test_logits_that_do_not_fit(op, shape, options, said):
    for backend in ("triton", "reference", None):
        with pytest.raises(ValueError, match=said):
            op(randn(2, 5, 6, 8), randn(*shape), backend=backend, **options)
    if op is functional.gate_mul:
        with pytest.raises(ValueError, match=r"for a of shape \(2, 5, 6, 8\)"):
            functional.gate_blend(randn(2, 5, 6, 8), randn(2, 5, 6, 8), randn(*shape))
