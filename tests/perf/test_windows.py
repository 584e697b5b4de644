"""FlexAttention as the rival of wide windows: the blocks of its mask, its kernels by the account, and the bars."""

import os

import against_worker
import pytest
import static_ledger
import torch

from segattn_triton import reference
from segattn_triton.perf.account import assumptions as assumed
from segattn_triton.perf.compiler import stages
from segattn_triton.perf.compiler.sides import OURS, Side, Time, read
from segattn_triton.perf.compiler.windows import COMMITTED_WINDOWS
from segattn_triton.perf.measure import rivals, windows


@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 1), (7, 1), (3, 2)])
@pytest.mark.parametrize("size", [(16, 24), (9, 40), (20, 7)], ids=str)
def test_blocks_are_those_that_the_mask_meets(size, kernel_size, dilation):
    """All pairs of pixels, block by block; the indices in order."""
    H, W = size
    flex = windows.Flex(kernel_size, dilation)
    mask = flex.mask(H, W, *flex.beside(torch.empty(1, H, W, 1, 4)))
    total = -(-H * W // windows.BLOCK)
    pixels = torch.arange(total * windows.BLOCK)
    inside = (pixels < H * W)[:, None] & (pixels < H * W)
    near = mask.mask_mod(None, None, pixels[:, None].clamp(max=H * W - 1), pixels.clamp(max=H * W - 1)) & inside
    assert near.sum() == H * W * kernel_size**2
    met = near.view(total, windows.BLOCK, total, windows.BLOCK).any(3).any(1)
    both = ((mask.kv_num_blocks, mask.kv_indices, met), (mask.q_num_blocks, mask.q_indices, met.T))
    for counts, indices, wanted in both:
        for row, (count, which) in enumerate(zip(counts[0, 0], indices[0, 0], strict=True)):
            assert which[:count].tolist() == wanted[row].nonzero().flatten().tolist()


@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 1), (3, 2), (5, 2)])
def test_its_windows_are_those_of_the_reference(kernel_size, dilation):
    q, k, v = (torch.randn(1, 11, 12, 2, 4) for _ in range(3))
    expected = reference.neighborhood_attention(q, k, v, kernel_size=kernel_size, dilation=dilation)
    torch.testing.assert_close(windows.Flex(kernel_size, dilation)(q, k, v), expected, rtol=1e-4, atol=1e-5)


def test_its_blocks_are_inputs_of_what_is_compiled():
    """Made once a resolution, and what is made of them is one graph without breaks."""
    calls = []

    def compiler(function):
        def run(*inputs):
            calls.append(inputs)
            return function(*inputs)

        return run

    q, k, v = (torch.randn(1, 9, 8, 1, 4) for _ in range(3))
    flex = rivals.make("neighborhood_attention", "flex", compiler)
    expected = rivals.make("neighborhood_attention", "eager", compiler)(q, k, v)
    for _ in range(2):
        assert torch.allclose(flex(q, k, v), expected, atol=1e-5)
    first, second = ([id(t) for t in inputs[3:]] for inputs in calls)
    assert first == second and len(first) == 4


@pytest.mark.static
def test_its_loops_run_as_often_as_the_mask_says():
    """Products of matrices by one warp: in proportion to the blocks of a row of the mask; in the backward those of the
    keys are four products, and those of the queries three, of twice as many as the forward's two."""
    with static_ledger.pool(os.cpu_count() or 1) as pool:
        narrow, wide = pool.map(against_worker.products_of_flex, (3, 7))
    for mode, found in wide.items():
        assert [w * 3 for w in found] == [n * 7 for n in narrow[mode]] and min(found) > 0, mode


WIDE = stages.Stage("made-up", 7, 1, (100, 100), 2, 32)
NEAR = stages.Stage("made-up", 3, 1, (100, 100), 1, 64)


def side(us, provider: str = OURS, layout: str = "channels_last", mode: str = "fwd", floor: float = 1.0) -> Side:
    times = us if isinstance(us, tuple) else (us,) * 3
    time = Time("k", tuple(t - assumed.LAUNCH for t in times), floor, "issue")
    return Side("made-up", WIDE.size, layout, mode, provider, (time,))


def test_a_bar_is_met_for_every_round_trip():
    """Or missed, whatever the others say."""
    own, flex = side((10, 11, 12)), side((24, 24, 24), "flex")
    assert stages.reached(WIDE, own, {"flex": flex}) == {"2 times flex": pytest.approx((1.2, 12 / 11, 1.0))}
    assert stages.faults(WIDE, own, {"flex": flex}) == []
    (fault,) = stages.faults(WIDE, side((10, 11, 12.1)), {"flex": flex})
    assert fault == "made-up channels_last fwd 2 times flex: 0.992 times, expected 1"


def test_of_three_by_three_time_itself_has_a_bar():
    """Picoseconds an element, of 64 channels a head the bytes' time; twice as much where W is contiguous."""
    elements = NEAR.elements * 1e-6
    assert stages.reached(NEAR, side(8.5 * elements, mode="bwd"), {}) == {"8.5 ps": pytest.approx((1, 1, 1))}
    found = stages.reached(NEAR, side(17 * elements, mode="bwd", layout="contiguous"), {})
    assert found == {"17 ps": pytest.approx((1, 1, 1))}
    assert stages.reached(NEAR, side(30, floor=20.0), {}) == {"1.5 floors": pytest.approx((1, 1, 1))}
    assert stages.reached(NEAR, side(30, floor=20.0, layout="contiguous"), {}) == {"3 floors": pytest.approx((2, 2, 2))}


def test_a_bar_that_is_named_as_missed_may_not_fall(monkeypatch):
    """Below what it reaches today; and one that is met is not named."""
    place = ("made-up", "channels_last", "fwd", "2 times flex")
    monkeypatch.setattr(stages, "MISSED", {place: 0.8})
    flex = {"flex": side(16, "flex")}
    assert stages.faults(WIDE, side(10), flex) == []
    assert stages.faults(WIDE, side(10.1), flex) == [f"{' '.join(place)}: 0.792 times, expected 0.8"]
    assert stages.faults(WIDE, side(8), flex) == [f"{' '.join(place)}: is named as missed without need"]


def test_every_rival_of_a_stage_has_a_record():
    """One; and what is named as missed is a bar that there is."""
    records = read(COMMITTED_WINDOWS.read_text())
    found = {(s.op, s.mode, s.provider) for s in records}
    assert len(found) == len(records)
    wanted = {
        (stage.name, layout, mode, rival): f"{times:g} times {rival}"
        for stage, layout in stages.asked()
        for rival, times in stages.rivals_of(stage, layout).items()
        for mode in ("fwd", "bwd")
    }
    assert found == {(name, mode, rival) for name, _, mode, rival in wanted}
    bars = {(*place[:3], bar) for place, bar in wanted.items()}
    assert all(place in bars or place[3].endswith((" ps", " floors")) for place in stages.MISSED)
