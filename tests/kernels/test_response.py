"""SimAM by whole planes, as on a GPU that its planes fill: of a GPU with one SM any do."""

import pytest
import torch
from probe import faults, probe
from support import DEVICE, each_dtype

from segattn_triton import functional as F
from segattn_triton.catalog import BY_NAME
from segattn_triton.testing import make_map, matches
from segattn_triton.tuning.target import planning_for

ROW = BY_NAME["simam"]
SHAPES = [(2, 3, 5, 7), (1, 1, 1, 2), (3, 2, 1031), (1, 4, 3, 5, 6), (1, 5, 70, 130), (0, 3, 4, 4)]


def _map(shape, layout, dtype) -> torch.Tensor:
    return make_map(shape, layout, torch.Generator().manual_seed(0), dtype, DEVICE)


@each_dtype
@pytest.mark.parametrize("layout", ["contiguous", "channel_slice"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_planes(shape, layout, dtype):
    """Of one block of pixels, of many, and of a last one that is not whole; and what the plans state of memory."""
    x = _map(shape, layout, dtype)
    for return_map in (False, True):
        with planning_for(90, 1), probe() as launches:
            found = matches(ROW, x, return_map=return_map)
        assert all(match.ok for match in found), found
        names = {launch.plan.name for launch in launches}
        assert names == ({"response_plane_fwd", "response_plane_bwd"} if x.numel() else set())
        assert not faults(launches)


def test_a_plane_of_one_pixel_is_nan():
    x = torch.randn(2, 3, 1, 1, device=DEVICE)
    with planning_for(90, 1):
        assert F.simam(x, backend="triton").isnan().all()


def test_few_planes_and_channels_last_take_shares():
    """Where planes leave SMs without work, and where a plane is no piece of memory, programs share them."""
    for layout, sms in (("contiguous", 64), ("channels_last", 1)):
        with planning_for(90, sms), probe() as launches:
            F.simam(_map((2, 3, 5, 7), layout, torch.float32), backend="triton")
        assert [launch.plan.name for launch in launches] == ["response_moments", "response_rate", "response_energy_fwd"]
