"""FlexAttention as the rival of wide windows: the blocks of its mask, and its kernels by the account."""

import os

import against_worker
import pytest
import static_ledger
import torch

from segattn_triton.perf.measure import rivals, windows


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("size", [(16, 24), (9, 40), (20, 7)], ids=str)
def test_blocks_are_those_that_the_mask_meets(size, kernel_size):
    """All pairs of pixels, block by block; the indices in order."""
    H, W = size
    flex = windows.Flex(kernel_size)
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
