"""A perceptron on the pooled channels of every image, of one layer or two: what its kernels share.

    v = pooled (mean, maximum, or half their sum),  z1 = W1 v + b1,  z = W2 act(z1) + b2;   one layer: z = W1 v + b1

v (N, CIN); z (N, C); z1 (N, R); W1 (R, CIN), W2 (C, R); one layer: W1 (C, CIN). A map that is gated by its own pool has
CIN = C. Of two pools, the perceptron's results on the mean and on the maximum are added: z1 (N, 2, R), v (N, 2, CIN).
Every program has an image and BLOCK_R of the hidden channels: it reads those rows of W1 and columns of W2, and
what they add to a sum over the hidden channels is one of K = R / BLOCK_R partial results, for the next kernel to sum in
that order. So the weights are read once per image, by as many SMs as there are blocks.
"""

import triton
import triton.language as tl
from torch import Tensor

from ...tuning.choice import config_for
from ...tuning.model import L2_BANDWIDTH, SM_BANDWIDTH, STEP, Config, space
from ...tuning.target import capability, sms, with_all_registers

SPACE = space(BLOCK_R=(4, 8, 16, 32, 64), BLOCK_C=(16, 32, 64, 128, 256, 512, 1024), num_warps=(4, 8))
SPLITS = 64  # partial results of z and dpooled that the next kernel sums, at most
TILE = 256  # pixels of the tiles of the next kernel


@triton.jit
def load_weight(ptr, offs_row, offs_col, ROWS: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr):
    """A block of a matrix (ROWS, COLS), 0 past its ends."""
    mask = (offs_row < ROWS)[:, None] & (offs_col < COLS)[None, :]
    return tl.load(ptr + offs_row[:, None] * COLS + offs_col[None, :], mask, other=0.0).to(ACC)


def splits(R: int, config: Config) -> int:
    """K, the programs that share an image."""
    return -(-R // config.blocks["BLOCK_R"])


def fits(size: int, block: int) -> bool:
    """Whether a block is not twice the size of what it holds."""
    return block < 2 * size or block <= 16


def tiles_at_once(tiles: int, config: Config, channels: str = "BLOCK_C") -> int:
    """BLOCK_T, the tiles that a step of a second stage takes of a block of these channels: 16 values a thread."""
    return min(triton.next_power_of_2(tiles), max(512 * config.num_warps // config.blocks[channels], 1))


def mlp_config(kernel: str, N: int, C: int, R: int, pixels: int, tiles: int, w1: Tensor, pools: int) -> Config:
    """A program's steps are bound by latency and by what one SM reads; each split is read again for every tile."""
    itemsize, size = w1.element_size(), sms(w1.device)

    def microseconds(config: Config) -> float | None:
        block_r, block_c, block_t = config.blocks["BLOCK_R"], config.blocks["BLOCK_C"], tiles_at_once(tiles, config)
        parts, chunks, finishes = splits(R, config), -(-C // block_c), -(-tiles // block_t)
        values = pools * block_r * block_c / (32 * config.num_warps)
        if parts > max(SPLITS, -(-R // 64)) or values > 64 or not (fits(R, block_r) and fits(C, block_c)):
            return None
        nbytes = 2 * block_r * block_c * itemsize + 4 * finishes * block_t * block_c
        rounds = max(1.0, N * parts / size)
        steps = chunks * ((2 + finishes) * STEP + rounds * nbytes / SM_BANDWIDTH)
        return steps + 4 * N * parts * C * max(1.0, pixels / TILE) / L2_BANDWIDTH + 1e-3 * values

    how = dict(C=C, pixels=N * pixels, also=(f"R{R}", *(["both"] if pools == 2 else [])), exact=(N, tiles))
    config = config_for(SPACE, microseconds, kernel, w1, **how)
    return (
        with_all_registers(config, w1.device)
        if config.blocks["BLOCK_C"] >= 512 and capability(w1.device) >= 100
        else config
    )
