"""Which tiles the kernels of a refinement have."""

from torch import Tensor

from ...runtime.maps import Layout, Maps
from ...tuning.choice import config_for
from ...tuning.model import REGISTERS, STEP, Config, space
from ...tuning.target import sms
from .shared import NEIGHBOURS

PIXELS = space(BLOCK_P=(256, 128, 64, 32, 16, 8), num_warps=(1, 2, 4, 8))
VALUE, SUM = 7.3e-5, 4.5e-4  # microseconds of an SM: for a neighbour's value, for a sum that two warps share
TILES = tuple(
    c
    for c in space(BLOCK_C=(1, 2, 4, 8, 16, 32), BLOCK_P=(128, 64, 32), num_warps=(4,))
    if 128 <= c.blocks["BLOCK_C"] * c.blocks["BLOCK_P"] <= 1024
)
BEGIN, EACH = 600, 2.2e-5  # of a program, for each neighbour: as much as so many values; microseconds of an SM for one
LINES = space(BLOCK_P=(256, 128, 64, 32, 16, 8), num_warps=(4,))


def _waves(config: Config, programs: int, registers: float, size: int) -> float:
    threads = 32 * config.num_warps
    return max(1.0, programs / size / min(2048 // threads, REGISTERS / (threads * registers)))


def near_config(kernel: str, m: Maps, image: Tensor, dilations: int, rounds: int) -> tuple[Config, int]:
    """Of a program that has all neighbours of its pixels at once, in so many rounds; and how many rows they fill."""
    block_k, size = 1 << (NEIGHBOURS * dilations - 1).bit_length(), sms(image.device)
    width = max(1, image.element_size() // 4)

    def microseconds(config: Config) -> float | None:
        """Of equals a thread has 32 values: of fewer, the pixel's own index counts for more."""
        block, warps = config.blocks["BLOCK_P"], config.num_warps
        values = block_k * block / (32 * warps)
        registers = 40 + 4 * values * width
        if values < 1 or (registers > 200 and block > 8):
            return None
        programs = m.N * -(-m.P // block)
        across = warps // max(1, block * width // 128)  # warps that share a pixel: a thread has 16 bytes side by side
        value = VALUE * block_k * width * (1 + 12 / values)
        shared = SUM * across**2 if across > 1 else 0.0
        return rounds * (STEP * _waves(config, programs, registers, size) + m.N * m.P / size * (value + shared))

    how = dict(C=m.C, pixels=m.N * m.P, layout=m.layout, also=(dilations,), exact=(m.N, rounds))
    return config_for(PIXELS, microseconds, kernel, image, **how), block_k


def tile_config(
    kernel: str, like: Tensor, C: int, pixels: int, each: int, layout: Layout, others: int = 1, rows: int = 1
) -> Config:
    """Of a program that has a tile of channels and pixels, and reads `each` neighbours for every value of it, of so
    many maps; and of every pixel a weight. Rows of an image may count as channels."""
    images, size = like.shape[0], sms(like.device)

    def microseconds(config: Config) -> float | None:
        """What it computes, or the loads that it waits for where few programs wait at a time."""
        block_c, block_p = config.blocks["BLOCK_C"], config.blocks["BLOCK_P"]
        values = block_c * block_p / (32 * config.num_warps)
        if others * values > 16:
            return None
        programs = images * -(-C * rows // block_c) * -(-pixels // rows // block_p)
        row = min(32, 32 * block_c / C) if layout.channels_last else min(32, block_p)  # of 32 elements side by side
        work = EACH * each * (others * block_c * block_p + 2 * block_p + BEGIN) * (32 / row) ** 0.5
        trips = (3 + each / 4) * (2 if layout.channels_last else 1)
        waits = STEP * trips * _waves(config, programs, 8 + 8 * others * values, size)
        computes = max(2.0, programs / size) * work
        return max(computes, waits) + computes / 100

    how = dict(C=C, pixels=images * pixels, layout=layout, also=(each, others), exact=(images, pixels, rows))
    return config_for(TILES, microseconds, kernel, like, **how)


def line_config(kernel: str, like: Tensor, lines: int) -> Config:
    size = sms(like.device)

    def microseconds(config: Config) -> float:
        block = config.blocks["BLOCK_P"]
        return STEP * _waves(config, -(-lines // block), 40, size) * (1 + block / 64)

    return config_for(LINES, microseconds, kernel, like, C=1, pixels=lines, exact=lines)
